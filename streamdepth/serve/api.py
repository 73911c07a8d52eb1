"""Shared by the HTTP handlers: error answers, JSON bodies, and looks as clients name them."""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from aiohttp import web

from streamdepth.core.errors import (
    DataFormatError,
    MissingDependencyError,
    SourceError,
    StreamDepthError,
    UsageError,
    one_line,
)
from streamdepth.core.look import Look, Upsampling, View, member, parse_alpha

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from streamdepth.core.look import Style
    from streamdepth.pipeline import Pipeline

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOGGER = "streamdepth.web"
"""Logger of the web server. The command line prints its errors; in Python it is silent unless logging is configured."""

LOOK_KEYS = ("style", "alpha", "reverse", "view", "contours", "bar", "edges")
_MOST_CHARACTERS = 400
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class ApiError(Exception):
    """An answer other than success. ``message`` is one line for the client."""

    def __init__(self, status: int, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class JobState(StrEnum):
    """State of a job in the HTTP API."""

    UPLOADING = "uploading"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(eq=False)
class Job:
    """One video. Written by the upload, then by the worker; read from any thread.

    Attributes:
        reserved_bytes: disk space that the rest of the upload takes.
    """

    id: str
    name: str
    folder: Path
    look: Look
    state: JobState = JobState.UPLOADING
    error: str = ""
    notes: tuple[str, ...] = ()
    frames: int = 0
    expected: int | None = None
    seconds: float = 0.0
    ended_ns: int = 0
    reserved_bytes: int = 0
    pipeline: Pipeline | None = field(default=None, repr=False)

    @property
    def upload(self) -> Path:
        suffix = PurePosixPath(self.name).suffix.lower()
        return self.folder / f"input{suffix if suffix[1:].isalnum() and suffix.isascii() and len(suffix) < 8 else ''}"

    @property
    def result(self) -> Path:
        return self.folder / "depth.mp4"

    @property
    def result_name(self) -> str:
        """File name for the download."""
        stem = "".join(c if c.isalnum() or c in "-_. " else "_" for c in PurePosixPath(self.name).stem)[:80].strip()
        return f"{stem or 'video'}-depth.mp4"

    def public(self, message: str) -> str:
        """A message without paths of the server and without hints about options of the command line."""
        text = message.replace(str(self.result), self.result_name).replace(str(self.upload), self.name)
        text = text.replace(f"{self.folder}/", "").replace(str(self.folder), "the server's folder")
        main, _, hint = text.partition("; ")
        return main if " --" in f" {hint}" else text

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        done = self.frames / self.expected if self.expected else None
        left = self.seconds * (1 / done - 1) if done and self.state is JobState.RUNNING else None
        return {
            "id": self.id,
            "name": self.name,
            "state": str(self.state),
            "error": self.error,
            "notes": list(self.notes),
            "frames": self.frames,
            "expected": self.expected,
            "progress": 1.0 if self.state is JobState.DONE else min(done, 1.0) if done is not None else None,
            "seconds": round(self.seconds, 2),
            "seconds_left": None if left is None else round(left, 1),
            "result": f"/v1/jobs/{self.id}/result" if self.state is JobState.DONE else None,
        }


def failure(status: int, message: str, *, retry_after_seconds: int | None = None) -> web.Response:
    """``{"error": message}`` with secrets masked. What the client sent can make a message long: it is cut."""
    headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    text = one_line(message)
    text = text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
    return web.json_response({"error": text}, status=status, headers=headers)


def harden(response: web.StreamResponse) -> None:
    """Set the security headers of every answer, and a ``Server`` header without versions."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "streamdepth"


async def harden_prepared(_: web.Request, response: web.StreamResponse) -> None:
    """:func:`harden` as aiohttp's ``on_response_prepare`` signal calls it."""
    harden(response)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception of a handler into a JSON answer."""
    try:
        return await handler(request)
    except ApiError as error:
        return failure(error.status, error.message, retry_after_seconds=error.retry_after_seconds)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = failure(error.status, _reason(request, error))
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except StreamDepthError as error:
        return failure(status_of(error), str(error))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except MemoryError:
        return failure(503, "the server is out of memory; try again later", retry_after_seconds=60)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return failure(507, "the server's disk is full; try again later", retry_after_seconds=60)
        return internal_error(error)
    except Exception as error:  # one request must not end the server
        return internal_error(error)


def internal_error(error: BaseException) -> web.Response:
    """Log ``error`` and answer 500 with its type only: its text may hold paths of the server."""
    logging.getLogger(LOGGER).error("internal error: %s: %s", type(error).__name__, error)
    return failure(500, f"internal error ({type(error).__name__}); see the server's log and report it")


def status_of(error: StreamDepthError) -> int:
    """The HTTP status of a library error."""
    if isinstance(error, UsageError):
        return 400
    if isinstance(error, DataFormatError | SourceError):
        return 422
    if isinstance(error, MissingDependencyError):
        return 501
    return 500


def _reason(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not allowed here; use {', '.join(sorted(error.allowed_methods))}"
    if error.status == 404:
        return f"there is nothing at {request.path}"
    return error.reason


# Looks --------------------------------------------------------------------------------------------------------------


def plain_style(value: Any) -> Style:
    """A palette name or list of stops. File names are refused: they would be read on the server.

    Raises:
        ApiError: anything else (400).
    """
    from streamdepth.colorize.palettes import palette, parse_stops

    if isinstance(value, str) and (value.lower().endswith((".json", ".yaml", ".yml")) or "/" in value or "\\" in value):
        raise ApiError(400, "a style is a palette name or a list of stops, not a file")
    try:
        style: Style = value if isinstance(value, str) else parse_stops(value, what="style")
        palette(style)
    except (UsageError, OverflowError) as error:
        main, _, command = str(error).partition("run `streamdepth")
        raise ApiError(400, f"{main}GET /v1/palettes lists the palettes" if command else main) from None
    return style


def look_changes(content: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`Look` from a client's JSON object or query.

    Raises:
        ApiError: an invalid value (400).
    """
    changes: dict[str, Any] = {}
    try:
        for key in LOOK_KEYS:
            if key not in content:
                continue
            value = content[key]
            if key == "style":
                changes["style"] = plain_style(value)
            elif key == "alpha":
                changes["alpha"] = parse_alpha(value)
            elif key == "view":
                changes["view"] = member(View, "view", value)
            elif key == "edges":
                changes["upsampling"] = member(Upsampling, "edges", value)
            elif key == "contours":
                changes["contours"] = _whole(value)
            else:
                changes[key] = flag(key, value)
        Look(**changes)
    except (ValueError, TypeError, OverflowError) as error:
        raise ApiError(400, " ".join(str(error).split())) from None
    return changes


def look_state(look: Look) -> dict[str, Any]:
    """A look as JSON, with the names clients use."""
    return {
        "style": look.style if isinstance(look.style, str) else [list(stop) for stop in look.style],
        "alpha": list(look.alpha_ends),
        "alpha_set": look.alpha is not None,
        "reverse": look.reverse,
        "view": str(look.view),
        "contours": look.contours,
        "bar": look.bar,
        "edges": str(look.upsampling),
    }


def palettes_css() -> dict[str, list[str]]:
    """Palette name -> nine CSS colours from far to near."""
    from streamdepth.colorize.palettes import listed_names, palette

    return {
        name: [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette(name, 9)[:, :3].tolist()]
        for name in listed_names()
    }


def flag(name: str, value: Any) -> bool:
    """A Boolean from JSON or a query.

    Raises:
        ApiError: anything else (400).
    """
    found = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}.get(
        str(value).lower()
    )
    if found is None:
        raise ApiError(400, f"{name} is true or false, not {str(value)[:60]!r}")
    return found


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"contours must be a whole number, not {str(value)[:60]!r}")
    return value

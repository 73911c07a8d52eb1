"""Answers of the API: JSON, errors as one line with the right status."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

from streamdepth.core.errors import (
    DataFormatError,
    MissingDependencyError,
    SourceError,
    StreamDepthError,
    UsageError,
)
from streamdepth.core.look import Look, Upsampling, View, parse_alpha
from streamdepth.core.redact import one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from streamdepth.core.look import Style

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer other than success. ``message`` is one line for the client."""

    def __init__(self, status: int, message: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds


def failure(status: int, message: str, *, retry_after_seconds: int | None = None) -> web.Response:
    """``{"error": message}``, secrets masked."""
    headers = {} if retry_after_seconds is None else {"Retry-After": str(retry_after_seconds)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.json_response({"error": one_line(message)}, status=status, headers=headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever a handler raises becomes an answer; a bug of ours too."""
    try:
        return await handler(request)
    except ApiError as error:
        return failure(error.status, error.message, retry_after_seconds=error.retry_after_seconds)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return failure(error.status, _reason(request, error))
    except StreamDepthError as error:
        return failure(status_of(error), str(error))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:  # the server goes on; the client is told
        return failure(500, f"internal error: {type(error).__name__}: {error}; please report it")


def status_of(error: StreamDepthError) -> int:
    """The HTTP status of an error of ours."""
    if isinstance(error, UsageError):
        return 400
    if isinstance(error, DataFormatError | SourceError):
        return 422
    if isinstance(error, MissingDependencyError):
        return 501
    return 500


def _reason(request: web.Request, error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.method} is not possible here; use {', '.join(sorted(error.allowed_methods))}"
    if error.status == 404:
        return f"there is nothing at {request.path}"
    return error.reason


async def json_object(request: web.Request, most_bytes: int) -> dict[str, Any]:
    """A body that is one JSON object."""
    if request.content_type != "application/json":
        raise ApiError(415, f"send application/json, not {request.content_type}")
    import json

    try:
        content = json.loads(await body(request, most_bytes))
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, f"the body is not JSON ({exc})") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body is not a JSON object")
    return content


async def body(request: web.Request, most_bytes: int, within_seconds: float = 60.0) -> bytes:
    """The whole body, refused as soon as it is too long."""
    if (request.content_length or 0) > most_bytes:
        raise ApiError(413, f"the body has {request.content_length:,} bytes, the limit is {most_bytes:,}")
    taken = bytearray()
    try:
        async with asyncio.timeout(within_seconds):
            async for chunk in request.content.iter_chunked(1 << 18):
                taken += chunk
                if len(taken) > most_bytes:
                    raise ApiError(413, f"the body has more than {most_bytes:,} bytes")
    except TimeoutError:
        raise ApiError(408, f"the body did not come within {within_seconds:g} s") from None
    return bytes(taken)


LOOK_KEYS = ("style", "alpha", "reverse", "view", "contours", "bar", "edges")


def plain_style(value: Any) -> Style:
    """A palette's name or stops; never a file, which is the server's own.

    Raises:
        ApiError: anything else (400).
    """
    from streamdepth.colorize.palettes import checked_style, parse_stops

    if isinstance(value, str) and (value.lower().endswith((".json", ".yaml", ".yml")) or "/" in value or "\\" in value):
        raise ApiError(400, "a style is a palette's name or a list of stops, not a file")
    try:
        style: Style = value if isinstance(value, str) else parse_stops(value, what="style")
        checked_style(style)
    except UsageError as error:
        raise ApiError(400, str(error)) from None
    return style


def look_changes(content: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`Look` out of a client's JSON object or query.

    Raises:
        ApiError: a value that cannot mean anything (400).
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
                changes["view"] = View(value)
            elif key == "edges":
                changes["upsampling"] = Upsampling(value)
            elif key == "contours":
                changes["contours"] = _whole(value)
            else:
                changes[key] = _flag(key, value)
        Look(**changes)
    except (ValueError, TypeError) as error:
        raise ApiError(400, " ".join(str(error).split())) from None
    return changes


def look_state(look: Look) -> dict[str, Any]:
    """A look as JSON can hold it, with the names clients use."""
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
    """Every palette's name with nine colours from far to near, for swatches."""
    from streamdepth.colorize.palettes import palette, palette_names

    return {
        name: [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette(name, 9)[:, :3].tolist()]
        for name in palette_names()
    }


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"contours must be a whole number, not {value!r}")
    return value


def _flag(name: str, value: Any) -> bool:
    found = value if isinstance(value, bool) else {"true": True, "1": True, "false": False, "0": False}.get(str(value))
    if found is None:
        raise ValueError(f"{name} is true or false, not {value!r}")
    return found

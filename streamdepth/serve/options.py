"""Where a web server listens, who may come in, and the limits it keeps."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamdepth.core.errors import SinkError, UsageError
from streamdepth.net.url import parse_live_url

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_VARIABLE = "STREAMDEPTH_WEB_TOKEN"  # noqa: S105 - the name of a variable
_SHORTEST_TOKEN = 12
_MEBI = 1 << 20


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Limits and habits of a web server.

    Attributes:
        max_connections: TCP connections at once; further ones are closed unanswered.
        max_viewers: of Motion JPEG, which all share one encoder.
        max_rtc_viewers: of WebRTC, which encodes for each of them; further ones get Motion JPEG.
        max_body_bytes: request body of a still.
        max_pixels: of a still; refused before it is decoded.
        max_json_pixels: of a still whose depth is wanted as JSON, at about 20 bytes a pixel.
        stills_waiting: stills in work or waiting; further ones are told to come back.
        max_upload_bytes: a video file.
        jobs_waiting: video files waiting; further ones are told to come back.
        max_result_bytes: a finished video; a job that would exceed it fails.
        free_disk_bytes: what jobs leave free on the disk.
        kept_results, kept_seconds: how many finished jobs keep their files, and for how long.
        jpeg_quality: 1..100.
        model_every: of video files, as for :class:`~streamdepth.pipeline.Pipeline`.
        stall_seconds: a viewer that takes nothing for so long is cut off, as is an upload that sends nothing.
    """

    max_connections: int = 128
    max_viewers: int = 32
    max_rtc_viewers: int = 4
    max_body_bytes: int = 32 * _MEBI
    max_pixels: int = 50_000_000
    max_json_pixels: int = 16_000_000
    stills_waiting: int = 4
    max_upload_bytes: int = 512 * _MEBI
    jobs_waiting: int = 4
    max_result_bytes: int = 2048 * _MEBI
    free_disk_bytes: int = 512 * _MEBI
    kept_results: int = 4
    kept_seconds: float = 1800.0
    jpeg_quality: int = 85
    model_every: int = 1
    stall_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is more than 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen at, resolved. ``address`` is numeric."""

    host: str
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback

    @property
    def everywhere(self) -> bool:
        """Every address of this machine."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_unspecified

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


def check_url(url: str) -> str:
    """The address for people, e.g. ``http://127.0.0.1:8080``.

    Raises:
        UsageError: not ``http://host:port`` and no more.
    """
    parsed = parse_live_url(url, frozenset({"http"}))
    if parsed.credentials is not None:
        raise UsageError(f"{parsed.label}: a web page has a token, not a password; put it into {TOKEN_VARIABLE}")
    parts = urlsplit(parsed.location)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"{parsed.label}: the page has the whole address; write http://{parts.netloc}")
    return f"http://{parts.netloc}"


def resolve(url: str) -> Listen:
    """Look the host up, IPv4 first.

    Raises:
        UsageError: as :func:`check_url`. SinkError: no address of any machine.
    """
    check_url(url)
    parsed = parse_live_url(url, frozenset({"http"}))
    try:
        found = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise SinkError(f"{parsed.label}: {parsed.host} is no address of this machine ({exc.strerror})") from exc
    addresses = sorted((str(entry[4][0]) for entry in found), key=lambda text: ":" in text)
    return Listen(parsed.host, addresses[0], parsed.port)


def find_token(
    token: str | None = None, token_file: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> str | None:
    """The token given, a file's first line, or the environment's; None where there is none.

    Raises:
        UsageError: both a token and a file, an unreadable file, or a token that could be guessed or not be typed.
    """
    if token is not None and token_file is not None:
        raise UsageError("a token is given twice; give the token or its file")
    where = "the token"
    if token_file is not None:
        where = f"token file {token_file}"
        try:
            lines = Path(token_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise UsageError(f"{where}: cannot be read, {reason}; its first line is the token") from exc
        token = lines[0].strip() if lines else ""
    if token is None:
        where = TOKEN_VARIABLE
        token = (os.environ if environ is None else environ).get(TOKEN_VARIABLE) or None
    if token is None:
        return None
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{where} must have {_SHORTEST_TOKEN} or more printable ASCII characters without spaces")
    return token


def new_token() -> str:
    """192 random bits, as text for a URL."""
    return secrets.token_urlsafe(24)

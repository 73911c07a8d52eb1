"""Address, access token and limits of a web server."""

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
    """Limits of a web server. All numbers are greater than 0.

    Attributes:
        max_connections: simultaneous TCP connections. When all are in use, a new one replaces the one that has been
            idle, or without a valid token, for longest; where there is none, the new one is closed.
        max_viewers: simultaneous Motion JPEG viewers; they share one encoder.
        max_rtc_viewers: simultaneous WebRTC viewers, each with its own encoder; further ones fall back to Motion JPEG.
        max_body_bytes: request body with images.
        max_buffered_bytes: all request bodies in memory together.
        max_images: images in one request.
        max_pixels: pixels of all images of one request together, checked before any of them is decoded.
        max_tensor_pixels: pixels of all tensors of one request together; a model runs at the size of a tensor, while it
            runs images at its own size.
        max_json_pixels: pixels whose depth is written as a JSON list, about 20 bytes each.
        images_waiting: image requests that are running or waiting; further ones are answered 503.
        max_upload_bytes: size of an uploaded video.
        max_video_pixels: pixels of one frame of an uploaded video.
        jobs_waiting: videos waiting; further ones are answered 503.
        max_result_bytes: size of a finished video; a job that exceeds it fails.
        free_disk_bytes: free disk space that uploads and jobs leave.
        max_results, result_seconds: number of finished jobs whose files are kept, and for how long.
        jpeg_quality: 1..100.
        model_every, stabilize: for uploaded videos, as in :class:`~streamdepth.pipeline.Pipeline`.
        stall_seconds: a client that sends or reads nothing for this long is disconnected.
        body_seconds: time for a whole request body, except that of a video.
        least_bytes_per_second: average rate below which an upload or a download is ended, after ``stall_seconds``.
    """

    max_connections: int = 128
    max_viewers: int = 32
    max_rtc_viewers: int = 4
    max_body_bytes: int = 32 * _MEBI
    max_buffered_bytes: int = 128 * _MEBI
    max_images: int = 16
    max_pixels: int = 50_000_000
    max_tensor_pixels: int = 1536 * 1536
    max_json_pixels: int = 16_000_000
    images_waiting: int = 4
    max_upload_bytes: int = 512 * _MEBI
    max_video_pixels: int = 4096 * 2304
    jobs_waiting: int = 4
    max_result_bytes: int = 2048 * _MEBI
    free_disk_bytes: int = 512 * _MEBI
    max_results: int = 4
    result_seconds: float = 1800.0
    jpeg_quality: int = 85
    model_every: int = 1
    stabilize: bool = False
    stall_seconds: float = 10.0
    body_seconds: float = 60.0
    least_bytes_per_second: float = 65_536.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not (getattr(self, name) > 0 or name == "stabilize"):
                raise UsageError(f"{name} must be greater than 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Listen:
    """A resolved address to listen on. ``address`` is numeric."""

    host: str
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.address.partition("%")[0]).is_loopback

    @property
    def everywhere(self) -> bool:
        """True for the unspecified address: every address of this machine."""
        return ipaddress.ip_address(self.address.partition("%")[0]).is_unspecified

    @property
    def name(self) -> str:
        """The host as it is written in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


def check_url(url: str) -> str:
    """The address in its display form, e.g. ``http://127.0.0.1:8080``.

    Raises:
        UsageError: ``url`` is not ``http://host:port``.
    """
    parsed = parse_live_url(url, frozenset({"http"}))
    if parsed.credentials is not None:
        raise UsageError(f"{parsed.label}: a web page has a token, not a password; put it into {TOKEN_VARIABLE}")
    parts = urlsplit(parsed.location)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"{parsed.label}: the page's address has no path; write http://{parts.netloc}")
    return f"http://{parts.netloc}"


def resolve(url: str) -> Listen:
    """Look up the host; IPv4 addresses come first.

    Raises:
        UsageError: as :func:`check_url`.
        SinkError: the host is not an address of this machine.
    """
    check_url(url)
    parsed = parse_live_url(url, frozenset({"http"}))
    try:
        found = socket.getaddrinfo(parsed.host, parsed.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise SinkError(
            f"{parsed.label}: {parsed.host} is not an address of this machine ({exc.strerror}); use e.g. 127.0.0.1"
        ) from exc
    addresses = sorted((str(entry[4][0]) for entry in found), key=lambda text: ":" in text)
    return Listen(parsed.host, addresses[0], parsed.port)


def find_token(
    token: str | None = None, token_file: str | Path | None = None, environ: Mapping[str, str] | None = None
) -> str | None:
    """The given token, the first line of a file, or the value of the environment variable; None if there is none.

    Raises:
        UsageError: both a token and a file, an unreadable file, or a token that is too short or not printable ASCII.
    """
    if token is not None and token_file is not None:
        raise UsageError("a token and a token file are both given; give one of them")
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
    """192 random bits as URL-safe text."""
    return secrets.token_urlsafe(24)

"""Addresses of live streams and the credentials that go with them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from streamdepth.core.errors import UsageError, redact, split_userinfo

if TYPE_CHECKING:
    from collections.abc import Mapping

USER_VARIABLE = "STREAMDEPTH_RTSP_USER"
PASSWORD_VARIABLE = "STREAMDEPTH_RTSP_PASSWORD"  # noqa: S105 - the name of a variable
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443, "http": 80, "https": 443}
LIVE_SCHEMES = frozenset({"rtsp", "rtsps", "rtmp", "rtmps", "udp", "tcp", "srt", "rtp", "http", "https"})
"""Protocols of :class:`~streamdepth.sources.live.source.LiveSource`, if this build of FFmpeg has them."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A decoded user name and password. ``repr`` shows neither."""

    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LiveUrl:
    """The parsed address of a live stream.

    Attributes:
        scheme: lower case.
        host: name or address, IPv6 without brackets; empty if the URL has none.
        port: given, or the default of the scheme; 0 if neither is known.
        location: the URL without credentials. It may contain secret query parameters: for connections, not for display.
        credentials: from the URL, if it has any.
    """

    scheme: str
    host: str
    port: int
    location: str
    credentials: Credentials | None = None

    @property
    def label(self) -> str:
        """The address for display, secrets masked."""
        return redact(self.location)

    def with_credentials(self, credentials: Credentials | None) -> str:
        """The URL with percent-encoded user information, as libraries expect it. Secret."""
        if credentials is None:
            return self.location
        head, _, tail = self.location.partition("://")
        return f"{head}://{quote(credentials.username, safe='')}:{quote(credentials.password, safe='')}@{tail}"


def parse_live_url(url: str, schemes: frozenset[str]) -> LiveUrl:
    """Parse a URL; passwords may contain bare ``@``, ``/``, ``?``, ``#`` (see :func:`redact.split_userinfo`).

    Raises:
        UsageError: not a URL of one of ``schemes``, or an invalid port.
    """
    userinfo, location = split_userinfo(url.strip())
    known = ", ".join(f"{scheme}://" for scheme in sorted(schemes))
    try:
        parts = urlsplit(location)
        port = parts.port
    except ValueError as exc:
        raise UsageError(f"{location}: not a valid address ({exc}); write scheme://host:port/path") from None
    scheme = parts.scheme.lower()
    if scheme not in schemes:
        raise UsageError(f"{location}: not a supported address; use one of {known}")
    if not parts.hostname and scheme != "udp":
        raise UsageError(f"{location}: has no host; write {scheme}://host:port/path")
    if any(character.isspace() or not character.isprintable() for character in location):
        raise UsageError(f"{location!r}: white space and control characters must be percent-encoded in an address")
    credentials = None
    if userinfo is not None:
        name, _, password = userinfo.partition(":")
        credentials = Credentials(unquote(name), unquote(password))
    return LiveUrl(
        scheme=scheme,
        host=parts.hostname or "",
        port=DEFAULT_PORTS.get(scheme, 0) if port is None else port,
        location=location,
        credentials=credentials,
    )


def find_credentials(
    url: LiveUrl,
    *,
    username: str | None = None,
    password: str | None = None,
    credentials_file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Credentials | None:
    """The credentials for ``url``: those given, those of a file, of the URL, or of the environment; otherwise None.

    Args:
        credentials_file: text whose first line is ``user:password``; keeps them out of command lines and process lists.
        environ: where ``STREAMDEPTH_RTSP_USER`` and ``STREAMDEPTH_RTSP_PASSWORD`` are read from; None = the process's.
    Raises:
        UsageError: only one of the two, both a pair and a file, or a file that cannot be read or has no pair.
    """
    if (username is None) != (password is None):
        raise UsageError("a user name and a password belong together; give both or neither")
    if username is not None and password is not None:
        if credentials_file is not None:
            raise UsageError("credentials are given twice; give a user name and password or a credentials file")
        return Credentials(username, password)
    if credentials_file is not None:
        return _read_credentials(Path(credentials_file))
    if url.credentials is not None:
        return url.credentials
    variables = os.environ if environ is None else environ
    name, secret = variables.get(USER_VARIABLE), variables.get(PASSWORD_VARIABLE)
    if not name and not secret:
        return None
    if not name or secret is None:
        raise UsageError(f"{USER_VARIABLE} and {PASSWORD_VARIABLE} belong together; set both or neither")
    return Credentials(name, secret)


def _read_credentials(path: Path) -> Credentials:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise UsageError(f"credentials file {path}: cannot be read, {reason}; its first line is USER:PASSWORD") from exc
    name, colon, password = lines[0].partition(":") if lines else ("", "", "")
    if not name or not colon:
        raise UsageError(f"credentials file {path}: contains no credentials; its first line is USER:PASSWORD")
    return Credentials(name, password)

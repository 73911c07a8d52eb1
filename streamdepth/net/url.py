"""URLs: addresses of live streams, their credentials and accepted certificates; object storage.

Certificates are checked by default: these connections transmit passwords and private images. libav does not check them
by default, and reports a rejected certificate as "Input/output error" (SChannel: as an unknown error);
:meth:`TlsConfig.explain` finds the reason. PyAV's wheels use GnuTLS on Linux, SecureTransport on macOS and SChannel on
Windows, which has no file of certificates.

Object storage is reached through fsspec (``s3://``, ``gs://``, ``az://``). Its credentials come from the means of each
service: environment variables, configuration files, roles of the machine. They are never part of a URL.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from streamdepth.core.errors import (
    MissingDependencyError,
    StreamDepthError,
    UsageError,
    install_command,
    redact,
    split_userinfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
        location=scheme + location[len(scheme) :],  # FFmpeg knows schemes in lower case only
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


TLS_SCHEMES = frozenset({"rtsps", "rtmps", "https"})
NO_CHECK = "none"

_EXPIRED, _WRONG_NAME, _WRONG_ADDRESS = 10, 62, 64
"""OpenSSL's X509_V_ERR_* (x509_vfy.h)."""
_UNSPECIFIC = (errno.EIO, 0x4E4B4E55)
"""The second is FFmpeg's AVERROR_UNKNOWN."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class TlsError(Exception):
    """Why there is no encrypted connection, in plain words without credentials."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Which certificates are accepted.

    Attributes:
        check: False = accept any certificate: the connection is encrypted, but the peer is not verified.
        ca_file: PEM file of accepted certificates, instead of the system's.
    """

    check: bool = True
    ca_file: str | None = None

    @property
    def checked_by_system(self) -> bool:
        """True if macOS or Windows checks certificates, in the handshake of ``wrap_socket``. Python itself finds no
        certificates on macOS, and on Windows those only that have been used before."""
        return self.check and self.ca_file is None and sys.platform in ("darwin", "win32")

    def context(self) -> ssl.SSLContext:
        if self.checked_by_system:
            import truststore

            return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.check:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def libav_options(self) -> dict[str, str]:
        """Raises ``UsageError``: a file of certificates on Windows."""
        if not self.check:
            return {"tls_verify": "0"}
        if self.ca_file is not None and sys.platform == "win32":
            raise UsageError(
                f"tls-ca {self.ca_file}: FFmpeg on Windows accepts the certificates of Windows only; add this one with "
                f'certutil -user -addstore Root "{self.ca_file}" and omit --tls-ca, or give --tls-ca {NO_CHECK}'
            )
        ca_file = self.ca_file or _system_bundle()
        return {"tls_verify": "1"} | ({"ca_file": ca_file} if ca_file else {})

    def explain(self, url: LiveUrl, error: Exception, timeout_seconds: float) -> Exception:
        """The TLS error behind an unspecific error of libav; otherwise ``error`` itself.

        Blocks for at most twice ``timeout_seconds``: it repeats the handshake.
        """
        if url.scheme not in TLS_SCHEMES or getattr(error, "errno", None) not in _UNSPECIFIC:
            return error
        try:
            with (
                socket.create_connection((url.host, url.port), timeout_seconds) as plain,
                self.context().wrap_socket(plain, server_hostname=url.host),
            ):
                return error
        except ssl.SSLError as exc:
            return tls_error(exc)
        except (OSError, ValueError):
            return error


def find_tls_config(tls_ca: str | Path | None) -> TlsConfig:
    """
    Args:
        tls_ca: a PEM file with the camera's certificate or that of its signer; ``"none"`` = check nothing (a file of
            that name is ``./none``); None = the certificates of the system.
    Raises:
        UsageError: the file cannot be read or contains no certificate.
    """
    if tls_ca is None:
        return TlsConfig()
    if tls_ca == NO_CHECK:
        return TlsConfig(check=False)
    tls = TlsConfig(ca_file=str(tls_ca))
    try:
        tls.context()
    except ssl.SSLError:
        raise UsageError(
            f"tls-ca {tls_ca}: contains no certificate; give a PEM file (-----BEGIN CERTIFICATE-----)"
        ) from None
    except OSError as exc:
        raise UsageError(f"tls-ca {tls_ca}: cannot be read, {exc.strerror}; give a PEM file or {NO_CHECK}") from exc
    return tls


def tls_error(error: ssl.SSLError) -> TlsError:
    """A failed handshake in plain words, with a hint."""
    unchecked = f"--tls-ca {NO_CHECK} to check nothing"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        ways = {
            _EXPIRED: f"renew it, or give {unchecked}",
            _WRONG_NAME: f"use the name it was made for, or {unchecked}",
            _WRONG_ADDRESS: f"use the name it was made for, or {unchecked}",
        }
        trusted = f"give --tls-ca FILE with that certificate or its signer's, or {unchecked}"
        return TlsError(f"its certificate is not trusted: {why}", ways.get(error.verify_code, trusted))
    if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return TlsError("the server does not speak TLS", "omit the s of the protocol")
    why = (error.reason or str(error)).lower().replace("_", " ")
    return TlsError(f"no encrypted connection: {why}", "check the port and the server's TLS settings")


def _system_bundle() -> str | None:
    # GnuTLS in PyAV's wheels for Linux looks for certificates only where Fedora stores them; on macOS and Windows
    # libav uses those of the system.
    bundle: str | None = None
    if sys.platform == "linux":
        named = ssl.get_default_verify_paths().cafile
        bundle = next((path for path in (named, *_BUNDLES) if path and Path(path).is_file()), None)
    return bundle


OBJECT_SCHEMES = ("s3", "gs", "az", "abfs")
_MAGIC = frozenset("*?[")


def is_object_url(text: str) -> bool:
    """True for a URL of object storage."""
    return text.partition("://")[0].lower() in OBJECT_SCHEMES and "://" in text


class ObjectStore:
    """The storage service that a URL names. Thread-safe.

    Raises:
        UsageError: the URL contains credentials.
        MissingDependencyError: the package for the service is not installed.
    """

    def __init__(self, url: str) -> None:
        if split_userinfo(url)[0] is not None:
            raise UsageError(
                f"{redact(url)}: a URL cannot contain credentials; set them in the environment or a configuration "
                "file of the service"
            )
        self.url = url
        scheme = url.partition("://")[0].lower()
        try:
            import fsspec

            self._files: Any = fsspec.filesystem(scheme)
        except (ImportError, ValueError) as error:
            raise MissingDependencyError(
                f"{redact(url)}: {scheme}:// needs a package ({one_reason(error)}); {install_command('cloud')}"
            ) from error

    def exists(self) -> bool:
        return bool(self._files.exists(self.url))

    def find(self, *, missing_ok: bool = False) -> list[str]:
        """URLs of the objects in the folder, or matching the pattern, sorted.

        Args:
            missing_ok: a folder that does not exist is empty.
        """
        scheme = self.url.partition("://")[0]
        self._files.invalidate_cache()  # other machines write to the folder
        if missing_ok and not self._files.exists(self.url):
            return []
        if _MAGIC.isdisjoint(self.url):
            names = [one["name"] for one in self._files.ls(self.url, detail=True) if one["type"] == "file"]
        else:
            names = self._files.glob(self.url)
        return sorted(f"{scheme}://{name}" for name in names)

    def open(self) -> Any:
        """A binary file to read."""
        return self._files.open(self.url, "rb")

    def get(self, path: str) -> None:
        """Download to a local file."""
        self._files.get_file(self.url, path)

    def modified(self) -> str:
        """What changes with the content: the service's entity tag, else the time of the last change."""
        info = self._files.info(self.url)
        return str(info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or "")

    def remove(self) -> None:
        """Delete the object. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(self.url)

    def put(self, path: str) -> None:
        """Upload a local file. The object appears, or replaces an older one, when all of it has arrived."""
        self._files.put_file(path, self.url)


def names_several(url: str) -> bool:
    """True for a folder or a pattern."""
    return url.endswith("/") or not _MAGIC.isdisjoint(url)


@contextlib.contextmanager
def explained(url: str, kind: type[StreamDepthError], what: str) -> Iterator[None]:
    """Raise ``kind`` for an error of the service: ``URL: what (reason)``, without secrets."""
    try:
        yield
    except StreamDepthError:
        raise
    except Exception as error:  # each service has exceptions of its own
        # The cause is left out: messages of the services can contain signed requests.
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else one_reason(error)
        raise kind(f"{redact(url)}: {what} ({reason}); check the URL and the credentials") from None


def one_reason(error: BaseException) -> str:
    """The first line of a message, without secrets."""
    text = str(error).strip().splitlines()
    return redact(text[0][:200]) if text else type(error).__name__

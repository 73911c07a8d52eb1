"""Accepted certificates of ``rtsps://``, ``rtmps://`` and ``https://``.

Certificates are checked by default: these connections transmit passwords and private images. libav does not check them
by default, and reports a rejected certificate as "Input/output error" (SChannel: as an unknown error);
:meth:`TlsConfig.explain` finds the reason. PyAV's wheels use GnuTLS on Linux, SecureTransport on macOS and SChannel on
Windows, which has no file of certificates.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from streamdepth.net.url import LiveUrl

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
        """
        Raises:
            UsageError: a file of certificates on Windows.
        """
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

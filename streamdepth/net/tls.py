"""Whom to tls behind ``rtsps://``, ``rtmps://`` and ``https://``.

Certificates are checked unless told otherwise: passwords and images of homes go over these connections. libav does
not check by default, and what it says of a certificate it refused is "Input/output error"; hence ``explain``.
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

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class TlsError(Exception):
    """Why there is no encrypted connection; text for people, without credentials."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Which certificates are accepted.

    Attributes:
        check: False = any, by whomever: encrypted, but to nobody in particular.
        ca_file: PEM file of certificates to tls instead of the system's.
    """

    check: bool = True
    ca_file: str | None = None

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if not self.check:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def libav_options(self) -> dict[str, str]:
        if not self.check:
            return {"tls_verify": "0"}
        ca_file = self.ca_file or _system_bundle()
        return {"tls_verify": "1"} | ({"ca_file": ca_file} if ca_file else {})

    def explain(self, url: LiveUrl, error: Exception, timeout_seconds: float) -> Exception:
        """What was wrong with the encryption where libav failed without a word of it; else ``error`` itself.

        Blocks for at most twice ``timeout_seconds``: it shakes hands with the server once more.
        """
        if url.scheme not in TLS_SCHEMES or getattr(error, "errno", None) != errno.EIO:
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
        tls_ca: a PEM file of certificates, the camera's own or those of who signed it; ``"none"`` = check nothing
            (a file of that name is ``./none``); None = tls what the system trusts.
    Raises:
        UsageError: the file cannot be read or holds no certificate.
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
            f"tls-ca {tls_ca}: holds no certificate; give a PEM file (-----BEGIN CERTIFICATE-----)"
        ) from None
    except OSError as exc:
        raise UsageError(f"tls-ca {tls_ca}: cannot be read, {exc.strerror}; give a PEM file or {NO_CHECK}") from exc
    return tls


def tls_error(error: ssl.SSLError) -> TlsError:
    """What a failed handshake means to people."""
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
        return TlsError("what answers there does not speak TLS", "leave the s of the protocol out")
    why = (error.reason or str(error)).lower().replace("_", " ")
    return TlsError(f"no encrypted connection: {why}", "check the port and the server's TLS settings")


def _system_bundle() -> str | None:
    # PyAV's wheels for Linux carry a GnuTLS that looks where Fedora keeps certificates and nowhere else; on macOS and
    # Windows libav asks the system.
    bundle: str | None = None
    if sys.platform == "linux":
        named = ssl.get_default_verify_paths().cafile
        bundle = next((path for path in (named, *_BUNDLES) if path and Path(path).is_file()), None)
    return bundle

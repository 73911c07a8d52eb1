"""Basic (RFC 7617) and Digest (RFC 2617, 7616) authentication, server and client.

RTSP players support MD5 only. It does not provide confidentiality: RTSP has none, so that beyond loopback a private
network or a tunnel is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.net.url import Credentials

_NONCE_SECONDS = 300
_FIELD = re.compile(r"(\w+)=(?:\"([^\"]*)\"|([^\s,\"]+))")
_HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


def parse_fields(text: str) -> dict[str, str]:
    """``a="b", c=d`` -> ``{"a": "b", "c": "d"}``, names in lower case."""
    return {name.lower(): quoted or bare for name, quoted, bare in _FIELD.findall(text)}


def digest_response(credentials: Credentials, method: str, fields: dict[str, str]) -> str:
    """The ``response`` field for ``fields`` (realm, nonce, uri, and qop, nc, cnonce, algorithm where used)."""
    make = _HASHES[fields.get("algorithm", "MD5").upper()]

    def digest(text: str) -> str:
        return make(text.encode()).hexdigest()

    a1 = digest(f"{credentials.username}:{fields['realm']}:{credentials.password}")
    a2 = digest(f"{method}:{fields['uri']}")
    if "qop" in fields:
        return digest(f"{a1}:{fields['nonce']}:{fields['nc']}:{fields['cnonce']}:{fields['qop']}:{a2}")
    return digest(f"{a1}:{fields['nonce']}:{a2}")


class Authenticator:
    """Verifies credentials. Its only state is a key, so that no table of nonces can overflow. Thread-safe."""

    def __init__(self, credentials: Credentials, clock: Clock, realm: str = "streamdepth") -> None:
        self._credentials = credentials
        self._clock = clock
        self._realm = realm
        self._key = secrets.token_bytes(32)

    def challenges(self, *, stale: bool = False) -> tuple[str, str]:
        """Digest first: players use the first scheme that they support."""
        tail = ", stale=true" if stale else ""
        return (
            f'Digest realm="{self._realm}", nonce="{self._nonce()}", algorithm=MD5{tail}',
            f'Basic realm="{self._realm}"',
        )

    def admits(self, header: str | None, method: str) -> bool:
        """True if an Authorization header proves the credentials for this method."""
        if header is None:
            return False
        kind, _, rest = header.partition(" ")
        if kind.lower() == "basic":
            return self._admits_basic(rest)
        return kind.lower() == "digest" and self._admits_digest(rest, method)

    def is_stale(self, header: str | None) -> bool:
        """True if a nonce is ours but too old: the player may try again without asking its user."""
        nonce = parse_fields(header or "").get("nonce", "")
        return bool(nonce) and self._signed(nonce) and not self._fresh(nonce)

    def _admits_basic(self, encoded: str) -> bool:
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            return False
        expected = f"{self._credentials.username}:{self._credentials.password}".encode()
        return hmac.compare_digest(given, expected)

    def _admits_digest(self, text: str, method: str) -> bool:
        fields = parse_fields(text)
        needed = {"username", "realm", "nonce", "uri", "response"}
        if "qop" in fields:
            needed |= {"nc", "cnonce"}
        if not needed <= fields.keys() or fields["realm"] != self._realm:
            return False
        if fields.get("algorithm", "MD5").upper() not in _HASHES:
            return False
        if not self._signed(fields["nonce"]) or not self._fresh(fields["nonce"]):
            return False
        expected = digest_response(self._credentials, method, fields)
        right_user = hmac.compare_digest(fields["username"].encode(), self._credentials.username.encode())
        return hmac.compare_digest(fields["response"].lower().encode(), expected.encode()) and right_user

    def _nonce(self) -> str:
        stamp = f"{self._clock.monotonic_ns() // 1_000_000_000:x}"
        return f"{stamp}.{self._sign(stamp)}"

    def _sign(self, stamp: str) -> str:
        return hmac.new(self._key, stamp.encode(), hashlib.sha256).hexdigest()[:32]

    def _signed(self, nonce: str) -> bool:
        stamp, _, signature = nonce.partition(".")
        return hmac.compare_digest(signature.encode(), self._sign(stamp).encode())

    def _fresh(self, nonce: str) -> bool:
        age = self._clock.monotonic_ns() // 1_000_000_000 - int(nonce.partition(".")[0], 16)
        return 0 <= age <= _NONCE_SECONDS


def answer_challenge(challenges: Sequence[str], credentials: Credentials, method: str, url: str) -> str | None:
    """The Authorization header for a request, Digest preferred; None if no challenge is supported."""
    for challenge in challenges:
        kind, _, rest = challenge.partition(" ")
        fields = parse_fields(rest)
        if kind.lower() != "digest" or not {"realm", "nonce"} <= fields.keys():
            continue
        algorithm = fields.get("algorithm", "MD5")
        if algorithm.upper() not in _HASHES:
            continue
        proof = {"realm": fields["realm"], "nonce": fields["nonce"], "uri": url, "algorithm": algorithm}
        if "auth" in [part.strip() for part in fields.get("qop", "").split(",")]:
            proof |= {"qop": "auth", "nc": "00000001", "cnonce": secrets.token_hex(8)}
        text = f'Digest username="{credentials.username}", realm="{fields["realm"]}", nonce="{fields["nonce"]}"'
        text += f', uri="{url}", response="{digest_response(credentials, method, proof)}"'
        if "algorithm" in fields:
            text += f", algorithm={algorithm}"
        if "opaque" in fields:
            text += f', opaque="{fields["opaque"]}"'
        if "qop" in proof:
            text += f', qop=auth, nc={proof["nc"]}, cnonce="{proof["cnonce"]}"'
        return text
    if any(challenge.partition(" ")[0].lower() == "basic" for challenge in challenges):
        pair = f"{credentials.username}:{credentials.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    return None

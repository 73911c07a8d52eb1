"""RTSP/1.0 messages (RFC 2326) with a strict, bounded parser, and authentication of both sides.

Basic (RFC 7617) and Digest (RFC 2617, 7616): RTSP players support MD5 only. It does not provide confidentiality: RTSP
has none, so that beyond loopback a private network or a tunnel is needed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.net.url import Credentials

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_HEADERS = 64
MAX_MESSAGES = 256
"""Messages that arrive together: viewers wait for each answer. Eight that did not made others wait 1.9 s."""

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    454: "Session Not Found",
    455: "Method Not Valid in This State",
    459: "Aggregate Operation Not Allowed",
    461: "Unsupported Transport",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "RTSP Version Not Supported",
    551: "Option not supported",
}


class ProtocolError(ValueError):
    """The data is not RTSP, or exceeds a limit."""


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response: ``start`` is its first line in three parts; header names are lower case."""

    start: tuple[str, str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    challenges: tuple[str, ...] = ()
    """All WWW-Authenticate headers, the only ones that may be repeated."""

    @property
    def is_response(self) -> bool:
        return self.start[0].startswith("RTSP/")

    @property
    def method(self) -> str:
        return self.start[0]

    @property
    def url(self) -> str:
        return self.start[1]

    @property
    def status(self) -> int:
        """Of a response; 0 if it is not a number."""
        return int(self.start[1]) if self.start[1].isascii() and self.start[1].isdigit() else 0


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A binary packet between messages (RFC 2326 10.12)."""

    channel: int
    payload: bytes


@dataclass(slots=True)
class MessageParser:
    """Parses bytes into messages. Buffers at most one message. Not thread-safe."""

    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[Message | Interleaved]:
        """Add bytes and return the complete messages.

        Raises:
            ProtocolError: not RTSP, or larger than the limits; the connection cannot be used any more.
        """
        self._buffer += data
        found: list[Message | Interleaved] = []
        while True:
            item = self._next()
            if item is None:
                return found
            if len(found) == MAX_MESSAGES:
                raise ProtocolError(f"more than {MAX_MESSAGES} messages at once")
            found.append(item)

    @property
    def pending(self) -> bool:
        """True if a message is incomplete."""
        return bool(self._buffer)

    def _next(self) -> Message | Interleaved | None:
        buffer = self._buffer
        if buffer[:2] == b"\r\n":
            del buffer[: len(buffer) - len(buffer.lstrip(b"\r\n"))]
        if not buffer or buffer == b"\r":
            return None
        if buffer[0] == 0x24:
            return self._next_interleaved()
        # A first byte that starts neither a method nor "RTSP/" is rejected at once, not after 16 KiB.
        if not 0x41 <= buffer[0] <= 0x5A:
            raise ProtocolError("not an RTSP message")
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise ProtocolError(f"a head larger than {MAX_HEAD_BYTES} bytes")
            return None
        if end > MAX_HEAD_BYTES:
            raise ProtocolError(f"a head larger than {MAX_HEAD_BYTES} bytes")
        start, headers, challenges = _parse_head(bytes(buffer[:end]))
        length = headers.get("content-length", "0").strip()
        if not (length.isascii() and length.isdigit()) or len(length) > 9 or int(length) > MAX_BODY_BYTES:
            raise ProtocolError(f"a body that is not 0..{MAX_BODY_BYTES} bytes")
        total = end + 4 + int(length)
        if len(buffer) < total:
            return None
        body = bytes(buffer[end + 4 : total])
        del buffer[:total]
        return Message(start, headers, body, challenges)

    def _next_interleaved(self) -> Interleaved | None:
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        total = 4 + int.from_bytes(buffer[2:4], "big")
        if len(buffer) < total:
            return None
        packet = Interleaved(buffer[1], bytes(buffer[4:total]))
        del buffer[:total]
        return packet


def _parse_head(head: bytes) -> tuple[tuple[str, str, str], dict[str, str], tuple[str, ...]]:
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError:
        raise ProtocolError("a head that is not text") from None
    parts = lines[0].split(" ", 2)
    if len(parts) != 3 or not (parts[0].startswith("RTSP/1.") or parts[2].startswith("RTSP/")):
        raise ProtocolError("not an RTSP message")
    if len(lines) - 1 > MAX_HEADERS:
        raise ProtocolError(f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    challenges: list[str] = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise ProtocolError("a header without a colon")
        key = name.strip().lower()
        if key == "www-authenticate":
            challenges.append(value.strip())
        headers[key] = value.strip()
    return (parts[0], parts[1], parts[2]), headers, tuple(challenges)


def format_request(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A request on the wire; Content-Length is added where there is a body."""
    return _format(f"{method} {url} RTSP/1.0", headers, body)


def format_response(status: int, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """A response on the wire; Content-Length is added where there is a body."""
    return _format(f"RTSP/1.0 {status} {REASONS.get(status, 'Status')}", headers, body)


def _format(first: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ProtocolError("a line break inside a header")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def format_interleaved(channel: int, packet: bytes) -> bytes:
    """A binary packet of at most 65535 bytes between messages, on channel 0..255 (RFC 2326, 10.12)."""
    return b"$" + bytes((channel,)) + len(packet).to_bytes(2, "big") + packet


@dataclass(frozen=True, slots=True)
class Transport:
    """The transport of one viewer.

    Attributes:
        tcp: interleaved in the RTSP connection; otherwise UDP.
        pair: two channels (TCP) or two ports of the viewer (UDP), for RTP and RTCP; None = the server chooses.
    """

    tcp: bool
    pair: tuple[int, int] | None


def parse_transport(header: str) -> Transport | None:
    """The first transport in a Transport header that is supported (unicast, RTP/AVP, TCP or UDP), or None."""
    for offer in header.split(","):
        fields = [part.strip() for part in offer.split(";")]
        protocol = fields[0].upper()
        options = dict(part.partition("=")[::2] for part in fields[1:])
        if protocol not in ("RTP/AVP", "RTP/AVP/UDP", "RTP/AVP/TCP") or "multicast" in options:
            continue
        if options.get("mode", "play").strip('"').lower() not in ("play", ""):
            continue
        tcp = protocol.endswith("/TCP")
        pair = _parse_pair(options.get("interleaved" if tcp else "client_port"), 255 if tcp else 65535)
        if tcp or pair is not None:
            return Transport(tcp, pair)
    return None


def _parse_pair(text: str | None, largest: int) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, second = text.partition("-")
    if not (first.isascii() and first.isdigit()) or len(first) > 5:
        return None
    low = int(first)
    high = int(second) if second.isascii() and second.isdigit() and len(second) <= 5 else low + 1
    if not (0 if largest == 255 else 1) <= low <= largest or not low < high <= largest:
        return None
    return low, high


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

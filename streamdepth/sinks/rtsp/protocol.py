"""RTSP/1.0 messages (RFC 2326) as values, and a strict, bounded parser."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
MAX_HEADERS = 64

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
            found.append(item)

    @property
    def pending(self) -> bool:
        """True if a message is incomplete."""
        return bool(self._buffer)

    def _next(self) -> Message | Interleaved | None:
        buffer = self._buffer
        while buffer[:2] == b"\r\n":
            del buffer[:2]
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

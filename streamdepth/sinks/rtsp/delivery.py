"""Media for one viewer: RTP packets, the description of the stream (SDP), RTP over TCP or UDP, and sender reports."""

from __future__ import annotations

import asyncio
import base64
import secrets
import threading
from collections import Counter, deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import SinkError
from streamdepth.sinks.rtsp.protocol import format_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

    from streamdepth.sinks.rtsp.protocol import Transport

CLOCK_RATE = 90_000
TIME_BASE = Fraction(1, CLOCK_RATE)
PAYLOAD_TYPE = 96
_PACKET_BYTES = 1400
_DELIMITER = b"\x00\x00\x00\x01\x09\xf0"
"""Any slice type may follow."""
_NTP_EPOCH_SECONDS = 2_208_988_800
_REPORT_SECONDS = 5.0
_BURST_PACKETS = 64
_CHUNK_PACKETS = 32
_CHUNK_SECONDS = 0.001
_UDP_BACKLOG_PACKETS = 4096


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One encoded frame as RTP packets.

    Attributes:
        packets: complete RTP packets in order: those of the frame, the last one with the marker bit, then the delimiter
            of the next frame if the encoder announces it.
        key: a decoder can start here.
        rtp_time: RTP time stamp of the frame's packets, 0..2**32-1.
    """

    packets: tuple[bytes, ...]
    key: bool
    rtp_time: int


class _Sink:
    """The output of libav's muxer: every write is one RTP packet."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: Any) -> int:
        self.packets.append(bytes(data))
        return len(self.packets[-1])


class Packetizer:
    """Packs encoded frames into RTP with libav's muxer. One thread at a time."""

    def __init__(self) -> None:
        self.ssrc = secrets.randbits(31)
        self._sink = _Sink()
        self._container: Any = None
        self._stream: Any = None

    def packetize(self, packet: av.Packet[Any]) -> tuple[bytes, ...]:
        if self._container is None:
            self._open()
        packets = self._mux(packet)
        if not packets:
            raise SinkError("RTP packetizer: no packets for a frame; report this bug of streamdepth")
        return packets

    def delimit(self, pts: int) -> tuple[bytes, ...]:
        """The access unit delimiter of the next frame, in a packet without marker bit: the frame itself has it."""
        import av

        delimiter = av.Packet(_DELIMITER)
        delimiter.pts = delimiter.dts = pts
        delimiter.time_base = TIME_BASE
        return tuple(one[:1] + bytes((one[1] & 0x7F,)) + one[2:] for one in self._mux(delimiter))

    def _mux(self, packet: av.Packet[Any]) -> tuple[bytes, ...]:
        packet.stream = self._stream
        self._container.mux_one(packet)
        packets, self._sink.packets = tuple(self._sink.packets), []
        return packets

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        import av

        # Sender reports are sent per viewer: libav's would count frames that a viewer skipped.
        options = {
            "payload_type": str(PAYLOAD_TYPE),
            "ssrc": str(self.ssrc),
            "seq": str(secrets.randbits(15)),
            "rtpflags": "skip_rtcp",
        }
        self._container = av.open(self._sink, "w", format="rtp", options=options, buffer_size=_PACKET_BYTES)
        self._stream = self._container.add_mux_stream("h264", rate=25, width=16, height=16)


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a server.

    Attributes:
        max_clients: connections that are served; a few more are answered 503, the rest are closed. A connection
            without a session is closed for a new one, the oldest first.
        backlog_bytes: unsent bytes at which a viewer skips to the next key frame.
        stall_seconds: how long a viewer may stay that far behind before it is disconnected.
        idle_seconds: time for a complete request before the session begins.
        setup_seconds: time from connecting to the beginning of the session.
        session_seconds: how long a session may be silent while it is paused, or over UDP.
    """

    max_clients: int = 64
    backlog_bytes: int = 512 * 1024
    stall_seconds: float = 15.0
    idle_seconds: float = 10.0
    setup_seconds: float = 30.0
    session_seconds: float = 60.0


class Mount:
    """A stream of the server. Counters from any thread, the rest on the server's event loop.

    Args:
        path: of its URL, without a trailing slash.
        describe: SDP for the server's address and a control attribute.
        request_key: called when a viewer needs a key frame.
    Attributes:
        playing: number of viewers that play.
    """

    def __init__(
        self, path: str, ssrc: int, *, describe: Callable[[str, str], str], request_key: Callable[[], None]
    ) -> None:
        self.path = path
        self.ssrc = ssrc
        self.describe = describe
        self.request_key = request_key
        self.playing = 0
        self._lock = threading.Lock()
        self._sent = 0
        self._dropped: Counter[str] = Counter()

    def count_sent(self) -> None:
        with self._lock:
            self._sent += 1

    def count_dropped(self, cause: str) -> None:
        """Count a frame that one viewer did not get."""
        with self._lock:
            self._dropped[cause] += 1

    def counters(self) -> tuple[int, dict[str, int]]:
        """Frames sent to viewers, and frames that viewers did not get, by cause."""
        with self._lock:
            return self._sent, dict(self._dropped)


class Delivery:
    """Sends one stream to one viewer without ever waiting for it. Belongs to the server's event loop.

    Attributes:
        needs_key: skip frames up to the next key frame.
    """

    def __init__(
        self,
        send_udp: Callable[[int, bytes, tuple[str, int]], None],
        connection: asyncio.Transport,
        peer: str,
        transport: Transport,
        mount: Mount,
        *,
        backlog_bytes: int,
    ) -> None:
        assert transport.pair is not None  # noqa: S101 - the caller has chosen one
        self.tcp = transport.tcp
        self.needs_key = True
        self._to_udp = send_udp
        self._connection = connection
        self._peer = peer
        self._pair = transport.pair
        self._mount = mount
        self._backlog_bytes = backlog_bytes
        self._queue: deque[bytes] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._packets = 0
        self._octets = 0
        self._reported_at = float("-inf")

    @property
    def report_address(self) -> tuple[str, int] | None:
        """Where the viewer's receiver reports come from; None over TCP."""
        return None if self.tcp else (self._peer, self._pair[1])

    def send(self, unit: AccessUnit, now: float, wall_seconds: float) -> None:
        """Send one frame, or skip it."""
        if self._connection.get_write_buffer_size() > self._backlog_bytes or len(self._queue) > _UDP_BACKLOG_PACKETS:
            self.needs_key = True
            self._mount.count_dropped("slow_viewer")
            return
        if self.needs_key and not unit.key:
            self._mount.count_dropped("before_key_frame")
            self._mount.request_key()
            return
        self.needs_key = False
        if now - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = now
            self.send_rtcp(sender_report(self._mount.ssrc, wall_seconds, unit.rtp_time, self._packets, self._octets))
        self._packets += len(unit.packets)
        self._octets += sum(len(packet) - 12 for packet in unit.packets)
        self._mount.count_sent()
        if self.tcp:
            self._connection.write(b"".join(format_interleaved(self._pair[0], packet) for packet in unit.packets))
        else:
            self._send_udp(unit.packets)

    def send_rtcp(self, packet: bytes) -> None:
        if self.tcp:
            self._connection.write(format_interleaved(self._pair[1], packet))
        else:
            self._to_udp(1, packet, (self._peer, self._pair[1]))

    def close(self) -> None:
        """Drop packets that are not sent yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._queue.clear()

    def _send_udp(self, packets: tuple[bytes, ...]) -> None:
        if self._timer is not None:
            self._queue.extend(packets)
            return
        self._send_now(packets[:_BURST_PACKETS])
        self._queue.extend(packets[_BURST_PACKETS:])
        self._schedule()

    def _schedule(self) -> None:
        # A key frame sent at once overflows the default receive buffer (208 KiB) of players.
        self._timer = None
        if self._queue:
            self._timer = asyncio.get_running_loop().call_later(_CHUNK_SECONDS, self._send_chunk)

    def _send_chunk(self) -> None:
        count = min(_CHUNK_PACKETS, len(self._queue))
        self._send_now(tuple(self._queue.popleft() for _ in range(count)))
        self._schedule()

    def _send_now(self, packets: tuple[bytes, ...]) -> None:
        for packet in packets:
            self._to_udp(0, packet, (self._peer, self._pair[0]))


def sdp(*, address: str, sps: bytes, pps: bytes, rate: Fraction, control: str) -> str:
    """Describe the stream (RFC 4566, RFC 6184 8.1).

    Args:
        address: of the server, IPv4 or IPv6 in text.
        control: value of the stream's control attribute.
    """
    family = "IP6" if ":" in address else "IP4"
    unspecified = "::" if family == "IP6" else "0.0.0.0"  # noqa: S104 - a field of SDP, nothing binds to it
    sets = ",".join(base64.b64encode(unit).decode() for unit in (sps, pps))
    lines = (
        "v=0",
        f"o=- 0 0 IN {family} {address}",
        "s=streamdepth",
        f"c=IN {family} {unspecified}",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK_RATE}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;profile-level-id={sps[1:4].hex()};sprop-parameter-sets={sets}",
        f"a=framerate:{float(rate):.6g}",
        f"a=control:{control}",
    )
    return "\r\n".join(lines) + "\r\n"


def sender_report(ssrc: int, wall_seconds: float, rtp_time: int, packets: int, octets: int) -> bytes:
    """An RTCP sender report without report blocks (RFC 3550 6.4.1), and the CNAME that has to go with it.

    Args:
        wall_seconds: Unix time that ``rtp_time`` belongs to.
    """
    ntp = int((wall_seconds + _NTP_EPOCH_SECONDS) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF
    words = (ssrc, ntp >> 32, ntp & 0xFFFFFFFF, rtp_time & 0xFFFFFFFF, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
    report = b"\x80\xc8\x00\x06" + b"".join(word.to_bytes(4, "big") for word in words)
    name = b"streamdepth"
    item = b"\x01" + bytes((len(name),)) + name
    item += b"\x00" * (4 - len(item) % 4)
    return report + b"\x81\xca" + (1 + len(item) // 4).to_bytes(2, "big") + ssrc.to_bytes(4, "big") + item


def goodbye(ssrc: int) -> bytes:
    """An RTCP BYE (RFC 3550 6.6): the stream is over."""
    return b"\x81\xcb\x00\x01" + ssrc.to_bytes(4, "big")

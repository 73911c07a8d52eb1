"""Media for one viewer: RTP over TCP or UDP, and sender reports."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamdepth.sinks.rtsp.media import sender_report
from streamdepth.sinks.rtsp.protocol import format_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.sinks.rtsp.media import AccessUnit
    from streamdepth.sinks.rtsp.protocol import Transport

_REPORT_SECONDS = 5.0
_BURST_PACKETS = 64
_CHUNK_PACKETS = 32
_CHUNK_SECONDS = 0.001
_UDP_BACKLOG_PACKETS = 4096


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a server.

    Attributes:
        max_clients: connections that are served; a few more are answered 503, the rest are closed. A connection that
            has sent no complete request is closed for a new one.
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

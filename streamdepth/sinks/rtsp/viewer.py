"""One viewer's connection: its requests, its state, and what it is sent."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from streamdepth.sinks.rtsp.media import goodbye, sender_report
from streamdepth.sinks.rtsp.protocol import (
    Interleaved,
    Message,
    MessageParser,
    ProtocolError,
    Transport,
    format_interleaved,
    format_response,
    parse_transport,
)

if TYPE_CHECKING:
    from streamdepth.sinks.rtsp.hub import Hub
    from streamdepth.sinks.rtsp.media import AccessUnit

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
CONTROL = "trackID=0"
_SEND_BUFFER_BYTES = 256 * 1024
_REPORT_SECONDS = 5.0
_BURST_PACKETS = 64
_CHUNK_PACKETS = 32
_CHUNK_SECONDS = 0.001
_UDP_BACKLOG_PACKETS = 4096


class ViewerState(StrEnum):
    """Of a viewer's session (RFC 2326, A.1)."""

    INIT = "init"
    READY = "ready"
    PLAYING = "playing"
    CLOSED = "closed"


class Viewer(asyncio.Protocol):
    """Lives in the server's event loop; nothing of it is thread-safe.

    It never waits for its viewer: where more than ``backlog_bytes`` are unsent, images are left out up to the next
    key frame.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._parser = MessageParser()
        self._wire: asyncio.Transport | None = None
        self._peer = ""
        self._refused = False
        self._session = ""
        self._path: Transport | None = None
        self._udp_queue: deque[bytes] = deque()
        self._udp_timer: asyncio.TimerHandle | None = None
        self._needs_key = True
        self._packets = 0
        self._octets = 0
        self._reported_at = float("-inf")
        self._heard_at = hub.now()
        self._stuck_since: float | None = None
        self.state = ViewerState.INIT

    # Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_server always gives
        self._wire = transport
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        # The loop must never hold more for a viewer than the backlog limit allows.
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # Left alone, Linux hides up to 4 MB, tens of seconds of an image, before a slow viewer shows.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        transport.set_write_buffer_limits(high=self._hub.settings.backlog_bytes)
        admitted = self._hub.join(self)
        if admitted is None:
            transport.abort()
            return
        self._refused = not admitted

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.state = ViewerState.CLOSED
        self._cancel_udp()
        self._hub.leave(self)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._hub.now()
        try:
            items = self._parser.feed(data)
        except ProtocolError:
            self._hub.count("garbage")
            self._reply(400, {})
            self._hang_up()
            return
        for item in items:
            if isinstance(item, Interleaved) or item.is_response:
                continue
            self._handle(item)
            if self._wire is None or self._wire.is_closing():
                return
        if self._backlog() > 2 * self._hub.settings.backlog_bytes:
            # Requests without end from somebody who reads no answers.
            self.abort()

    def heard(self) -> None:
        """A receiver report came over UDP."""
        self._heard_at = self._hub.now()

    def abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    def say_goodbye(self) -> None:
        """Tell the viewer that the stream is over, and close."""
        if self.state is ViewerState.PLAYING:
            self._send_rtcp(goodbye(self._hub.ssrc))
        self._hang_up()

    def check(self) -> None:
        """Called twice a second: ends what is half open, frozen or gone."""
        now, settings = self._hub.now(), self._hub.settings
        silent_seconds = now - self._heard_at
        if self.state is ViewerState.PLAYING and self._path is not None:
            if self._backlog() <= settings.backlog_bytes:
                self._stuck_since = None
            elif self._stuck_since is None:
                self._stuck_since = now
            elif now - self._stuck_since > settings.stall_seconds:
                self._hub.count("frozen")
                self.abort()
            if not self._path.tcp and silent_seconds > settings.session_seconds:
                self._hub.count("idle")
                self.abort()
        elif silent_seconds > settings.idle_seconds:
            self._hub.count("idle")
            self.abort()

    # Requests

    def _handle(self, request: Message) -> None:
        cseq = request.headers.get("cseq", "")
        if not cseq or len(cseq) > 32:
            self._reply(400, {})
            self._hang_up()
            return
        base = {"CSeq": cseq, "Server": "streamdepth"}
        if self._refused:
            self._hub.count("refused")
            self._reply(503, {**base, "Retry-After": "10"})
            self._hang_up()
        elif not request.start[2].startswith("RTSP/1."):
            self._reply(505, base)
        elif request.headers.get("require"):
            self._reply(551, {**base, "Unsupported": request.headers["require"][:256]})
        elif request.method == "OPTIONS":
            self._reply(200, {**base, "Public": METHODS})
        elif not self._authorized(request, base):
            pass
        elif not self._ours(request):
            self._reply(404, base)
        else:
            self._dispatch(request, base)

    def _dispatch(self, request: Message, base: dict[str, str]) -> None:
        if request.method == "DESCRIBE":
            self._describe(request, base)
        elif request.method == "SETUP":
            self._setup(request, base)
        elif request.method not in METHODS.split(", "):
            self._reply(501, {**base, "Allow": METHODS})
        elif not self._session and request.method in ("PLAY", "PAUSE"):
            self._reply(455, base)
        elif self._session and self._named_session(request) not in ("", self._session):
            self._reply(454, base)
        elif request.method == "PLAY":
            self._play(base)
        elif request.method == "PAUSE":
            self.state = ViewerState.READY
            self._hub.changed()
            self._reply(200, {**base, "Session": self._session})
        elif request.method == "TEARDOWN":
            # The connection stays: players still send on it, and one took its end for an error.
            self._cancel_udp()
            self._session, self._path, self.state = "", None, ViewerState.INIT
            self._hub.changed()
            self._reply(200, base)
        else:
            self._reply(200, {**base, "Session": self._session} if self._session else base)

    def _describe(self, request: Message, base: dict[str, str]) -> None:
        local = self._wire.get_extra_info("sockname") if self._wire else None
        body = self._hub.describe(str(local[0]) if local else "127.0.0.1", CONTROL)
        location = request.url.split("?", 1)[0].rstrip("/") + "/"
        self._reply(200, {**base, "Content-Type": "application/sdp", "Content-Base": location}, body.encode())

    def _setup(self, request: Message, base: dict[str, str]) -> None:
        if self.state is ViewerState.PLAYING:
            self._reply(455, base)
            return
        path = parse_transport(request.headers.get("transport", ""))
        if path is None or (not path.tcp and self._hub.udp_ports is None):
            self._reply(461, base)
            return
        if path.tcp:
            path = Transport(True, path.pair or (0, 1))
            pair = f"interleaved={path.pair[0]}-{path.pair[1]}" if path.pair else ""
            text = f"RTP/AVP/TCP;unicast;{pair};ssrc={self._hub.ssrc:08X}"
        else:
            assert path.pair is not None and self._hub.udp_ports is not None  # noqa: PT018, S101
            # Only ever to the peer itself: a "destination" would make this an amplifier.
            text = (
                f"RTP/AVP;unicast;client_port={path.pair[0]}-{path.pair[1]};"
                f"server_port={self._hub.udp_ports[0]}-{self._hub.udp_ports[1]};ssrc={self._hub.ssrc:08X}"
            )
        self._path = path
        self._session = self._session or secrets.token_hex(8)
        self.state = ViewerState.READY
        timeout = f"{self._session};timeout={round(self._hub.settings.session_seconds)}"
        self._reply(200, {**base, "Transport": text, "Session": timeout})

    def _play(self, base: dict[str, str]) -> None:
        if self.state is not ViewerState.PLAYING:
            self._needs_key = True
            self.state = ViewerState.PLAYING
            self._hub.changed()
            self._hub.request_key()
        self._reply(200, {**base, "Session": self._session, "Range": "npt=now-"})

    def _authorized(self, request: Message, base: dict[str, str]) -> bool:
        gate = self._hub.authenticator
        header = request.headers.get("authorization")
        if gate is None or gate.admits(header, request.method):
            return True
        digest, basic = gate.challenges(stale=gate.is_stale(header))
        if header is not None:
            self._hub.count("unauthorized")
        # Two headers of one name, which a mapping cannot hold.
        self._reply(401, {**base, "WWW-Authenticate": digest, "WWW-Authenticate ": basic})
        return False

    def _ours(self, request: Message) -> bool:
        try:
            path = unquote(urlsplit(request.url).path).rstrip("/")
        except ValueError:
            return False
        return path in (self._hub.path, f"{self._hub.path}/{CONTROL}")

    @staticmethod
    def _named_session(request: Message) -> str:
        return request.headers.get("session", "").partition(";")[0].strip()

    # Media

    def send(self, unit: AccessUnit, wall_seconds: float) -> None:
        """Send one image, or leave it out."""
        if self.state is not ViewerState.PLAYING or self._path is None:
            return
        full = self._backlog() > self._hub.settings.backlog_bytes
        if full or len(self._udp_queue) > _UDP_BACKLOG_PACKETS:
            self._needs_key = True
            self._hub.count_dropped("slow_viewer")
            return
        if self._needs_key and not unit.key:
            self._hub.count_dropped("before_key_frame")
            self._hub.request_key()
            return
        self._needs_key = False
        if self._hub.now() - self._reported_at >= _REPORT_SECONDS:
            self._reported_at = self._hub.now()
            report = sender_report(self._hub.ssrc, wall_seconds, unit.rtp_time, self._packets, self._octets)
            self._send_rtcp(report)
        self._packets += len(unit.packets)
        self._octets += sum(len(packet) - 12 for packet in unit.packets)
        self._hub.count("sent")
        if self._path.tcp and self._wire is not None and self._path.pair is not None:
            channel = self._path.pair[0]
            self._wire.write(b"".join(format_interleaved(channel, packet) for packet in unit.packets))
        else:
            self._send_udp(unit.packets)

    def _send_udp(self, packets: tuple[bytes, ...]) -> None:
        if self._udp_timer is not None:
            self._udp_queue.extend(packets)
            return
        self._send_now(packets[:_BURST_PACKETS])
        self._udp_queue.extend(packets[_BURST_PACKETS:])
        self._schedule_udp()

    def _schedule_udp(self) -> None:
        # A key frame sent in one go overflows the default receive buffer (208 KiB) of players.
        self._udp_timer = None
        if self._udp_queue:
            self._udp_timer = asyncio.get_running_loop().call_later(_CHUNK_SECONDS, self._send_chunk)

    def _send_chunk(self) -> None:
        count = min(_CHUNK_PACKETS, len(self._udp_queue))
        self._send_now(tuple(self._udp_queue.popleft() for _ in range(count)))
        self._schedule_udp()

    def _send_now(self, packets: tuple[bytes, ...]) -> None:
        if self._path is not None and self._path.pair is not None:
            for packet in packets:
                self._hub.send_udp(0, packet, (self._peer, self._path.pair[0]))

    def _send_rtcp(self, packet: bytes) -> None:
        if self._path is None or self._path.pair is None or self._wire is None:
            return
        if self._path.tcp:
            self._wire.write(format_interleaved(self._path.pair[1], packet))
        else:
            self._hub.send_udp(1, packet, (self._peer, self._path.pair[1]))

    @property
    def udp_address(self) -> tuple[str, int] | None:
        """Where receiver reports of this viewer come from."""
        if self._path is None or self._path.tcp or self._path.pair is None:
            return None
        return self._peer, self._path.pair[1]

    # Plumbing

    def _backlog(self) -> int:
        return 0 if self._wire is None else self._wire.get_write_buffer_size()

    def _cancel_udp(self) -> None:
        if self._udp_timer is not None:
            self._udp_timer.cancel()
            self._udp_timer = None
        self._udp_queue.clear()

    def _reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        if self._wire is None or self._wire.is_closing():
            return
        try:
            self._wire.write(
                format_response(status, headers, body).replace(b"WWW-Authenticate :", b"WWW-Authenticate:")
            )
        except ProtocolError:
            self._wire.write(format_response(400, {}))
            self._hang_up()

    def _hang_up(self) -> None:
        if self._wire is not None:
            # close() would wait for a frozen viewer to read; the hub aborts what is left.
            self._wire.close()
        if self.state is ViewerState.PLAYING:
            self.state = ViewerState.CLOSED
            self._hub.changed()

"""One viewer's RTSP connection: its requests and its session."""

from __future__ import annotations

import asyncio
import secrets
import socket
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from streamdepth.sinks.rtsp.delivery import Delivery, goodbye
from streamdepth.sinks.rtsp.protocol import (
    Interleaved,
    Message,
    MessageParser,
    ProtocolError,
    Transport,
    format_response,
    parse_transport,
)

if TYPE_CHECKING:
    from streamdepth.sinks.rtsp.delivery import AccessUnit, Mount, Settings
    from streamdepth.sinks.rtsp.protocol import Authenticator

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
CONTROL = "trackID=0"
_SEND_BUFFER_BYTES = 256 * 1024


class ViewerState(StrEnum):
    """State of a viewer's session (RFC 2326, A.1)."""

    INIT = "init"
    READY = "ready"
    PLAYING = "playing"
    CLOSED = "closed"


class ViewerHost(Protocol):
    """The server of a viewer, inside its event loop."""

    settings: Settings
    authenticator: Authenticator | None
    udp_ports: tuple[int, int] | None

    def now(self) -> float: ...

    def find(self, path: str) -> Mount | None:
        """The stream at a path."""
        ...

    def join(self, viewer: Viewer) -> bool | None:
        """True = serve the viewer, False = answer 503, None = close the connection."""
        ...

    def leave(self, viewer: Viewer) -> None: ...

    def state_changed(self) -> None: ...

    def count(self, event: str) -> None: ...

    def guess_delay_seconds(self, address: str) -> float:
        """How long to delay the answer to a wrong password."""
        ...

    def send_udp(self, which: int, packet: bytes, address: tuple[str, int]) -> None: ...


class Viewer(asyncio.Protocol):
    """Belongs to the server's event loop; not thread-safe.

    The server never waits for a viewer: while more than ``backlog_bytes`` are unsent, frames are skipped up to the next
    key frame.
    """

    def __init__(self, host: ViewerHost) -> None:
        self._host = host
        self._parser = MessageParser()
        self._waiting: list[Message] = []
        self._delay: asyncio.TimerHandle | None = None
        self._connection: asyncio.Transport | None = None
        self._peer = ""
        self._refused = False
        self._session = ""
        self._delivery: Delivery | None = None
        self.made_at = self._heard_at = host.now()
        self._stuck_since: float | None = None
        self.mount: Mount | None = None
        self.state = ViewerState.INIT

    # Connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_server gives nothing else
        self._connection = transport
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        # The loop must never hold more data for a viewer than the backlog limit.
        sock = transport.get_extra_info("socket")
        if sock is not None:
            # By default, Linux buffers up to 4 MB, tens of seconds of video, before a slow viewer is noticed.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        transport.set_write_buffer_limits(high=self._host.settings.backlog_bytes)
        admitted = self._host.join(self)
        if admitted is None:
            transport.abort()
            return
        self._refused = not admitted

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.state = ViewerState.CLOSED
        self._end_delivery()
        if self._delay is not None:
            self._delay.cancel()
        self._host.leave(self)

    def data_received(self, data: bytes) -> None:
        try:
            items = self._parser.feed(data)
        except ProtocolError:
            self._host.count("garbage")
            self._reply(400, {})
            self._hang_up()
            return
        if items:
            # Only complete messages count: single bytes of a request would keep a connection open for ever.
            self._heard_at = self._host.now()
        self._waiting += [item for item in items if not isinstance(item, Interleaved) and not item.is_response]
        self._handle_waiting()
        if self._backlog() > 2 * self._host.settings.backlog_bytes:
            # Endless requests from a client that reads no answers.
            self.abort()

    def heard(self) -> None:
        """A receiver report arrived over UDP."""
        self._heard_at = self._host.now()

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()

    def say_goodbye(self) -> None:
        """Tell the viewer that the stream has ended, and close the connection."""
        if self.state is ViewerState.PLAYING and self._delivery is not None and self.mount is not None:
            self._delivery.send_rtcp(goodbye(self.mount.ssrc))
        self._hang_up()

    def check(self) -> None:
        """Called twice a second: end connections that are half open, stalled or gone."""
        now, settings = self._host.now(), self._host.settings
        silent_seconds = now - self._heard_at
        if self.state is ViewerState.PLAYING and self._delivery is not None:
            if self._backlog() <= settings.backlog_bytes:
                self._stuck_since = None
            elif self._stuck_since is None:
                self._stuck_since = now
            elif now - self._stuck_since > settings.stall_seconds:
                self._host.count("frozen")
                self.abort()
            idle = not self._delivery.tcp and silent_seconds > settings.session_seconds
        elif self.state is ViewerState.READY:
            idle = silent_seconds > settings.session_seconds
        else:
            idle = silent_seconds > settings.idle_seconds or now - self.made_at > settings.setup_seconds
        if idle:
            self._host.count("idle")
            self.abort()

    # Requests

    def _handle_waiting(self) -> None:
        while self._waiting and self._delay is None:
            if self._connection is None or self._connection.is_closing():
                self._waiting.clear()
                return
            self._handle(self._waiting.pop(0))

    def _handle(self, request: Message) -> None:
        cseq = request.headers.get("cseq", "")
        if not cseq or len(cseq) > 32:
            self._reply(400, {})
            self._hang_up()
            return
        base = {"CSeq": cseq, "Server": "streamdepth"}
        if self._refused:
            self._host.count("refused")
            self._reply(503, {**base, "Retry-After": "10"})
            self._hang_up()
        elif not request.start[2].startswith("RTSP/1."):
            self._reply(505, base)
        elif request.headers.get("require"):
            self._reply(551, {**base, "Unsupported": request.headers["require"][:256]})
        elif request.method == "OPTIONS":
            self._reply(200, {**base, "Public": METHODS})
        elif self._authorized(request, base):
            mount = self._find(request)
            if mount is None or self.mount not in (None, mount):
                self._reply(404, base)
            else:
                self._dispatch(request, mount, base)

    def _dispatch(self, request: Message, mount: Mount, base: dict[str, str]) -> None:
        if request.method == "DESCRIBE":
            self._describe(request, mount, base)
        elif request.method == "SETUP":
            self._setup(request, mount, base)
        elif request.method not in METHODS.split(", "):
            self._reply(501, {**base, "Allow": METHODS})
        elif not self._session and request.method in ("PLAY", "PAUSE"):
            self._reply(455, base)
        elif self._session and _session_of(request) not in ("", self._session):
            self._reply(454, base)
        elif request.method == "PLAY":
            self._play(mount, base)
        elif request.method == "PAUSE":
            self._set_state(ViewerState.READY)
            self._reply(200, {**base, "Session": self._session})
        elif request.method == "TEARDOWN":
            # The connection stays open: players still send on it, and one of them reports a close as an error.
            self._end_delivery()
            self._session, self.mount, self.made_at = "", None, self._host.now()
            self._set_state(ViewerState.INIT)
            self._reply(200, base)
        else:
            self._reply(200, {**base, "Session": self._session} if self._session else base)

    def _describe(self, request: Message, mount: Mount, base: dict[str, str]) -> None:
        local = self._connection.get_extra_info("sockname") if self._connection else None
        body = mount.describe(str(local[0]) if local else "127.0.0.1", CONTROL)
        location = request.url.split("?", 1)[0].rstrip("/") + "/"
        self._reply(200, {**base, "Content-Type": "application/sdp", "Content-Base": location}, body.encode())

    def _setup(self, request: Message, mount: Mount, base: dict[str, str]) -> None:
        if self.state is ViewerState.PLAYING:
            self._reply(455, base)
            return
        chosen = parse_transport(request.headers.get("transport", ""))
        ports = self._host.udp_ports
        if chosen is None or self._connection is None or (not chosen.tcp and ports is None):
            self._reply(461, base)
            return
        pair = chosen.pair or (0, 1)
        if chosen.tcp or ports is None:
            text = f"RTP/AVP/TCP;unicast;interleaved={pair[0]}-{pair[1]};ssrc={mount.ssrc:08X}"
        else:
            # Media goes to the peer only: a "destination" would allow amplification attacks.
            text = (
                f"RTP/AVP;unicast;client_port={pair[0]}-{pair[1]};server_port={ports[0]}-{ports[1]};"
                f"ssrc={mount.ssrc:08X}"
            )
        self._end_delivery()
        self._delivery = Delivery(
            self._host.send_udp,
            self._connection,
            self._peer,
            Transport(chosen.tcp, pair),
            mount,
            backlog_bytes=self._host.settings.backlog_bytes,
        )
        self.mount = mount
        self._session = self._session or secrets.token_hex(8)
        self._set_state(ViewerState.READY)
        timeout = f"{self._session};timeout={round(self._host.settings.session_seconds)}"
        self._reply(200, {**base, "Transport": text, "Session": timeout})

    def _play(self, mount: Mount, base: dict[str, str]) -> None:
        if self.state is not ViewerState.PLAYING and self._delivery is not None:
            self._delivery.needs_key = True
            self._set_state(ViewerState.PLAYING)
            mount.request_key()
        self._reply(200, {**base, "Session": self._session, "Range": "npt=now-"})

    def _authorized(self, request: Message, base: dict[str, str]) -> bool:
        authenticator = self._host.authenticator
        header = request.headers.get("authorization")
        if authenticator is None or authenticator.admits(header, request.method):
            return True
        stale = authenticator.is_stale(header)
        digest, basic = authenticator.challenges(stale=stale)
        # Two headers of the same name, which a mapping cannot hold.
        answer = {**base, "WWW-Authenticate": digest, "WWW-Authenticate ": basic}
        if header is None or stale:
            self._reply(401, answer)
            return False
        self._host.count("unauthorized")
        delay_seconds = self._host.guess_delay_seconds(self._peer)
        self._delay = asyncio.get_running_loop().call_later(delay_seconds, self._refuse, answer)
        if self._connection is not None:
            self._connection.pause_reading()  # further requests must not accumulate in memory
        return False

    def _refuse(self, answer: dict[str, str]) -> None:
        self._delay = None
        self._reply(401, answer)
        self._handle_waiting()
        if self._delay is None and self._connection is not None:
            self._connection.resume_reading()

    def _find(self, request: Message) -> Mount | None:
        try:
            path = unquote(urlsplit(request.url).path).rstrip("/")
        except ValueError:
            return None
        return self._host.find(path.removesuffix(f"/{CONTROL}"))

    # Media

    def send(self, unit: AccessUnit, wall_seconds: float) -> None:
        """Send one frame, or skip it."""
        if self.state is ViewerState.PLAYING and self._delivery is not None:
            self._delivery.send(unit, self._host.now(), wall_seconds)

    @property
    def udp_address(self) -> tuple[str, int] | None:
        """Where receiver reports of this viewer come from."""
        return self._delivery.report_address if self._delivery is not None else None

    def _set_state(self, state: ViewerState) -> None:
        self.state = state
        self._host.state_changed()

    def _end_delivery(self) -> None:
        if self._delivery is not None:
            self._delivery.close()
            self._delivery = None

    def _backlog(self) -> int:
        return 0 if self._connection is None else self._connection.get_write_buffer_size()

    def _reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        if self._connection is None or self._connection.is_closing():
            return
        try:
            answer = format_response(status, headers, body).replace(b"WWW-Authenticate :", b"WWW-Authenticate:")
        except ProtocolError:
            self._connection.write(format_response(400, {}))
            self._hang_up()
            return
        self._connection.write(answer)

    def _hang_up(self) -> None:
        if self._connection is not None:
            # close() waits for a stalled viewer to read; the hub aborts what is left.
            self._connection.close()
        if self.state is ViewerState.PLAYING:
            self._set_state(ViewerState.CLOSED)


def _session_of(request: Message) -> str:
    return request.headers.get("session", "").partition(";")[0].strip()

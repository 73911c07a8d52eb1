"""The server's event loop: who is connected, what they are sent, and the counters of it all."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamdepth.sinks.rtsp.viewer import Viewer, ViewerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.clock import Clock
    from streamdepth.sinks.rtsp.auth import Authenticator
    from streamdepth.sinks.rtsp.media import AccessUnit

_CHECK_SECONDS = 0.5
_SPARE_CONNECTIONS = 16
_WORST_PENDING = 32
_PORT_ATTEMPTS = 32
_GOODBYE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of a server.

    Attributes:
        max_clients: connections that are served; a few more get 503, the rest are closed.
        backlog_bytes: unsent bytes at which a viewer skips to the next key frame.
        stall_seconds: how long a viewer may stay that far behind before it is cut off.
        idle_seconds: how long a connection that does not play may be silent.
        session_seconds: how long a UDP viewer may send neither request nor receiver report.
    """

    max_clients: int = 64
    backlog_bytes: int = 512 * 1024
    stall_seconds: float = 15.0
    idle_seconds: float = 10.0
    session_seconds: float = 60.0


class Hub:
    """Runs in one thread with its own event loop; ``start``, ``stop``, ``broadcast`` and counters from any thread."""

    def __init__(
        self,
        *,
        path: str,
        ssrc: int,
        settings: Settings,
        authenticator: Authenticator | None,
        describe: Callable[[str, str], str],
        request_key: Callable[[], None],
        clock: Clock,
        name: str,
    ) -> None:
        self.path = path
        self.ssrc = ssrc
        self.settings = settings
        self.authenticator = authenticator
        self.describe = describe
        self.request_key = request_key
        self.udp_ports: tuple[int, int] | None = None
        self.playing = 0
        self.port = 0
        self._clock = clock
        self._viewers: set[Viewer] = set()
        self._udp: list[asyncio.DatagramTransport] = []
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._pending = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._address: tuple[str, int] = ("", 0)

    def now(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    def start(self, address: str, port: int, timeout_seconds: float) -> None:
        """Bind and serve.

        Raises:
            OSError: the address cannot be bound.
        """
        self._address = (address, port)
        self._thread.start()
        if not self._ready.wait(timeout_seconds):
            raise TimeoutError("the server did not start in time")
        if self._error is not None:
            raise self._error

    def stop(self, timeout_seconds: float) -> None:
        """Say goodbye to everybody and end. Idempotent."""
        loop, done = self._loop, self._done
        if loop is not None and done is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def broadcast(self, unit: AccessUnit, wall_seconds: float) -> None:
        """Hand an image to every viewer. Never blocks; a loop that is far behind loses images, counted."""
        loop = self._loop
        with self._lock:
            if loop is None or self._pending >= _WORST_PENDING:
                self._dropped["server_busy"] += 1
                return
            self._pending += 1
        try:
            loop.call_soon_threadsafe(self._send_all, unit, wall_seconds)
        except RuntimeError:
            with self._lock:
                self._pending -= 1

    def count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1

    def count_dropped(self, cause: str) -> None:
        """An image that one viewer did not get."""
        with self._lock:
            self._dropped[cause] += 1

    def counters(self) -> tuple[dict[str, int], dict[str, int]]:
        """(events, images single viewers did not get by cause)."""
        with self._lock:
            return dict(self._counts), dict(self._dropped)

    @property
    def alive(self) -> bool:
        """The event loop runs."""
        return self._loop is not None

    @property
    def connections(self) -> int:
        return len(self._viewers)

    # Called by viewers, inside the loop

    def join(self, viewer: Viewer) -> bool | None:
        """True = come in, False = answer with 503, None = not even that."""
        if len(self._viewers) >= self.settings.max_clients + _SPARE_CONNECTIONS:
            self.count("refused")
            return None
        admitted = len(self._viewers) < self.settings.max_clients
        self._viewers.add(viewer)
        self.count("connections")
        return admitted

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        self.changed()

    def changed(self) -> None:
        self.playing = sum(viewer.state is ViewerState.PLAYING for viewer in self._viewers)

    def send_udp(self, which: int, packet: bytes, address: tuple[str, int]) -> None:
        self._udp[which].sendto(packet, address)

    def receive_udp(self, address: tuple[str, int]) -> None:
        for viewer in self._viewers:
            if viewer.udp_address == address:
                viewer.heard()

    # The thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as exc:
            self._error = exc
        except Exception as exc:
            self._error = OSError(f"the server's loop failed: {exc!r}")
        finally:
            self._loop = None
            self._ready.set()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        address, port = self._address
        server = await loop.create_server(lambda: Viewer(self), address, port, backlog=128)
        try:
            self.port = int(server.sockets[0].getsockname()[1])
            await self._open_udp(address)
            self._loop = loop
            self._ready.set()
            while not self._done.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._done.wait(), _CHECK_SECONDS)
                for viewer in tuple(self._viewers):
                    viewer.check()
        finally:
            server.close()
            await self._part()

    async def _part(self) -> None:
        for viewer in tuple(self._viewers):
            viewer.say_goodbye()
        deadline = self.now() + _GOODBYE_SECONDS
        while self._viewers and self.now() < deadline:
            await asyncio.sleep(0.01)
        for viewer in tuple(self._viewers):
            viewer.abort()
        for transport in self._udp:
            transport.close()
        # Lets the aborted connections and closed sockets go.
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _open_udp(self, address: str) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(_PORT_ATTEMPTS):
            pair = _bind_pair(address)
            if pair is None:
                continue
            for sock in pair:
                transport, _protocol = await loop.create_datagram_endpoint(lambda: _Reports(self), sock=sock)
                self._udp.append(transport)
            ports = [int(transport.get_extra_info("sockname")[1]) for transport in self._udp]
            self.udp_ports = (ports[0], ports[1])
            return

    def _send_all(self, unit: AccessUnit, wall_seconds: float) -> None:
        with self._lock:
            self._pending -= 1
        for viewer in tuple(self._viewers):
            viewer.send(unit, wall_seconds)


class _Reports(asyncio.DatagramProtocol):
    """Receiver reports: their coming is what counts."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        del data
        self._hub.receive_udp((str(addr[0]), int(addr[1])))

    def error_received(self, exc: Exception) -> None:
        # "Port unreachable" of a viewer that went away; its RTSP connection says so too.
        del exc


def _bind_pair(address: str) -> tuple[socket.socket, socket.socket] | None:
    """An even port for RTP and the odd one above it for RTCP (RFC 3550 11), or None where that did not work out."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    first, second = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    try:
        first.bind((address, 0))
        port = first.getsockname()[1]
        if port % 2 == 0 and port < 65535:
            second.bind((address, port + 1))
            first.setblocking(False)
            second.setblocking(False)
            return first, second
    except OSError:
        pass
    first.close()
    second.close()
    return None

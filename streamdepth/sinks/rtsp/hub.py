"""The RTSP server's event loop: its streams, its connections and their counters."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import Counter
from typing import TYPE_CHECKING

from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.host import prepare_listener
from streamdepth.net.calls import GuessDelays
from streamdepth.sinks.rtsp.viewer import Viewer, ViewerState

if TYPE_CHECKING:
    from streamdepth.core.clock import Clock
    from streamdepth.net.url import LiveUrl
    from streamdepth.sinks.rtsp.delivery import AccessUnit, Mount, Settings
    from streamdepth.sinks.rtsp.protocol import Authenticator

_CHECK_SECONDS = 0.5
_SPARE_CONNECTIONS = 16
_MAX_PENDING = 32
_PORT_ATTEMPTS = 32
_GOODBYE_SECONDS = 0.2


class Hub:
    """Runs in its own thread and event loop. ``start``, ``stop``, ``add``, ``remove``, ``broadcast`` and counters from
    any thread.
    """

    def __init__(self, *, settings: Settings, authenticator: Authenticator | None, clock: Clock, name: str) -> None:
        self.settings = settings
        self.authenticator = authenticator
        self.udp_ports: tuple[int, int] | None = None
        self.port = 0
        self._clock = clock
        self._mounts: dict[str, Mount] = {}
        self._guesses = GuessDelays()
        self._viewers: set[Viewer] = set()
        self._udp: list[asyncio.DatagramTransport] = []
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
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
        """Say goodbye to all viewers and end. Idempotent."""
        loop, done = self._loop, self._done
        if loop is not None and done is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(done.set)
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def add(self, mount: Mount) -> None:
        """Serve a stream.

        Raises:
            SinkError: its path is in use.
        """
        with self._lock:
            if mount.path in self._mounts:
                raise SinkError(f"the path {mount.path or '/'} is served already; give each stream its own path")
            self._mounts = {**self._mounts, mount.path: mount}

    def remove(self, mount: Mount) -> None:
        """End a stream and disconnect its viewers with a message. Idempotent."""
        with self._lock:
            self._mounts = {path: one for path, one in self._mounts.items() if one is not mount}
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end_mount, mount)

    def broadcast(self, mount: Mount, unit: AccessUnit, wall_seconds: float) -> None:
        """Send a frame to every viewer of a stream. Never blocks; if the loop is far behind, frames are dropped."""
        loop = self._loop
        with self._lock:
            if loop is None or self._pending >= _MAX_PENDING:
                mount.count_dropped("server_busy")
                return
            self._pending += 1
        try:
            loop.call_soon_threadsafe(self._send_all, mount, unit, wall_seconds)
        except RuntimeError:
            with self._lock:
                self._pending -= 1

    def counters(self) -> dict[str, int]:
        """Events of all connections."""
        with self._lock:
            return dict(self._counts)

    @property
    def alive(self) -> bool:
        """The event loop runs."""
        return self._loop is not None

    @property
    def connections(self) -> int:
        return len(self._viewers)

    # Called by viewers, inside the loop

    def find(self, path: str) -> Mount | None:
        return self._mounts.get(path)

    def count(self, event: str) -> None:
        with self._lock:
            self._counts[event] += 1

    def guess_delay_seconds(self, address: str) -> float:
        return self._guesses.next_seconds(address, self.now())

    def join(self, viewer: Viewer) -> bool | None:
        if len(self._viewers) >= self.settings.max_clients:
            without_session = [one for one in self._viewers if one.state is ViewerState.INIT]
            if without_session:
                oldest = min(without_session, key=lambda one: one.made_at)
                self.count("idle")
                self._viewers.discard(oldest)
                oldest.abort()
        if len(self._viewers) >= self.settings.max_clients + _SPARE_CONNECTIONS:
            self.count("refused")
            return None
        admitted = len(self._viewers) < self.settings.max_clients
        self._viewers.add(viewer)
        self.count("connections")
        return admitted

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        self.state_changed()

    def state_changed(self) -> None:
        playing = Counter(viewer.mount for viewer in self._viewers if viewer.state is ViewerState.PLAYING)
        for mount in self._mounts.values():
            mount.playing = playing[mount]

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
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            prepare_listener(listener)
            listener.bind((address, port))
            server = await loop.create_server(lambda: Viewer(self), sock=listener, backlog=128)
        except BaseException:
            listener.close()
            raise
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
            await self._end()

    async def _end(self) -> None:
        for viewer in tuple(self._viewers):
            viewer.say_goodbye()
        deadline = self.now() + _GOODBYE_SECONDS
        while self._viewers and self.now() < deadline:
            await asyncio.sleep(0.01)
        for viewer in tuple(self._viewers):
            viewer.abort()
        for transport in self._udp:
            transport.close()
        # The aborted connections and closed sockets end in the next two iterations of the loop.
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

    def _send_all(self, mount: Mount, unit: AccessUnit, wall_seconds: float) -> None:
        with self._lock:
            self._pending -= 1
        for viewer in tuple(self._viewers):
            if viewer.mount is mount:
                viewer.send(unit, wall_seconds)

    def _end_mount(self, mount: Mount) -> None:
        for viewer in tuple(self._viewers):
            if viewer.mount is mount:
                viewer.say_goodbye()


class _Reports(asyncio.DatagramProtocol):
    """Receives receiver reports; only their arrival matters."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        del data
        self._hub.receive_udp((str(addr[0]), int(addr[1])))

    def error_received(self, exc: Exception) -> None:
        # "Port unreachable" of a viewer that has gone; its RTSP connection ends too.
        del exc


def _bind_pair(address: str) -> tuple[socket.socket, socket.socket] | None:
    """An even port for RTP and the odd port above it for RTCP (RFC 3550 11); None if one of them is in use."""
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


def listen_address(url: LiveUrl, *, protected: bool) -> str:
    """The numeric address to listen on; IPv4 addresses come first.

    Args:
        protected: whether viewers need a password.
    Raises:
        SinkError: the host is not an address of this machine.
        UsageError: the address is beyond loopback and not protected.
    """
    host, label = url.host, url.label
    try:
        found = socket.getaddrinfo(host, url.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise SinkError(
            f"{label}: {host} is not an address of this machine ({exc.strerror}); use e.g. 127.0.0.1"
        ) from exc
    address = min((str(entry[4][0]) for entry in found), key=lambda text: ":" in text)
    if not protected and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        raise UsageError(
            f"{label}: would show the stream to the network without a password; put user:password@ into the "
            "address, or serve on 127.0.0.1"
        )
    return address

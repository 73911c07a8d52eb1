"""A built-in RTSP server for depth, which any player can open."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from fractions import Fraction
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from streamdepth.core import limits
from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, StreamDepthError, plain_reason
from streamdepth.net.url import find_credentials, parse_live_url
from streamdepth.sinks.encoding import AUTO
from streamdepth.sinks.rtsp.delivery import CLOCK_RATE, Mount, Settings, sdp
from streamdepth.sinks.rtsp.hub import Hub, listen_address
from streamdepth.sinks.rtsp.media import Encoder, Pace, black, check_encoding, output_rate
from streamdepth.sinks.rtsp.protocol import Authenticator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl
    from streamdepth.net.url import LiveUrl
    from streamdepth.sinks.rtsp.delivery import AccessUnit

_KEY_INTERVAL_NS = 500_000_000
_START_SECONDS = 5.0
_STOP_SECONDS = 2.0
_FLUSH_SECONDS = 0.5


class RtspServer:
    """Listens on one address and serves the streams of one or more sinks, each at its own path. Thread-safe.

    Args:
        url: ``rtsp://address:port``; its path is ignored. Port 0 selects a free one. ``user:password@`` in it is what
            viewers must present.
        username, password, credentials_file: alternatives, see :func:`~streamdepth.net.url.find_credentials`.
        settings: limits.
    Raises:
        UsageError: an invalid argument.
    """

    def __init__(
        self,
        url: str = "rtsp://127.0.0.1:8554",
        *,
        username: str | None = None,
        password: str | None = None,
        credentials_file: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._url = parse_live_url(url, frozenset({"rtsp"}))
        self._credentials = find_credentials(
            self._url, username=username, password=password, credentials_file=credentials_file, environ=environ
        )
        self._settings = settings or Settings()
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._hub: Hub | None = None
        self._mounts: set[Mount] = set()

    @property
    def port(self) -> int:
        """The bound port; the URL's before the first stream."""
        return self._hub.port if self._hub is not None else self._url.port

    @property
    def alive(self) -> bool:
        """The server runs."""
        return self._hub is not None and self._hub.alive

    @property
    def connections(self) -> int:
        return self._hub.connections if self._hub is not None else 0

    @property
    def events(self) -> Mapping[str, int]:
        """Events of all connections."""
        return self._hub.counters() if self._hub is not None else {}

    def add(self, mount: Mount) -> None:
        """Serve a stream; the first one starts the server.

        Raises:
            SinkError: the address cannot be used, or the path is in use.
            UsageError: an address beyond loopback without credentials.
        """
        with self._lock:
            hub = self._hub if self._mounts else None
            if hub is None:
                hub = self._start()
                self._hub = hub
            hub.add(mount)
            self._mounts.add(mount)

    def remove(self, mount: Mount) -> None:
        """End a stream; the last one stops the server. Idempotent."""
        with self._lock:
            if mount not in self._mounts or self._hub is None:
                return
            self._mounts.discard(mount)
            self._hub.remove(mount)
            if not self._mounts:
                self._hub.stop(_STOP_SECONDS)

    def broadcast(self, mount: Mount, unit: AccessUnit, wall_seconds: float) -> None:
        """Send a frame to every viewer of a stream. Never blocks."""
        if self._hub is not None:
            self._hub.broadcast(mount, unit, wall_seconds)

    def _start(self) -> Hub:
        hub = Hub(
            settings=self._settings,
            authenticator=Authenticator(self._credentials, self._clock) if self._credentials is not None else None,
            clock=self._clock,
            name=f"rtsp-server {self._url.label}",
        )
        try:
            hub.start(
                listen_address(self._url, protected=self._credentials is not None), self._url.port, _START_SECONDS
            )
        except OSError as exc:
            if isinstance(exc, StreamDepthError):
                raise
            hub.stop(_STOP_SECONDS)
            # asyncio puts the system's message into a sentence that repeats the address.
            reason = plain_reason(OSError(exc.errno, os.strerror(exc.errno)) if exc.errno and exc.errno > 0 else exc)
            raise SinkError(f"{self._url.label}: cannot listen ({reason}); choose another port or address") from exc
        return hub


class RtspServers:
    """RTSP servers that several sinks share, one per address. Not thread-safe."""

    def __init__(self) -> None:
        self._servers: dict[LiveUrl, RtspServer] = {}

    def at(self, url: str, credentials_file: str | Path | None, max_clients: int) -> RtspServer:
        """The server for a URL, whatever its path.

        Raises:
            UsageError: an invalid argument.
        """
        parsed = parse_live_url(url, frozenset({"rtsp"}))
        limits.MAX_CLIENTS.check("max_clients", max_clients)
        address = replace(parsed, location="")
        if address not in self._servers:
            settings = Settings(max_clients=max_clients)
            self._servers[address] = RtspServer(url, credentials_file=credentials_file, settings=settings)
        return self._servers[address]


class RtspServerSink(BaseSink):
    """Serves the coloured view to many RTSP players at once (RFC 2326), over TCP and UDP.

    A viewer that joins gets a key frame at once (at most one extra every 0.5 s for all of them). A slow viewer skips to
    the next key frame and is disconnected after ``Settings.stall_seconds``; it never delays others or the pipeline. The
    last frame is repeated while the input pauses. Nothing is encoded while there are no viewers.

    Args:
        url: ``rtsp://address:port/path``; port 0 selects a free one (see :attr:`port`). ``user:password@`` in it is
            what viewers must present.
        username, password, credentials_file: alternatives, see :func:`~streamdepth.net.url.find_credentials`.
        rate: output frames per second, 0..240; None = the source's, at most 30.
        bitrate: bits per second; None = constant quality.
        gop_seconds: largest distance between key frames.
        preset: x264's speed preset, or ``auto``.
        low_latency, announce: see :class:`~streamdepth.sinks.rtsp.media.Encoder`; set ``announce`` to False for a
            player that cannot handle it.
        settings: limits.
        server: an existing server that other sinks use too; of ``url`` only the path is then used.
    Raises:
        UsageError: an invalid argument, or an address beyond loopback without credentials.

    Thread-safety: ``process`` from one thread, the rest from any.
    """

    def __init__(
        self,
        url: str = "rtsp://127.0.0.1:8554/depth",
        *,
        control: LookControl,
        username: str | None = None,
        password: str | None = None,
        credentials_file: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        max_clients: int = 64,
        rate: Fraction | float | None = None,
        bitrate: int | None = None,
        gop_seconds: float = 2.0,
        preset: str = AUTO,
        low_latency: bool = True,
        announce: bool = True,
        settings: Settings | None = None,
        server: RtspServer | None = None,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        parsed = parse_live_url(url, frozenset({"rtsp"}))
        limits.MAX_CLIENTS.check("max_clients", max_clients)
        check_encoding(rate=rate, bitrate=bitrate, gop_seconds=gop_seconds, preset=preset)
        super().__init__(parsed.label, control)
        self._server = server or RtspServer(
            url,
            username=username,
            password=password,
            credentials_file=credentials_file,
            environ=environ,
            settings=settings or Settings(max_clients=max_clients),
            clock=clock,
        )
        self._rate_option = rate
        self._make_encoder = partial(
            Encoder, bitrate=bitrate, gop_seconds=gop_seconds, preset=preset, low_latency=low_latency, announce=announce
        )
        self._clock: Clock = clock or SystemClock()
        self._wall_clock = wall_clock
        self._rate = Fraction(25)
        self._path = unquote(urlsplit(parsed.location).path).rstrip("/")
        self._pace: Pace | None = None
        self._encoder: Encoder | None = None
        self._mount: Mount | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._key_requested = threading.Event()
        self._parameter_sets = (b"", b"")
        self._error: StreamDepthError | None = None
        # Two counters, because two threads count: before and after a frame was queued.
        self._unwatched = 0
        self._unseen = 0
        self._encoded = 0

    @property
    def live(self) -> bool:
        return True

    @property
    def port(self) -> int:
        """The bound port; the URL's before ``open``."""
        return self._server.port

    @property
    def viewers(self) -> int:
        """Viewers that play."""
        return self._mount.playing if self._mount is not None else 0

    @property
    def state(self) -> str:
        """``idle``, ``serving`` or ``closed``."""
        if self._stop.is_set():
            return "closed"
        return "idle" if self._mount is None else "serving"

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames given to ``process`` that no viewer could see, by cause."""
        superseded = self._pace.superseded if self._pace is not None else 0
        found = {"superseded": superseded, "unwatched": self._unwatched + self._unseen}
        return {cause: count for cause, count in found.items() if count}

    @property
    def counts(self) -> Mapping[str, int]:
        """Encoded, repeated and sent frames, events of the server, and frames that viewers skipped, by cause."""
        sent, skipped = self._mount.counters() if self._mount is not None else (0, {})
        repeated = self._pace.repeated if self._pace is not None else 0
        return MappingProxyType(
            {"encoded": self._encoded, "repeated": repeated, **self.dropped, "sent": sent, **self._server.events}
            | {f"skipped_{cause}": count for cause, count in skipped.items()}
        )

    @property
    def status(self) -> Mapping[str, object]:
        """State and counters in one read-only mapping, for statistics and pages."""
        sent, skipped = self._mount.counters() if self._mount is not None else (0, {})
        return MappingProxyType(
            {
                "state": self.state,
                "viewers": self.viewers,
                "connections": self._server.connections,
                "encoded": self._encoded,
                "repeated": self._pace.repeated if self._pace is not None else 0,
                "dropped": dict(self.dropped),
                "skipped_by_viewers": skipped,
                "events": {**self._server.events, "sent": sent},
            }
        )

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        if image is None:
            raise SinkError(f"{self.name}: serves frames, but the run makes no images; set its look (control)")
        if self._mount is not None:
            raise SinkError(f"{self.name}: is open already; close it first")
        self._rate = output_rate(self._rate_option, stream)
        self._pace = Pace(self._rate, self._clock)
        self._encoder = self._make_encoder(rate=self._rate)
        # DESCRIBE needs parameter sets before the first frame is there, and viewers need something to show.
        first = black(image)
        self._encoder.encode(first, 0, key=True)
        self._parameter_sets = (self._encoder.sps, self._encoder.pps)
        self._pace.replace(first)
        mount = Mount(self._path, self._encoder.ssrc, describe=self._describe, request_key=self._request_key)
        try:
            self._server.add(mount)
        except StreamDepthError:
            self.close()
            raise
        self._mount = mount
        self._name = self._name.replace(":0/", f":{self.port}/", 1)
        self._thread = threading.Thread(target=self._work, name=f"rtsp-encoder {self.name}", daemon=True)
        self._thread.start()

    def process(self, result: Result) -> None:
        if self._error is not None:
            raise self._error
        if self._pace is None or self._mount is None:
            raise SinkError(f"{self.name}: is not open; call open() first")
        if not self._server.alive and not self._stop.is_set():
            raise SinkError(f"{self.name}: the server has ended unexpectedly; start the run again")
        if result.image is None:
            raise SinkError(f"{self.name}: serves frames, but the result has no image; set its look (control)")
        if self._mount.playing == 0:
            self._unwatched += 1
            self._pace.replace(result.image)
            return
        self._pace.submit(result.image)

    def flush(self) -> None:
        if self._pace is not None:
            self._pace.wait_drained(_FLUSH_SECONDS)

    def interrupt(self) -> None:
        self._stop.set()
        if self._pace is not None:
            self._pace.close()

    def close(self) -> None:
        self.interrupt()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
        if self._mount is not None:
            self._server.remove(self._mount)
        if self._encoder is not None and (self._thread is None or not self._thread.is_alive()):
            self._encoder.close()

    def _describe(self, address: str, control: str) -> str:
        sps, pps = self._parameter_sets
        return sdp(address=address, sps=sps, pps=pps, rate=self._rate, control=control)

    def _request_key(self) -> None:
        if not self._key_requested.is_set() and self._pace is not None:
            self._key_requested.set()
            self._pace.hurry()

    def _work(self) -> None:
        assert self._pace is not None and self._encoder is not None and self._mount is not None  # noqa: PT018, S101
        try:
            self._encode(self._pace, self._encoder, self._mount)
        except StreamDepthError as exc:
            self._error = exc

    def _encode(self, pace: Pace, encoder: Encoder, mount: Mount) -> None:
        start_ns = self._clock.monotonic_ns()
        last_key_ns = start_ns - _KEY_INTERVAL_NS
        while not self._stop.is_set():
            due = pace.take(0.5)
            if due is None:
                continue
            if mount.playing == 0:
                self._unseen += due.fresh
                continue
            now_ns = due.now_ns
            key = self._key_requested.is_set() and now_ns - last_key_ns >= _KEY_INTERVAL_NS
            if key:
                self._key_requested.clear()
            pts = (now_ns - start_ns) * CLOCK_RATE // 1_000_000_000
            unit = encoder.encode(due.image, pts, key=key)
            self._encoded += 1
            if unit.key:
                last_key_ns = now_ns
                self._parameter_sets = (encoder.sps, encoder.pps)
            self._server.broadcast(mount, unit, self._wall_clock())

"""Depth as an RTSP server of its own: any player opens the address."""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from streamdepth.core import limits
from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, StreamDepthError, UsageError
from streamdepth.net.url import find_credentials, parse_live_url
from streamdepth.sinks.rtsp.auth import Authenticator
from streamdepth.sinks.rtsp.hub import Hub, Settings
from streamdepth.sinks.rtsp.media import CLOCK_RATE, Encoder, sdp
from streamdepth.sinks.rtsp.pace import Pace, black, check_encoding, output_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl

_KEY_PAUSE_NS = 500_000_000
_START_SECONDS = 5.0
_STOP_SECONDS = 2.0
_FLUSH_SECONDS = 0.5


class RtspServerSink(BaseSink):
    """Serves the coloured view to many RTSP players at once (RFC 2326), over TCP and UDP.

    A viewer that joins gets a key frame at once (at most one extra every 0.5 s for all of them). A slow or frozen one
    skips to the next key frame and is cut off after ``Settings.stall_seconds``; it never holds up others or the
    pipeline. The last image is repeated where the input pauses. Nothing is encoded while nobody watches.

    Args:
        url: ``rtsp://address:port/path``; port 0 takes a free one (see :attr:`port`). ``user:password@`` in it is
            what viewers have to give.
        username, password, credentials_file: the same by other ways, see
            :func:`~streamdepth.net.url.find_credentials`.
        rate: output images a second, 0..240; None = the source's, at most 30.
        bitrate: bits a second; None = constant quality.
        gop_seconds: longest distance between key frames.
        preset: x264's speed.
        low_latency, announce: see :class:`~streamdepth.sinks.rtsp.media.Encoder`; turn announcing off for a
            player that chokes on it.
        settings: limits.
    Raises:
        UsageError: an argument that cannot mean anything, or an address beyond loopback without credentials.

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
        preset: str = "ultrafast",
        low_latency: bool = True,
        announce: bool = True,
        settings: Settings | None = None,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = parse_live_url(url, frozenset({"rtsp"}))
        limits.MAX_CLIENTS.check("max_clients", max_clients)
        check_encoding(rate=rate, bitrate=bitrate, gop_seconds=gop_seconds, preset=preset)
        super().__init__(self._url.label, control)
        self._credentials = find_credentials(
            self._url, username=username, password=password, credentials_file=credentials_file, environ=environ
        )
        self._settings = settings or Settings(max_clients=max_clients)
        self._rate_wanted = rate
        self._bitrate = bitrate
        self._gop_seconds = gop_seconds
        self._preset = preset
        self._low_latency = low_latency
        self._announce = announce
        self._clock: Clock = clock or SystemClock()
        self._wall_clock = wall_clock
        self._rate = Fraction(25)
        self._path = unquote(urlsplit(self._url.location).path).rstrip("/")
        self._pace: Pace | None = None
        self._encoder: Encoder | None = None
        self._hub: Hub | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._key_wanted = threading.Event()
        self._parameter_sets = (b"", b"")
        self._error: StreamDepthError | None = None
        # Two counters, as two threads count: before, and after an image was queued.
        self._unwatched = 0
        self._unseen = 0
        self._encoded = 0

    @property
    def live(self) -> bool:
        return True

    @property
    def port(self) -> int:
        """The bound port; the URL's before ``open``."""
        return self._hub.port if self._hub is not None else self._url.port

    @property
    def viewers(self) -> int:
        """Viewers that play."""
        return self._hub.playing if self._hub is not None else 0

    @property
    def state(self) -> str:
        """``idle``, ``serving`` or ``closed``."""
        if self._stop.is_set():
            return "closed"
        return "idle" if self._hub is None else "serving"

    @property
    def dropped(self) -> Mapping[str, int]:
        """Images given to ``process`` that nobody could see, by cause."""
        superseded = self._pace.superseded if self._pace is not None else 0
        found = {"superseded": superseded, "unwatched": self._unwatched + self._unseen}
        return {cause: count for cause, count in found.items() if count}

    @property
    def counts(self) -> Mapping[str, int]:
        """Encoded and repeated images, events of the server, and images skipped by viewers, by cause."""
        events, skipped = self._hub.counters() if self._hub is not None else ({}, {})
        repeated = self._pace.repeated if self._pace is not None else 0
        return MappingProxyType(
            {"encoded": self._encoded, "repeated": repeated, **self.dropped, **events}
            | {f"skipped_{cause}": count for cause, count in skipped.items()}
        )

    @property
    def status(self) -> Mapping[str, object]:
        """State and counters in one read-only mapping, for statistics and pages."""
        events, skipped = self._hub.counters() if self._hub is not None else ({}, {})
        return MappingProxyType(
            {
                "state": self.state,
                "viewers": self.viewers,
                "connections": self._hub.connections if self._hub is not None else 0,
                "encoded": self._encoded,
                "repeated": self._pace.repeated if self._pace is not None else 0,
                "dropped": dict(self.dropped),
                "skipped_by_viewers": skipped,
                "events": events,
            }
        )

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        if image is None:
            raise SinkError(f"{self.name}: serves images, and was given none to come; it needs a look")
        if self._hub is not None:
            raise SinkError(f"{self.name}: is open already")
        address = self._bindable_address()
        self._rate = output_rate(self._rate_wanted, stream)
        self._pace = Pace(self._rate, self._clock)
        self._encoder = Encoder(
            rate=self._rate,
            bitrate=self._bitrate,
            gop_seconds=self._gop_seconds,
            preset=self._preset,
            low_latency=self._low_latency,
            announce=self._announce,
        )
        # DESCRIBE needs parameter sets before the first image is there, and viewers something to see.
        first = black(image)
        self._encoder.encode(first, 0, key=True)
        self._parameter_sets = (self._encoder.sps, self._encoder.pps)
        self._pace.replace(first)
        self._hub = Hub(
            path=self._path,
            ssrc=self._encoder.ssrc,
            settings=self._settings,
            authenticator=Authenticator(self._credentials, self._clock) if self._credentials is not None else None,
            describe=self._describe,
            request_key=self._request_key,
            clock=self._clock,
            name=f"rtsp-server {self.name}",
        )
        try:
            self._hub.start(address, self._url.port, _START_SECONDS)
        except OSError as exc:
            self.close()
            # asyncio wraps the system's words into a sentence that repeats the address.
            reason = os.strerror(exc.errno).lower() if exc.errno and exc.errno > 0 else str(exc)
            raise SinkError(f"{self.name}: cannot listen there ({reason}); choose another port or address") from exc
        if self._url.port == 0:
            self._name = self._name.replace(":0", f":{self._hub.port}", 1)
        self._thread = threading.Thread(target=self._work, name=f"rtsp-encoder {self.name}", daemon=True)
        self._thread.start()

    def process(self, result: Result) -> None:
        if self._error is not None:
            raise self._error
        if self._pace is None or self._hub is None:
            raise SinkError(f"{self.name}: is not open")
        if not self._hub.alive and not self._stop.is_set():
            raise SinkError(f"{self.name}: the server ended by itself; start it again")
        if result.image is None:
            raise SinkError(f"{self.name}: serves images, and was given a result without one; it needs a look")
        if self._hub.playing == 0:
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
        if self._hub is not None:
            self._hub.stop(_STOP_SECONDS)
        if self._encoder is not None and (self._thread is None or not self._thread.is_alive()):
            self._encoder.close()

    def _describe(self, address: str, control: str) -> str:
        sps, pps = self._parameter_sets
        return sdp(address=address, sps=sps, pps=pps, rate=self._rate, control=control)

    def _request_key(self) -> None:
        if not self._key_wanted.is_set() and self._pace is not None:
            self._key_wanted.set()
            self._pace.hurry()

    def _work(self) -> None:
        assert self._pace is not None and self._encoder is not None and self._hub is not None  # noqa: PT018, S101
        try:
            self._encode(self._pace, self._encoder, self._hub)
        except StreamDepthError as exc:
            self._error = exc

    def _encode(self, pace: Pace, encoder: Encoder, hub: Hub) -> None:
        start_ns = self._clock.monotonic_ns()
        last_key_ns = start_ns - _KEY_PAUSE_NS
        while not self._stop.is_set():
            due = pace.take(0.5)
            if due is None:
                continue
            if hub.playing == 0:
                self._unseen += due.fresh
                continue
            now_ns = due.now_ns
            key = self._key_wanted.is_set() and now_ns - last_key_ns >= _KEY_PAUSE_NS
            if key:
                self._key_wanted.clear()
            pts = (now_ns - start_ns) * CLOCK_RATE // 1_000_000_000
            unit = encoder.encode(due.image, pts, key=key)
            self._encoded += 1
            if unit.key:
                last_key_ns = now_ns
                self._parameter_sets = (encoder.sps, encoder.pps)
            hub.broadcast(unit, self._wall_clock())

    def _bindable_address(self) -> str:
        host, port = self._url.host, self._url.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except OSError as exc:
            raise SinkError(f"{self.name}: {host} is no address of this machine ({exc.strerror})") from exc
        addresses = sorted((str(entry[4][0]) for entry in found), key=lambda text: ":" in text)
        address = addresses[0]
        if self._credentials is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            raise UsageError(
                f"{self.name}: would show the stream to the network without a password; put user:password@ into the "
                "address, or serve on 127.0.0.1"
            )
        return address

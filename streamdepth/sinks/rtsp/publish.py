"""Publishes depth to an existing RTSP server."""

from __future__ import annotations

import threading
import time
from fractions import Fraction
from functools import partial
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING

from streamdepth.core import limits
from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, StreamDepthError
from streamdepth.net.calls import Backoff, connected_again
from streamdepth.net.url import find_credentials, find_tls_config, parse_live_url
from streamdepth.sinks.encoding import AUTO
from streamdepth.sinks.rtsp.delivery import CLOCK_RATE, sdp, sender_report
from streamdepth.sinks.rtsp.media import Encoder, Pace, black, check_encoding, output_rate
from streamdepth.sinks.rtsp.record import CONTROL, PublishError, RecordClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl

_POLL_SECONDS = 0.1
_REPORT_NS = 5_000_000_000
_FLUSH_SECONDS = 0.5
_STOP_SECONDS = 0.8


class RtspPublishSink(BaseSink):
    """Publishes the coloured view as H.264 (RTSP ANNOUNCE and RECORD over TCP), on a thread of its own.

    ``process`` never blocks: the thread takes the newest frame. If the server disconnects, refuses, or does not respond
    for ``timeout_seconds``, the sink connects again, with exponential back-off and jitter. Frames of that time are
    counted as dropped. The last frame is repeated while the input pauses.

    Args:
        url: ``rtsp://host:port/path`` or ``rtsps://...``; may contain ``user:password@``.
        bitrate: bits a second; None = constant quality.
        rate: output frames a second, 0..240; None = the source's, at most 30.
        gop_seconds: largest distance between key frames, which is the longest wait of a new viewer.
        preset: x264's speed preset, or ``auto``.
        low_latency: see :class:`~streamdepth.sinks.rtsp.media.Encoder`.
        timeout_seconds: > 0, see above.
        retries: consecutive failures, the first connection included, before ``process`` raises; None = unlimited.
        username, password, credentials_file: see :func:`~streamdepth.net.url.find_credentials`.
        tls_ca: CA certificates for ``rtsps``, see :func:`~streamdepth.net.url.find_tls_config`.
    Raises:
        UsageError: an invalid argument.

    Thread-safety: ``process`` from one thread, the rest from any.
    """

    def __init__(
        self,
        url: str,
        *,
        control: LookControl,
        bitrate: int | None = None,
        rate: Fraction | float | None = None,
        gop_seconds: float = 1.0,
        preset: str = AUTO,
        low_latency: bool = True,
        timeout_seconds: float = 3.0,
        retries: int | None = None,
        username: str | None = None,
        password: str | None = None,
        credentials_file: str | Path | None = None,
        tls_ca: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        wall_clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self._url = parse_live_url(url, frozenset({"rtsp", "rtsps"}))
        limits.TIMEOUT_SECONDS.check("timeout", timeout_seconds)
        if retries is not None:
            limits.RETRIES.check("retries", retries)
        check_encoding(rate=rate, bitrate=bitrate, gop_seconds=gop_seconds, preset=preset)
        super().__init__(self._url.label, control)
        self._credentials = find_credentials(
            self._url, username=username, password=password, credentials_file=credentials_file, environ=environ
        )
        self._tls = find_tls_config(tls_ca)
        self._rate_option = rate
        self._make_encoder = partial(
            Encoder, bitrate=bitrate, gop_seconds=gop_seconds, preset=preset, low_latency=low_latency
        )
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._clock: Clock = clock or SystemClock()
        self._wall_clock = wall_clock
        self._backoff = Backoff(random or Random())
        self._rate = Fraction(25)
        self._pace: Pace | None = None
        self._image: ImageInfo | None = None
        self._client: RecordClient | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._state = "idle"
        self._connections = 0
        self._sent = 0
        self._sent_again = 0
        # Two counters, because two threads count: before and after a frame was queued.
        self._disconnected = 0
        self._broken = 0
        self._last_error = ""
        self._error: StreamDepthError | None = None

    @property
    def live(self) -> bool:
        return True

    @property
    def state(self) -> str:
        """``idle``, ``connecting``, ``live``, ``waiting``, ``failed`` or ``closed``."""
        return self._state

    @property
    def reconnects(self) -> int:
        """Connections after the first one."""
        return max(self._connections - 1, 0)

    @property
    def last_error(self) -> str:
        """Why the last connection failed or ended, without credentials; empty while connected."""
        return self._last_error

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames given to ``process`` that were not sent, by cause."""
        superseded = self._pace.superseded if self._pace is not None else 0
        found = {"superseded": superseded, "disconnected": self._disconnected + self._broken}
        return {cause: count for cause, count in found.items() if count}

    @property
    def note(self) -> str:
        lost = self._disconnected + self._broken
        if not self.reconnects and not lost:
            return ""
        parts = [connected_again(self.reconnects)] if self.reconnects else []
        if lost:
            parts.append(f"{lost} frame{'s' * (lost != 1)} not sent while there was no connection")
        return ", ".join(parts)

    @property
    def counts(self) -> Mapping[str, int]:
        """Reconnections, frames sent and repeated, and frames not sent, by cause."""
        return MappingProxyType(
            {"reconnects": self.reconnects, "sent": self._sent, "repeated": self._sent_again, **self.dropped}
        )

    @property
    def status(self) -> Mapping[str, object]:
        """State and counters in one read-only mapping, for statistics and pages."""
        return MappingProxyType(
            {
                "state": self._state,
                "reconnects": self.reconnects,
                "sent": self._sent,
                "repeated": self._sent_again,
                "dropped": dict(self.dropped),
                "last_error": self._last_error,
            }
        )

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """Start publishing. A server that cannot be reached is not an error here; ``state`` shows it."""
        if image is None:
            raise SinkError(f"{self.name}: publishes frames, but the run makes no images; set its look (control)")
        if self._thread is not None:
            raise SinkError(f"{self.name}: is open already; close it first")
        self._image = image
        self._rate = output_rate(self._rate_option, stream)
        self._pace = Pace(self._rate, self._clock)
        self._thread = threading.Thread(target=self._work, name=f"rtsp-publish {self.name}", daemon=True)
        self._thread.start()

    def process(self, result: Result) -> None:
        if self._error is not None:
            raise self._error
        if self._pace is None:
            raise SinkError(f"{self.name}: is not open; call open() first")
        if result.image is None:
            raise SinkError(f"{self.name}: publishes frames, but the result has no image; set its look (control)")
        if self._state == "live":
            self._pace.submit(result.image)
        else:
            self._disconnected += 1
            self._pace.replace(result.image)

    def flush(self) -> None:
        if self._pace is not None and self._state == "live":
            self._pace.wait_drained(_FLUSH_SECONDS)

    def interrupt(self) -> None:
        self._stop.set()
        if self._pace is not None:
            self._pace.close()
        client = self._client
        if client is not None:
            client.interrupt()

    def close(self) -> None:
        """End the session at the server, within a second."""
        self._stop.set()
        if self._pace is not None:
            self._pace.close()
        if self._thread is not None:
            # A working connection sends TEARDOWN; one that does not respond is cut.
            self._thread.join(_STOP_SECONDS / 2)
            self.interrupt()
            self._thread.join(_STOP_SECONDS / 2)
        self._state = "closed"

    def _work(self) -> None:
        assert self._pace is not None and self._image is not None  # noqa: PT018, S101
        encoder = self._make_encoder(rate=self._rate)
        failures = 0
        try:
            encoder.encode(black(self._image), 0, key=True)
            while not self._stop.is_set():
                sent = self._sent
                try:
                    self._publish(self._pace, encoder)
                except PublishError as exc:
                    failures = 1 if self._sent > sent else failures + 1
                    self._failed(exc, failures)
                if self._stop.is_set():
                    return
                if self._sent > sent:
                    self._backoff.reset()
                self._state = "waiting"
                self._stop.wait(self._backoff.next_seconds())
        except StreamDepthError as exc:
            self._state = "failed"
            self._error = exc
        finally:
            encoder.close()

    def _failed(self, exc: PublishError, failures: int) -> None:
        if self._stop.is_set():
            return
        self._last_error = str(exc)
        if self._retries is not None and failures > self._retries:
            times = f" ({failures} times in a row)" if failures > 1 else ""
            raise SinkError(f"{self.name}: {exc}{times}")

    def _publish(self, pace: Pace, encoder: Encoder) -> None:
        self._state = "connecting"
        client = RecordClient(
            self._url, self._credentials, self._tls, timeout_seconds=self._timeout_seconds, clock=self._clock
        )
        self._client = client
        if self._stop.is_set():
            return
        try:
            client.connect(sdp(address="127.0.0.1", sps=encoder.sps, pps=encoder.pps, rate=self._rate, control=CONTROL))
            self._connections += 1
            self._state = "live"
            self._last_error = ""
            self._feed(client, pace, encoder)
        finally:
            client.close(teardown=self._stop.is_set())

    def _feed(self, client: RecordClient, pace: Pace, encoder: Encoder) -> None:
        start_ns = self._clock.monotonic_ns()
        report_ns = start_ns
        packets = octets = 0
        key = True
        while not self._stop.is_set():
            due = pace.take(_POLL_SECONDS)
            if due is None:
                client.poll()
                continue
            now_ns = due.now_ns
            # One encoder serves all connections: its pts must keep rising.
            unit = encoder.encode(due.image, now_ns * CLOCK_RATE // 1_000_000_000, key=key)
            key = False
            report = None
            if now_ns >= report_ns:
                report_ns = now_ns + _REPORT_NS
                report = sender_report(encoder.ssrc, self._wall_clock(), unit.rtp_time, packets, octets)
            try:
                client.send(unit.packets, report)
            except PublishError:
                self._broken += due.fresh
                raise
            packets += len(unit.packets)
            octets += sum(len(packet) - 12 for packet in unit.packets)
            self._sent += 1
            self._sent_again += not due.fresh

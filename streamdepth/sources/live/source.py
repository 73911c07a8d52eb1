"""Network cameras and streams: RTSP, RTMP, and live streams over HTTP, UDP and TCP."""

from __future__ import annotations

from enum import StrEnum
from fractions import Fraction
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from streamdepth.core import limits
from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, UsageError, redact
from streamdepth.core.frame import Frame, StreamInfo
from streamdepth.media.filters import DEINTERLACED, Letterbox
from streamdepth.media.hwaccel import HwAccel
from streamdepth.net.calls import Backoff, connected_again
from streamdepth.net.url import LIVE_SCHEMES, find_credentials, find_tls_config, parse_live_url
from streamdepth.sources.live.connection import LiveLink, hint, is_busy, is_silent, reason
from streamdepth.sources.live.reader import Ended, Image, LiveDecoding, Missing, Opened, Skipped, Undecodable
from streamdepth.sources.live.timestamps import TIME_BASE, LiveTimeline
from streamdepth.sources.times import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import av

    from streamdepth.core.clock import Clock
    from streamdepth.net.url import LiveUrl

TRANSPORTS = ("tcp", "udp", "auto")
_HEAL_SECONDS = 10.0
_BUSY_SECONDS = 0.2


class LiveState(StrEnum):
    """State of a live source."""

    IDLE = "idle"
    CONNECTING = "connecting"
    LIVE = "live"
    WAITING = "waiting"
    """Until the next attempt to connect."""
    CLOSED = "closed"


class LiveSource(BaseSource):
    """A network camera that reconnects by itself.

    After the end of the stream, an error, or silence for ``timeout_seconds``, it connects again, with exponential
    back-off and jitter. Indices continue, and pts rise by the time that has passed. A stream that returns with another
    size or pixel format is letterboxed into the first one's. Frames that the decoder marks as damaged are dropped and
    counted (``dropped["corrupt"]``), with all that follow up to the next key frame, for at most 10 s (intra refresh has
    no key frames). :mod:`streamdepth.sources.live.timestamps` says which codecs reveal lost frames.

    A recording of known length ends the source; one that ends early is an error. Frames of a live playlist (HLS), which
    arrive a segment at a time, are released at the pace of their pts.

    Args:
        url: ``rtsp(s)://``, ``rtmp(s)://``, ``http(s)://`` (Motion JPEG, HLS, MPEG-TS), ``udp://``, ``tcp://``, or
            ``rtp://`` and ``srt://`` if FFmpeg has them; may contain ``user:password@``, percent-encoded or not.
        timeout_seconds: limit for one attempt to open and for silence; > 0. The first key frame may take longer, up to
            60 s, while packets arrive. HLS (``.m3u8``) may be silent for at least 20 s, since it comes in segments.
        retries: attempts after consecutive failures, None = unlimited. With None, ``open`` raises at the first failure
            unless ``retry_start``; with a number, it tries that often, also after authentication errors.
        retry_start: keep trying in ``open`` too.
        just_read: another connection to the address was closed a moment ago; ``open`` tries once more if the server is
            silent.
        transport: RTSP transport; ``auto`` prefers TCP and uses UDP if the server offers no TCP.
        low_latency: no buffering and slice threads; False allows 0.5 s of reordering and frame threads.
        threads: decoder threads, 0 = FFmpeg chooses.
        hwaccel: ``auto | cuda | vaapi | none``: hardware decoder.
        deinterlace: deinterlace frames that are flagged as interlaced, which delays them by one frame.
        username, password, credentials_file: see :func:`~streamdepth.net.url.find_credentials`.
        tls_ca: CA certificates of encrypted streams, see :func:`~streamdepth.net.url.find_tls_config`. FFmpeg applies
            the setting to redirections, but not to what a playlist (HLS, DASH) names.
        max_frames, duration_seconds: end after this number of frames, or this much media time.
        on_status: called with one line of text when the connection is lost or restored. On the thread of ``frames``.
    Raises:
        UsageError: an invalid argument.

    Thread-safety: ``interrupt``, ``close`` and all properties from any thread; ``open`` and ``frames`` one at a time.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        timeout_seconds: float = 3.0,
        retries: int | None = None,
        retry_start: bool = False,
        just_read: bool = False,
        transport: Literal["tcp", "udp", "auto"] = "tcp",
        low_latency: bool = True,
        threads: int = 0,
        hwaccel: HwAccel | str = HwAccel.NONE,
        deinterlace: bool = True,
        username: str | None = None,
        password: str | None = None,
        credentials_file: str | Path | None = None,
        tls_ca: str | Path | None = None,
        environ: Mapping[str, str] | None = None,
        max_frames: int | None = None,
        duration_seconds: float | None = None,
        on_status: Callable[[str], None] | None = None,
        random: Random | None = None,
    ) -> None:
        self._url: LiveUrl = parse_live_url(url, LIVE_SCHEMES)
        limits.TIMEOUT_SECONDS.check("timeout", timeout_seconds)
        if retries is not None:
            limits.RETRIES.check("retries", retries)
        if transport not in TRANSPORTS:
            raise UsageError(f"transport is one of {', '.join(TRANSPORTS)}, not {transport!r}")
        if threads < 0:
            raise UsageError(f"decoder threads are 0 (automatic) or more, not {threads}")
        credentials = find_credentials(
            self._url, username=username, password=password, credentials_file=credentials_file, environ=environ
        )
        super().__init__(self._url.label, live=True, clock=clock)
        self._link = LiveLink(
            self._url,
            credentials,
            find_tls_config(tls_ca),
            transport=transport,
            decoding=LiveDecoding(low_latency, threads, HwAccel.parse(hwaccel), deinterlace),
            timeout_seconds=timeout_seconds,
            on_key_frame_wait=lambda: self._on_status(f"{self.id}: waiting for a key frame"),
            clock=self._clock,
        )
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._retry_start = retry_start
        self._just_read = just_read
        self._on_status = on_status or (lambda _: None)
        self._limits = Limits.of(0, duration_seconds, max_frames)
        self._backoff = Backoff(random or Random())
        self._state = LiveState.IDLE
        self._reconnects = 0
        self._outages = 0
        self._lost_ns: int | None = None
        self._next_attempt = ""
        self._announced = ""
        self._rescaled = 0
        self._deinterlaced = False
        self._failures = 0
        self._last_error = ""
        self._index = 0
        self._info: StreamInfo | None = None
        self._pixel_aspect = Fraction(1)
        self._letterbox: Letterbox | None = None
        self._timeline = LiveTimeline()
        self._damaged_since_ns: int | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        deinterlaced = (DEINTERLACED,) if self._deinterlaced else ()
        return (*deinterlaced, connected_again(self._outages)) if self._outages else deinterlaced

    @property
    def state(self) -> LiveState:
        return self._state

    @property
    def reconnects(self) -> int:
        """Connection attempts after the first frame of the source."""
        return self._reconnects

    @property
    def last_error(self) -> str:
        """Why the last connection ended, redacted; empty while frames arrive."""
        return self._last_error

    @property
    def status(self) -> Mapping[str, str | int]:
        """State and counters in one read-only mapping, for statistics and pages."""
        return MappingProxyType(
            {
                "state": str(self._state),
                "reconnects": self._reconnects,
                "outages": self._outages,
                "rescaled": self._rescaled,
                "corrupt": self._dropped["corrupt"],
                "last_error": self._last_error,
                "next_attempt": self._next_attempt,
            }
        )

    def open(self) -> StreamInfo:
        """Connect, within ``timeout_seconds`` for each attempt.

        A server that is busy (5xx, which some answer for a moment after a viewer has left) is asked again in that time.
        One that is silent is asked once more if it was read a moment ago.

        Raises:
            SourceError: no connection, access refused, no video, or ``interrupt`` was called.
        """
        give_up_ns = self._clock.monotonic_ns() + round(self._timeout_seconds * 1e9)
        again = self._just_read
        while True:
            item = self._connect()
            if isinstance(item, Opened):
                self._info = StreamInfo(
                    source_id=self.id,
                    width_px=item.width_px,
                    height_px=item.height_px,
                    pix_fmt=item.pix_fmt,
                    time_base=TIME_BASE,
                    rate=item.rate,
                    live=True,
                    color=item.color,
                    sample_aspect_ratio=item.sample_aspect_ratio,
                    note=f"{item.codec} {item.width_px}x{item.height_px}" + (item.note and f"; {item.note}"),
                )
                return self._info
            self._fail(item)
            if self._retries is None and not self._retry_start:
                if is_busy(item.error) and self._clock.monotonic_ns() < give_up_ns:
                    self._link.wait(_BUSY_SECONDS)
                    continue
                if again and is_silent(item.error):
                    again = False
                    continue
                error = self._error(item)
                self.interrupt()
                self._state = LiveState.CLOSED
                raise error from None
            self._wait_or_raise(item)
            if self._link.interrupted():
                raise SourceError(f"{self.id}: interrupted while connecting")

    def frames(self) -> Iterator[Frame]:
        return self._limits.cut(self._frames())

    def _frames(self) -> Iterator[Frame]:
        if self._info is None:
            raise SourceError(f"{self.id}: not open; call open() first")
        try:
            while not self._link.interrupted():
                item = self._link.next_item()
                if isinstance(item, Image):
                    frame = self._frame(item, self._info)
                    if frame is None:
                        continue
                    yield frame
                elif isinstance(item, Undecodable):
                    self._count_damage()
                elif isinstance(item, Skipped):
                    self._dropped["corrupt"] += item.count
                    self._index += item.count
                elif isinstance(item, Missing):
                    self._damaged_since_ns = self._clock.monotonic_ns()
                elif isinstance(item, Ended):
                    if item.finite and item.error is None:
                        if item.missing_seconds:
                            raise SourceError(
                                f"{self.id}: the recording ended {item.missing_seconds:.1f} s early; "
                                "check the recorder and play it again"
                            )
                        return
                    self._fail(item)
                    self._reconnect(item)
        finally:
            self.close()

    def interrupt(self) -> None:
        self._link.interrupt()

    def close(self) -> None:
        """Return within a second; a reader that is blocked in a network call ends by its own deadline."""
        self._link.close()
        self._state = LiveState.CLOSED

    def _connect(self) -> Opened | Ended:
        self._state = LiveState.CONNECTING
        item = self._link.connect()
        if isinstance(item, Opened):
            self._state = LiveState.LIVE
            self._timeline.restart()
            self._damaged_since_ns = None
            self._pixel_aspect = item.sample_aspect_ratio
            self._letterbox = None
        return item

    def _reconnect(self, cause: Ended) -> None:
        item: Opened | Ended = cause
        while not self._link.interrupted() and isinstance(item, Ended):
            self._wait_or_raise(item)
            if self._link.interrupted():
                return
            self._reconnects += 1
            item = self._connect()
            if isinstance(item, Ended) and not self._link.interrupted():
                self._fail(item)

    def _fail(self, item: Ended) -> None:
        self._failures += 1
        self._last_error = redact(reason(item.error, self._link.patience_seconds))
        self._link.abandon()
        if self._lost_ns is None:
            self._lost_ns = self._clock.monotonic_ns()

    def _wait_or_raise(self, item: Ended) -> None:
        if self._retries is not None and self._failures > self._retries:
            error = self._error(item, tried=self._failures)
            self.close()
            raise error from None
        self._state = LiveState.WAITING
        seconds = self._backoff.next_seconds()
        self._next_attempt = f"in {seconds:.1f} s"
        if self._last_error != self._announced:
            self._announced = self._last_error
            longest = f"{self._backoff.longest_seconds:.0f} s"
            self._on_status(
                f"{self.id}: {self._last_error}; next attempt {self._next_attempt}, then at most {longest} apart"
            )
        self._link.wait(seconds)
        self._next_attempt = ""

    def _error(self, item: Ended, tried: int = 0) -> SourceError:
        # No cause is chained: libav's exceptions contain the URL with its password.
        if self._link.interrupted():
            return SourceError(f"{self.id}: interrupted while connecting")
        times = f" ({tried} times in a row)" if tried > 1 else ""
        return SourceError(f"{self.id}: {self._last_error}{times}; {hint(item.error)}")

    def _frame(self, item: Image, info: StreamInfo) -> Frame | None:
        if item.corrupt or (self._damaged_since_ns is not None and not self._healed(item)):
            self._count_damage()
            return None
        self._damaged_since_ns = None
        self._deinterlaced = self._deinterlaced or item.deinterlaced
        self._failures = 0
        self._last_error = self._announced = ""
        self._backoff.reset()
        self._end_outage()
        index, self._index = self._index, self._index + 1
        return Frame(
            source_id=self.id,
            index=index,
            pts=self._timeline.next_pts(item.pts, item.time_base, item.arrived_ns),
            time_base=TIME_BASE,
            captured_ns=item.arrived_ns,
            image=self._fit(item.image, info),
            key=item.key,
            connection=self._reconnects,
        )

    def _end_outage(self) -> None:
        if self._lost_ns is None:
            return
        seconds = (self._clock.monotonic_ns() - self._lost_ns) / 1e9
        self._lost_ns = None
        if self._index:
            self._outages += 1
            self._on_status(f"{self.id}: connected again after {seconds:.1f} s")
        else:
            self._on_status(f"{self.id}: connected after {seconds:.1f} s")

    def _healed(self, item: Image) -> bool:
        since_ns = self._damaged_since_ns or 0
        return item.key or item.arrived_ns - since_ns > _HEAL_SECONDS * 1e9

    def _count_damage(self) -> None:
        if self._damaged_since_ns is None:
            self._damaged_since_ns = self._clock.monotonic_ns()
        self._dropped["corrupt"] += 1
        self._index += 1

    def _fit(self, image: av.VideoFrame, info: StreamInfo) -> av.VideoFrame:
        same_size = (image.width, image.height) == (info.width_px, info.height_px)
        if same_size and image.format.name == info.pix_fmt:
            return image
        if self._letterbox is None:
            shape = self._pixel_aspect / info.sample_aspect_ratio
            self._letterbox = Letterbox(info.width_px, info.height_px, info.pix_fmt, info.color, shape)
        self._rescaled += 1
        return self._letterbox(image)

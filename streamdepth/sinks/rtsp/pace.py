"""Output of a network stream: encoding options, its rate, and pacing."""

from __future__ import annotations

import threading
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamdepth.core import limits
from streamdepth.core.errors import UsageError
from streamdepth.sinks.encoder_settings import AUTO, PRESETS

if TYPE_CHECKING:
    import av

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import ImageInfo, StreamInfo

_DEFAULT_RATE = Fraction(25)
_FASTEST_DEFAULT = Fraction(30)
_PATIENCE = Fraction(3, 2)
_EARLY = Fraction(9, 10)
_NS = 1_000_000_000


class Due(NamedTuple):
    """A frame to send now; ``fresh`` if it was not sent before."""

    image: av.VideoFrame
    now_ns: int
    fresh: bool


class Pace:
    """Holds the newest frame; returns it when it is new, and again when ``1.5 / rate`` has passed without a new one.

    A frame is sent as soon as it arrives, gaps are filled at the output rate, and faster input is reduced to about that
    rate (at least ``0.9 / rate`` apart, which tolerates jitter). ``take`` from one thread, the rest from any.
    """

    def __init__(self, rate: Fraction, clock: Clock) -> None:
        self._clock = clock
        self._repeat_ns = round(_NS / rate * _PATIENCE)
        self._shortest_ns = round(_NS / rate * _EARLY)
        self._step_ns = round(_NS / rate)
        self._changed = threading.Condition()
        self._newest: av.VideoFrame | None = None
        self._fresh = False
        self._closed = False
        self._due_ns = 0
        self._given_ns: int | None = None
        self.superseded = 0
        self.repeated = 0

    def submit(self, image: av.VideoFrame) -> None:
        """Never blocks; a frame that was not taken yet is replaced and counted."""
        with self._changed:
            if self._fresh:
                self.superseded += 1
            self._newest, self._fresh = image, True
            self._changed.notify_all()

    def replace(self, image: av.VideoFrame) -> None:
        """Change the repeated frame, without counting."""
        with self._changed:
            self._newest = image

    def hurry(self) -> None:
        """Repeat the frame now, for a new viewer."""
        with self._changed:
            self._due_ns = 0
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_drained(self, timeout_seconds: float) -> bool:
        """Wait until no new frame waits; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not self._fresh, timeout_seconds)

    def take(self, timeout_seconds: float) -> Due | None:
        """The frame to send now; None after the timeout and when closed."""
        with self._changed:
            give_up_ns = self._clock.monotonic_ns() + round(timeout_seconds * _NS)
            while not self._closed:
                now_ns = self._clock.monotonic_ns()
                wait_ns = self._wait_ns(now_ns)
                if self._newest is not None and wait_ns <= 0:
                    return self._give(self._newest, now_ns)
                if now_ns >= give_up_ns:
                    return None
                self._changed.wait(max(min(wait_ns, give_up_ns - now_ns), 1_000_000) / _NS)
            return None

    def _wait_ns(self, now_ns: int) -> int:
        if self._newest is None:
            return _NS
        if self._given_ns is None:
            return 0
        return (self._given_ns + self._shortest_ns if self._fresh else self._due_ns) - now_ns

    def _give(self, image: av.VideoFrame, now_ns: int) -> Due:
        fresh = self._fresh
        if fresh:
            self._due_ns = now_ns + self._repeat_ns
        else:
            self.repeated += 1
            # Relative to the last due time, so that late wake-ups do not add up; at most one step behind.
            self._due_ns = max(self._due_ns + self._step_ns, now_ns + self._shortest_ns)
        self._fresh = False
        self._given_ns = now_ns
        self._changed.notify_all()
        return Due(image, now_ns, fresh)


def output_rate(rate: Fraction | float | None, stream: StreamInfo) -> Fraction:
    """The output rate in frames per second: the given one, else the source's, at most 30, else 25."""
    if rate is not None:
        return Fraction(rate).limit_denominator(1001)
    return min(stream.rate or _DEFAULT_RATE, _FASTEST_DEFAULT)


def check_encoding(*, rate: Fraction | float | None, bitrate: int | None, gop_seconds: float, preset: str) -> None:
    """Validate encoding options.

    Raises:
        UsageError: names the option, its values, and what was given.
    """
    if rate is not None:
        limits.STREAM_RATE.check("stream rate", rate)
    if bitrate is not None:
        limits.BITRATE_KBITS.check("bitrate", bitrate / 1000)
    limits.GOP_SECONDS.check("gop", gop_seconds)
    if preset not in (AUTO, *PRESETS):
        raise UsageError(f"preset is one of {', '.join((AUTO, *PRESETS))}, not {preset!r}")


def black(image: ImageInfo) -> av.VideoFrame:
    """A black frame of the size and colour of the stream."""
    import av

    width_px, height_px = max(image.width_px & ~1, 2), max(image.height_px & ~1, 2)
    planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
    planes[:height_px] = 16
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    image.color.apply(frame)
    return frame

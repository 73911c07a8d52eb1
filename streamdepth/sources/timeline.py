"""Presentation times that always increase."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamdepth.core.clock import MediaClock

_JITTER_FRAMES = 4
"""A time stamp that goes back by fewer frame durations is an error of that frame, by more a jump of the clock."""


class Timeline:
    """Makes the pts of decoded frames strictly increasing. One per run of a source; not thread-safe.

    If no frame has a pts (AVI), the decoding time is used, as in FFmpeg. A frame with neither (raw streams), or one
    without pts among others, follows its predecessor by that frame's duration or by the frame rate.
    A pts less than four frame durations before its predecessor is jitter: the frame is placed one tick after its
    predecessor, and later frames keep their own times. A larger jump back is a new time line (joined recordings, a
    wrapped clock): all later frames are shifted, so that the first of them follows by one frame. If the clock then
    returns to the old time line, the shift ends.

    Args:
        clock: gets the shift of every jump.

    Attributes:
        repaired: how many frames got another pts, by cause: ``missing_pts``, ``backward_pts``, ``time_jump``.
        step: duration of a frame at the frame rate, in ticks.
    """

    def __init__(
        self, time_base: Fraction, rate: Fraction | None, first_pts: int = 0, clock: MediaClock | None = None
    ) -> None:
        self._time_base = time_base
        self.step = max(1, round(1 / (rate or Fraction(25)) / time_base))
        self._jitter = min(max(1, round(1 / time_base)), _JITTER_FRAMES * self.step)
        self._first = first_pts
        self._last: int | None = None
        self._last_step = self.step
        self._offset = self._old_offset = 0
        self._has_pts = False
        self._clock = clock
        self.repaired: Counter[str] = Counter()

    def place(self, pts: int | None, dts: int | None = None, duration: int | None = None) -> int:
        """The pts for the next frame, from the decoder's pts, dts and duration."""
        expected = self._first if self._last is None else self._last + self._last_step
        self._has_pts = self._has_pts or pts is not None
        if pts is None and not self._has_pts:
            pts = dts
        if pts is None:
            self.repaired["missing_pts"] += 1
            placed = expected
        else:
            placed = pts + self._offset
            if self._last is not None:
                placed = self._after(self._last, placed, pts, expected)
        self._last = placed
        self._last_step = duration if duration is not None and duration > 0 else self.step
        return placed

    def _after(self, last: int, placed: int, pts: int, expected: int) -> int:
        if self._offset != self._old_offset and last < pts + self._old_offset <= expected + self._jitter:
            # A single wrong time stamp, not a new time line.
            self._shift(self._old_offset)
            return pts + self._offset
        if placed > last:
            return placed
        if last - placed < self._jitter:
            self.repaired["backward_pts"] += 1
            return last + 1
        self.repaired["time_jump"] += 1
        self._old_offset = self._offset
        self._shift(self._offset + expected - placed)
        return expected

    def _shift(self, offset: int) -> None:
        self._offset = offset
        if self._clock is not None:
            self._clock.add_shift(offset * self._time_base)

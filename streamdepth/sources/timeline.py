"""Presentation times that always increase."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction


class Timeline:
    """Makes the pts of decoded frames strictly increasing. One per run of a source; not thread-safe.

    If no frame has a pts (AVI), the decoding time is used, as in FFmpeg. A frame with neither (raw streams), or one
    without pts among others, follows its predecessor by that frame's duration or by the frame rate.
    A pts less than a second before its predecessor is jitter: the frame is placed one tick after its predecessor, and
    later frames keep their own times. A larger jump back is a new time line (joined recordings, a wrapped clock): all
    later frames are shifted, so that the first of them follows by one frame.

    Attributes:
        repaired: how many frames got another pts, by cause: ``missing_pts``, ``backward_pts``, ``time_jump``.
    """

    def __init__(self, time_base: Fraction, rate: Fraction | None, first_pts: int = 0) -> None:
        self._second = max(1, round(1 / time_base))
        self._step = max(1, round(1 / (rate or Fraction(25)) / time_base))
        self._first = first_pts
        self._last: int | None = None
        self._last_step = self._step
        self._offset = 0
        self._has_pts = False
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
            if self._last is not None and placed <= self._last:
                if self._last - placed < self._second:
                    self.repaired["backward_pts"] += 1
                    placed = self._last + 1
                else:
                    self.repaired["time_jump"] += 1
                    self._offset += expected - placed
                    placed = expected
        self._last = placed
        self._last_step = duration if duration is not None and duration > 0 else self._step
        return placed

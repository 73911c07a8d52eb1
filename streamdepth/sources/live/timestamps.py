"""Time stamps of a live source: one rising line through connections, each of which starts its own; and their pace."""

from __future__ import annotations

from fractions import Fraction

TIME_BASE = Fraction(1, 90_000)
"""Unit of every live pts: RTP's and MPEG-TS's video clock, and a multiple of the millisecond."""

_NS_PER_TICK = Fraction(1_000_000_000, 90_000)
_JUMP_SECONDS = 5
_LATE_NS = 500_000_000
_AHEAD_NS = 2_000_000_000


class LiveTimeline:
    """Maps a connection's pts to pts that rise strictly over the whole life of the source.

    Within a connection the camera's own spacing is kept. Where it breaks (a new connection, a stamp that is missing,
    repeats, falls, or leaps more than 5 s further than the clock moved), the line goes on by the time the monotonic
    clock measured since the last frame. Not thread-safe.
    """

    def __init__(self) -> None:
        self._last_pts: int | None = None
        self._last_ns = 0
        self._offset: int | None = None

    def restart(self) -> None:
        """A new connection: its stamps have nothing to do with the last one's."""
        self._offset = None

    def next_pts(self, pts: int | None, time_base: Fraction | None, arrived_ns: int) -> int:
        """Place the next frame.

        Args:
            pts: the connection's stamp in ``time_base`` units; None = use the clock.
            arrived_ns: monotonic clock when the frame came.
        Returns:
            pts in ``TIME_BASE`` units, 0 for the first frame.
        """
        ticks = None if pts is None or time_base is None else round(pts * time_base / TIME_BASE)
        if self._last_pts is None:
            placed = 0
            self._offset = None if ticks is None else -ticks
        else:
            elapsed = max(round((arrived_ns - self._last_ns) / _NS_PER_TICK), 1)
            by_clock = self._last_pts + elapsed
            placed = by_clock if ticks is None or self._offset is None else ticks + self._offset
            if placed <= self._last_pts or placed > by_clock + _JUMP_SECONDS * 90_000:
                placed = by_clock
            self._offset = None if ticks is None else placed - ticks
        self._last_pts = placed
        self._last_ns = arrived_ns
        return placed


class LivePace:
    """When images that come in bursts are due: as their pts lie on the monotonic clock.

    The first image ties pts to the clock. So does, again, one due more than 0.5 s ago (a stall, a slow consumer) or
    in more than 2 s (pts leapt, segments expired): it is due at once. For one connection. Not thread-safe.
    """

    def __init__(self) -> None:
        self._zero_ns: int | None = None

    def due_ns(self, pts: int | None, time_base: Fraction | None, now_ns: int) -> int:
        """When to hand the next image on, by the monotonic clock; ``now_ns`` where that is past or unknown.

        Args:
            pts: the connection's stamp in ``time_base`` units.
        """
        if pts is None or time_base is None:
            return now_ns
        media_ns = round(pts * time_base * 1_000_000_000)
        if self._zero_ns is None or not -_LATE_NS <= self._zero_ns + media_ns - now_ns <= _AHEAD_NS:
            self._zero_ns = now_ns - media_ns
        return max(self._zero_ns + media_ns, now_ns)

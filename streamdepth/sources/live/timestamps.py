"""Time stamps of a live source: continuous across connections; and the pace of live playlists."""

from __future__ import annotations

from fractions import Fraction

TIME_BASE = Fraction(1, 90_000)
"""Unit of every live pts: the video clock of RTP and MPEG-TS, which divides the millisecond."""

_NS_PER_TICK = Fraction(1_000_000_000, 90_000)
_JUMP_SECONDS = 5
_LATE_NS = 500_000_000
_AHEAD_NS = 2_000_000_000


class LiveTimeline:
    """Maps the pts of connections to pts that rise strictly during the whole life of the source.

    Within a connection the camera's spacing is preserved. At a discontinuity (a new connection, or a pts that is
    missing, repeats, falls, or jumps more than 5 s further than the clock), the pts continues by the time that the
    monotonic clock measured since the last frame. Not thread-safe.
    """

    def __init__(self) -> None:
        self._last_pts: int | None = None
        self._last_ns = 0
        self._offset: int | None = None

    def restart(self) -> None:
        """A new connection: its pts are unrelated to those of the last one."""
        self._offset = None

    def next_pts(self, pts: int | None, time_base: Fraction | None, arrived_ns: int) -> int:
        """Place the next frame.

        Args:
            pts: of the connection, in ``time_base`` units; None = use the clock.
            arrived_ns: monotonic clock when the frame arrived.
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
    """When frames that arrive in bursts are due: their pts, mapped to the monotonic clock.

    The first frame sets the mapping. A frame that was due more than 0.5 s ago (a stall, a slow consumer) or is due in
    more than 2 s (a pts jump, expired segments) sets it again and is due at once. For one connection. Not thread-safe.
    """

    def __init__(self) -> None:
        self._zero_ns: int | None = None

    def due_ns(self, pts: int | None, time_base: Fraction | None, now_ns: int) -> int:
        """When to release the next frame, by the monotonic clock; ``now_ns`` if that is past or unknown.

        Args:
            pts: of the connection, in ``time_base`` units.
        """
        if pts is None or time_base is None:
            return now_ns
        media_ns = round(pts * time_base * 1_000_000_000)
        if self._zero_ns is None or not -_LATE_NS <= self._zero_ns + media_ns - now_ns <= _AHEAD_NS:
            self._zero_ns = now_ns - media_ns
        return max(self._zero_ns + media_ns, now_ns)

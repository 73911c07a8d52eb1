"""Range control over the statistics of all segments, in order."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.depth.motion import Candidate, CutFilter
from streamdepth.depth.range import RangeMode, RangeSpec, range_control
from streamdepth.depth.shots import ShotSamples, crossfaded, is_shot_full
from streamdepth.sinks.depth import CodingState
from streamdepth.sinks.robotics.zones import due_after

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

    from streamdepth.core.frame import DepthRange
    from streamdepth.depth.range import Measurement
    from streamdepth.jobs.segment import SegmentStatistics


@dataclass(frozen=True, slots=True)
class Ranged:
    """A segment whose ranges are known; fields as of :class:`~streamdepth.jobs.values.ColorTask`."""

    segment: int
    ranges: NDArray[np.float64]
    coding: CodingState
    events_due_seconds: float


@dataclass(slots=True)
class _Waiting:
    segment: int
    frames: int
    coding: CodingState
    events_due_seconds: float
    ranges: list[DepthRange] = field(default_factory=list)


class RangePass:
    """Gives the range of every frame, as a run of the whole clip does.

    ``add`` takes the segments in order and returns those whose ranges became known: at once for the modes of one pass,
    at the end of the shot for ``shot``.

    Args:
        spec: range mode.
        time_base: seconds per pts unit.
        events_rate: events per second of media time, if there are any.
    """

    def __init__(self, spec: RangeSpec, time_base: Fraction, *, events_rate: float = 1.0) -> None:
        self._by_shot = spec.mode is RangeMode.SHOT
        self._control = None if self._by_shot else range_control(spec)
        self._time_base = time_base
        self._events_rate, self._events_due = events_rate, -math.inf
        self._cuts = CutFilter()
        self._first = Candidate(differs=False)
        self._coding = CodingState()
        self._waiting: deque[_Waiting] = deque()
        self._samples: ShotSamples | None = None
        self._crossfade_from: DepthRange | None = None
        self._last_range: DepthRange | None = None
        self._shot_bytes = self._shot_frames = 0
        self._added = 0
        self.shots = 0

    def add(self, statistics: SegmentStatistics, *, last: bool) -> list[Ranged]:
        """Add the next segment; ``last`` if it is the end of the clip."""
        waiting = _Waiting(self._added, len(statistics.frames), self._coding, self._events_due)
        self._waiting.append(waiting)
        self._added += 1
        frame_bytes = statistics.shape[0] * statistics.shape[1] * np.dtype(np.float32).itemsize
        for frame in statistics.frames:
            self._coding = self._coding.after(statistics.sense, frame.span)
            cut = self._cuts.is_cut(frame.candidate or self._first)
            seconds = float(frame.pts * self._time_base)
            self._events_due = due_after(self._events_due, seconds, self._events_rate)
            if self._control is not None:
                waiting.ranges.append(self._control.update(frame.measurement, seconds, cut=cut))
            else:
                self._add_to_shot(frame.measurement, frame_bytes, cut=cut)
        self._first = statistics.following or Candidate(differs=False)
        if last and self._by_shot:
            self._close_shot()
        return self._complete()

    def _add_to_shot(self, measurement: Measurement, frame_bytes: int, *, cut: bool) -> None:
        if self._samples is not None and (cut or is_shot_full(self._shot_bytes, frame_bytes)):
            self._close_shot()
        if self._samples is None:
            self.shots += 1
            self._samples = ShotSamples()
            self._crossfade_from = None if cut else self._last_range
        self._samples.add(measurement)
        self._shot_bytes += frame_bytes
        self._shot_frames += 1

    def _close_shot(self) -> None:
        if self._samples is None:
            return
        own = self._samples.range()
        number = 0
        for waiting in self._waiting:
            while len(waiting.ranges) < waiting.frames and number < self._shot_frames:
                number += 1
                waiting.ranges.append(crossfaded(own, self._crossfade_from, number))
        self._samples, self._last_range = None, own
        self._shot_bytes = self._shot_frames = 0

    def _complete(self) -> list[Ranged]:
        complete = []
        while self._waiting and len(self._waiting[0].ranges) == self._waiting[0].frames:
            done = self._waiting.popleft()
            ends = np.array([(one.lo, one.hi) for one in done.ranges], np.float64).reshape(-1, 2)
            complete.append(Ranged(done.segment, ends, done.coding, done.events_due_seconds))
        return complete

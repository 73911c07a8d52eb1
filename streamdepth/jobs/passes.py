"""What runs over the depth and the statistics of all segments, in order: stabilization, anchors, range control."""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import DataFormatError
from streamdepth.core.frame import Sense
from streamdepth.core.queues import Aborted
from streamdepth.depth.alignment import align
from streamdepth.depth.motion import Candidate, CutFilter
from streamdepth.depth.range import RangeMode, RangeSpec, measure, range_control
from streamdepth.depth.shots import ShotSamples, crossfaded, is_shot_full
from streamdepth.depth.stabilize import Mark, TwoSidedStabilizer
from streamdepth.jobs import WorkFile
from streamdepth.jobs.segment import SegmentStatistics, StoredMeasurement, stored_depth
from streamdepth.pipeline.stats import RunStats, Timer, combined
from streamdepth.sinks.depth import CodingState
from streamdepth.sinks.depth.sink import known_values
from streamdepth.sinks.robotics.zones import due_after

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from fractions import Fraction
    from pathlib import Path
    from typing import BinaryIO

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap, DepthRange, StreamInfo
    from streamdepth.depth.alignment import Alignment, Anchor
    from streamdepth.depth.range import Measurement
    from streamdepth.jobs import ClipSettings, Segment
    from streamdepth.jobs.journal import WorkFolder
    from streamdepth.jobs.segment import FrameStatistics

    Item = tuple[int, int]
    """Number of a segment, and of a frame in it."""


class _Cuts:
    """Cuts of the clip, from the candidates of its segments in order."""

    def __init__(self) -> None:
        self._filter = CutFilter()
        self._first = Candidate(differs=False)

    def of(self, statistics: SegmentStatistics) -> list[bool]:
        """For each frame of the next segment: does it start a shot?"""
        cuts = [self._filter.is_cut(frame.candidate or self._first) for frame in statistics.frames]
        self._first = statistics.following or Candidate(differs=False)
        return cuts


class Passes:
    """All passes of a clip. Takes the statistics of the segments in order.

    Args:
        colored: numbers of the segments whose parts of the outputs are complete.

    Attributes:
        depth: file with the depth that the colour pass reads.
        added: number of segments added so far.
        complete: final statistics of the first segments.
    """

    def __init__(
        self,
        settings: ClipSettings,
        segments: Sequence[Segment],
        info: StreamInfo,
        folder: WorkFolder,
        colored: Collection[int],
        clock: Clock,
    ) -> None:
        self.depth = WorkFile.STABILIZED if settings.stabilize else WorkFile.DEPTH
        self.added = 0
        self.complete: list[SegmentStatistics] = []
        self._segments, self._folder, self._colored = segments, folder, colored
        self._stabilizing = StabilizePass(folder, segments, info, colored, clock) if settings.stabilize else None
        size = (info.width_px, info.height_px)
        self._anchoring = AnchorPass(settings.anchors, size) if settings.anchors else None
        rate = settings.events.rate if settings.events is not None else 1.0
        self._ranges = RangePass(RangeSpec.parse(settings.range), info.time_base, events_rate=rate)

    def inputs(self, segment: Segment) -> set[str]:
        """Files of a segment that the passes and the colour pass need."""
        if self._stabilizing is None:
            kinds = [] if segment.number in self._colored else [WorkFile.DEPTH]
        else:
            kinds = [] if segment.number < self._stabilizing.first else [WorkFile.DEPTH, WorkFile.SMALL]
        return {kind.of(segment) for kind in (*kinds, WorkFile.STATISTICS)}

    def add(self, statistics: SegmentStatistics) -> list[Ranged]:
        """Add the next segment; returns those whose ranges became known.

        Raises:
            DataFormatError: a stored file is damaged, or see :func:`~streamdepth.depth.alignment.align`.
        """
        passed = [statistics] if self._stabilizing is None else self._stabilizing.add(statistics)
        self.added += 1
        ranged: list[Ranged] = []
        for one in passed:
            number = len(self.complete)
            metric = one if self._anchoring is None else self._anchored(self._anchoring, self._segments[number], one)
            self.complete.append(metric)
            ranged += self._ranges.add(metric, last=number == len(self._segments) - 1)
        return ranged

    def stats(self) -> RunStats:
        """Statistics of the run, once all segments are complete."""
        stats = combined([one.run for one in self.complete])
        if self._stabilizing is None:
            return stats
        times = {**stats.stages_ms, "stabilize": self._stabilizing.timer.summary_ms()}
        return replace(stats, stabilize="two-sided", stages_ms={name: row for name, row in times.items() if row})

    def close(self) -> None:
        """Remove unfinished files. Idempotent."""
        if self._stabilizing is not None:
            self._stabilizing.close()

    def _anchored(self, anchoring: AnchorPass, segment: Segment, relative: SegmentStatistics) -> SegmentStatistics:
        name = WorkFile.ANCHORED.of(segment)
        if name in self._folder.names():
            known = SegmentStatistics.from_bytes(self._folder.read(name))
            anchoring.skip(known)
            return known
        with self._folder.reading(self.depth.of(segment)) as path:
            found = anchoring.add(relative, path)
        self._folder.write(name, found.to_bytes())
        return found


class StabilizePass:
    """Filters stored depth over time, as a run of the whole clip does. Takes the segments in order.

    The depth of a segment is stored once its last frame is filtered, which needs frames of the next segments. With it
    the state of the filter is stored, so that ``resume`` continues there.

    Args:
        done: numbers of the segments that need no depth any more.

    Attributes:
        first: number of the first segment whose unfiltered depth is needed.
        timer: time per frame.
    """

    def __init__(
        self, folder: WorkFolder, segments: Sequence[Segment], info: StreamInfo, done: Collection[int], clock: Clock
    ) -> None:
        self.timer = Timer()
        self._folder, self._segments, self._time_base, self._clock = folder, segments, info.time_base, clock
        self._filter: TwoSidedStabilizer[Item] = TwoSidedStabilizer(info.rate)
        self._cuts = _Cuts()
        self._raw: dict[int, SegmentStatistics] = {}
        self._frames: list[FrameStatistics] = []
        self._output: contextlib.ExitStack | None = None
        self._file: BinaryIO | None = None
        self._finished: list[SegmentStatistics] = []
        self._added = 0
        names = folder.names()
        filtered = (
            WorkFile.FILTERED.of(segment) in names
            and (segment.number in done or WorkFile.STABILIZED.of(segment) in names)
            for segment in segments
        )
        self._known = next((number for number, one in enumerate(filtered) if not one), len(segments))
        self._mark: Mark[Item] | None = None
        if 0 < self._known < len(segments):
            if (name := WorkFile.FILTER.of(segments[self._known - 1])) in names:
                self._mark = _mark_from(folder.read(name))
            else:
                self._known = 0
        self.first = self._known if self._mark is None else self._mark.item[0]

    def add(self, raw: SegmentStatistics) -> list[SegmentStatistics]:
        """Filter the depth of the next segment; returns the statistics of the segments that became complete."""
        number, self._added = self._added, self._added + 1
        cuts = self._cuts.of(raw)
        segment = self._segments[number]
        if number >= self.first:
            self._raw[number] = raw
            with (
                self._folder.reading(WorkFile.DEPTH.of(segment)) as depth_path,
                self._folder.reading(WorkFile.SMALL.of(segment)) as small_path,
            ):
                self._filter_segment(number, raw, cuts, depth_path, small_path)
        if number < self._known:
            self._finished.append(SegmentStatistics.from_bytes(self._folder.read(WorkFile.FILTERED.of(segment))))
        if number == len(self._segments) - 1:
            mark = self._filter.mark()
            self._store(self._filter.flush(), mark)
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        """Remove the unfinished file. Idempotent."""
        if self._output is not None:
            self._output.__exit__(Aborted, Aborted(), None)
            self._output = None

    def _filter_segment(
        self, number: int, raw: SegmentStatistics, cuts: list[bool], depth_path: Path, small_path: Path
    ) -> None:
        with small_path.open("rb") as smalls:
            depths = stored_depth(depth_path, raw)
            for index, (frame, cut, depth) in enumerate(zip(raw.frames, cuts, depths, strict=True)):
                try:
                    small = np.load(smalls, allow_pickle=False)
                except (EOFError, ValueError) as error:
                    raise DataFormatError(f"{small_path}: is damaged ({error}); run again without --resume") from error
                seconds, item = float(frame.pts * self._time_base), (number, index)
                if self._mark is not None and item <= self._mark.item:
                    if item == self._mark.item:
                        self._filter.restore(self._mark, small, depth, seconds)
                    continue
                mark, started_ns = self._filter.mark(), self._clock.monotonic_ns()
                complete = self._filter.append(item, small, depth, seconds, cut=cut)
                self.timer.add(self._clock.monotonic_ns() - started_ns)
                self._store(complete, mark)

    def _store(self, complete: list[tuple[Item, DepthMap]], mark: Mark[Item] | None) -> None:
        """Write filtered depth. ``mark``: of the filter before it returned ``complete``."""
        for (number, index), depth in complete:
            if number < self._known:
                continue
            segment, raw = self._segments[number], self._raw[number]
            if index == 0:
                self._output = contextlib.ExitStack()
                path = self._output.enter_context(self._folder.writing(WorkFile.STABILIZED.of(segment)))
                self._file = self._output.enter_context(path.open("wb"))
            assert self._file is not None  # noqa: S101 - the frames of a segment are in order
            self._file.write(np.ascontiguousarray(known_values(depth)).data)
            self._frames.append(replace(raw.frames[index], measurement=StoredMeasurement.of(measure(depth))))
            if index == len(raw.frames) - 1:
                self._finish(segment, raw, mark)

    def _finish(self, segment: Segment, raw: SegmentStatistics, mark: Mark[Item] | None) -> None:
        assert self._output is not None  # noqa: S101 - opened with the first frame
        assert mark is not None  # noqa: S101 - the filter held the frames it returned
        self._output.close()
        self._output = None
        statistics = replace(raw, frames=tuple(self._frames), stabilized=True)
        self._frames = []
        self._folder.write(WorkFile.FILTER.of(segment), _mark_bytes(mark))
        self._folder.write(WorkFile.FILTERED.of(segment), statistics.to_bytes())
        if segment.number:
            self._folder.remove(WorkFile.FILTER.of(self._segments[segment.number - 1]))
        for number in [number for number in self._raw if number < mark.item[0]]:
            del self._raw[number]
            self._folder.remove(WorkFile.DEPTH.of(self._segments[number]))
            self._folder.remove(WorkFile.SMALL.of(self._segments[number]))
        self._finished.append(statistics)


def _mark_bytes(mark: Mark[Item]) -> bytes:
    content = io.BytesIO()
    np.savez(content, item=np.array(mark.item, np.int64), interval=np.float64(mark.interval), values=mark.values)
    return content.getvalue()


def _mark_from(content: bytes) -> Mark[Item]:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        number, index = (int(one) for one in arrays["item"])
        return Mark((number, index), float(arrays["interval"]), arrays["values"])


class AnchorPass:
    """Makes relative depth metric, as a run of the whole clip does. Takes the segments in order.

    Args:
        anchors: at least two.
        size_px: (width, height) of the frames.
    """

    def __init__(self, anchors: Sequence[Anchor], size_px: tuple[int, int]) -> None:
        self._anchors, self._size_px = anchors, size_px
        self._cuts = _Cuts()
        self._current: Alignment | None = None

    def add(self, statistics: SegmentStatistics, path: Path) -> SegmentStatistics:
        """The statistics of the metric depth, with the alignments. ``path``: the depth of the segment.

        Raises:
            DataFormatError: see :func:`~streamdepth.depth.alignment.align`.
        """
        frames, alignments = [], []
        depths = stored_depth(path, statistics)
        for number, (cut, frame, depth) in enumerate(
            zip(self._cuts.of(statistics), statistics.frames, depths, strict=True)
        ):
            if self._current is None or cut:
                self._current = align(depth, self._anchors, size_px=self._size_px)
                alignments.append((number, self._current))
            elif number == 0:
                alignments.append((number, self._current))
            metric = StoredMeasurement.of(measure(self._current.apply(depth)))
            frames.append(replace(frame, measurement=metric))
        return replace(statistics, frames=tuple(frames), sense=Sense.METRIC_M, alignments=tuple(alignments))

    def skip(self, statistics: SegmentStatistics) -> None:
        """Continue after a segment whose result is known."""
        self._cuts.of(statistics)
        self._current = statistics.alignments[-1][1]


@dataclass(slots=True)
class Ranged:
    """A segment with the ranges of its frames; fields as of :class:`~streamdepth.jobs.ColorTask`.

    Attributes:
        frames: number of its frames.
    """

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
        self._cuts = _Cuts()
        self._coding = CodingState()
        self._waiting: deque[Ranged] = deque()
        self._samples: ShotSamples | None = None
        self._crossfade_from: DepthRange | None = None
        self._last_range: DepthRange | None = None
        self._shot_bytes = self._shot_frames = 0
        self._added = 0

    def add(self, statistics: SegmentStatistics, *, last: bool) -> list[Ranged]:
        """Add the next segment; ``last`` if it is the end of the clip."""
        waiting = Ranged(self._added, len(statistics.frames), self._coding, self._events_due)
        self._waiting.append(waiting)
        self._added += 1
        frame_bytes = statistics.shape[0] * statistics.shape[1] * np.dtype(np.float32).itemsize
        for frame, cut in zip(statistics.frames, self._cuts.of(statistics), strict=True):
            self._coding = self._coding.after(statistics.sense, frame.span)
            seconds = float(frame.pts * self._time_base)
            self._events_due = due_after(self._events_due, seconds, self._events_rate)
            if self._control is not None:
                waiting.ranges.append(self._control.update(frame.measurement, seconds, cut=cut))
            else:
                self._add_to_shot(frame.measurement, frame_bytes, cut=cut)
        if last and self._by_shot:
            self._close_shot()
        return self._complete()

    def _add_to_shot(self, measurement: Measurement, frame_bytes: int, *, cut: bool) -> None:
        if self._samples is not None and (cut or is_shot_full(self._shot_bytes, frame_bytes)):
            self._close_shot()
        if self._samples is None:
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
            complete.append(self._waiting.popleft())
        return complete

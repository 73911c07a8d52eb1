"""Limits of a source: a start time, a duration and a number of frames. Validated and applied here only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from streamdepth.core import limits
from streamdepth.core.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import Frame, StreamInfo


@dataclass(frozen=True, slots=True)
class Limits:
    """The part of a source that is read. Times are in seconds from the beginning of the source.

    Attributes:
        start_seconds: the first frame is the first one at or after this time.
        duration_seconds: from the start; None = to the end.
        max_frames: largest number of frames; None = all.
    """

    start_seconds: Fraction = Fraction(0)
    duration_seconds: Fraction | None = None
    max_frames: int | None = None

    @classmethod
    def of(
        cls,
        start_seconds: float | Fraction = 0,
        duration_seconds: float | Fraction | None = None,
        max_frames: int | None = None,
    ) -> Limits:
        """
        Raises:
            UsageError: a time that is negative or not finite, or a limit that no frame can meet.
        """
        if not (math.isfinite(start_seconds) and start_seconds >= 0):
            raise UsageError(f"start must be 0 seconds or more, not {start_seconds}")
        if duration_seconds is not None and not (math.isfinite(duration_seconds) and duration_seconds > 0):
            raise UsageError(f"duration must be more than 0 seconds, not {duration_seconds}")
        if max_frames is not None:
            limits.MAX_FRAMES.check("max-frames", max_frames)
        return cls(_exact(start_seconds), None if duration_seconds is None else _exact(duration_seconds), max_frames)

    def __bool__(self) -> bool:
        return self != Limits()

    @property
    def end_seconds(self) -> Fraction | None:
        return None if self.duration_seconds is None else self.start_seconds + self.duration_seconds

    def describe(self, info: StreamInfo) -> StreamInfo:
        """The description of the limited stream, from that of the whole one.

        Raises:
            SourceError: the source ends before the start time.
        """
        duration = info.duration_seconds
        if self.start_seconds and duration is not None and duration <= self.start_seconds:
            raise SourceError(
                f"{info.source_id}: lasts {duration:.3f} s, so there is no frame at or after "
                f"{float(self.start_seconds):g} s; choose an earlier start",
                source=info.source_id,
            )
        rest = None if duration is None else duration - float(self.start_seconds)
        if self.duration_seconds is not None:
            rest = float(self.duration_seconds) if rest is None else min(rest, float(self.duration_seconds))
        count = info.frame_count
        if (self.start_seconds or self.duration_seconds is not None) and rest is not None and info.rate is not None:
            count = max(1, round(rest * float(info.rate)))
        if self.max_frames is not None:
            count = self.max_frames if count is None else min(count, self.max_frames)
        end = self.end_seconds
        return replace(
            info,
            frame_count=count,
            duration_seconds=rest,
            origin_seconds=info.origin_seconds + self.start_seconds,
            end_seconds=None if end is None else info.origin_seconds + end,
        )

    def cut(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Frames until the end of the limits, counted from pts 0. The start is not applied."""
        end = self.end_seconds
        for given, frame in enumerate(frames, start=1):
            if end is not None and frame.pts * frame.time_base >= end:
                return
            yield frame
            if given == self.max_frames:
                return


class LimitedSource:
    """A part of another source that has no limits of its own.

    Times count from the source's pts 0. Frames keep their pts. Frames before the start are read and discarded, and the
    first frame given has index 0. ``FileSource`` seeks instead.

    Raises:
        UsageError: a limit that no frame can meet, or a start for a live source.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        if source.live and limits.start_seconds:
            raise UsageError(f"{source.id}: a live source has no start time; omit --start")
        self._dropped_before: dict[str, int] = {}

    @property
    def id(self) -> str:
        return self._source.id

    @property
    def live(self) -> bool:
        return self._source.live

    @property
    def dropped(self) -> Mapping[str, int]:
        counted = {cause: count - self._dropped_before.get(cause, 0) for cause, count in self._source.dropped.items()}
        return {cause: count for cause, count in counted.items() if count}

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    def open(self) -> StreamInfo:
        return self._limits.describe(self._source.open())

    def frames(self) -> Iterator[Frame]:
        return self._limits.cut(self._from_start())

    def _from_start(self) -> Iterator[Frame]:
        skipped = 0
        for frame in self._source.frames():
            if frame.pts * frame.time_base < self._limits.start_seconds:
                skipped = frame.index + 1
                self._dropped_before = dict(self._source.dropped)
                continue
            yield replace(frame, index=frame.index - skipped) if skipped else frame

    def again(self) -> LimitedSource | None:
        source = self._source.again()
        return None if source is None else LimitedSource(source, self._limits)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()


def _exact(seconds: float | Fraction) -> Fraction:
    """Seconds as people write them: 0.04 is 1/25, not the nearest double."""
    return Fraction(seconds).limit_denominator(1_000_000)

"""A part of any source: from a time on, for a time, or so many frames."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from streamdepth.core.errors import SourceError, UsageError
from streamdepth.sources.file import check_limits, seconds_fraction

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import Frame, StreamInfo


class LimitedSource:
    """The frames of another source from ``start_seconds`` on, for ``duration_seconds``, at most ``max_frames``.

    Times count from the source's pts 0. Frames keep their pts; what lies before the start is read and left out, and the
    first frame given has index 0. ``FileSource`` and ``LiveSource`` have limits of their own, which is cheaper.

    Raises:
        UsageError: a limit that lets nothing through, or a start for a live source.
    """

    def __init__(
        self,
        source: Source,
        *,
        start_seconds: float | Fraction = 0,
        duration_seconds: float | Fraction | None = None,
        max_frames: int | None = None,
    ) -> None:
        check_limits(duration_seconds, max_frames)
        self._source = source
        self._start = seconds_fraction("start", start_seconds) or Fraction(0)
        if source.live and self._start:
            raise UsageError(f"{source.id}: a live source has no start to choose; leave --start out")
        duration = seconds_fraction("duration", duration_seconds)
        self._end = None if duration is None else self._start + duration
        self._max_frames = max_frames
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
        """Those of the source it is a part of."""
        return self._source.notes

    def open(self) -> StreamInfo:
        info = self._source.open()
        duration = info.duration_seconds
        if duration is not None and self._start and float(self._start) >= duration:
            raise SourceError(
                f"{info.source_id}: lasts {duration:.3f} s, so there is nothing from {float(self._start):g} s on; "
                "choose an earlier start",
                source=info.source_id,
            )
        end = float(self._end) if self._end is not None else None
        if end is not None or duration is not None:
            last = min(value for value in (end, duration) if value is not None)
            duration = max(0.0, last - float(self._start))
        count = info.frame_count
        if (self._start or self._end is not None) and duration is not None and info.rate is not None:
            count = max(1, round(duration * float(info.rate)))
        if self._max_frames is not None:
            count = self._max_frames if count is None else min(count, self._max_frames)
        return replace(
            info,
            frame_count=count,
            duration_seconds=duration,
            origin_seconds=info.origin_seconds + self._start,
            end_seconds=self._end,
        )

    def frames(self) -> Iterator[Frame]:
        given = 0
        skipped = 0
        for frame in self._source.frames():
            seconds = frame.pts * frame.time_base
            if seconds < self._start:
                skipped = frame.index + 1
                self._dropped_before = dict(self._source.dropped)
                continue
            if self._end is not None and seconds >= self._end:
                return
            yield replace(frame, index=frame.index - skipped) if skipped else frame
            given += 1
            if given == self._max_frames:
                return

    def again(self) -> LimitedSource | None:
        source = self._source.again()
        if source is None:
            return None
        return LimitedSource(
            source,
            start_seconds=self._start,
            duration_seconds=None if self._end is None else self._end - self._start,
            max_frames=self._max_frames,
        )

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()

"""A clip's division into segments, by demuxing only; the frames of one segment, and what is known of their depth."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import DataFormatError, SourceError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.alignment import Alignment
from streamdepth.depth.motion import Candidate
from streamdepth.depth.range import Measurement
from streamdepth.depth.shots import sampled
from streamdepth.jobs import ClipPlan, Segment
from streamdepth.pipeline.stats import RunStats
from streamdepth.sources.file import FileSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from fractions import Fraction
    from pathlib import Path

    import av
    from numpy.typing import NDArray

    from streamdepth.core.frame import Frame, StreamInfo
    from streamdepth.jobs import ClipSettings
    from streamdepth.sources.times import PacketStamp


def clip_source(settings: ClipSettings, *, threads: int = 0) -> FileSource:
    """The unopened source of a clip."""
    return FileSource(
        settings.source,
        start_seconds=settings.start_seconds,
        duration_seconds=settings.duration_seconds,
        max_frames=settings.max_frames,
        threads=threads,
        source_id=settings.source_id,
    )


def plan_clip(settings: ClipSettings) -> ClipPlan:
    """The segments of a clip. Reads all its packets and decodes its first frame.

    A segment begins at a key frame, so that its frames are the same whether the decoder starts there or earlier. A clip
    whose packets lack the time stamps for that is one segment.

    Raises:
        SourceError: the clip cannot be read, or there is no frame in the requested part.
    """
    source = clip_source(settings)
    try:
        info = source.open()
        rereadable = source.rereadable
        stamps = list(source.packets())
    finally:
        source.close()
    if _jumps(stamps):
        raise SourceError(
            f"{settings.source_id}: its time stamps jump back, and it cannot be processed in segments; omit "
            "--resume, --workers and --engine ray",
            source=settings.source_id,
        )
    note = _why_one(stamps) if rereadable else "its frames are interlaced"
    if note:
        whole = Segment(number=0, begin_pts=0, end_pts=None, first_frame=0, frames=len(stamps))
        return ClipPlan(segments=(whole,), note=_note(settings, note))
    begin = math.ceil(info.origin_seconds / info.time_base) if settings.start_seconds else None
    end = None if info.end_seconds is None else math.ceil(info.end_seconds / info.time_base)
    every = sorted(stamp.pts for stamp in stamps if stamp.pts is not None)
    wanted = [pts for pts in every if (begin is None or pts >= begin) and (end is None or pts < end)]
    if settings.max_frames is not None and len(wanted) > settings.max_frames:
        end = wanted[settings.max_frames]
        wanted = wanted[: settings.max_frames]
    if not wanted:
        raise SourceError(
            f"{settings.source_id}: no frame in the requested part; choose another start", source=settings.source_id
        )
    keys = {stamp.pts for stamp in stamps if stamp.key}
    segments = tuple(_segments(wanted, keys, end, settings.segment_seconds / info.time_base))
    if len(segments) == 1 and (wanted[-1] - wanted[0]) * info.time_base >= 2 * settings.segment_seconds:
        note = "it has no key frame where another could begin"
    return ClipPlan(segments=segments, note=_note(settings, note))


def _note(settings: ClipSettings, why: str) -> str:
    return f"{settings.source_id}: processed as one segment: {why}" if why else ""


def _segments(wanted: Sequence[int], keys: set[int | None], end: int | None, length: Fraction | float) -> list[Segment]:
    firsts = [0]
    for index, pts in enumerate(wanted):
        if pts in keys and pts - wanted[firsts[-1]] >= length:
            firsts.append(index)
    stops = [*firsts[1:], len(wanted)]
    return [
        Segment(
            number=number,
            begin_pts=wanted[first],
            end_pts=wanted[stop] if stop < len(wanted) else end,
            first_frame=first,
            frames=stop - first,
        )
        for number, (first, stop) in enumerate(zip(firsts, stops, strict=True))
    ]


def _why_one(stamps: Sequence[PacketStamp]) -> str:
    """Why the packets of a file cannot be divided; empty if they can."""
    pts = [stamp.pts for stamp in stamps]
    known = [stamp for stamp in pts if stamp is not None]
    if len(known) < len(pts):
        return "its packets have no time stamps"
    if len(set(known)) < len(known):
        return "several of its frames have the same time stamp"
    return ""


def _jumps(stamps: Sequence[PacketStamp]) -> bool:
    keys = [stamp.pts for stamp in stamps if stamp.key and stamp.pts is not None]
    decoding = [stamp.dts for stamp in stamps if stamp.dts is not None]
    return any(later <= earlier for earlier, later in pairwise(keys)) or any(
        later < earlier for earlier, later in pairwise(decoding)
    )


class SegmentSource(BaseSource):
    """The frames of a segment, equal to those of the whole clip, with indices of the clip.

    Attributes:
        following: image of the first frame after the segment, known after ``frames`` has ended; None at the end of the
            clip.
    """

    def __init__(self, settings: ClipSettings, segment: Segment, *, threads: int = 0) -> None:
        super().__init__(settings.source_id)
        self.following: av.VideoFrame | None = None
        self._segment = segment
        whole = clip_source(settings, threads=threads)
        resumed = whole.resume(segment.begin_pts) if segment.number else whole
        assert resumed is not None  # noqa: S101 - a clip that can be read only once is one segment
        self._reader: FileSource = resumed

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._reader.dropped

    @property
    def notes(self) -> tuple[str, ...]:
        return self._reader.notes

    def open(self) -> StreamInfo:
        return replace(self._reader.open(), frame_count=self._segment.frames, continues=self._segment.number > 0)

    def frames(self) -> Iterator[Frame]:
        end = self._segment.end_pts
        for frame in self._reader.frames():
            if end is not None and frame.pts >= end:
                self.following = frame.image
                return
            yield replace(frame, index=frame.index + self._segment.first_frame)

    def interrupt(self) -> None:
        super().interrupt()
        self._reader.interrupt()

    def close(self) -> None:
        self._reader.close()


@dataclass(frozen=True, slots=True)
class StoredMeasurement(Measurement):
    """A measurement with fewer samples, see :func:`~streamdepth.depth.shots.sampled`.

    Attributes:
        percentiles: of all samples.
    """

    percentiles: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, found: Measurement) -> StoredMeasurement:
        return cls(sampled(found), found.lo, found.hi, found.non_finite, found.span())

    def span(self) -> tuple[float, float]:
        return self.percentiles


@dataclass(frozen=True, slots=True)
class FrameStatistics:
    """What range control needs of one frame.

    Attributes:
        pts: of the frame, in units of the clip's time base.
        candidate: the frame compared with the one before it; None for the first of a segment.
    """

    pts: int
    measurement: StoredMeasurement
    candidate: Candidate | None

    @property
    def span(self) -> tuple[float, float] | None:
        """Lowest and highest depth, None if there is none."""
        found = self.measurement
        return None if found.samples.size == 0 and found.lo == found.hi == 0 else (found.lo, found.hi)


@dataclass(frozen=True, slots=True)
class SegmentStatistics:
    """The result of the depth pass of a segment, beside the depth.

    Attributes:
        shape: height and width of the depth maps.
        following: the first frame of the next segment compared with the last one of this; None at the end of the clip.
        propagated: of each frame, as of :class:`~streamdepth.core.frame.DepthMap`.
        alignments: what makes the stored depth metric; (number of a frame in the segment, alignment from it on).
        stabilized: the stored depth is filtered over time.
    """

    frames: tuple[FrameStatistics, ...]
    sense: Sense
    shape: tuple[int, int]
    propagated: tuple[bool, ...]
    following: Candidate | None
    run: RunStats
    alignments: tuple[tuple[int, Alignment], ...] = ()
    stabilized: bool = False

    def to_bytes(self) -> bytes:
        """As an NPZ file."""
        samples = [frame.measurement.samples for frame in self.frames]
        found = [frame.measurement for frame in self.frames]
        head = {
            "sense": self.sense.value,
            "shape": self.shape,
            "candidates": [frame.candidate for frame in self.frames],
            "following": self.following,
            "run": {**asdict(self.run), "sinks": []},
            "alignments": [
                (number, {**asdict(one), "covariance": one.covariance.tolist()}) for number, one in self.alignments
            ],
            "stabilized": self.stabilized,
        }
        content = io.BytesIO()
        np.savez(
            content,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            pts=np.array([frame.pts for frame in self.frames], np.int64),
            ends=np.array([(one.lo, one.hi) for one in found], np.float64).reshape(-1, 2),
            non_finite=np.array([one.non_finite for one in found], bool),
            percentiles=np.array([one.percentiles for one in found], np.float64).reshape(-1, 2),
            propagated=np.array(self.propagated, bool),
            counts=np.array([one.size for one in samples], np.int64),
            samples=np.concatenate([*samples, np.empty(0, np.float32)]),
        )
        return content.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> SegmentStatistics:
        """Raises ``DataFormatError``: not the content of ``to_bytes``."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                return cls._from(arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataFormatError(f"segment statistics are damaged ({error}); run again without --resume") from error

    @classmethod
    def _from(cls, arrays: Mapping[str, NDArray[np.generic]]) -> SegmentStatistics:
        head = json.loads(arrays["head"].tobytes())
        samples = np.split(arrays["samples"], np.cumsum(arrays["counts"])[:-1])
        frames = tuple(
            FrameStatistics(
                int(pts),
                StoredMeasurement(
                    np.asarray(some, np.float32), float(lo), float(hi), bool(non_finite), (float(low), float(high))
                ),
                None if candidate is None else Candidate(*candidate),
            )
            for pts, (lo, hi), non_finite, (low, high), some, candidate in zip(
                arrays["pts"],
                arrays["ends"],
                arrays["non_finite"],
                arrays["percentiles"],
                samples,
                head["candidates"],
                strict=False,
            )
        )
        run = head["run"]
        return cls(
            frames,
            Sense(head["sense"]),
            (int(head["shape"][0]), int(head["shape"][1])),
            tuple(bool(one) for one in arrays["propagated"]),
            None if head["following"] is None else Candidate(*head["following"]),
            RunStats(**{**run, "sinks": (), "notes": tuple(run["notes"])}),
            tuple((int(number), _alignment(fields)) for number, fields in head["alignments"]),
            bool(head["stabilized"]),
        )


def _alignment(fields: Mapping[str, Any]) -> Alignment:
    covariance = np.array(fields["covariance"], np.float64)
    return Alignment(
        **{**fields, "sense": Sense(fields["sense"]), "used": tuple(fields["used"]), "covariance": covariance}
    )


def stored_depth(path: Path, statistics: SegmentStatistics) -> Iterator[DepthMap]:
    """The depth maps of a segment, NaN where there is none, metric if there are alignments.

    Raises:
        DataFormatError: the file is shorter than its statistics say.
    """
    height, width = statistics.shape
    with path.open("rb") as file:
        alignments, current = dict(statistics.alignments), None
        for number, propagated in enumerate(statistics.propagated):
            values = np.empty((height, width), np.float32)
            if file.readinto(values.data) != values.nbytes:
                raise DataFormatError(f"{path}: ends early; run again without --resume")
            current = alignments.get(number, current)
            sense = statistics.sense if current is None else current.sense
            depth = DepthMap(values, sense, propagated=propagated, stabilized=statistics.stabilized)
            yield depth if current is None else current.apply(depth)

"""The frames of one segment, and what is known of their depth."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import DataFormatError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.alignment import Alignment
from streamdepth.depth.motion import Candidate
from streamdepth.depth.range import Measurement
from streamdepth.depth.shots import sampled
from streamdepth.jobs.plan import clip_source
from streamdepth.pipeline.stats import RunStats

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import av
    from numpy.typing import NDArray

    from streamdepth.core.frame import Frame, StreamInfo
    from streamdepth.jobs.values import ClipSettings, Segment
    from streamdepth.sources.file import FileSource


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
        """
        Raises:
            DataFormatError: not the content of ``to_bytes``.
        """
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

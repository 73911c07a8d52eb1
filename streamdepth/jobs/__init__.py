"""Long clips in segments: resumable, on one machine or several. ``ClipRun`` in ``clip.py`` is the entry.

Here is what a segmented run is: settings, segments, tasks and their results. All values can be pickled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from streamdepth.core.look import Look, Stop
from streamdepth.depth.alignment import Anchor
from streamdepth.depth.range import RangeMode
from streamdepth.geometry.readers import camera_of
from streamdepth.sinks.robotics.zones import Zone
from streamdepth.sinks.tracks import AudioMode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.geometry.readers import IntrinsicsFor
    from streamdepth.pipeline.stats import RunStats
    from streamdepth.sinks.depth import CodingState


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoOutput(_Value):
    """A video file of coloured frames; fields as of :class:`~streamdepth.sinks.video.VideoSink`."""

    path: str
    codec: str
    crf: float | None = None
    preset: str | None = None
    bitrate: int | None = None
    audio: AudioMode = "auto"


class DepthOutput(_Value):
    """Depth as data, ``.mkv``; ``size`` as of :class:`~streamdepth.sinks.depth.sink.DepthVideoSink`."""

    path: str
    size: Literal["source", "model"] = "source"


class EventsOutput(_Value):
    """Events of zones as lines of JSON; fields as of :class:`~streamdepth.sinks.robotics.zones.ZoneEventsSink`.

    Attributes:
        path: file to write; empty = the text stream given to :class:`~streamdepth.jobs.clip.ClipRun`.
    """

    path: str = ""
    zones: tuple[Zone, ...] = ()
    rate: float = 10.0


class ModelSettings(_Value):
    """Keywords of :class:`~streamdepth.inference.model.DepthModel`."""

    model: str = "built-in"
    dtype: str = "auto"
    revision: str | None = None
    provider: str = "auto"
    size: str | int | None = None
    sense: str | None = None
    preprocessing: dict[str, Any] | None = None
    input_name: str | None = None
    output_name: str | None = None
    metres_per_unit: float | None = None
    exact: bool | None = None
    intrinsics: str | None = None
    fov_degrees: float | None = None

    @property
    def camera(self) -> IntrinsicsFor | None:
        """Intrinsics of an image of (width, height); None if unknown.

        Raises:
            UsageError, DataFormatError: see :func:`~streamdepth.geometry.readers.camera_of`.
        """
        return camera_of(self.intrinsics, self.fov_degrees)


class LookSettings(_Value):
    """Fields of :class:`~streamdepth.core.look.Look`."""

    style: str | tuple[Stop, ...] = "inferno"
    alpha: tuple[float, float] | None = None
    reverse: bool = False
    view: str = "depth"
    transparent: bool = False
    upsampling: str = "bilinear"
    nearness: str = "auto"
    contours: int = 0
    bar: bool = False

    @property
    def look(self) -> Look:
        return Look(**dict(self))


class ClipSettings(_Value):
    """Everything that determines the outputs of one clip.

    Attributes:
        source: path or URL of the clip; ``source_id``: its short name.
        start_seconds, duration_seconds, max_frames: the part that is read.
        batch, model_every: as of :class:`~streamdepth.pipeline.Pipeline`.
        stabilize: filter depth over time.
        anchors: points of known distance, which make relative depth metric.
        range: ``shot | ema | frame | fixed:LO,HI``.
        segment_seconds: shortest length of a segment, except the last one.
        encoder_threads: threads of each encoder, 0 = by the size of the frames. Some encoders give other packets with
            another number, so it does not depend on the machine.
        model_name, model_revision: recorded with depth data.
    """

    source: str
    source_id: str
    start_seconds: float = 0
    duration_seconds: float | None = None
    max_frames: int | None = None
    model: ModelSettings = Field(default_factory=ModelSettings)
    batch: int = 1
    model_every: int = 1
    stabilize: bool = False
    anchors: tuple[Anchor, ...] = ()
    range: str = RangeMode.SHOT.value
    look: LookSettings = Field(default_factory=LookSettings)
    videos: tuple[VideoOutput, ...] = ()
    depths: tuple[DepthOutput, ...] = ()
    events: EventsOutput | None = None
    segment_seconds: float = 10.0
    encoder_threads: int = 0
    model_name: str = ""
    model_revision: str = ""


class Segment(_Value):
    """A part of a clip: the frames with ``begin_pts <= pts < end_pts``.

    Attributes:
        number: position in the clip, from 0.
        begin_pts, end_pts: in units of the clip's time base; end None = the end of the clip.
        first_frame: index of its first frame in the clip. frames: number of its frames by the packets of the file.
    """

    number: int
    begin_pts: int
    end_pts: int | None
    first_frame: int
    frames: int


class ClipPlan(_Value):
    """The segments of a clip.

    Attributes:
        note: why there is only one segment, empty if there are several.
    """

    segments: tuple[Segment, ...]
    note: str = ""

    @property
    def frames(self) -> int:
        return sum(segment.frames for segment in self.segments)


@dataclass(frozen=True, slots=True)
class DepthTask:
    """Compute and store the depth and the statistics of one segment.

    Attributes:
        folder: path or URL of the work folder.
        copy: local copy of a source in object storage, on the machine of the driver; else empty.
    """

    settings: ClipSettings
    folder: str
    segment: Segment
    copy: str = ""


@dataclass(frozen=True, slots=True)
class ColorTask:
    """Write one part of every output for one segment.

    Attributes:
        ranges: float64 [frames, 2], lowest and highest depth of each frame.
        coding: state of the depth data's coding before the segment.
        events_due_seconds: media time at which the next events are due.
    """

    settings: ClipSettings
    folder: str
    segment: Segment
    ranges: NDArray[np.float64]
    coding: CodingState
    copy: str = ""
    events_due_seconds: float = -math.inf


Task = DepthTask | ColorTask


@dataclass(frozen=True, slots=True)
class TaskResult:
    """A finished task.

    Attributes:
        worker: name of the worker that ran it.
        frames: number of frames processed.
        seconds, cpu_seconds: time it took, and CPU time of the process that ran it.
        stats: of the depth pass, None for a colour pass.
        notes: messages of the sources and sinks.
    """

    worker: str
    stage: Literal["depth", "color"]
    segment: int
    frames: int
    seconds: float
    cpu_seconds: float
    stats: RunStats | None = None
    notes: tuple[str, ...] = ()


class WorkFile(Enum):
    """A file of each segment in the work folder, beside the parts of the outputs.

    Attributes:
        DEPTH: float32 depth of the model.
        SMALL: images for optical flow, if depth is stabilized.
        STATISTICS: of the depth; written after these two.
        STABILIZED: float32 depth filtered over time.
        FILTER: where the filter continues after the segment.
        FILTERED: statistics of the filtered depth; written after these two.
        ANCHORED: statistics of the metric depth.
    """

    DEPTH = "depth-{:05d}.f32"
    SMALL = "small-{:05d}.npys"
    STATISTICS = "statistics-{:05d}.npz"
    STABILIZED = "stabilized-{:05d}.f32"
    FILTER = "filter-{:05d}.npz"
    FILTERED = "filtered-{:05d}.npz"
    ANCHORED = "anchored-{:05d}.npz"

    def of(self, segment: Segment) -> str:
        """Name of the file of a segment."""
        return self.value.format(segment.number)


def part_name(settings: ClipSettings, segment: Segment, number: int) -> str:
    """File of a segment's part of output ``number``: the videos, the depth data, the events.

    MP4 keeps decoding times, which joining needs for codecs that reorder frames. Matroska, which holds the others, does
    not.
    """
    stem = f"part-{segment.number:05d}-{number}"
    if number >= len(settings.videos):
        return f"{stem}.jsonl" if number == len(settings.videos) + len(settings.depths) else f"{stem}.mkv"
    output = settings.videos[number]
    suffix = PurePath(output.path).suffix.lower()
    if suffix == ".mkv" and output.codec.startswith(_REORDERING):
        suffix = ".mp4"
    return f"{stem}{suffix}"


def part_names(settings: ClipSettings, segment: Segment) -> list[str]:
    count = len(settings.videos) + len(settings.depths) + (settings.events is not None)
    return [part_name(settings, segment, number) for number in range(count)]


_REORDERING = ("libx264", "libx265", "h264", "hevc", "libopenh264", "mpeg4", "mpeg2video", "libxvid")

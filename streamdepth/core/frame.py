"""The values that pass through a pipeline: frozen and validated.

Names state units and layouts: ``_ns``, ``_seconds``, ``_px``, ``_hwc_rgb``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

from streamdepth.core.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import av
    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.core.clock import MediaClock


class Sense(StrEnum):
    """The meaning of depth values."""

    RELATIVE_INVERSE = "relative_inverse"
    """Inverse depth up to an unknown scale and shift: near = large."""
    RELATIVE_DEPTH = "relative_depth"
    """Depth up to an unknown scale (and shift): far = large."""
    METRIC_M = "metric_m"
    """Depth in metres: far = large."""

    @property
    def near_is_large(self) -> bool:
        return self is Sense.RELATIVE_INVERSE

    @property
    def unit(self) -> str:
        """``"m"`` if values are metres, else empty."""
        return "m" if self is Sense.METRIC_M else ""


@dataclass(frozen=True, slots=True)
class ColorTags:
    """How an image's numbers map to colour, as FFmpeg's ``AVCOL_*`` integers (ITU-T H.273); 2 = unspecified.

    ``range``: 0 unspecified, 1 limited ("tv"), 2 full ("pc").
    """

    matrix: int = 2
    range: int = 0
    primaries: int = 2
    transfer: int = 2

    @classmethod
    def of(cls, image: av.VideoFrame) -> ColorTags:
        return cls(*map(int, (image.colorspace, image.color_range, image.color_primaries, image.color_trc)))

    def apply(self, image: av.VideoFrame) -> None:
        """Write the tags to ``image``."""
        image.colorspace = self.matrix
        image.color_range = self.range
        image.color_primaries = self.primaries
        image.color_trc = self.transfer


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Size, pixel format and colour tags of images that go to a sink."""

    width_px: int
    height_px: int
    pix_fmt: str
    color: ColorTags = field(default_factory=ColorTags)

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"an image has at least 1x1 pixels, not {self.width_px}x{self.height_px}")


@dataclass(frozen=True, slots=True)
class HdrMetadata:
    """Static HDR metadata of a stream.

    Attributes:
        mastering: the mastering display as x264 and x265 write it (``G(x,y)B(x,y)R(x,y)WP(x,y)L(max,min)``), empty if
            unknown.
        light: ``MaxCLL,MaxFALL`` in cd/m2, empty if unknown.
    """

    mastering: str = ""
    light: str = ""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Properties of an opened source. Sizes are after rotation.

    Attributes:
        source_id: short display name of the source, credentials redacted.
        width_px, height_px: size of every frame (of the first, if the source has images of several sizes).
        pix_fmt: pixel format of the decoder, as FFmpeg names it.
        time_base: seconds per pts unit.
        rate: frames per second; None if unknown or not meaningful.
        frame_count: expected number of frames, None if unknown. May be an estimate: use it for progress only.
        duration_seconds: None if unknown.
        live: frames arrive at their own rate.
        color: colour tags of the decoded images.
        sample_aspect_ratio: width : height of one pixel, 1 if unknown.
        turned: how the source turned the coded images upright: transposed, then flipped horizontally, vertically.
        origin_seconds: media time that is 0 in an output: the start of the container, or the start time of a trimmed
            source.
        end_seconds: media time at which the source was trimmed, None if it was not.
        media_path: file or URL from which audio and subtitles can be copied, None if there is none.
        hdr: static HDR metadata, None if there is none.
        omitted: names of metadata of the frames that no output has.
        media_clock: time corrections for those streams.
        media_options: FFmpeg options for opening ``media_path``.
        continues: the frames follow others of the same clip, as in a segment.
        note: one line about what was negotiated or converted, empty if there is nothing to report.
    """

    source_id: str
    width_px: int
    height_px: int
    pix_fmt: str
    time_base: Fraction
    rate: Fraction | None = None
    frame_count: int | None = None
    duration_seconds: float | None = None
    live: bool = False
    color: ColorTags = field(default_factory=ColorTags)
    sample_aspect_ratio: Fraction = Fraction(1)
    turned: tuple[bool, bool, bool] = (False, False, False)
    origin_seconds: Fraction = Fraction(0)
    end_seconds: Fraction | None = None
    media_path: str | None = None
    hdr: HdrMetadata | None = None
    omitted: tuple[str, ...] = ()
    media_clock: MediaClock | None = field(default=None, compare=False)
    media_options: Mapping[str, str] = field(default_factory=dict, hash=False)
    continues: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"{self.source_id}: a frame has at least 1x1 pixels")
        if self.time_base <= 0:
            raise ValueError(f"{self.source_id}: time_base must be positive, not {self.time_base}")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"{self.source_id}: rate must be positive or None, not {self.rate}")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a source. Its time stamps and pixels are never changed.

    Attributes:
        source_id: as in :class:`StreamInfo`.
        index: 0, 1, 2, ... in source order; with gaps where a source dropped frames.
        pts: presentation time in ``time_base`` units; strictly increasing within a source.
        time_base: seconds per pts unit.
        captured_ns: monotonic time at which the source yielded the frame.
        image: decoded image in the decoder's pixel format, rotation applied. Read only: its planes may be shared with
            the decoder.
        key: True for a key frame of the codec.
        connection: number of the connection of a live source, from 0; a new one has no history.
        path: file that contains only this image, None if there is none.
    """

    source_id: str
    index: int
    pts: int
    time_base: Fraction
    captured_ns: int
    image: av.VideoFrame
    key: bool = False
    path: Path | None = None
    connection: int = 0

    @property
    def width_px(self) -> int:
        return self.image.width

    @property
    def height_px(self) -> int:
        return self.image.height

    @property
    def seconds(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)

    def to_rgb(self) -> NDArray[np.uint8]:
        """The image as a new uint8 [H, W, 3] array, RGB, full range."""
        import numpy as np

        return np.asarray(converted(self.image, format="rgb24").to_ndarray(), dtype=np.uint8)


def converted(image: av.VideoFrame, **to: Any) -> av.VideoFrame:
    """``image.reformat(**to)``, for threads that share an image: each gets its own converter.

    A ``VideoFrame`` has one: two threads that use it at once wait for each other forever, and it stays in memory.
    """
    from av.video.reformatter import VideoReformatter

    return VideoReformatter().reformat(image, **to)


class Camera(Protocol):
    """What :meth:`DepthMap.points` asks of a camera; :class:`streamdepth.Intrinsics` is one."""

    def points(self, metres: NDArray[np.float32], valid: NDArray[np.bool_] | None, /) -> NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class DepthMap:
    """Depth of one frame, at the resolution of the model.

    Attributes:
        values: float32 [h, w], C-contiguous; covers the whole frame (pixel centres at half integers).
        sense: meaning of the values.
        valid: bool [h, w], False where the model has no depth; None = valid wherever the value is finite.
        propagated: computed from depth of other frames along the optical flow (``model_every``), not by the model.
        anchor_error: typical relative error (one standard deviation) of metres that come from anchors or odometry; NaN
            while it is unknown, None where the values are the model's own.
        stabilized: filtered over time (``stabilize``).
    """

    values: NDArray[np.float32]
    sense: Sense
    valid: NDArray[np.bool_] | None = None
    propagated: bool = False
    anchor_error: float | None = None
    stabilized: bool = False

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != "float32" or 0 in self.values.shape:
            raise ValueError(f"depth is float32 [h, w], not {self.values.dtype} {list(self.values.shape)}")
        if self.valid is not None and (self.valid.shape != self.values.shape or self.valid.dtype != "bool"):
            raise ValueError(
                f"valid is bool {list(self.values.shape)}, not {self.valid.dtype} {list(self.valid.shape)}"
            )

    def __repr__(self) -> str:
        states = [self.sense.value, *(name for name in ("propagated", "stabilized") if getattr(self, name))]
        return f"<DepthMap {self.width_px}x{self.height_px} {', '.join(states)}>"

    @property
    def unit(self) -> str:
        """``"m"`` if values are metres, else empty."""
        return self.sense.unit

    @property
    def width_px(self) -> int:
        return int(self.values.shape[1])

    @property
    def height_px(self) -> int:
        return int(self.values.shape[0])

    def points(self, camera: Camera) -> NDArray[np.float32]:
        """The map as points in the camera's optical frame.

        Args:
            camera: intrinsics of the whole image, at any resolution.

        Returns:
            a new float32 [h, w, 3] in metres, x right, y down, z forward; NaN where the depth is invalid.

        Raises:
            DataFormatError: the values are not metres.
        """
        if self.sense is not Sense.METRIC_M:
            raise DataFormatError(f"depth is {self.sense}, not in metres: points need a metric model or anchors")
        return camera.points(self.values, self.valid)

    def at(self, x: float, y: float) -> float:
        """The value at a point of the image, in the map's own units; NaN where there is none.

        Args:
            x, y: fractions of the image's width and height, 0 to 1.
        """
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError(f"x and y are fractions between 0 and 1, not {x:g}, {y:g}")
        value = float(self._known(x, y)[0, 0])
        return value if math.isfinite(value) else math.nan

    def nearest_in(self, box: tuple[float, float, float, float], q: float = 2.0) -> float:
        """The value of a box that all but ``q`` percent of it are farther than, in the map's own units; NaN if none.

        Args:
            box: x, y, width, height as fractions of the image's size.
            q: percent; a few percent keep single wrong pixels from deciding.
        """
        return self.percentile_in(box, 100 - q if self.sense.near_is_large else q)

    def min_in(self, box: tuple[float, float, float, float]) -> float:
        """The smallest value in a box; see :meth:`percentile_in`."""
        return self.percentile_in(box, 0)

    def percentile_in(self, box: tuple[float, float, float, float], q: float) -> float:
        """The ``q``-th percentile (0 to 100) of the values in a box, in the map's own units; NaN where there are none.

        Args:
            box: x, y, width, height as fractions of the image's size; every pixel it touches counts.
        """
        x, y, width, height = box
        if not (0 <= x <= x + width <= 1 + 1e-6 and 0 <= y <= y + height <= 1 + 1e-6 and width > 0 and height > 0):
            raise ValueError(f"a box is x, y, width, height within 0 to 1, not {box}")
        import numpy as np

        values = self._known(*box)
        known = values[np.isfinite(values)]
        return float(np.percentile(known, q)) if known.size else math.nan

    def _known(self, x: float, y: float, width: float = 0.0, height: float = 0.0) -> NDArray[np.float32]:
        """The pixels that a box touches, at least one; NaN without depth."""
        import numpy as np

        window = tuple(
            slice(first := min(int(at * size), size - 1), max(first + 1, math.ceil((at + length) * size - 1e-6)))
            for at, length, size in ((y, height, self.height_px), (x, width, self.width_px))
        )
        values = self.values[window]
        return values if self.valid is None else np.where(self.valid[window], values, np.float32(np.nan))


@dataclass(frozen=True, slots=True)
class DepthRange:
    """The interval of depth values mapped to nearness 0..1, in model units."""

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi)) or self.lo > self.hi:
            raise ValueError(f"a depth range has finite LO <= HI, not {self.lo}, {self.hi}")

    @property
    def flat(self) -> bool:
        """True if there is no contrast; nearness is then 0 everywhere."""
        return self.hi - self.lo <= 1e-6 * max(abs(self.lo), abs(self.hi), 1e-20)

    def nearness_terms(self, sense: Sense, *, inverse: bool) -> tuple[float, float, float]:
        """``(a, b, floor)`` such that nearness = clip(a * v + b, 0, 1), 1 = nearest, for any sense.

        With ``floor`` 0, v is the value; else v = 1 / max(value, ``floor``).

        Args:
            inverse: nearness is linear in inverse depth, also for values that grow with distance. Values below a
                hundredth of ``hi`` are as near as that.
        """
        if not inverse or sense.near_is_large or self.flat or self.hi <= 0:
            return (*self.nearness_scale_offset(sense), 0.0)
        floor = max(self.lo, self.hi / 100)
        if floor >= self.hi:
            return 0.0, 0.0, 0.0
        a = 1.0 / (1.0 / floor - 1.0 / self.hi)
        return a, -a / self.hi, floor

    def nearness_scale_offset(self, sense: Sense) -> tuple[float, float]:
        """``(a, b)`` such that nearness = clip(a * value + b, 0, 1), 1 = nearest, for any sense."""
        if self.flat:
            return 0.0, 0.0
        a = 1.0 / (self.hi - self.lo)
        return (a, -self.lo * a) if sense.near_is_large else (-a, self.hi * a)


@dataclass(frozen=True, slots=True)
class Result:
    """The data a sink receives for one frame.

    Attributes:
        frame: the input frame.
        depth: depth at model resolution. Its memory is reused: copy it to use it after ``process``.
        range: the range used for its colours.
        image: the coloured image in the look of the sink, or None if the sink takes none. Never modified.
    """

    frame: Frame
    depth: DepthMap
    range: DepthRange
    image: av.VideoFrame | None = None

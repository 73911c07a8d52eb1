"""Depth as data, and its format: 16-bit codes, the metadata of a file, and the record of a frame.

``value = offset + scale * code``; code 0 means no depth.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import redact
from streamdepth.core.frame import Frame, Sense, converted
from streamdepth.geometry import Distortion, Intrinsics
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    import av
    from numpy.typing import NDArray

FORMAT = 1
INDEX_NAME = "depth.jsonl"
_PREFIX = "STREAMDEPTH_"
CODES = 65535
METRIC_SCALE_M = 0.001
"""Millimetres, the unit of 16-bit depth images everywhere (``16UC1`` of ROS, RGB-D data sets): up to 65.535 m."""

# Codes reserved at both ends for the rounding of interpolated float32 values.
_MARGIN = 0.4
_SMALLEST_STEP = 2.0**-44


@dataclass(frozen=True, slots=True)
class Coding:
    """A linear scale: ``value = offset + scale * code``, in the unit of the model."""

    scale: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset) and self.scale > 0):
            raise ValueError(f"a depth scale must be finite and positive, not {self.scale} (offset {self.offset})")

    def fits(self, lo: float, hi: float) -> bool:
        """True if every value from lo to hi has a code, and float64 distinguishes neighbouring codes there."""
        if self.scale < max(abs(lo), abs(hi)) * _SMALLEST_STEP:
            return False
        return lo >= self.offset + (1 - _MARGIN) * self.scale and hi <= self.offset + (CODES + _MARGIN) * self.scale

    def decode(self, codes: NDArray[np.uint16]) -> NDArray[np.float32]:
        """uint16 of any shape -> float32 of the same shape, NaN without depth."""
        values = (codes * np.float64(self.scale) + self.offset).astype(np.float32)
        values[codes == 0] = np.nan
        return values


def first_coding(sense: Sense, span: tuple[float, float] | None) -> Coding:
    """The first coding of a stream.

    Metric depth uses millimetres. Relative depth has no unit: the span of the first frame is used, with its width free
    on either side, which gives 21845 steps over that span.

    Args:
        span: lowest and highest value of the first frame, None if it has none.
    """
    if sense is Sense.METRIC_M:
        default = Coding(METRIC_SCALE_M)
        return default if span is None or default.fits(*span) else wider(default, sense, span)
    return _roomy(*(span or (0.0, 1.0)))


def encoded_16bit(values: NDArray[np.float32], sense: Sense) -> tuple[NDArray[np.uint16], Coding]:
    """The codes of one image and their coding. Values that are not finite become 0, no depth."""
    coding = first_coding(sense, span_of(values))
    finite = np.isfinite(values)
    codes = np.rint((np.where(finite, values, 0).astype(np.float64) - coding.offset) / coding.scale)
    return np.where(finite, np.clip(codes, 1, CODES), 0).astype(np.uint16), coding


def wider(coding: Coding, sense: Sense, span: tuple[float, float]) -> Coding:
    """The coding after ``coding`` that can hold ``span``, the lowest and highest value so far.

    Metric scales are millimetres times a power of two.
    """
    lo, hi = span
    if sense is not Sense.METRIC_M:
        return _roomy(lo, hi)
    scale, offset = coding.scale, coding.offset
    while not Coding(scale, offset).fits(lo, hi):
        if lo < offset + scale:
            offset = (math.floor(lo / scale) - 1) * scale
        if not Coding(scale, offset).fits(lo, hi):
            scale *= 2
    return Coding(scale, offset)


def span_of(values: NDArray[np.float32]) -> tuple[float, float] | None:
    """Lowest and highest finite value, None if there is none."""
    lo, hi = float(values.min()), float(values.max())
    if not (math.isfinite(lo) and math.isfinite(hi)):
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        lo, hi = float(finite.min()), float(finite.max())
    return lo, hi


def _roomy(lo: float, hi: float) -> Coding:
    room = max(hi - lo, 0.1 * max(abs(lo), abs(hi)), 1e-6)
    scale = (hi - lo + 2 * room) / (CODES - 1)
    return Coding(scale, lo - room - scale)


@dataclass(frozen=True, slots=True)
class CodingState:
    """The coding of a stream of depth after some of its frames.

    Attributes:
        coding: coding of the last frame, None before the first.
        span: lowest and highest value so far, None if there is none.
    """

    coding: Coding | None = None
    span: tuple[float, float] | None = None

    def after(self, sense: Sense, span: tuple[float, float] | None) -> CodingState:
        """The state after one more frame, whose lowest and highest value are ``span``."""
        seen = self.span
        if span is not None:
            seen = span if seen is None else (min(seen[0], span[0]), max(seen[1], span[1]))
        if self.coding is None:
            return CodingState(first_coding(sense, span), seen)
        if seen is not None and not self.coding.fits(*seen):
            return CodingState(wider(self.coding, sense, seen), seen)
        return self if seen == self.span else CodingState(self.coding, seen)


@dataclass(frozen=True, slots=True)
class DepthMetadata:
    """What the numbers of a depth file mean.

    Attributes:
        sense: what a value means; ``unit`` is ``"m"`` for metric models, else empty.
        scale, offset: value = offset + scale * code at the beginning (later frames may have another coding, which the
            reader applies); 1 and 0 if values are stored as floats.
        width_px, height_px: size of the depth.
        frame_width_px, frame_height_px: size of the frames that the depth was computed from, 0 if unknown.
        time_base: seconds per unit of a frame's pts.
        origin_seconds: media time of 0 in the time stamps of the file.
        model, model_revision: of the model. version: of streamdepth. source: name of the source.
        anchor_error: relative error of metres from anchors or odometry at the first frame, NaN if not known there; None
            where the model gave the values. Each frame has its own.
        intrinsics: of the camera, for the size of the depth; None if unknown.
        stabilized: filtered over time (``--stabilize on``).
    """

    sense: Sense
    scale: float
    offset: float
    width_px: int
    height_px: int
    time_base: Fraction
    origin_seconds: Fraction = Fraction(0)
    model: str = ""
    model_revision: str = ""
    source: str = ""
    stabilized: bool = False
    version: str = __version__
    anchor_error: float | None = None
    intrinsics: Intrinsics | None = None
    frame_width_px: int = 0
    frame_height_px: int = 0

    @property
    def unit(self) -> str:
        return self.sense.unit

    @property
    def coding(self) -> Coding:
        return Coding(self.scale, self.offset)

    def fields(self) -> dict[str, str]:
        """As text, with credentials masked."""
        return {
            "format": str(FORMAT),
            "sense": self.sense.value,
            "unit": self.unit,
            "scale": repr(self.scale),
            "offset": repr(self.offset),
            "width": str(self.width_px),
            "height": str(self.height_px),
            "frame_width": str(self.frame_width_px or ""),
            "frame_height": str(self.frame_height_px or ""),
            "time_base": str(self.time_base),
            "origin": str(self.origin_seconds),
            "model": redact(self.model),
            "model_revision": redact(self.model_revision),
            "source": redact(self.source),
            "stabilized": "1" if self.stabilized else "",
            "version": self.version,
            "anchor_error": "" if self.anchor_error is None else f"{self.anchor_error:.4g}",
            "intrinsics": "" if self.intrinsics is None else json.dumps(asdict(self.intrinsics)),
        }

    @classmethod
    def parse(cls, fields: Mapping[str, str]) -> DepthMetadata:
        """
        Raises:
            KeyError, ValueError: a field is missing or invalid, or the format is newer.
        """
        if int(fields["format"]) > FORMAT:
            raise ValueError(f"format {fields['format']} is newer than this version of streamdepth")
        return cls(
            sense=Sense(fields["sense"]),
            scale=float(fields["scale"]),
            offset=float(fields["offset"]),
            width_px=int(fields["width"]),
            height_px=int(fields["height"]),
            time_base=Fraction(fields["time_base"]),
            origin_seconds=Fraction(fields.get("origin", "0")),
            model=fields.get("model", ""),
            model_revision=fields.get("model_revision", ""),
            source=fields.get("source", ""),
            stabilized=fields.get("stabilized") == "1",
            version=fields.get("version", ""),
            anchor_error=float(fields["anchor_error"]) if fields.get("anchor_error") else None,
            intrinsics=_intrinsics(fields.get("intrinsics")),
            frame_width_px=int(fields.get("frame_width") or 0),
            frame_height_px=int(fields.get("frame_height") or 0),
        )

    def tags(self) -> dict[str, str]:
        """As tags of a Matroska file, with a readable comment."""
        tags = {_PREFIX + name.upper(): text for name, text in self.fields().items() if text}
        return {"TITLE": "depth", "COMMENT": "value = offset + scale * code; code 0 = no depth"} | tags

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> DepthMetadata:
        found = {name.upper(): text for name, text in tags.items()}
        return cls.parse(
            {name.removeprefix(_PREFIX).lower(): text for name, text in found.items() if name.startswith(_PREFIX)}
        )


def _intrinsics(text: str | None) -> Intrinsics | None:
    if not text:
        return None
    fields = json.loads(text)
    return Intrinsics(
        **fields
        | {"distortion": Distortion(fields["distortion"]), "coefficients": tuple(map(float, fields["coefficients"]))}
    )


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame: its pts, coding and file (empty in a video), whether its depth was propagated from other frames, for
    some frames their :func:`thumbnail`, and the error of anchored metres (NaN = unknown, None = not anchored)."""

    pts: int
    coding: Coding
    file: str = ""
    propagated: bool = False
    thumbnail: bytes = b""
    anchor_error: float | None = None

    def to_json(self, before: Coding | None) -> bytes:
        """Compact JSON; includes the coding only if it differs from that of the frame ``before``."""
        record: dict[str, Any] = {"pts": self.pts}
        if self.file:
            record["file"] = self.file
        if self.coding != before:
            record |= {"scale": self.coding.scale, "offset": self.coding.offset}
        if self.propagated:
            record["propagated"] = True
        if self.thumbnail:
            record["thumbnail"] = base64.b64encode(self.thumbnail).decode()
        if self.anchor_error is not None:
            record["error"] = None if math.isnan(self.anchor_error) else float(f"{self.anchor_error:.4g}")
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes | str, before: Coding) -> FrameRecord:
        """Raises ``ValueError``: not a complete record."""
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("pts"), int):
            raise ValueError("a frame record must have a pts")
        coding = Coding(float(record["scale"]), float(record["offset"])) if "scale" in record else before
        thumbnail = base64.b64decode(str(record.get("thumbnail", "")))
        error = (math.nan if record["error"] is None else float(record["error"])) if "error" in record else None
        file, propagated = str(record.get("file", "")), record.get("propagated") is True
        return cls(record["pts"], coding, file, propagated, thumbnail, error)


THUMBNAIL_EVERY = 25
"""Frames from one thumbnail to the next."""
_SIDE_PX = 8
_FLAT_LEVELS, _ALIKE = 4.0, 0.5


def thumbnail(image: av.VideoFrame) -> bytes:
    """The frame as 8x8 gray: enough to tell whether depth belongs to a clip."""
    small = converted(image, width=_SIDE_PX, height=_SIDE_PX, format="gray", interpolation="AREA")
    return small.to_ndarray().tobytes()


def thumbnail_due(frame: Frame) -> bytes:
    """The thumbnail of every 25th frame, empty for the others."""
    return b"" if frame.index % THUMBNAIL_EVERY else thumbnail(frame.image)


def unlike(one: bytes, other: bytes) -> bool:
    """True if two thumbnails are of different images: correlation below 0.5. An image without contrast is like any."""
    if len(one) != len(other) or not one:
        return False
    first, second = (np.frombuffer(data, np.uint8).astype(np.float64) for data in (one, other))
    if min(first.std(), second.std()) < _FLAT_LEVELS:
        return False
    return bool(np.corrcoef(first, second)[0, 1] < _ALIKE)

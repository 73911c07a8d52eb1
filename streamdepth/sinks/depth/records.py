"""What is written beside depth codes, so that they can be read: one description of a file, one record of a frame."""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamdepth.core.frame import Sense
from streamdepth.core.redact import redact
from streamdepth.sinks.depth.coding import Coding
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT = 1
INDEX_NAME = "depth.jsonl"
_PREFIX = "STREAMDEPTH_"


def unit_of(sense: Sense) -> str:
    """``"m"`` where values are metres, else empty."""
    return "m" if sense is Sense.METRIC_M else ""


@dataclass(frozen=True, slots=True)
class DepthMetadata:
    """What the numbers of a depth file mean.

    Attributes:
        sense: what a value means; ``unit`` is ``"m"`` for metric models, else empty.
        scale, offset: value = offset + scale * code, as the file begins (later frames may have their own, which the
            reader applies); 1 and 0 where values are stored as floats.
        width_px, height_px: size of the depth.
        time_base: seconds per unit of a frame's pts.
        origin_seconds: media time that is 0 in the file's own clock.
        model, model_revision: what made it. version: the streamdepth that wrote it. source: where images came from.
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
    version: str = __version__

    @property
    def unit(self) -> str:
        return unit_of(self.sense)

    @property
    def coding(self) -> Coding:
        return Coding(self.scale, self.offset)

    def fields(self) -> dict[str, str]:
        """As text, credentials masked."""
        return {
            "format": str(FORMAT),
            "sense": self.sense.value,
            "unit": self.unit,
            "scale": repr(self.scale),
            "offset": repr(self.offset),
            "width": str(self.width_px),
            "height": str(self.height_px),
            "time_base": str(self.time_base),
            "origin": str(self.origin_seconds),
            "model": redact(self.model),
            "model_revision": redact(self.model_revision),
            "source": redact(self.source),
            "version": self.version,
        }

    @classmethod
    def parse(cls, fields: Mapping[str, str]) -> DepthMetadata:
        """
        Raises:
            KeyError, ValueError: a field is missing or cannot be understood, or a newer format wrote it.
        """
        if int(fields["format"]) > FORMAT:
            raise ValueError(f"format {fields['format']} is newer than this streamdepth reads")
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
            version=fields.get("version", ""),
        )

    def tags(self) -> dict[str, str]:
        """As tags of a Matroska file, with one for people."""
        tags = {_PREFIX + name.upper(): text for name, text in self.fields().items() if text}
        return {"TITLE": "depth", "COMMENT": "value = offset + scale * code; code 0 = no depth"} | tags

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> DepthMetadata:
        found = {name.upper(): text for name, text in tags.items()}
        return cls.parse(
            {name.removeprefix(_PREFIX).lower(): text for name, text in found.items() if name.startswith(_PREFIX)}
        )


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """One frame: its own pts, the coding of its codes, its file where it has one of its own, and whether its depth was
    propagated from other frames."""

    pts: int
    coding: Coding
    file: str = ""
    propagated: bool = False

    def to_json(self, before: Coding | None) -> bytes:
        """Compact JSON; the coding only where it differs from the frame ``before``."""
        record: dict[str, Any] = {"pts": self.pts}
        if self.file:
            record["file"] = self.file
        if self.coding != before:
            record |= {"scale": self.coding.scale, "offset": self.coding.offset}
        if self.propagated:
            record["propagated"] = True
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes | str, before: Coding) -> FrameRecord:
        """
        Raises:
            ValueError: not a whole record.
        """
        record = json.loads(text)
        if not isinstance(record, dict) or not isinstance(record.get("pts"), int):
            raise ValueError("a frame's record needs a pts")
        coding = Coding(float(record["scale"]), float(record["offset"])) if "scale" in record else before
        return cls(record["pts"], coding, str(record.get("file", "")), record.get("propagated") is True)

"""Ranges of numbers that an option and the code behind it both check. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Bounds:
    """Range of a number, both ends included.

    Attributes:
        lowest: smallest value; excluded if ``positive``.
        highest: largest value, None = unlimited.
        unit: unit of the number, empty for none.
        positive: the value is greater than 0, however small; ``lowest`` is then 0.
        whole: the value is an integer.
    """

    lowest: float
    highest: float | None = None
    unit: str = ""
    positive: bool = False
    whole: bool = False

    def __contains__(self, value: float | Fraction) -> bool:
        above = value > 0 if self.positive else value >= self.lowest
        return above and (self.highest is None or value <= self.highest)

    def __str__(self) -> str:
        """For people: ``1 to 16``, ``0 or more``, ``more than 0 and at most 240 frames per second``."""
        unit = f" {self.unit}" if self.unit else ""
        if self.positive:
            return f"more than 0{'' if self.highest is None else f' and at most {self.highest:g}'}{unit}"
        return f"{self.lowest:g} {'or more' if self.highest is None else f'to {self.highest:g}'}{unit}"

    def check(self, name: str, value: float | Fraction) -> None:
        """
        Raises:
            UsageError: the value is out of range or not a number; the message names the option, the value and the
                range.
        """
        number = isinstance(value, Integral if self.whole else Real) and not isinstance(value, bool)
        if not number or value not in self:
            kind = "" if number else "a whole number, " if self.whole else "a number, "
            raise UsageError(
                f"{name} must be {kind}{self}, not {f'{value:g}' if isinstance(value, float) else repr(value)}"
            )


BATCH = Bounds(1, 256, "frames", whole=True)
BITRATE_KBITS = Bounds(10, 500_000, "kbit/s")
BENCH_SECONDS = Bounds(0, unit="seconds", positive=True)
CONTOURS = Bounds(0, 64, "levels", whole=True)
CRF = Bounds(0, 63)
DEADLINE_SECONDS = Bounds(0, 3600, "seconds", positive=True)
EVENTS_RATE = Bounds(0, 240, "events per second", positive=True)
FFMPEG_THREADS = Bounds(1, 64, whole=True)
FOV_DEGREES = Bounds(0, 179, "degrees", positive=True)
FRAME_CACHE_BYTES = Bounds(0, unit="bytes", whole=True)
GOP_SECONDS = Bounds(0.1, 60, "seconds")
MAX_CLIENTS = Bounds(1, 1000, whole=True)
IMAGE_PIXELS = Bounds(1, unit="pixels", whole=True)
MAX_FRAMES = Bounds(1, whole=True)
MODEL_EVERY = Bounds(1, 16, whole=True)
"""At 30 fps the model then sees two frames per second; beyond, little of a frame is left to propagate."""
RETRIES = Bounds(0, whole=True)
SESSION_THREADS = Bounds(1, 1024, whole=True)
SCALE = Bounds(0, positive=True)
METRES = Bounds(0, 1000, "m", positive=True)
STALENESS_SECONDS = Bounds(0, 60, "seconds")
SOURCE_RATE = Bounds(0, 1000, "frames per second", positive=True)
STREAM_RATE = Bounds(0, 240, "frames per second", positive=True)
SEGMENT_SECONDS = Bounds(0.1, 3600, "seconds")
TIMEOUT_SECONDS = Bounds(0, 3600, "seconds", positive=True)
WORKERS = Bounds(1, 1024, whole=True)
UPLOAD_MIB = Bounds(1, unit="MiB")


def are_fractions(*values: float) -> bool:
    """How options tell positions in a frame apart: all at most 1 = fractions of its size, otherwise pixels."""
    return max(values) <= 1

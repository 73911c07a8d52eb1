"""How depth becomes 16-bit codes, and codes depth: ``value = offset + scale * code``, code 0 = no depth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.frame import Sense

if TYPE_CHECKING:
    from numpy.typing import NDArray

CODES = 65535
METRIC_SCALE_M = 0.001
"""Millimetres, the unit of 16-bit depth images everywhere (``16UC1`` of ROS, RGB-D data sets): up to 65.535 m."""

# Codes kept free at both ends, against the rounding of interpolated float32 values.
_MARGIN = 0.4
_SMALLEST_STEP = 2.0**-44


@dataclass(frozen=True, slots=True)
class Coding:
    """One linear scale. Units of ``scale`` and ``offset`` are the model's own."""

    scale: float
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset) and self.scale > 0):
            raise ValueError(f"a depth scale is finite and positive, not {self.scale} (offset {self.offset})")

    def fits(self, lo: float, hi: float) -> bool:
        """True where every value from lo to hi has its code, and float64 tells one code from the next out there."""
        if self.scale < max(abs(lo), abs(hi)) * _SMALLEST_STEP:
            return False
        return lo >= self.offset + (1 - _MARGIN) * self.scale and hi <= self.offset + (CODES + _MARGIN) * self.scale

    def decode(self, codes: NDArray[np.uint16]) -> NDArray[np.float32]:
        """uint16 of any shape -> float32 of the same, NaN where there is no depth."""
        values = (codes * np.float64(self.scale) + self.offset).astype(np.float32)
        values[codes == 0] = np.nan
        return values


def first_coding(sense: Sense, span: tuple[float, float] | None) -> Coding:
    """The coding a stream begins with.

    Metric depth takes millimetres. Relative depth has no unit, so the first image's span decides, with once its
    width free on either side: 21845 steps over what the first image shows.

    Args:
        span: lowest and highest value of the first image, None where it has none.
    """
    if sense is Sense.METRIC_M:
        default = Coding(METRIC_SCALE_M)
        return default if span is None or default.fits(*span) else wider(default, sense, span)
    return _roomy(*(span or (0.0, 1.0)))


def wider(coding: Coding, sense: Sense, span: tuple[float, float]) -> Coding:
    """The coding that follows where ``coding`` cannot hold ``span``, the lowest and highest value seen so far.

    Metric scales stay millimetres times a power of two.
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
    """Lowest and highest finite value, None where there is none."""
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

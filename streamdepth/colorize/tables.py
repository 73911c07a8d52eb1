"""Lookup tables from nearness to colour, for one look and one set of colour tags.

A table has one entry per step of nearness. The finest step is 1/64 of a palette entry (``UNITS_PER_ENTRY``), so
nearness 1 is 255 * 64 = 16320: entry 64 k is exactly palette entry k, and twice the difference of two nearness values
fits int16. 8-bit images use every fourth step (4081 entries, 16 KiB for luma, which fits the L1 cache); 10-bit images
use all.

A blend entry is ``(a, k)``: the new value of a plane is ``v * (1 - a) + k`` with ``k = a * colour``, in 16-bit fixed
point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.colorize.palettes import palette
from streamdepth.media.planes import plane_values, to_signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import ColorTags
    from streamdepth.core.look import Look
    from streamdepth.media.planes import PixelLayout

UNITS_PER_ENTRY = 64
NEARNESS_ONE = 255 * UNITS_PER_ENTRY
"""Nearness 1 in units of the kernels."""
INVALID = 0x7FFF
"""Nearness of a pixel without valid depth."""
LINE = 0x8000
"""Bit of a nearness value that marks a contour."""

_CONTOUR_ALPHA = 0.85
_CONTOUR_SHIFT = 0.7


@dataclass(frozen=True, slots=True)
class Steps:
    """Number of steps of a table.

    Attributes:
        shift: right shift from nearness units to table entry.
        count: entries from nearness 0 to 1. Entry ``count`` is "invalid"; with contours, the colours of the contour
            line follow from ``count + 1``, one per step.
    """

    shift: int
    count: int

    @classmethod
    def of(cls, layout: PixelLayout) -> Steps:
        shift = 2 if layout.bits == 8 else 0
        return cls(shift, (NEARNESS_ONE >> shift) + 1)


def colours(look: Look, count: int) -> NDArray[np.float64]:
    """Straight R, G, B, A of every entry, 0..1: the steps, "invalid", and the contour line.

    Returns:
        float64 [count + 1, 4], or [2 * count + 1, 4] with contours.
    """
    entries = palette(look.style, 256, reverse=look.reverse).astype(np.float64) / 255
    nearness = np.linspace(0.0, 1.0, count)
    steps = np.stack([np.interp(nearness * 255, np.arange(256), entries[:, channel]) for channel in range(4)], axis=1)
    near, far = look.alpha_ends
    steps[:, 3] *= far + (near - far) * nearness
    parts = [steps, np.zeros((1, 4))]
    if look.contours:
        # The line keeps the hue and moves towards black or white, whichever is farther, to be visible on any palette.
        luma = steps[:, :3] @ np.array([0.2126, 0.7152, 0.0722])
        towards = np.where(luma < 0.5, 1.0, 0.0)[:, None]
        line = np.empty_like(steps)
        line[:, :3] = steps[:, :3] + (towards - steps[:, :3]) * _CONTOUR_SHIFT
        line[:, 3] = np.maximum(steps[:, 3], _CONTOUR_ALPHA)
        parts.append(line)
    return np.concatenate(parts)


def blend_terms(
    values: NDArray[np.float64], alpha: NDArray[np.float64], layout: PixelLayout
) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """``a`` [n] and ``k`` [n, planes] in fixed point: a in 1/65536, k in units of 2**-(16 - bits)."""
    a = np.minimum(np.rint(alpha * 65536), 65535).astype(np.uint64)
    k = np.rint(values * alpha[:, None] * (1 << (16 - layout.bits))).astype(np.uint64)
    return a, k


@dataclass(frozen=True, slots=True)
class BlendTables:
    """For compositing over an image.

    Attributes:
        luma: uint32 [n], ``a << 16 | k`` of the Y plane.
        chroma: uint64 [n]. Planar: ``kv << 32 | ku << 16 | a``. Packed: ``a << 48 | k2 << 32 | k1 << 16 | k0`` in
            memory order of the channels.
    """

    luma: NDArray[np.uint32]
    chroma: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class PaintTables:
    """For images of depth alone: plane values.

    Attributes:
        luma: uint8 or uint16 [n], the Y plane's words.
        chroma: uint16 or uint32 [n], U in the lower half, V in the upper. Packed: uint32 [n], the bytes of a pixel.
    """

    luma: NDArray[np.uint8] | NDArray[np.uint16]
    chroma: NDArray[np.uint16] | NDArray[np.uint32]


def blend_tables(look: Look, layout: PixelLayout, tags: ColorTags) -> BlendTables:
    rgba = colours(look, Steps.of(layout).count)
    values = plane_values(to_signal(rgba[:, :3], tags), tags, layout)
    if layout.family == "packed" and layout.red == 2:
        values = values[:, ::-1]
    a, k = blend_terms(values, rgba[:, 3], layout)
    one, two, three = np.uint64(16), np.uint64(32), np.uint64(48)
    luma = (a << one | k[:, 0]).astype(np.uint32)
    if layout.family == "packed":
        return BlendTables(luma, a << three | k[:, 2] << two | k[:, 1] << one | k[:, 0])
    return BlendTables(luma, k[:, 2] << two | k[:, 1] << one | a)


def paint_tables(look: Look, layout: PixelLayout, tags: ColorTags) -> PaintTables:
    """Colours over black; for a packed format with alpha, straight colours with their alpha."""
    rgba = colours(look, Steps.of(layout).count)
    rgb, alpha = rgba[:, :3], rgba[:, 3:]
    if not layout.alpha:
        black = plane_values(np.zeros((1, 3)), tags, layout)
        values = plane_values(to_signal(rgb, tags), tags, layout)
        values = black + (values - black) * alpha
    else:
        values = np.concatenate([rgb, alpha], axis=1) * 255
    words = np.floor(values + 0.5).astype(np.uint32) << np.uint32(layout.shift)
    if layout.family == "packed":
        order = [2, 1, 0] if layout.red == 2 else [0, 1, 2]
        pixel = np.zeros(len(words), np.uint32)
        for place, channel in enumerate([*order, 3][: layout.channels]):
            pixel |= words[:, channel] << np.uint32(8 * place)
        return PaintTables(np.zeros(0, np.uint8), pixel)
    if layout.word_bytes == 1:
        return PaintTables(words[:, 0].astype(np.uint8), (words[:, 1] | words[:, 2] << np.uint32(8)).astype(np.uint16))
    return PaintTables(words[:, 0].astype(np.uint16), words[:, 1] | words[:, 2] << np.uint32(16))

"""Colour conversion of table entries: R'G'B' to the code values of image planes (ITU-T H.273)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import ColorTags
    from streamdepth.media.pixel_formats import PixelLayout

# H.273 MatrixCoefficients -> (Kr, Kb). 10 (constant luminance) is treated as 9, as swscale does.
_KR_KB = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_PQ, _HLG, _BT2020_PRIMARIES = 16, 18, 9

# BT.709 primaries to BT.2020, linear light (ITU-R BT.2087, table of M2).
_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def resolve_tags(tags: ColorTags, layout: PixelLayout, width_px: int, height_px: int) -> ColorTags:
    """Replace unspecified tags with explicit ones, so that all players show the same colours.

    An unspecified matrix becomes BT.709 from 1280 columns or above 576 lines, else BT.601 (the rule of mpv). It is
    derived from the size of the source and written to the tags of the output, which may have another size (side by
    side). An unspecified range becomes limited for YUV, and full for ``yuvj``, gray and RGB (as in swscale).
    """
    matrix = tags.matrix
    if layout.family == "packed":
        return replace(tags, matrix=0, range=2)
    if matrix not in _KR_KB:
        matrix = 1 if width_px >= 1280 or height_px > 576 else 6
    full = layout.full_range or tags.range == 2 or (tags.range == 0 and not layout.chroma)
    return replace(tags, matrix=matrix, range=2 if full else 1)


def plane_values(rgb: NDArray[np.float64], tags: ColorTags, layout: PixelLayout) -> NDArray[np.float64]:
    """R'G'B' 0..1 to code values of the layout's planes.

    Args:
        rgb: float64 [n, 3].
        tags: as returned by :func:`resolve_tags`.

    Returns:
        float64 [n, 3]: Y, Cb, Cr, or packed channels in R, G, B order; not rounded, within 0..2**bits - 1.
    """
    top = float((1 << layout.bits) - 1)
    if layout.family == "packed":
        return rgb * top
    kr, kb = _KR_KB[tags.matrix]
    weights = np.array([kr, 1 - kr - kb, kb])
    luma = rgb @ weights
    cb = (rgb[:, 2] - luma) / (2 * (1 - kb))
    cr = (rgb[:, 0] - luma) / (2 * (1 - kr))
    unit = float(1 << (layout.bits - 8))
    centre = 128 * unit
    if tags.range == 2:
        values = np.stack([luma * top, centre + cb * top, centre + cr * top], axis=1)
    else:
        values = np.stack([(16 + 219 * luma) * unit, centre + 224 * unit * cb, centre + 224 * unit * cr], axis=1)
    return values.clip(0, top)


def to_signal(rgb: NDArray[np.float64], tags: ColorTags) -> NDArray[np.float64]:
    """Convert sRGB palette colours to the R'G'B' of a PQ or HLG signal; for other transfers return them unchanged.

    White maps to 203 cd/m2, the reference white of ITU-R BT.2408, instead of the peak of the signal. PQ as in SMPTE
    ST 2084, HLG as in ARIB STD-B67.
    """
    if tags.transfer not in (_PQ, _HLG):
        return rgb
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if tags.primaries in (2, _BT2020_PRIMARIES):
        linear = (linear @ _TO_BT2020.T).clip(0, 1)
    if tags.transfer == _PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = (linear * 203 / 10_000) ** m1
        return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)
    scene = linear * 0.2646  # HLG signal 0.75, the reference white of BT.2408
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)

"""A still image of depth: PNG bytes with alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.frame import DepthRange
from streamdepth.media.png import encode_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import Sense
    from streamdepth.core.look import Look


def png(values: NDArray[np.float32], sense: Sense, look: Look) -> bytes:
    """Paint depth with its own smallest and largest finite value as the range, as ``transformers``' pipeline does.

    Args:
        values: float32 [H, W].
    Returns:
        PNG: RGBA; one channel for the ``grayscale`` styles (grey with alpha where not opaque everywhere).
    Raises:
        UsageError: an unknown style.
    """
    from streamdepth.colorize.palettes import is_grayscale
    from streamdepth.colorize.still import paint

    finite = values[np.isfinite(values)]
    span = DepthRange(float(finite.min()), float(finite.max())) if finite.size else DepthRange(0.0, 0.0)
    pixels = paint(np.ascontiguousarray(values), sense, span, look)
    if pixels.ndim == 3 and is_grayscale(look.style):
        pixels = np.ascontiguousarray(pixels[..., (0, 3)])
    return encode_png(pixels)

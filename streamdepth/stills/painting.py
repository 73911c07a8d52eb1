"""A still picture of depth: PNG bytes with alpha."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.frame import DepthRange
from streamdepth.png import PNG_OPTIONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.frame import Sense
    from streamdepth.look import Look


def png(values: NDArray[np.float32], sense: Sense, look: Look) -> bytes:
    """Paint depth with its own smallest and largest finite value as the range, as ``transformers``' pipeline does.

    Args:
        values: float32 [H, W].
    Returns:
        PNG: RGBA; one channel for the ``grayscale`` styles (grey with alpha where not opaque everywhere).
    Raises:
        UsageError: an unknown style.
    """
    from PIL import Image

    from streamdepth.colorize.palettes import is_grayscale
    from streamdepth.colorize.still import paint

    finite = values[np.isfinite(values)]
    span = DepthRange(float(finite.min()), float(finite.max())) if finite.size else DepthRange(0.0, 0.0)
    image = Image.fromarray(paint(np.ascontiguousarray(values), sense, span, look))
    if image.mode == "RGBA" and is_grayscale(look.style):
        image = image.convert("LA")
    out = io.BytesIO()
    image.save(out, "PNG", **PNG_OPTIONS)
    return out.getvalue()

"""Checks and defaults that publishing and serving share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import UsageError
from streamdepth.sinks.encoding import PRESETS

if TYPE_CHECKING:
    from fractions import Fraction

    import av

    from streamdepth.core.frame import ImageInfo


def check_encoding(*, rate: Fraction | float | None, bitrate: int | None, gop_seconds: float, preset: str) -> None:
    """Validate encoding options.

    Raises:
        UsageError: names the option, its values, and what was given.
    """
    if rate is not None and not 0 < rate <= 240:
        raise UsageError(f"the output rate is more than 0 and at most 240 images a second, not {rate}")
    if bitrate is not None and not 10_000 <= bitrate <= 500_000_000:
        raise UsageError(f"bitrate is 10000..500000000 bits a second, not {bitrate}")
    if not 0.1 <= gop_seconds <= 60:
        raise UsageError(f"key frames are 0.1..60 seconds apart, not {gop_seconds}")
    if preset not in PRESETS:
        raise UsageError(f"preset is one of {', '.join(PRESETS)}, not {preset!r}")


def black(image: ImageInfo) -> av.VideoFrame:
    """A black image of the size and colour to come."""
    import av

    width_px, height_px = max(image.width_px & ~1, 2), max(image.height_px & ~1, 2)
    planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
    planes[:height_px] = 16
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    image.color.apply(frame)
    return frame

"""Images as the colour stage paints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.colorize.colorizer import Colorizer
from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Sense
from tests.support import color

if TYPE_CHECKING:
    import av

    from streamdepth.core.look import Look


def render(
    image: av.VideoFrame, depth: DepthMap, look: Look, span: DepthRange | None = None, threads: int = 1
) -> av.VideoFrame:
    """One image through a colour stage of its own, which keeps what it promised of it."""
    stream = color.stream_info(image.width, image.height, image.format.name, ColorTags.of(image))
    with Colorizer(stream, threads=threads) as colorizer:
        out = colorizer.render(image, depth, span or color.span(depth), look)
        info = colorizer.image_info(look)
    assert (out.width, out.height, out.format.name) == (info.width_px, info.height_px, info.pix_fmt)
    assert ColorTags.of(out) == info.color
    return out


def same(first: av.VideoFrame, second: av.VideoFrame) -> bool:
    pairs = zip(color.channels(first), color.channels(second), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def flat(value: float, sense: Sense = Sense.RELATIVE_INVERSE, size: tuple[int, int] = (6, 8)) -> DepthMap:
    return DepthMap(np.full(size, value, np.float32), sense)

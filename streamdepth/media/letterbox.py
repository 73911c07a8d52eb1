"""Images of any size and format into the one a stream has, without touching the original."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av
    from av.filter.graph import Graph

    from streamdepth.core.frame import ColorTags

_MATRIX = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}


@dataclass(frozen=True, slots=True)
class _Kind:
    width_px: int
    height_px: int
    pix_fmt: str
    matrix: int
    range: int


class Fitter:
    """Gives images of ``pix_fmt`` and exactly ``width_px`` x ``height_px``.

    Where nothing is to be done the result shares its planes with the input (measured: 9 us at 1080p), so it can be
    stamped while the input stays as it was. Another size is scaled to fit inside, keeping its shape, on black
    (transparent where the format has alpha). Not thread-safe.

    Args:
        pixel_aspect: width : height of an input pixel, measured in output pixels; 1 where both have the same shape.
    """

    def __init__(
        self, width_px: int, height_px: int, pix_fmt: str, color: ColorTags, pixel_aspect: Fraction = Fraction(1)
    ) -> None:
        self._width, self._height, self._pix_fmt, self._color = width_px, height_px, pix_fmt, color
        self._pixel_aspect = pixel_aspect
        self._kind: _Kind | None = None
        self._graph: Graph | None = None
        self.resized = 0

    def __call__(self, image: av.VideoFrame) -> av.VideoFrame:
        kind = _Kind(image.width, image.height, image.format.name, int(image.colorspace), int(image.color_range))
        if kind != self._kind or self._graph is None:
            self._graph = self._build(kind)
            self._kind = kind
        if (kind.width_px, kind.height_px) != (self._width, self._height):
            self.resized += 1
        self._graph.push(image)
        fitted: av.VideoFrame = self._graph.pull()  # type: ignore[assignment]
        self._color.apply(fitted)
        return fitted

    def _build(self, kind: _Kind) -> Graph:
        from av.filter import Graph
        from av.video.format import VideoFormat

        graph = Graph()
        chain = [
            graph.add_buffer(
                width=kind.width_px,
                height=kind.height_px,
                format=VideoFormat(kind.pix_fmt),
                time_base=Fraction(1, 1000),
            )
        ]
        same_shape = (kind.width_px, kind.height_px) == (self._width, self._height) and self._pixel_aspect == 1
        if kind.pix_fmt != self._pix_fmt or not same_shape:
            chain.append(graph.add("scale", self._scale(kind)))
            if not same_shape:
                # pad rounds down to whole chroma samples: 63 of 4:2:0 would become 62
                chain.append(graph.add("format", _whole_chroma(self._pix_fmt, self._width, self._height)))
                border = "black@0" if has_alpha(self._pix_fmt) else "black"
                chain.append(graph.add("pad", f"{self._width}:{self._height}:(ow-iw)/2:(oh-ih)/2:color={border}"))
            chain.append(graph.add("format", self._pix_fmt))
        else:
            chain.append(graph.add("null"))
        chain.append(graph.add("buffersink"))
        for before, after in pairwise(chain):
            before.link_to(after)
        graph.configure()
        return graph

    def _scale(self, kind: _Kind) -> str:
        shown_width = kind.width_px * self._pixel_aspect
        ratio = min(self._width / shown_width, Fraction(self._height, kind.height_px))
        width = min(self._width, max(1, round(shown_width * ratio)))
        height = min(self._height, max(1, round(kind.height_px * ratio)))
        parts = [f"w={width}", f"h={height}", "flags=bicubic+accurate_rnd+full_chroma_int"]
        rgb_in = kind.pix_fmt.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal"))
        gray_in = kind.pix_fmt.startswith("gray")
        if not rgb_in:
            full = kind.pix_fmt.startswith("yuvj") or kind.range == 2
            parts.append(f"in_range={'full' if full else 'limited'}")
            if not gray_in and kind.matrix in _MATRIX:
                parts.append(f"in_color_matrix={_MATRIX[kind.matrix]}")
        if self._color.matrix != 0:
            full = self._pix_fmt.startswith("yuvj") or self._color.range == 2
            parts.append(f"out_range={'full' if full else 'limited'}")
            if self._color.matrix in _MATRIX:
                parts.append(f"out_color_matrix={_MATRIX[self._color.matrix]}")
        return ":".join(parts)


def _whole_chroma(pix_fmt: str, width_px: int, height_px: int) -> str:
    """The format itself, or for sizes it has no whole chroma samples for, the one with a sample a pixel."""
    return pix_fmt if divides(pix_fmt, width_px, height_px) else re.sub("4[12][0-2]", "444", pix_fmt)


def divides(pix_fmt: str, width_px: int, height_px: int) -> bool:
    """True where images of this FFmpeg pixel format and size have whole chroma samples."""
    from av.video.format import VideoFormat

    pixel = VideoFormat(pix_fmt)
    chroma_width, chroma_height = pixel.chroma_width(64), pixel.chroma_height(64)
    return width_px % (64 // chroma_width) == 0 and height_px % (64 // chroma_height) == 0


def has_alpha(pix_fmt: str) -> bool:
    """True where images of this FFmpeg pixel format carry an alpha channel."""
    from av.video.format import VideoFormat

    return any(component.is_alpha for component in VideoFormat(pix_fmt).components)

"""Images the right way up, and all of one size: what a decoder gives, made what the stream promised."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.frame import ColorTags

if TYPE_CHECKING:
    import av
    from av.filter import Graph


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways an image can lie: first transposed or not, then mirrored in either axis.

    Attributes:
        transposed: rows become columns (x and y change places).
        flip_x, flip_y: left and right, top and bottom change places, after the transposition.
        exact: False where the file asks for a turn that is no multiple of 90 degrees; the nearest one is used.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False
    exact: bool = True

    @property
    def upright(self) -> bool:
        return not (self.transposed or self.flip_x or self.flip_y)

    @property
    def filters(self) -> tuple[tuple[str, str], ...]:
        """libavfilter's filters and arguments that do it in the fewest passes."""
        if self.transposed:
            direction = {
                (False, False): "cclock_flip",
                (True, False): "clock",
                (False, True): "cclock",
                (True, True): "clock_flip",
            }[self.flip_x, self.flip_y]
            return (("transpose", direction),)
        return (*((("hflip", ""),) if self.flip_x else ()), *((("vflip", ""),) if self.flip_y else ()))


UPRIGHT = Orientation()


def orientation_of(image: av.VideoFrame) -> Orientation:
    """How the display matrix of a decoded image wants it shown.

    The matrix is nine int32 of ISO/IEC 14496-12 (16.16 fixed point, the last column 2.30); a point (x, y), y down, is
    shown at (a x + c y, b x + d y).
    """
    sides: Any = image.side_data
    for side in sides:
        if side.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(side), np.int32)
            if matrix.size != 9:
                return UPRIGHT
            a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
            return orientation_from(a, b, c, d)
    return UPRIGHT


def orientation_from(a: int, b: int, c: int, d: int) -> Orientation:
    """The orientation nearest to the matrix ((a, b), (c, d)); a matrix of zeros means none."""
    straight, crossed = abs(a) + abs(d), abs(b) + abs(c)
    if not straight and not crossed:
        return UPRIGHT
    exact = min(straight, crossed) <= max(straight, crossed) // 64
    if crossed > straight:
        return Orientation(transposed=True, flip_x=c < 0, flip_y=b < 0, exact=exact)
    return Orientation(flip_x=a < 0, flip_y=d < 0, exact=exact)


class FrameNormalizer:
    """Applies the display matrix once, and brings images that differ from the first to its size and format.

    Images that need nothing are passed on as they are, without a copy. Not thread-safe.

    Attributes:
        converted: images brought to the first one's shape, by what differed (``size``, ``pix_fmt``, ``color``).
        orientation: of the first image.
    """

    def __init__(self) -> None:
        self.converted: Counter[str] = Counter()
        self.orientation = UPRIGHT
        self._last_look: tuple[int, int, str, int] | None = None
        self._orientation = UPRIGHT
        self._shape: tuple[int, int, str] | None = None
        self._color = ColorTags()
        self._graph_key: tuple[int, int, str, Orientation] | None = None
        self._graph: Graph | None = None

    def normalize(self, image: av.VideoFrame) -> av.VideoFrame:
        # Looking at side_data ties an image into a reference cycle, so that it waits for the cycle collector: 200 MB
        # after ten clips of 480x270. The matrix is the stream's, so it is looked at only where something else about the
        # image has changed.
        look = (image.width, image.height, image.format.name, image.rotation)
        if look != self._last_look:
            self._last_look = look
            self._orientation = orientation_of(image)
        orientation = self._orientation
        if not orientation.upright:
            image = self._turn(image, orientation)
        if self._shape is None:
            self.orientation = orientation
            self._shape = (image.width, image.height, image.format.name)
            self._color = ColorTags.of(image)
            return image
        return self._fit(image)

    def _turn(self, image: av.VideoFrame, orientation: Orientation) -> av.VideoFrame:
        key = (image.width, image.height, image.format.name, orientation)
        if self._graph is None or key != self._graph_key:
            self._graph = _build_graph(image, orientation)
            self._graph_key = key
        pts, time_base = image.pts, image.time_base
        # libavfilter refuses frames without a time base of its graph; times are put back untouched afterwards.
        self._graph.vpush(image)
        turned = self._graph.vpull()
        turned.pts, turned.time_base = pts, time_base
        return turned

    def _fit(self, image: av.VideoFrame) -> av.VideoFrame:
        if self._shape is None:
            return image
        width, height, pix_fmt = self._shape
        color = ColorTags.of(image)
        other_size = (image.width, image.height) != (width, height)
        other_format = image.format.name != pix_fmt
        other_color = _differ(color.matrix, self._color.matrix, 2) or _differ(color.range, self._color.range, 0)
        if not (other_size or other_format or other_color):
            return image
        for differs, cause in ((other_size, "size"), (other_format, "pix_fmt"), (other_color, "color")):
            self.converted[cause] += differs
        fitted = self._convert(image, color if other_color else None)
        fitted.pts, fitted.time_base = image.pts, image.time_base
        self._color.apply(fitted)
        return fitted

    def _convert(self, image: av.VideoFrame, color: ColorTags | None) -> av.VideoFrame:
        import av.error

        width, height, pix_fmt = self._shape or (image.width, image.height, image.format.name)
        if color is not None:
            try:
                return image.reformat(
                    width=width,
                    height=height,
                    format=pix_fmt,
                    src_colorspace=color.matrix,
                    dst_colorspace=self._color.matrix,
                    src_color_range=color.range,
                    dst_color_range=self._color.range,
                )
            except (av.error.FFmpegError, ValueError):
                # libswscale knows few matrices; tags it does not know are as likely damage as meant.
                pass
        return image.reformat(width=width, height=height, format=pix_fmt)


def _differ(one: int, other: int, unspecified: int) -> bool:
    return one != other and unspecified not in (one, other)


def _even_subsampling(image: av.VideoFrame) -> str | None:
    """The 4:4:4 format an image must take before x and y change places, None where its own will do.

    4:2:2 turned is 4:4:0, which few encoders take; left to itself libavfilter picks packed formats no other part knows.
    """
    name = image.format.name
    chroma = next((part for part in image.format.components if part.is_chroma), None)
    if chroma is None:
        return None
    wide, high = image.format.chroma_width(64), image.format.chroma_height(64)
    if wide == high:
        return None
    bits = image.format.components[0].bits
    alpha = "a" if name.startswith("yuva") else ""
    family = "yuvj" if name.startswith("yuvj") else f"yuv{alpha}"
    return f"{family}444p" + (f"{bits}le" if bits > 8 else "")


def _build_graph(image: av.VideoFrame, orientation: Orientation) -> Graph:
    from av.filter import Graph

    graph = Graph()
    nodes = [graph.add_buffer(width=image.width, height=image.height, format=image.format, time_base=image.time_base)]
    if orientation.transposed and (even := _even_subsampling(image)) is not None:
        nodes.append(graph.add("format", f"pix_fmts={even}"))
    nodes += [graph.add(name, args or None) for name, args in orientation.filters]
    # An encoder that is handed the turned image must not find the order to turn it again.
    nodes.append(graph.add("sidedata", "mode=delete:type=DISPLAYMATRIX"))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph

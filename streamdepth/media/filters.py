"""Converts frames to one size and format with letterbox borders, and interlaced frames to progressive ones."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    import av
    from av.filter.graph import Graph

    from streamdepth.core.frame import ColorTags

_MATRIX = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}


DEINTERLACED = "interlaced frames are deinterlaced; --deinterlace off disables it"
INTERLACED = "interlaced frames are kept, and video files flag them as progressive; omit --deinterlace off"


@dataclass(frozen=True, slots=True)
class _Format:
    width_px: int
    height_px: int
    pix_fmt: str
    matrix: int
    range: int


class Letterbox:
    """Converts images to ``pix_fmt`` and exactly ``width_px`` x ``height_px``.

    An image that already matches is returned as a new frame that shares its planes (9 us at 1080p), so its time stamps
    can be changed. An image of another size is scaled to fit, with its aspect ratio, on a black border (transparent if
    the format has alpha). Not thread-safe.

    Args:
        pixel_aspect: width : height of an input pixel in output pixels; 1 if both have the same shape.

    Attributes:
        resized: number of images scaled so far.
    """

    def __init__(
        self, width_px: int, height_px: int, pix_fmt: str, color: ColorTags, pixel_aspect: Fraction = Fraction(1)
    ) -> None:
        self._width, self._height, self._pix_fmt, self._color = width_px, height_px, pix_fmt, color
        self._pixel_aspect = pixel_aspect
        self._format: _Format | None = None
        self._graph: Graph | None = None
        self.resized = 0

    def __call__(self, image: av.VideoFrame) -> av.VideoFrame:
        source = _Format(image.width, image.height, image.format.name, int(image.colorspace), int(image.color_range))
        if source != self._format or self._graph is None:
            self._graph = self._build(source)
            self._format = source
        if (source.width_px, source.height_px) != (self._width, self._height):
            self.resized += 1
        self._graph.push(image)
        converted: av.VideoFrame = self._graph.pull()  # type: ignore[assignment]
        self._color.apply(converted)
        return converted

    def _build(self, source: _Format) -> Graph:
        from av.filter import Graph
        from av.video.format import VideoFormat

        graph = Graph()
        chain = [
            graph.add_buffer(
                width=source.width_px,
                height=source.height_px,
                format=VideoFormat(source.pix_fmt),
                time_base=Fraction(1, 1000),
            )
        ]
        same_shape = (source.width_px, source.height_px) == (self._width, self._height) and self._pixel_aspect == 1
        if source.pix_fmt != self._pix_fmt or not same_shape:
            chain.append(graph.add("scale", self._scale(source)))
            if not same_shape:
                # pad rounds down to whole chroma samples: 63 columns of 4:2:0 become 62.
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

    def _scale(self, source: _Format) -> str:
        shown_width = source.width_px * self._pixel_aspect
        ratio = min(self._width / shown_width, Fraction(self._height, source.height_px))
        width = min(self._width, max(1, round(shown_width * ratio)))
        height = min(self._height, max(1, round(source.height_px * ratio)))
        parts = [f"w={width}", f"h={height}", "flags=bicubic+accurate_rnd+full_chroma_int"]
        rgb_in = source.pix_fmt.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "pal"))
        gray_in = source.pix_fmt.startswith("gray")
        if not rgb_in:
            full = source.pix_fmt.startswith("yuvj") or source.range == 2
            parts.append(f"in_range={'full' if full else 'limited'}")
            if not gray_in and source.matrix in _MATRIX:
                parts.append(f"in_color_matrix={_MATRIX[source.matrix]}")
        if self._color.matrix != 0:
            full = self._pix_fmt.startswith("yuvj") or self._color.range == 2
            parts.append(f"out_range={'full' if full else 'limited'}")
            if self._color.matrix in _MATRIX:
                parts.append(f"out_color_matrix={_MATRIX[self._color.matrix]}")
        return ":".join(parts)


def _whole_chroma(pix_fmt: str, width_px: int, height_px: int) -> str:
    """``pix_fmt``, or its 4:4:4 form if the size has no whole number of chroma samples."""
    return pix_fmt if divides(pix_fmt, width_px, height_px) else re.sub("4[12][0-2]", "444", pix_fmt)


def divides(pix_fmt: str, width_px: int, height_px: int) -> bool:
    """True if images of this FFmpeg pixel format and size have a whole number of chroma samples."""
    from av.video.format import VideoFormat

    pixel = VideoFormat(pix_fmt)
    chroma_width, chroma_height = pixel.chroma_width(64), pixel.chroma_height(64)
    return width_px % (64 // chroma_width) == 0 and height_px % (64 // chroma_height) == 0


def has_alpha(pix_fmt: str) -> bool:
    """True if this FFmpeg pixel format has an alpha channel."""
    from av.video.format import VideoFormat

    return any(component.is_alpha for component in VideoFormat(pix_fmt).components)


class Deinterlacer:
    """Deinterlaces frames that are flagged as interlaced with FFmpeg's ``bwdif``, one frame per frame.

    Progressive frames before the first interlaced one pass unchanged. ``bwdif`` needs the next frame, so it delays by
    one. Not thread-safe.

    Attributes:
        used: True once a frame was interlaced.
    """

    def __init__(self) -> None:
        self.used = False
        self._graph: Graph | None = None
        self._shape: tuple[int, int, str] | None = None
        self._waiting: deque[tuple[int | None, int | None, int, Any]] = deque()

    def __call__(self, frames: Iterable[av.VideoFrame]) -> Generator[av.VideoFrame, None, None]:
        """A new pass over all ``frames``."""
        self._graph = None
        self._waiting.clear()
        for frame in frames:
            yield from self.push(frame)
        yield from self.flush()

    def push(self, frame: av.VideoFrame) -> list[av.VideoFrame]:
        """The frames that are ready after this one, in order: none or one; several if the size has changed."""
        shape = (frame.width, frame.height, frame.format.name)
        rest = self.flush() if shape != self._shape else []
        if self._graph is None:
            if not frame.interlaced_frame:
                return [*rest, frame]
            self._graph, self._shape, self.used = _build(frame), shape, True
        self._waiting.append((frame.pts, frame.dts, frame.duration, frame.time_base))
        frame.pts = len(self._waiting)
        self._graph.vpush(frame)
        return rest + self._ready(self._graph)

    def flush(self) -> list[av.VideoFrame]:
        """The delayed frame, at the end of a stream."""
        graph, self._graph = self._graph, None
        if graph is None:
            return []
        graph.vpush(None)
        return self._ready(graph)

    def _ready(self, graph: Graph) -> list[av.VideoFrame]:
        import av.error

        ready: list[av.VideoFrame] = []
        while self._waiting:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break
            frame.pts, frame.dts, frame.duration, frame.time_base = self._waiting.popleft()
            ready.append(frame)
        return ready


def _build(frame: av.VideoFrame) -> Graph:
    from av.filter import Graph

    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    nodes.append(graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
    nodes.append(graph.add("format", f"pix_fmts={frame.format.name}"))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph

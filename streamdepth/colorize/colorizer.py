"""Renders a frame and its depth in a look."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import av
from av.video.reformatter import Interpolation, VideoReformatter

from streamdepth.colorize import kernels
from streamdepth.colorize.images import BarPatch, bar_labels, draw_bar, place_bar
from streamdepth.colorize.nearness import NearnessField
from streamdepth.colorize.palettes import (
    BlendTables,
    PaintTables,
    Steps,
    blend_tables,
    checked_style,
    paint_tables,
    parse_stops,
)
from streamdepth.core.errors import UsageError
from streamdepth.core.frame import ColorTags, ImageInfo
from streamdepth.core.look import View
from streamdepth.media import planes
from streamdepth.media.planes import LAYOUTS, PixelLayout, coloured, depth_bits, resolve_tags, working_format

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.frame import DepthMap, DepthRange, StreamInfo
    from streamdepth.core.look import Look

_TRANSPARENT = LAYOUTS["rgba"]
_SRGB = ColorTags(matrix=0, range=2, primaries=1, transfer=13)
_MIN_BAND_ROWS = 32
# The fast paths of swscale have errors of 2 levels and more.
_ACCURATE = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything derived from a look, a frame size and colour tags."""

    key: tuple[Look, ColorTags, int, int]
    target: PixelLayout
    tags: ColorTags
    out_size: tuple[int, int]
    origin: tuple[int, int]
    blend: BlendTables | None
    paint: PaintTables | None


class Colorizer:
    """Colours the frames of one stream. Not thread-safe.

    Rows are split over ``threads`` threads: the caller and threads of ``executor``, which may be shared; without one, a
    pool is created, which ``close`` ends.

    Attributes:
        note: one line if the conversion of every frame loses bits, else empty.
    """

    def __init__(self, stream: StreamInfo, *, threads: int = 1, executor: Executor | None = None) -> None:
        if not 1 <= threads <= 64:
            raise UsageError(f"colour threads: 1..64, not {threads}")
        self._stream = stream
        self._threads = threads
        self._owned: ThreadPoolExecutor | None = None
        if threads > 1 and executor is None:
            executor = self._owned = ThreadPoolExecutor(threads - 1, thread_name_prefix="colorize")
        self._executor = executor
        self._field = NearnessField(stream.width_px, stream.height_px, threads)
        self._to_working = VideoReformatter()
        self._to_transparent = VideoReformatter()
        self._blend_tables = lru_cache(maxsize=8)(blend_tables)
        self._paint_tables = lru_cache(maxsize=8)(paint_tables)
        self._bar_patch = lru_cache(maxsize=4)(_bar_patch)
        # One pool per size and format: sinks with different looks alternate.
        self._pools = lru_cache(maxsize=4)(lambda *_form: planes.ImagePool())
        self._planned: _Plan | None = None
        working = self._working_name(stream.pix_fmt)
        self._layout = LAYOUTS[working]
        reduced = depth_bits(working) < depth_bits(stream.pix_fmt)
        self.note = f"{stream.pix_fmt} frames are coloured with {depth_bits(working)} bits" if reduced else ""

    def __enter__(self) -> Colorizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread pool, if it was created here. Idempotent."""
        if self._owned is not None:
            self._owned.shutdown()

    def image_info(self, look: Look) -> ImageInfo:
        """Properties of the images that ``render`` returns for frames of the stream.

        Raises:
            UsageError: an unknown style.
        """
        checked_style(look.style)
        width, height = _view_size(look.view, self._stream.width_px, self._stream.height_px, self._target(look))
        return ImageInfo(width, height, self._target(look).name, self._target_tags(look, self._stream.color))

    def render(self, frame: av.VideoFrame, depth: DepthMap, depth_range: DepthRange, look: Look) -> av.VideoFrame:
        """A new image with the pts and time base of the frame, in the format that ``image_info`` states.

        A frame whose size differs from that of the stream gives an image of its own size.
        """
        image = self._in_layout(frame)
        width, height = image.width, image.height
        if (self._field.width_px, self._field.height_px) != (width, height):
            self._field = NearnessField(width, height, self._threads)
        source = planes.read(image, self._layout)
        nearness = self._field.prepare(
            depth, depth_range, look, self._split, lambda out: planes.luma(source, self._layout, out)
        )
        plan = self._plan(image, look, width, height)
        out, written = self._pools(plan.out_size, plan.target.name).new(*plan.out_size, plan.target)
        if plan.blend is not None:
            self._blend(source, written, plan.target, nearness, plan.blend)
        if plan.paint is not None:
            if plan.origin != (0, 0):
                self._copy(image, source, written, plan.target)
            self._paint(written, plan.target, plan.origin, nearness, plan.paint)
            if plan.origin != (0, 0):
                planes.extend_edges(written, plan.target, (width, height), (0, 0), plan.origin, plan.out_size)
        if look.bar:
            self._draw_bar(written, plan, depth, depth_range, look)
        out.pts = frame.pts
        if frame.time_base is not None:
            out.time_base = frame.time_base
        plan.tags.apply(out)
        return out

    def _plan(self, image: av.VideoFrame, look: Look, width: int, height: int) -> _Plan:
        """The plan for this look, size and colour. Cached: with cold CPU caches after a model run, creating it takes
        0.2 ms."""
        own = ColorTags.of(image)
        if self._planned is not None and self._planned.key == (look, own, width, height):
            return self._planned
        target = self._target(look)
        tags = self._target_tags(look, self._frame_tags(own))
        out_size = _view_size(look.view, width, height, target)
        origin = {View.SIDE: (out_size[0] // 2, 0), View.STACK: (0, out_size[1] // 2)}.get(look.view, (0, 0))
        blend = paint = None
        if look.view is View.OVERLAY and not look.transparent:
            blend = self._blend_tables(_colour_part(look), target, tags)
        else:
            paint = self._paint_tables(_colour_part(look), target, tags)
        self._planned = _Plan((look, own, width, height), target, tags, out_size, origin, blend, paint)
        return self._planned

    def _working_name(self, pix_fmt: str) -> str:
        try:
            return working_format(av.VideoFormat(pix_fmt, 256, 256))
        except ValueError:
            raise UsageError(f"unknown pixel format {pix_fmt!r}; convert the input to yuv420p first") from None

    def _in_layout(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame, converted by swscale if it is not in the working format of the stream."""
        if frame.format.name == self._layout.name:
            return frame
        layout = self._layout
        if layout.family == "packed":
            return self._to_rgb(self._to_working, frame, layout.name)
        source = self._source_tags(frame)
        # swscale always treats gray as full range.
        full = layout.full_range or not layout.chroma or (source.range == 2 and not frame.format.is_rgb)
        tags = replace(source, range=2 if full else 1)
        matrix = _swscale_matrix(tags.matrix)
        image = self._to_working.reformat(
            frame,
            format=layout.name,
            interpolation=_ACCURATE,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=2 if frame.format.is_rgb else source.range,
            dst_color_range=tags.range,
        )
        tags.apply(image)
        return image

    def _to_rgb(self, reformatter: VideoReformatter, frame: av.VideoFrame, name: str) -> av.VideoFrame:
        if frame.format.is_rgb:
            return reformatter.reformat(frame, format=name, interpolation=_ACCURATE)
        tags = self._source_tags(frame)
        return reformatter.reformat(
            frame,
            format=name,
            interpolation=_ACCURATE,
            src_colorspace=_swscale_matrix(tags.matrix),
            src_color_range=tags.range,
            dst_color_range=2,
        )

    def _source_tags(self, frame: av.VideoFrame) -> ColorTags:
        """Resolved tags of a frame that is not in the working format."""
        name = frame.format.name
        kind = "gray" if name.startswith("gray") else "yuvj444p" if name.startswith("yuvj") else "yuv444p"
        tags = self._frame_tags(ColorTags.of(frame))
        return resolve_tags(tags, LAYOUTS[kind], self._stream.width_px, self._stream.height_px)

    def _frame_tags(self, own: ColorTags) -> ColorTags:
        """The tags of a frame; unspecified ones are those of the stream."""
        stream = self._stream.color
        return ColorTags(
            matrix=stream.matrix if own.matrix == 2 else own.matrix,
            range=own.range or stream.range,
            primaries=stream.primaries if own.primaries == 2 else own.primaries,
            transfer=stream.transfer if own.transfer == 2 else own.transfer,
        )

    def _target(self, look: Look) -> PixelLayout:
        return _TRANSPARENT if look.transparent else coloured(self._layout)

    def _target_tags(self, look: Look, tags: ColorTags) -> ColorTags:
        if look.transparent:
            return _SRGB
        return resolve_tags(tags, self._layout, self._stream.width_px, self._stream.height_px)

    def _split(self, work: Callable[[int, int, int], None], rows: int) -> None:
        """Run ``work(band, start, stop)`` over ``rows`` rows, the last band on this thread."""
        bands = min(self._threads, max(1, rows // _MIN_BAND_ROWS))
        edges = [rows * band // bands for band in range(bands + 1)]
        if self._executor is None or bands == 1:
            work(0, 0, rows)
            return
        futures = [self._executor.submit(work, band, edges[band], edges[band + 1]) for band in range(bands - 1)]
        try:
            work(bands - 1, edges[-2], rows)
        finally:
            for future in futures:
                future.result()

    def _blend(
        self, source: Any, written: Any, target: PixelLayout, nearness: tuple[Any, ...], tables: BlendTables
    ) -> None:
        field, fixed, size = self._field, _fixed(target), (self._field.width_px, self._field.height_px)
        if target.family == "packed":

            def work(band: int, start: int, stop: int) -> None:
                kernels.blend_packed(
                    source[0], written[0], target.channels, size, nearness, tables.chroma, fixed, field.marked,
                    field.scratch(band), start, stop,
                )  # fmt: skip

            self._split(work, size[1])
            return
        semiplanar = target.family == "semiplanar"
        words = field.words.view(written[0].dtype)

        def work_yuv(band: int, start: int, stop: int) -> None:
            kernels.blend_yuv(
                planes.triple(source), planes.triple(written), semiplanar, size, target.log2_chroma_w,
                target.log2_chroma_h, nearness, (tables.luma, tables.chroma), fixed, field.marked, field.scratch(band),
                words[band], start, stop,
            )  # fmt: skip

        self._split(work_yuv, target.chroma_height_px(size[1]))

    def _paint(
        self, written: Any, target: PixelLayout, origin: tuple[int, int], nearness: tuple[Any, ...], tables: PaintTables
    ) -> None:
        field, fixed, size = self._field, _fixed(target), (self._field.width_px, self._field.height_px)
        if target.family == "packed":

            def work(band: int, start: int, stop: int) -> None:
                kernels.paint_packed(
                    written[0], target.channels, origin, size, nearness, tables.chroma, fixed, field.marked,
                    field.scratch(band), start, stop,
                )  # fmt: skip

            self._split(work, size[1])
            return
        semiplanar = target.family == "semiplanar"

        def work_yuv(band: int, start: int, stop: int) -> None:
            kernels.paint_yuv(
                planes.triple(written), semiplanar, origin, size, target.log2_chroma_w, target.log2_chroma_h, nearness,
                (tables.luma, tables.chroma), fixed, field.marked, field.scratch(band),
                field.pairs[band].view(tables.chroma.dtype), start, stop,
            )  # fmt: skip

        self._split(work_yuv, target.chroma_height_px(size[1]))

    def _copy(self, image: av.VideoFrame, source: Any, written: Any, target: PixelLayout) -> None:
        if target.name != coloured(self._layout).name:
            source = planes.read(self._to_rgb(self._to_transparent, image, target.name), target)
        planes.copy(source, written, target, (image.width, image.height))

    def _draw_bar(self, written: Any, plan: _Plan, depth: DepthMap, depth_range: DepthRange, look: Look) -> None:
        texts = tuple(bar_labels(depth_range, depth.sense, inverse=look.inverse))
        cell = (self._field.width_px, self._field.height_px)
        found = self._bar_patch(_colour_part(look), texts, cell, plan.target, plan.tags)
        if found is not None:
            patch, x, y = found
            patch.blend(written, x + (plan.origin[0] & ~1), y + (plan.origin[1] & ~1))


def _bar_patch(
    look: Look, texts: tuple[str, ...], cell: tuple[int, int], target: PixelLayout, tags: ColorTags
) -> tuple[BarPatch, int, int] | None:
    panel = draw_bar(look, list(texts), *cell)
    if not panel.size:
        return None
    return BarPatch(panel, target, tags), *place_bar(*cell, panel)


def _colour_part(look: Look) -> Look:
    """The look with only the fields that tables depend on, as cache key."""
    style = look.style if isinstance(look.style, str) else parse_stops(look.style)
    return replace(look, style=style, view=View.DEPTH, alpha=look.alpha_ends, transparent=False, bar=False)


def _fixed(layout: PixelLayout) -> tuple[int, int, int, int, int]:
    steps = Steps.of(layout)
    shift = 16 - layout.bits
    return shift - layout.shift, shift, layout.shift, steps.shift, steps.count


def _view_size(view: View, width: int, height: int, layout: PixelLayout) -> tuple[int, int]:
    """Size of the view. Cells are rounded up to whole chroma samples, so that two cells share none."""
    if view is View.SIDE:
        return 2 * (layout.chroma_width_px(width) << layout.log2_chroma_w), height
    if view is View.STACK:
        return width, 2 * (layout.chroma_height_px(height) << layout.log2_chroma_h)
    return width, height


def _swscale_matrix(matrix: int) -> int:
    """H.273 MatrixCoefficients to SWS_CS_* of swscale, which has one value for both BT.601 matrices (5 and 6)."""
    return {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}.get(matrix, 5)

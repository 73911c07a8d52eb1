"""Colours single images: depth to pixels with an alpha channel, a contact sheet of palettes, and the colour bar."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.colorize import kernels
from streamdepth.colorize.nearness import NearnessField
from streamdepth.colorize.palettes import Steps, blend_terms, is_grayscale, paint_tables, palette, palette_names
from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Sense
from streamdepth.core.look import Look
from streamdepth.media.planes import LAYOUTS, plane_values, to_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.media.planes import PixelLayout

_RGBA = LAYOUTS["rgba"]


def paint(
    values: NDArray[np.float32],
    sense: Sense,
    depth_range: DepthRange,
    look: Look,
    *,
    valid: NDArray[np.bool_] | None = None,
    guide: NDArray[np.uint8] | None = None,
    size_px: tuple[int, int] | None = None,
) -> NDArray[np.uint8]:
    """Colour depth, with the opacity of the look as alpha channel; nothing is composited.

    Invalid pixels are transparent. Of ``view`` only the default opacity is used; ``transparent`` is ignored.

    Args:
        values: float32 [h, w], C-contiguous, at the size of the image (with ``size_px``: of any size).
        valid: bool [h, w], False where invalid; NaN and infinity are always invalid.
        guide: uint8 [H, W] luma of the image, for guided upsampling.
        size_px: (width, height) of the result; None = the size of ``values``.

    Returns:
        uint8 [H, W, 4], straight alpha; for the ``grayscale`` style uint8 [H, W], near = white, if every pixel is
        opaque and there is no colour bar.

    Raises:
        UsageError: an unknown style.
    """
    width, height = (values.shape[1], values.shape[0]) if size_px is None else size_px
    field = NearnessField(width, height)

    def fill(out: NDArray[np.uint8]) -> None:
        if guide is not None:
            out[:] = guide

    nearness = field.prepare(DepthMap(values, sense, valid), depth_range, look, _whole, None if guide is None else fill)
    steps = Steps.of(_RGBA)
    tables = paint_tables(replace(look, alpha=look.alpha_ends), _RGBA, ColorTags())
    out = np.empty((height, width, 4), np.uint8)
    fixed = (8, 8, 0, steps.shift, steps.count)
    kernels.paint_packed(
        out.reshape(height, -1), 4, (0, 0), (width, height), nearness, tables.chroma, fixed, field.marked,
        field.scratch(0), 0, height,
    )  # fmt: skip
    if look.bar:
        texts = bar_labels(depth_range, sense, inverse=look.inverse)
        panel = draw_bar(look, texts, width, height)
        if panel.size:
            x, y = place_bar(width, height, panel)
            _over(out[y : y + panel.shape[0], x : x + panel.shape[1]], panel)
    if is_grayscale(look.style) and look.alpha_ends == (1.0, 1.0) and not (field.invalid or look.bar):
        return np.ascontiguousarray(out[:, :, 0])
    return out


def paint_over_range(
    values: NDArray[np.float32], sense: Sense, look: Look, valid: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    """Paint depth over the range of its finite values, as ``transformers``' pipeline does.

    Args:
        values, valid: float32 and bool [H, W].

    Returns:
        uint8 [H, W, 4] RGBA; for the ``grayscale`` styles [H, W], or [H, W, 2] with alpha if not opaque everywhere.
    """
    finite = values[np.isfinite(values)]
    span = DepthRange(float(finite.min()), float(finite.max())) if finite.size else DepthRange(0.0, 0.0)
    pixels = paint(np.ascontiguousarray(values), sense, span, look, valid=valid)
    if pixels.ndim == 3 and is_grayscale(look.style):
        return np.ascontiguousarray(pixels[..., (0, 3)])
    return pixels


def _whole(work: Callable[[int, int, int], None], rows: int) -> None:
    work(0, 0, rows)


def _over(under: NDArray[np.uint8], panel: NDArray[np.uint8]) -> None:
    """Porter-Duff over with straight alpha, in place."""
    top, below = panel.astype(np.float64) / 255, under.astype(np.float64) / 255
    keep = below[:, :, 3:] * (1 - top[:, :, 3:])
    alpha = top[:, :, 3:] + keep
    colour = (top[:, :, :3] * top[:, :, 3:] + below[:, :, :3] * keep) / np.maximum(alpha, 1e-9)
    under[:] = np.floor(np.concatenate([colour, alpha], axis=2) * 255 + 0.5)


_BACKGROUND = (18, 18, 22)
_TEXT = (232, 232, 236)
_MUTED = (140, 140, 150)


def preview(
    names: Sequence[str] | None = None,
    *,
    depth: NDArray[np.float32],
    sense: Sense = Sense.RELATIVE_INVERSE,
    image: NDArray[np.uint8] | None = None,
    columns: int = 6,
    cell_width_px: int = 300,
) -> NDArray[np.uint8]:
    """Render the contact sheet.

    Args:
        names: palettes to show; None = the 44 of npm ``colormap`` and ``grayscale``.
        depth: float32 [h, w].
        sense: meaning of ``depth``.
        image: uint8 [h, w, 3] RGB input of ``depth``; shown first.
        columns: cells per row.
        cell_width_px: width of one image.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        UsageError: an unknown palette.
    """
    from PIL import Image, ImageDraw, ImageFont

    names = palette_names() if names is None else list(names)
    finite = depth[np.isfinite(depth)]
    low, high = (float(end) for end in np.percentile(finite, [1, 99])) if finite.size else (0.0, 0.0)
    cell_height = max(round(cell_width_px * depth.shape[0] / depth.shape[1]), 1)
    text_px = max(round(cell_width_px / 17), 9)
    strip, gap = max(text_px // 2, 4), max(round(cell_width_px / 22), 6)
    step_x, step_y = cell_width_px + gap, cell_height + strip + 2 + round(text_px * 1.6) + gap
    cells = [*([None] if image is not None else []), *names]
    rows = math.ceil(len(cells) / columns)
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), _BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(text_px)
    for index, name in enumerate(cells):
        x, y = gap + index % columns * step_x, gap + index // columns * step_y
        size = (cell_width_px, cell_height)
        if name is None and image is not None:
            sheet.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), (x, y))
        if name is not None:
            double = (2 * size[0], 2 * size[1])
            colours = paint(depth, sense, DepthRange(low, high), Look(style=name), size_px=double)
            tile = Image.fromarray(colours).reduce(2)
            sheet.paste(tile, (x, y), tile if tile.mode == "RGBA" else None)
            ramp = Image.fromarray(np.repeat(palette(name, cell_width_px)[None], strip, axis=0))
            sheet.paste(ramp, (x, y + cell_height + 2), ramp)
        label, colour = ("input", _MUTED) if name is None else (name, _TEXT)
        pen.text((x, y + cell_height + strip + 2 + round(text_px * 0.25)), label, font=font, fill=colour)
    return np.asarray(sheet, dtype=np.uint8)


def write_preview(path: Path, sheet: NDArray[np.uint8]) -> None:
    """Save a sheet as PNG.

    Raises:
        SinkError: the file cannot be written.
    """
    from PIL import Image

    from streamdepth.core.errors import SinkError

    try:
        Image.fromarray(sheet).save(path, format="PNG", optimize=True)
    except OSError as error:
        raise SinkError(f"{path}: cannot be written ({error.strerror or error}); choose another file") from error


_PANEL_RGBA = (12, 12, 16, 176)
_TEXT_RGBA = (255, 255, 255, 255)
_TICKS = 5


def bar_labels(depth_range: DepthRange, sense: Sense, *, inverse: bool) -> list[str]:
    """Labels from the nearest to the farthest end, evenly spaced in nearness."""
    if sense is not Sense.METRIC_M:
        return ["near", "far"]
    metres = np.linspace(depth_range.lo, depth_range.hi, _TICKS)
    floor = depth_range.nearness_terms(sense, inverse=inverse)[2]
    if floor:
        metres = 1 / np.linspace(1 / floor, 1 / depth_range.hi, _TICKS)
    top = float(np.abs(metres).max())
    # Few digits: a smoothed range changes slightly with every frame.
    digits = 0 if top >= 30 else 1 if top >= 3 else 2
    return [f"{value:.{digits}f} m" for value in metres]


def draw_bar(look: Look, texts: list[str], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """The panel for an image (or cell) of this size.

    Returns:
        uint8 [h, w, 4], straight alpha, even height and width; [0, 0, 4] if the image is too small for a readable
        panel.
    """
    from PIL import Image, ImageDraw, ImageFont

    text_px = max(10, round(min(width_px, height_px * 1.5) / 40))
    font = ImageFont.load_default(text_px)
    pad = max(3, text_px // 2)
    text_width = max(round(font.getlength(text)) for text in texts)
    ramp_width = text_px
    ramp_height = round(height_px * 0.4)
    panel_width = -(-(3 * pad + ramp_width + text_width) // 2) * 2
    panel_height = -(-(ramp_height + 2 * pad + text_px // 2) // 2) * 2
    if panel_width > width_px or panel_height > height_px or ramp_height < len(texts) * text_px:
        return np.zeros((0, 0, 4), np.uint8)
    panel = Image.new("RGBA", (panel_width, panel_height), (*_PANEL_RGBA[:3], 0))
    pen = ImageDraw.Draw(panel)
    pen.rounded_rectangle((0, 0, panel_width - 1, panel_height - 1), radius=pad, fill=_PANEL_RGBA)
    ramp = palette(look.style, max(ramp_height, 2), reverse=look.reverse)[::-1].copy()
    ramp[:, 3] = 255
    top = (panel_height - ramp_height) // 2
    panel.paste(Image.fromarray(np.repeat(ramp[:, None], ramp_width, axis=1)), (pad, top))
    for index, text in enumerate(texts):
        y = top + round(index / (len(texts) - 1) * (ramp_height - 1))
        pen.line((pad + ramp_width, y, pad + ramp_width + pad // 2, y), fill=_TEXT_RGBA)
        pen.text((2 * pad + ramp_width, y), text, font=font, fill=_TEXT_RGBA, anchor="lm")
    return np.asarray(panel, dtype=np.uint8)


class BarPatch:
    """A panel converted to the planes of a pixel layout, for blending. Immutable."""

    def __init__(self, panel: NDArray[np.uint8], layout: PixelLayout, tags: ColorTags) -> None:
        self.height_px, self.width_px = panel.shape[:2]
        self._layout = layout
        self._parts: list[tuple[int, int, int, NDArray[np.uint16], NDArray[np.uint16]]] = []
        rgba = panel.astype(np.float64) / 255
        self._add_parts(rgba, tags)

    def _add_parts(self, rgba: NDArray[np.float64], tags: ColorTags) -> None:
        layout = self._layout
        if layout.family == "packed":
            values, alpha = self._terms(rgba, tags)
            for channel, component in ((layout.red, 0), (1, 1), (layout.blue, 2)):
                self._parts.append((0, channel, layout.channels, alpha, values[component]))
            if layout.alpha:
                # Porter-Duff over: a + v (1 - a), a blend towards opaque.
                self._parts.append((0, 3, 4, alpha, (alpha.astype(np.uint32) * 255 >> 8).astype(np.uint16)))
            return
        values, alpha = self._terms(rgba, tags)
        self._parts.append((0, 0, 1, alpha, values[0]))
        step_x, step_y = 1 << layout.log2_chroma_w, 1 << layout.log2_chroma_h
        premultiplied = rgba.copy()
        premultiplied[:, :, :3] *= rgba[:, :, 3:]
        corners = [premultiplied[y::step_y, x::step_x] for y in range(step_y) for x in range(step_x)]
        blocks = sum(corners[1:], corners[0]) / len(corners)
        blocks[:, :, :3] /= np.maximum(blocks[:, :, 3:], 1e-9)
        values, alpha = self._terms(blocks, tags)
        semiplanar = layout.family == "semiplanar"
        self._parts.append((1, 0, 2 if semiplanar else 1, alpha, values[1]))
        self._parts.append((1, 1, 2, alpha, values[2]) if semiplanar else (2, 0, 1, alpha, values[2]))

    def _terms(self, rgba: NDArray[np.float64], tags: ColorTags) -> tuple[list[NDArray[np.uint16]], NDArray[np.uint16]]:
        """``k`` of each component and ``a``, both [h, w], as in a blend entry."""
        height, width = rgba.shape[:2]
        flat = rgba.reshape(-1, 4)
        a, k = blend_terms(plane_values(to_signal(flat[:, :3], tags), tags, self._layout), flat[:, 3], self._layout)
        planes = k.astype(np.uint16).T.reshape(3, height, width)
        return [np.ascontiguousarray(plane) for plane in planes], a.astype(np.uint16).reshape(height, width)

    def blend(self, planes: list[NDArray[np.uint8]] | list[NDArray[np.uint16]], x_px: int, y_px: int) -> None:
        """Blend into the planes with the top left corner of the panel at these even coordinates."""
        layout = self._layout
        shift = 16 - layout.bits
        for plane, channel, step, a, k in self._parts:
            chroma = plane > 0
            origin = (x_px >> layout.log2_chroma_w, y_px >> layout.log2_chroma_h) if chroma else (x_px, y_px)
            kernels.blend_patch(planes[plane], a, k, channel, step, origin, shift - layout.shift, shift, layout.shift)


def place_bar(width_px: int, height_px: int, panel: NDArray[np.uint8]) -> tuple[int, int]:
    """Position of the panel in an image: lower right corner with a margin, at even coordinates."""
    margin = max(2, height_px // 40)
    x = max(width_px - panel.shape[1] - margin, 0)
    y = max(height_px - panel.shape[0] - margin, 0)
    return x & ~1, y & ~1

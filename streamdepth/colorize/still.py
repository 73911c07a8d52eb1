"""Colours images: depth to pixels with an alpha channel, and a contact sheet of palettes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.colorize import bar, kernels
from streamdepth.colorize.nearness import NearnessField
from streamdepth.colorize.palettes import is_grayscale, palette, palette_names
from streamdepth.colorize.tables import Steps, paint_tables
from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Sense
from streamdepth.core.look import Look
from streamdepth.media.planes import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

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
        texts = bar.labels(depth_range, sense, inverse=look.inverse)
        panel = bar.draw(look, texts, width, height)
        if panel.size:
            x, y = bar.place(width, height, panel)
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
    depth: NDArray[np.float32] | None = None,
    sense: Sense = Sense.RELATIVE_INVERSE,
    image: NDArray[np.uint8] | None = None,
    columns: int = 6,
    cell_width_px: int = 300,
) -> NDArray[np.uint8]:
    """Render the contact sheet.

    Args:
        names: palettes to show; None = the 44 of npm ``colormap`` and ``grayscale``.
        depth: float32 [h, w]; None = a synthetic scene.
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
    if depth is None:
        depth, sense = scene(), Sense.RELATIVE_INVERSE
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


def scene(width_px: int = 600, height_px: int = 400) -> NDArray[np.float32]:
    """Inverse depth of a synthetic scene, ray cast: a floor, a back wall, four spheres and a column.

    Returns:
        float32 [height_px, width_px], 1 / metres.
    """
    x, y = np.meshgrid(
        (np.arange(width_px) + 0.5 - width_px / 2) / height_px, (np.arange(height_px) + 0.5 - height_px / 2) / height_px
    )
    rays = np.stack([x, y + 0.14, np.ones_like(x)], axis=-1)
    far = 14.0
    depth = np.full(x.shape, far)
    with np.errstate(divide="ignore", invalid="ignore"):
        floor = np.where(rays[..., 1] > 0, 1.1 / rays[..., 1], far)
        depth = np.minimum(depth, floor)
        # cx, cy, cz, radius in metres; y points down, the floor lies at 1.1.
        for cx, cy, cz, radius in (
            (-0.75, 0.55, 2.4, 0.55),
            (0.95, 0.35, 3.6, 0.75),
            (0.12, 0.8, 2.9, 0.3),
            (-2.3, -0.1, 6.2, 1.2),
        ):
            centre = np.array([cx, cy, cz])
            a = (rays**2).sum(-1)
            b = rays @ centre
            inside = b**2 - a * (centre @ centre - radius**2)
            depth = np.where(inside > 0, np.minimum(depth, (b - np.sqrt(inside)) / a), depth)
        # A vertical cylinder: the same without y.
        flat, axis, radius = rays[..., [0, 2]], np.array([2.6, 6.8]), 0.5
        a, b = (flat**2).sum(-1), flat @ axis
        inside = b**2 - a * (axis @ axis - radius**2)
        depth = np.where(inside > 0, np.minimum(depth, (b - np.sqrt(inside)) / a), depth)
    return np.ascontiguousarray(1 / depth, dtype=np.float32)

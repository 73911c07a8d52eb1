"""Colours still images: depth to pixels with an alpha channel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.colorize import bar, kernels
from streamdepth.colorize.field import NearnessField
from streamdepth.colorize.palettes import is_grayscale
from streamdepth.colorize.tables import Steps, paint_tables
from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Sense
from streamdepth.media.pixel_formats import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamdepth.core.look import Look

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


def _whole(work: Callable[[int, int, int], None], rows: int) -> None:
    work(0, 0, rows)


def _over(under: NDArray[np.uint8], panel: NDArray[np.uint8]) -> None:
    """Porter-Duff over with straight alpha, in place."""
    top, below = panel.astype(np.float64) / 255, under.astype(np.float64) / 255
    keep = below[:, :, 3:] * (1 - top[:, :, 3:])
    alpha = top[:, :, 3:] + keep
    colour = (top[:, :, :3] * top[:, :, 3:] + below[:, :, :3] * keep) / np.maximum(alpha, 1e-9)
    under[:] = np.floor(np.concatenate([colour, alpha], axis=2) * 255 + 0.5)

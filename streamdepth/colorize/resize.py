"""Resizes depth: bilinear between pixel centres for data outputs, and edge-aware for images.

The edge-aware upsampling is joint bilateral, guided by the luma of the frame (Kopf et al., SIGGRAPH 2007).

Each pixel is the mean of the 4x4 depth pixels around it, weighted by distance and by similarity of luma, so depth edges
follow the edges of the frame. The result is a weighted mean of existing values, so it has no overshoot and no halos.
Where no neighbour is similar, the result is the bilinear value.

Lines much thinner than a depth pixel, such as the highlight of a beam, are removed from the luma first. The depth does
not contain them: their luma would select the depth of another object of that luma, as dark lines along the beam.

The weight is a polynomial (Tukey's biweight) instead of an exponential, and depth rows are expanded to the frame width
once, so the inner loop has neither lookups nor divisions.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.colorize.palettes import INVALID
from streamdepth.core.errors import UsageError
from streamdepth.media.jit import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

f32, i64 = np.float32, np.int64


def resize_bilinear(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """Resize depth as the colour stage does: pixel centres at half integers, edges replicated, no antialiasing.

    The result is NaN where the nearest pixel is not finite; elsewhere the weights are normalised over the finite
    neighbours. The same size gives the same values.

    Args:
        values: float32 [h, w].

    Returns:
        float32 [height, width], new. Thread-safe.
    """
    _check(values, width, height)
    out = np.empty((height, width), np.float32)
    _resize(np.ascontiguousarray(values), *_axes(values.shape, width, height), *_scratch(width), out)
    return out


def resize_to_uint16(
    values: NDArray[np.float32], width: int, height: int, scale: float, offset: float, out: NDArray[np.uint16]
) -> int:
    """Resize and quantise in one pass: ``code = round((value - offset) / scale)``, 1..65535; 0 where invalid.

    Args:
        values: float32 [h, w].
        out: uint16 [height, width], C-contiguous, written.

    Returns:
        Number of values outside 1..65535 that were clipped. Thread-safe.
    """
    _check(values, width, height)
    if out.shape != (height, width) or out.dtype != np.uint16 or not out.flags.c_contiguous:
        raise UsageError(f"depth codes need a contiguous uint16 [{height}, {width}], not {out.dtype} {out.shape}")
    if not (np.isfinite(scale) and np.isfinite(offset)) or scale == 0:
        raise UsageError(f"depth scale and offset are finite and scale is not 0, not {scale}, {offset}")
    axes = _axes(values.shape, width, height)
    return int(_quantise(np.ascontiguousarray(values), *axes, *_scratch(width), 1 / scale, offset, out))


def _check(values: NDArray[np.float32], width: int, height: int) -> None:
    if values.ndim != 2 or values.dtype != np.float32 or 0 in values.shape:
        raise UsageError(f"depth is float32 [h, w], not {values.dtype} {list(values.shape)}")
    if width < 1 or height < 1:
        raise UsageError(f"depth needs at least 1x1 pixels, not {width}x{height}")


def _scratch(width: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Buffers of ``_resize`` and ``_quantise``: (wide, line, held)."""
    return np.empty((2, width), np.float32), np.empty(width, np.float32), np.full(2, -1, np.int64)


@lru_cache(maxsize=8)
def _axis(small: int, large: int) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    position = ((np.arange(large) + 0.5) * (small / large) - 0.5).clip(0, small - 1)
    first = np.floor(position)
    return first.astype(np.uint32), (position - first).astype(np.float32)


def _axes(
    shape: tuple[int, ...], width: int, height: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32], NDArray[np.uint32], NDArray[np.float32]]:
    return (*_axis(shape[1], width), *_axis(shape[0], height))


@kernel
def _row(values, x_first, x_part, y_first, y_part, y, finite, wide, held, out):  # type: ignore[no-untyped-def]
    """One row of the result; ``wide`` [2, width] and ``held`` [2] buffer scaled rows between calls."""
    height = values.shape[0]
    top = i64(y_first[y])
    bottom = min(top + 1, height - 1)
    down = y_part[y]
    if finite:
        for row in (top, bottom):
            slot = row & 1
            if held[slot] != row:
                line = values[row]
                stretched = wide[slot]
                for x in range(out.shape[0]):
                    low = line[x_first[x]]
                    stretched[x] = low + (line[x_first[x] + np.uint32(x_part[x] > 0)] - low) * x_part[x]
                held[slot] = row
        upper, lower = wide[top & 1], wide[bottom & 1]
        for x in range(out.shape[0]):
            out[x] = upper[x] + (lower[x] - upper[x]) * down
        return
    for x in range(out.shape[0]):
        left = i64(x_first[x])
        along = x_part[x]
        right = left + (along > 0)
        if not np.isfinite(values[bottom if down >= 0.5 else top, right if along >= 0.5 else left]):
            out[x] = np.nan
            continue
        total = f32(0)
        weight = f32(0)
        for row, vertical in ((top, f32(1) - down), (bottom, down)):
            for column, horizontal in ((left, f32(1) - along), (right, along)):
                if np.isfinite(values[row, column]):
                    total += vertical * horizontal * values[row, column]
                    weight += vertical * horizontal
        out[x] = total / weight


@kernel
def _all_finite(values):  # type: ignore[no-untyped-def]
    bad = 0
    for y in range(values.shape[0]):
        for x in range(values.shape[1]):
            bad += not np.isfinite(values[y, x])
    return bad == 0


@kernel
def _resize(values, x_first, x_part, y_first, y_part, wide, line, held, out):  # type: ignore[no-untyped-def]  # noqa: ARG001
    finite = _all_finite(values)
    for y in range(out.shape[0]):
        _row(values, x_first, x_part, y_first, y_part, y, finite, wide, held, out[y])


@kernel
def _quantise(values, x_first, x_part, y_first, y_part, wide, line, held, per_unit, offset, out):  # type: ignore[no-untyped-def]
    finite = _all_finite(values)
    clipped = 0
    for y in range(out.shape[0]):
        _row(values, x_first, x_part, y_first, y_part, y, finite, wide, held, line)
        codes = out[y]
        if finite:
            for x in range(line.shape[0]):
                code = np.floor((line[x] - offset) * per_unit + 0.5)
                clipped += code < 1.0 or code > 65535.0
                codes[x] = np.uint16(np.int32(min(max(code, 1.0), 65535.0)))
        else:
            for x in range(line.shape[0]):
                if np.isnan(line[x]):
                    codes[x] = 0
                else:
                    code = np.floor((line[x] - offset) * per_unit + 0.5)
                    clipped += code < 1.0 or code > 65535.0
                    codes[x] = np.uint16(np.int32(min(max(code, 1.0), 65535.0)))
    return clipped


_REACH = 56.0
"""Difference in 8-bit luma from which the weight of a neighbour is 0."""
_SIGMA = 0.85
"""Spatial standard deviation in depth pixels."""
_FALLBACK = 1e-3
"""Weight of the bilinear value; the largest weight of a neighbour is about 0.2."""
_THIN = 0.2
"""Distance of the five pixels of a median, in depth pixels: lines of up to twice this width are removed."""
_UNLIKE = 4096.0
"""Luma assigned to an invalid depth pixel, so that its weight is 0."""


class GuidedScratch:
    """Buffers for one image width and number of bands. ``fit`` adapts them to the depth size."""

    def __init__(self, width_px: int, bands: int) -> None:
        self.spread = np.empty((bands, 4, 2, 4, width_px), np.float32)
        self.held = np.empty((bands, 4), np.int64)
        self.sums = np.empty((bands, 2, width_px), np.float32)
        self.low = np.empty((0, 0), np.float32)
        self.clean = np.empty((2, 0, 0), np.uint8)
        self.across = np.empty((4, 0), np.float32)
        self.down = np.empty((4, 0), np.float32)

    def fit(self, shape: tuple[int, int], axes: tuple[Any, ...], size: tuple[int, int]) -> None:
        if self.clean.shape[1:] != size:
            self.clean = np.empty((2, *size), np.uint8)
        if self.low.shape != shape:
            self.low = np.empty(shape, np.float32)
            self.across = _spatial(axes[1])
            self.down = _spatial(axes[3])


def upsample(
    guide: NDArray[np.uint8],
    small: NDArray[np.uint16],
    axes: tuple[Any, ...],
    image: NDArray[np.uint16],
    split: Callable[[Callable[[int, int, int], None], int], None],
    scratch: GuidedScratch,
) -> None:
    """Refine a bilinear nearness image in place.

    Args:
        guide: uint8 [H, W].
        small: uint16 [h, w + 1], nearness at depth resolution.
        axes: (x_first, x_part, y_first, y_part) of ``nearness.axis``.
        image: uint16 [H, W], bilinear; INVALID is unchanged.
    """
    shape = (small.shape[0], small.shape[1] - 1)
    scratch.fit(shape, axes, guide.shape)
    low, x_first, y_first = scratch.low, axes[0], axes[2]
    step = round(_THIN * min(guide.shape[0] / shape[0], guide.shape[1] / shape[1]))
    clean = scratch.clean[1] if step else guide

    def clean_rows(_band: int, start: int, stop: int) -> None:
        _median_across(guide, step, scratch.clean[0], start, stop)

    def clean_columns(_band: int, start: int, stop: int) -> None:
        _median_down(scratch.clean[0], step, clean, start, stop)

    def shrink(band: int, start: int, stop: int) -> None:
        _mean_guide(guide, small, scratch.sums[band, 0].view(np.uint32), low, start, stop)

    def refine(band: int, start: int, stop: int) -> None:
        _refine(
            clean, low, small, x_first, y_first, scratch.across, scratch.down, scratch.spread[band],
            scratch.held[band], scratch.sums[band], image, start, stop,
        )  # fmt: skip

    if step:
        split(clean_rows, image.shape[0])
        split(clean_columns, image.shape[0])
    split(shrink, low.shape[0])
    split(refine, image.shape[0])


def _spatial(part: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Weights of the four neighbours -1, 0, 1, 2 of each pixel: float32 [4, n]."""
    distance = np.arange(-1, 3)[:, None] - part[None, :] / 32768.0
    return np.exp(-0.5 * (distance / _SIGMA) ** 2).astype(np.float32)


@kernel
def _median(one, two, three, four, five, out):  # type: ignore[no-untyped-def]
    """Median of five rows of uint8, pixel by pixel."""
    for x in range(out.shape[0]):
        a, b, c, d, e = one[x], two[x], three[x], four[x], five[x]
        low, high = max(min(a, b), min(d, e)), min(max(a, b), max(d, e))
        out[x] = max(min(low, high), min(max(low, high), c))


@kernel
def _median_across(guide, step, out, start, stop):  # type: ignore[no-untyped-def]
    """Median of five pixels of a row, ``step`` apart. Removes lines thinner than that and keeps edges in place."""
    inner = guide.shape[1] - 4 * step
    for y in range(start, stop):
        source, row = guide[y], out[y]
        for x in range(min(2 * step, row.shape[0])):
            row[x] = source[x]
            row[row.shape[0] - 1 - x] = source[row.shape[0] - 1 - x]
        if inner > 0:
            _median(
                source[:inner], source[step : step + inner], source[2 * step : 2 * step + inner],
                source[3 * step : 3 * step + inner], source[4 * step :], row[2 * step : 2 * step + inner],
            )  # fmt: skip


@kernel
def _median_down(guide, step, out, start, stop):  # type: ignore[no-untyped-def]
    """As ``_median_across``, of a column."""
    height = guide.shape[0]
    for y in range(start, stop):
        if y < 2 * step or y >= height - 2 * step:
            for x in range(guide.shape[1]):
                out[y, x] = guide[y, x]
        else:
            _median(guide[y - 2 * step], guide[y - step], guide[y], guide[y + step], guide[y + 2 * step], out[y])


@partial(kernel, fastmath=True)
def _mean_guide(guide, small, line, low, start, stop):  # type: ignore[no-untyped-def]
    """Mean luma of each depth pixel of rows ``start`` to ``stop``."""
    height, width = guide.shape
    rows, columns = low.shape
    for j in range(start, stop):
        first = j * height // rows
        last = max(first + 1, (j + 1) * height // rows)
        for x in range(width):
            line[x] = 0
        for y in range(first, last):
            source = guide[y]
            for x in range(width):
                line[x] += np.uint32(source[x])
        for i in range(columns):
            left = i * width // columns
            right = max(left + 1, (i + 1) * width // columns)
            total = i64(0)
            for x in range(left, right):
                total += line[x]
            low[j, i] = f32(total) / f32((last - first) * (right - left))
            if small[j, i] == INVALID:
                low[j, i] = f32(_UNLIKE)


@partial(kernel, fastmath=True)
def _refine(guide, low, small, x_first, y_first, across, down, spread, held, sums, image, start, stop):  # type: ignore[no-untyped-def]
    rows, columns = low.shape
    width = image.shape[1]
    for slot in range(4):
        held[slot] = -1
    per_reach = f32(1.0 / (_REACH * _REACH))
    one = f32(1)
    zero = f32(0)
    total, weights = sums[0], sums[1]
    for y in range(start, stop):
        out = image[y]
        line = guide[y]
        for x in range(width):
            total[x] = f32(out[x]) * f32(_FALLBACK)
            weights[x] = f32(_FALLBACK)
        top = i64(y_first[y])
        for k in range(4):
            row = min(max(top + k - 1, 0), rows - 1)
            slot = row & 3
            bright = spread[slot, 0]
            near = spread[slot, 1]
            if held[slot] != row:
                for tap in range(4):
                    for x in range(width):
                        i = min(max(i64(x_first[x]) + tap - 1, 0), columns - 1)
                        bright[tap, x] = low[row, i]
                        near[tap, x] = f32(small[row, i])
                held[slot] = row
            vertical = down[k, y]
            for x in range(width):
                here = f32(line[x])
                seen = zero
                value = zero
                for tap in range(4):
                    unlike = here - bright[tap, x]
                    alike = max(one - unlike * unlike * per_reach, zero)
                    weight = alike * alike * across[tap, x]
                    seen += weight
                    value += weight * near[tap, x]
                weights[x] += vertical * seen
                total[x] += vertical * value
        for x in range(width):
            if out[x] != INVALID:
                out[x] = np.uint16(total[x] / weights[x] + f32(0.5))

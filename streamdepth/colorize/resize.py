"""Resizes depth for data outputs: bilinear between pixel centres, float32, ignores NaN."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import UsageError
from streamdepth.media.numba_kernel import kernel

if TYPE_CHECKING:
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


def _scratch(width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.empty((2, width), np.float32), np.empty(width, np.float32)


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
    flat = values.reshape(-1)
    bad = 0
    for i in range(flat.size):
        bad += not np.isfinite(flat[i])
    return bad == 0


@kernel
def _resize(values, x_first, x_part, y_first, y_part, wide, line, out):  # type: ignore[no-untyped-def]  # noqa: ARG001
    finite = _all_finite(values)
    held = np.full(2, -1, np.int64)
    for y in range(out.shape[0]):
        _row(values, x_first, x_part, y_first, y_part, y, finite, wide, held, out[y])


@kernel
def _quantise(values, x_first, x_part, y_first, y_part, wide, line, per_unit, offset, out):  # type: ignore[no-untyped-def]
    finite = _all_finite(values)
    held = np.full(2, -1, np.int64)
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

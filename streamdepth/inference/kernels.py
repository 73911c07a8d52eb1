"""Compiled inner loops of preprocessing: pure, without the GIL, writing only into arrays passed for it."""

from __future__ import annotations

from functools import partial

import numpy as np

from streamdepth.media.numba_kernel import kernel

u8, i32, f32 = np.uint8, np.int32, np.float32


@kernel
def table_to_chw(rgb, table, out_chw):  # type: ignore[no-untyped-def]
    """out[c, y, x] = table[c, rgb[y, x, c]]; rgb uint8 [H, W, 3], table [3, 256], out [3, H, W], any strides."""
    height, width = out_chw.shape[1], out_chw.shape[2]
    for y in range(height):
        for x in range(width):
            out_chw[0, y, x] = table[0, rgb[y, x, 0]]
            out_chw[1, y, x] = table[1, rgb[y, x, 1]]
            out_chw[2, y, x] = table[2, rgb[y, x, 2]]


@partial(kernel, fastmath=True)
def _shrink_down(plane, width, first, weights, y, row):  # type: ignore[no-untyped-def]
    """Row ``y`` of the result at the plane's own width. Four lines at a time, so that ``row`` is passed over less."""
    start, last = first[y], plane.shape[0] - 1
    for x in range(width):
        row[x] = f32(0)
    for tap in range(0, weights.shape[1], 4):
        a, b = plane[min(start + tap, last)], plane[min(start + tap + 1, last)]
        c, d = plane[min(start + tap + 2, last)], plane[min(start + tap + 3, last)]
        of_a, of_b = weights[y, tap], weights[y, tap + 1]
        of_c, of_d = weights[y, tap + 2], weights[y, tap + 3]
        for x in range(width):
            row[x] += f32(a[x]) * of_a + f32(b[x]) * of_b + f32(c[x]) * of_c + f32(d[x]) * of_d


@partial(kernel, fastmath=True)
def _shrink_across(row, first, weights, out):  # type: ignore[no-untyped-def]
    taps = weights.shape[1]
    for x in range(out.shape[0]):
        part, weight = row[first[x] : first[x] + taps], weights[x]
        total = f32(0)
        for tap in range(taps):
            total += part[tap] * weight[tap]
        out[x] = total


@partial(kernel, fastmath=True)
def _to_rgb(lines, matrix, rgb):  # type: ignore[no-untyped-def]
    for x in range(lines.shape[1]):
        luma, cb, cr = lines[0, x], lines[1, x], lines[2, x]
        for channel in range(3):
            value = luma * matrix[channel, 0] + cb * matrix[channel, 1] + cr * matrix[channel, 2] + matrix[channel, 3]
            rgb[channel, x] = u8(i32(min(max(value, f32(0)), f32(255))))


@kernel
def planes_to_chw(planes, widths, down, across, matrix, table, scratch, out_chw):  # type: ignore[no-untyped-def]
    """Planes of a YUV image, each scaled to the size of ``out_chw``, to RGB and through the table.

    Down comes first: it works whole lines in vector lanes, and leaves a quarter of the sums across at 720p to 192 rows.

    Args:
        planes: three of [rows, words of a line], uint8 or uint16.
        widths: how many words of a line count, for each.
        down, across: (first, weights) of ``resampling.Axis`` for each plane; taps down in fours.
        matrix: float32 [3, 4], R, G, B of 0..255 from Y, U, V and 1; rounding is in the last column.
        table: [3, 256], what each value becomes.
        scratch: float32 row, lines [3, W] and uint8 rgb [3, W]; the row as long as ``Axis.reach`` and the widths ask.
        out_chw: [3, H, W], any strides.
    """
    row, lines, rgb = scratch
    for y in range(out_chw.shape[1]):
        for c in range(3):
            _shrink_down(planes[c], widths[c], down[c][0], down[c][1], y, row)
            _shrink_across(row, across[c][0], across[c][1], lines[c])
        _to_rgb(lines, matrix, rgb)
        for c in range(3):
            for x in range(out_chw.shape[2]):
                out_chw[c, y, x] = table[c, rgb[c, x]]

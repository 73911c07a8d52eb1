"""Compiled inner loops of preprocessing: pure, without the GIL, writing only into arrays passed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numba import njit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@njit(nogil=True, cache=True)
def table_to_chw(rgb: NDArray[np.uint8], table: NDArray[Any], out_chw: NDArray[Any]) -> None:
    """out[c, y, x] = table[c, rgb[y, x, c]]; rgb uint8 [H, W, 3], table [3, 256], out [3, H, W], any strides."""
    height, width = out_chw.shape[1], out_chw.shape[2]
    for y in range(height):
        for x in range(width):
            out_chw[0, y, x] = table[0, rgb[y, x, 0]]
            out_chw[1, y, x] = table[1, rgb[y, x, 1]]
            out_chw[2, y, x] = table[2, rgb[y, x, 2]]

"""Compiled loops over the pixels of a depth map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.media.numba_kernel import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


@kernel
def unproject_grid(
    metres: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """``out[v, u] = (x[u], y[v], 1) * metres[v, u]``; NaN where that is not positive and finite."""
    nan = np.float32(np.nan)
    for v in range(metres.shape[0]):
        for u in range(metres.shape[1]):
            z = metres[v, u]
            if not (z > 0 and z < np.inf):
                z = nan
            out[v, u, 0] = x[u] * z
            out[v, u, 1] = y[v] * z
            out[v, u, 2] = z


@kernel
def unproject_rays(metres: NDArray[np.float32], rays: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """``out[v, u] = (rays[v, u], 1) * metres[v, u]``; NaN where that is not positive and finite."""
    nan = np.float32(np.nan)
    for v in range(metres.shape[0]):
        for u in range(metres.shape[1]):
            z = metres[v, u]
            if not (z > 0 and z < np.inf):
                z = nan
            out[v, u, 0] = rays[v, u, 0] * z
            out[v, u, 1] = rays[v, u, 1] * z
            out[v, u, 2] = z

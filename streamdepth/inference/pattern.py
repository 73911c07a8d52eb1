"""The built-in image of start-up checks and verification: computed, the same on every machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH_PX, HEIGHT_PX = 854, 480
"""Size for the start-up check: the shape of most video, so that a model whose size depends on it is compiled once."""


def pattern(width_px: int, height_px: int, variant: int = 0) -> NDArray[np.uint8]:
    """A scene with sky, ground, a chequered floor, boxes and a ball, as uint8 [H, W, 3] RGB.

    Args:
        variant: 0, 1, 2, ...: other positions and colours.
    """
    rng = np.random.default_rng(1000 + variant)
    x = (np.arange(width_px, dtype=np.float32) + 0.5) / width_px
    y = ((np.arange(height_px, dtype=np.float32) + 0.5) / height_px)[:, None]
    horizon = 0.4 + 0.1 * float(rng.uniform(-1, 1))
    sky = np.stack([0.45 + 0.35 * y + 0 * x, 0.6 + 0.25 * y + 0 * x, 0.85 + 0.1 * y + 0 * x], axis=-1)
    distance = 1 / np.maximum(y - horizon, 0.01)
    squares = (np.floor((x - 0.5) * distance * 6) + np.floor(distance * 3)) % 2
    haze = np.clip(distance / 25, 0, 1)
    tone = (0.25 + 0.4 * squares) * (1 - haze) + 0.7 * haze
    floor = np.stack([tone, tone * 0.9, tone * 0.75], axis=-1)
    scene = np.where((y > horizon)[..., None], floor, sky).astype(np.float32).astype(np.float64)
    for order in range(5):
        size = 0.05 + 0.05 * order
        left, colour = float(rng.uniform(0, 1 - size)), rng.uniform(0.1, 0.9, 3)
        bottom = horizon + 0.1 + 0.1 * order
        rows = _span((y[:, 0] < bottom) & (y[:, 0] > bottom - 1.6 * size))
        columns = _span((x > left) & (x < left + size))
        shade = 0.7 + 0.3 * (x[columns] - left) / size
        scene[rows, columns] = colour * shade[:, None]
    centre_x, centre_y = float(rng.uniform(0.3, 0.7)), horizon + 0.35
    off = ((x - centre_x) * width_px / height_px) ** 2 + (y - centre_y) ** 2
    within = off < 0.03
    light = np.sqrt(1 - off[within] / 0.03)
    scene[within] = np.stack([0.3 + 0.6 * light, 0.15 + 0.2 * light, 0.1 + 0.2 * light], axis=-1)
    grain = rng.normal(0, 0.02, (height_px, width_px, 1))
    return np.asarray(np.clip((scene + grain) * 255, 0, 255).astype(np.uint8))


def _span(inside: NDArray[np.bool_]) -> slice:
    found = np.flatnonzero(inside)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)

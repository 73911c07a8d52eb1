"""Videos with exact depth and camera motion, rendered with the ray caster of the built-in model's training.

Scene seeds differ from those of the training images. Sensor noise is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.models.builtin.training.builder import rot_x, rot_y
from streamdepth.models.builtin.training.generate import MAKERS
from streamdepth.models.builtin.training.outdoors import sky
from streamdepth.models.builtin.training.place import ROOM, STREET
from streamdepth.models.builtin.training.raycast import offsets, render
from streamdepth.models.builtin.training.textures import make_bank

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH_PX, HEIGHT_PX = 352, 192
NOISE_LEVELS = 2.5
_FOV_DEG = 65.0
_BANK_SEED = 7


@dataclass(frozen=True)
class Walk:
    """A rendered video.

    Attributes:
        rgb: uint8 [N, H, W, 3].
        inverse: float32 [N, H, W], 1 / m, 0 = sky.
        cameras: float64 [N, 4, 3]: position, right, down, forward.
        focal_px: focal length.
        cap_m: depth up to which errors are measured.
    """

    rgb: NDArray[np.uint8]
    inverse: NDArray[np.float32]
    cameras: NDArray[np.float64]
    focal_px: float
    cap_m: float


KINDS = {
    "room": (ROOM, 5, 0.008, 10.0, 1.0),
    "street": (STREET, 5, 0.08, 80.0, 1.0),
    "still": (ROOM, 5, 0.0, 10.0, 1.0),
    "night": (STREET, 5, 0.08, 80.0, 0.15),
}
"""Name -> scene, seed, metres per frame, cap in metres, brightness. Noise is the same, so it is strong at night."""


def walk(name: str, frames: int) -> Walk:
    """A camera that moves forward, sways and turns slightly; ``still``: that does not move."""
    kind, seed, step_m, cap_m, brightness = KINDS[name]
    rng, noise = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    bank = make_bank(_BANK_SEED, None)
    place = MAKERS[kind](rng, bank)
    focal = WIDTH_PX / 2 / np.tan(np.deg2rad(_FOV_DEG) / 2)
    rows, above = np.array(place.scene.rows), sky(rng)
    dither = rng.random((HEIGHT_PX, WIDTH_PX, 2))
    moving = float(step_m > 0)
    ahead = rot_y(place.yaw) @ np.array([0.0, 0.0, 1.0])
    images, inverses, cameras = [], [], []
    exposure = 0.0
    image, inverse = np.zeros((HEIGHT_PX, WIDTH_PX, 3)), np.zeros((HEIGHT_PX, WIDTH_PX))
    for t in range(frames):
        yaw = place.yaw + moving * 0.06 * np.sin(t / 25)
        turn = rot_y(yaw) @ rot_x(place.pitch + moving * 0.01 * np.sin(t / 9))
        sway = moving * np.array([0.02 * np.sin(t / 7), 0.015 * np.sin(t / 5), 0.0])
        camera = np.stack(
            [place.eye + ahead * (step_m * t) + sway, turn @ [1, 0, 0], turn @ [0, -1, 0], turn @ [0, 0, 1]]
        )
        if moving or not images:
            image, inverse = np.zeros((HEIGHT_PX, WIDTH_PX, 3)), np.zeros((HEIGHT_PX, WIDTH_PX))
            fog = above[150:].mean((0, 1))
            render(
                rows, camera.ravel(), focal, bank.texels, offsets(), above, place.lights, place.sun, place.ambient,
                place.walls, fog, place.fog_m, True, dither, image, inverse,
            )  # fmt: skip
            exposure = exposure or brightness * 120 / max(image.mean(), 15)
            image = np.maximum(image * exposure, 0)
            image = image / (1 + (image / 255) ** 4) ** 0.25
        images.append(np.clip(image + noise.normal(0, NOISE_LEVELS, image.shape), 0, 255).astype(np.uint8))
        inverses.append(inverse.astype(np.float32))
        cameras.append(camera)
    return Walk(np.stack(images), np.stack(inverses), np.stack(cameras), float(focal), cap_m)

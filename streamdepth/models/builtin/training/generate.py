"""Render images with exact inverse depth into shards of one image size each.

A shard with a given number is always the same. Existing shards are skipped, so the command can be stopped and started
again.
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import cv2
import numpy as np

from streamdepth.models.builtin.training.aloft import aloft
from streamdepth.models.builtin.training.builder import rot_x, rot_y, rot_z
from streamdepth.models.builtin.training.outdoors import nature, objects, sky, street
from streamdepth.models.builtin.training.place import ALOFT, NATURE, OBJECTS, ROOM, STREET
from streamdepth.models.builtin.training.raycast import offsets, render
from streamdepth.models.builtin.training.rooms import room
from streamdepth.models.builtin.training.textures import Bank, make_bank

log = logging.getLogger("generate")

# (width, height) of shard n is entry n modulo the length
SIZES_PX = ((288, 224), (352, 208), (352, 208), (208, 288), (448, 160), (288, 224))
SHARES = {ROOM: 0.38, STREET: 0.3, NATURE: 0.11, OBJECTS: 0.08, ALOFT: 0.13}
MAKERS = {ROOM: room, STREET: street, NATURE: nature, OBJECTS: objects, ALOFT: aloft}
SHARD_IMAGES = 128
CLEAR_M = 0.35
SHELL = 6
"""Rows of a room that are its floor, ceiling and walls, always the first."""


def image(rng: np.random.Generator, bank: Bank, kind: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """One image, uint8 [H, W, 3] RGB, and its inverse depth, float64 [H, W] in 1/m, 0 = sky."""
    place = MAKERS[kind](rng, bank)
    fov = np.deg2rad(rng.uniform(*place.fov))
    f = max(width, height) / 2 / np.tan(fov / 2)
    roll = rng.normal(0, 0.03) if rng.random() < 0.85 else rng.normal(0, 0.2)
    turn = rot_y(place.yaw) @ rot_x(place.pitch) @ rot_z(roll)
    camera = np.concatenate([place.eye, turn @ [1, 0, 0], turn @ [0, -1, 0], turn @ [0, 0, 1]])
    rows = np.array(place.scene.rows)
    if kind != OBJECTS:  # remove objects directly in front of the lens, except walls
        local = np.einsum("nij,nj->ni", rows[:, 7:16].reshape(-1, 3, 3), place.eye - rows[:, 1:4])
        away = np.linalg.norm(np.maximum(np.abs(local) - rows[:, 4:7], 0), axis=1)
        rows = rows[(away > CLEAR_M) | ((kind == ROOM) & (np.arange(len(rows)) < SHELL))]
    above = sky(rng)
    img, inv = np.zeros((height, width, 3)), np.zeros((height, width))
    dither = rng.random((height, width, 2))
    fog = above[150:].mean((0, 1))
    render(
        rows,
        camera,
        f,
        bank.texels,
        offsets(),
        above,
        place.lights,
        place.sun,
        place.ambient,
        place.walls,
        fog,
        place.fog_m,
        bool(rng.random() < 0.85),
        dither,
        img,
        inv,
    )
    bright = rng.uniform(95, 150) + 50 * (inv == 0).mean()  # exposure for what is below the sky
    img *= bright / max(img.mean(), 15.0) if rng.random() < 0.9 else 1.0
    img = np.maximum(img, 0)
    return (img / (1 + (img / 255) ** 4) ** 0.25).astype(np.uint8), inv  # soft highlights


def usable(img: np.ndarray, inv: np.ndarray) -> bool:
    """Whether an image has enough contrast, depth and outlines, and nothing directly in front of the lens."""
    step = np.abs(np.diff(inv, axis=1))
    outlines = (step > 0.06 * np.maximum(inv[:, 1:], inv[:, :-1])).mean()
    low, high = np.percentile(inv, [3, 97])
    return bool(
        img.std() > 14
        and inv.max() > 0
        and high / max(low, 1e-6) > 1.3
        and outlines > 0.008
        and (inv > 5).mean() < 0.06
    )


def shard(number: int, seed: int, bank: Bank) -> dict[str, np.ndarray]:
    """Arrays of one shard: rgb uint8 [N, H, W, 3], inv float16 [N, H, W] in 1/m, kind uint8 [N]."""
    rng = np.random.default_rng([seed, number])
    width, height = SIZES_PX[number % len(SIZES_PX)]
    rgb, inv, kinds = [], [], []
    while len(rgb) < SHARD_IMAGES:
        shares = dict(SHARES) if width <= 2 * height else {ROOM: 0.1, STREET: 0.7, NATURE: 0.15, OBJECTS: 0.05}
        kind = int(rng.choice(list(shares), p=list(shares.values())))
        a, b = image(rng, bank, kind, width, height)
        if usable(a, b):
            rgb.append(a)
            inv.append(b.astype(np.float16))
            kinds.append(kind)
    return {"rgb": np.stack(rgb), "inv": np.stack(inv), "kind": np.array(kinds, np.uint8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--wheels", type=Path, help="folder with the wheels of the texture packages")
    parser.add_argument("--shards", type=int, default=120)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first shard (to share work between processes)"
    )
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cv2.setNumThreads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    bank = make_bank(args.seed, args.wheels)
    for number in range(args.first, args.shards, args.step):
        path = args.out / f"shard{number:04d}.npz"
        if path.exists():
            continue
        start = time.monotonic()
        arrays = shard(number, args.seed, bank)
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            np.savez(file, **arrays)
        part.replace(path)
        log.info("%s: %d images, %.1f a second", path.name, SHARD_IMAGES, SHARD_IMAGES / (time.monotonic() - start))


if __name__ == "__main__":
    main()

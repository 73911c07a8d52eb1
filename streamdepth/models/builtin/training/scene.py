# ruff: noqa: RUF005 - arrays are added here, not lists joined
"""All objects of a scene."""

from __future__ import annotations

import numpy as np

from streamdepth.models.builtin.training.builder import GREY, HARD, SOFT, rot_y, rot_z
from streamdepth.models.builtin.training.furniture import Indoors
from streamdepth.models.builtin.training.primitives import BOX, PLAIN, WINDOWS


class Scene(Indoors):
    """A scene builder with all objects."""

    def cabinet(self, x: float, z: float, yaw: float, height_max: float) -> None:
        r = self.rng
        axes, base, t, tint = rot_y(yaw), np.array([x, 0.0, z]), self.texture(HARD), self.tint()
        w, h, d = r.uniform(0.25, 0.9), min(r.uniform(0.35, 1.1), height_max / 2), r.uniform(0.15, 0.33)
        look = {"texture": t, "tint": tint}
        if r.random() < 0.5:
            self.part(base, axes, (0, h, 0), (w, h, d), **look)
            doors = int(r.integers(1, 5))
            for k in range(doors):
                self.part(
                    base, axes, ((2 * k + 1 - doors) * w / doors, h, -d), (w / doors * 0.95, h * 0.94, 0.012), **look
                )
                self.part(
                    base,
                    axes,
                    ((2 * k + 1 - doors) * w / doors + w / doors * 0.7, h, -d - 0.03),
                    (0.012, 0.06, 0.012),
                    texture="metal",
                )
            if h < 0.7:
                self.clutter(base + [0, 2 * h, 0], axes, w, d, int(r.integers(0, 6)))
            return
        for a in (-1, 1):
            self.part(base, axes, (a * w, h, 0), (0.018, h, d), **look)
        shelves = int(r.integers(2, 6))
        for k in range(shelves + 1):
            y = 2 * h * k / shelves + 0.015
            self.part(base, axes, (0, y, 0), (w, 0.014, d), **look)
            if k == shelves:
                continue
            if r.random() < 0.55:  # a row of books
                left, tall = -w * 0.95, h / shelves * 1.6
                for _ in range(12):
                    thick, up = r.uniform(0.012, 0.045), tall * r.uniform(0.55, 1.0) / 2
                    left += thick
                    if left > w * 0.95:
                        break
                    self.part(
                        base, axes, (left, y + up + 0.014, -d * 0.2), (thick, up, d * 0.6), texture="paper", tile_m=0.3
                    )
                    left += thick
            else:
                self.clutter(base + [0, y + 0.014, 0], axes, w, d * 0.7, int(r.integers(0, 4)))
        if r.random() < 0.6:
            self.part(base, axes, (0, h, d), (w, h, 0.01), **look)

    def counter(self, x: float, z: float, yaw: float, half_w: float) -> None:
        """A kitchen's lower and upper cupboards and the objects between them."""
        r = self.rng
        axes, base, front, tint = (
            rot_y(yaw),
            np.array([x, 0.0, z]),
            self.texture(("plain", "wood", "plaster")),
            self.tint(),
        )
        self.part(base, axes, (0, 0.44, 0), (half_w, 0.44, 0.3), texture=front, tint=tint)
        self.part(
            base, axes, (0, 0.9, -0.02), (half_w, 0.02, 0.33), texture=("tile", "wood", "metal", "concrete"), gloss=0.2
        )
        units = max(1, round(half_w / 0.3))
        for k in range(units):
            at = (2 * k + 1 - units) * half_w / units
            self.part(base, axes, (at, 0.46, -0.31), (half_w / units * 0.94, 0.38, 0.012), texture=front, tint=tint)
            self.part(base, axes, (at, 0.78, -0.34), (half_w / units * 0.5, 0.01, 0.012), texture="metal")
            if r.random() < 0.65:
                self.part(base, axes, (at, 1.75, 0.12), (half_w / units * 0.97, 0.34, 0.17), texture=front, tint=tint)
        self.clutter(base + [0, 0.92, 0], axes, half_w, 0.26, int(r.integers(3, 11)))
        if r.random() < 0.5:
            self.part(
                base,
                axes,
                (half_w * r.uniform(-0.7, 0.7), 1.08, 0.05),
                (0.24, 0.15, 0.18),
                texture="metal",
                tint=GREY * r.uniform(0.15, 1.2),
                gloss=0.3,
            )
        if r.random() < 0.6:
            self.part(
                base,
                axes,
                (half_w + 0.32, 0.9, 0),
                (0.3, 0.9, 0.31),
                texture=("plain", "metal"),
                tint=GREY * r.uniform(0.4, 1.6),
                gloss=0.2,
            )

    def facade(self, x: float, z: float, side: int, half_len: float, half_h: float, depth: float) -> None:
        """A house that faces the road."""
        r = self.rng
        wall = self.texture(("plaster", "brick", "concrete", "plaster", "tile"))
        self.add(
            BOX,
            (x + side * depth, half_h, z),
            (depth, half_h, half_len),
            None,
            wall,
            r.uniform(1.8, 3.6),
            None,
            WINDOWS if r.random() < 0.8 else PLAIN,
        )
        if r.random() < 0.5:  # shop windows, awning, sign
            self.add(
                BOX,
                (x, 1.4, z),
                (0.04, 1.15, half_len * 0.9),
                None,
                ("paper", "plain"),
                r.uniform(1.5, 3),
                GREY * r.uniform(0.2, 0.9),
                gloss=0.5,
            )
            self.add(BOX, (x - side * 0.1, 2.9, z), (0.12, 0.3, half_len * 0.9), None, ("paper", "plain", "wood"), 2.0)
            if r.random() < 0.5:
                self.add(BOX, (x - side * 0.8, 2.7, z), (0.9, 0.05, half_len * 0.8), rot_z(side * 0.35), SOFT, 1.0)
        if r.random() < 0.35:
            for k in range(1, min(int(half_h / 1.5), 4)):
                self.add(
                    BOX,
                    (x - side * 0.5, 3 * k, z),
                    (0.55, 0.5, half_len * r.uniform(0.2, 0.8)),
                    None,
                    ("concrete", "metal", "wood"),
                    1.0,
                )
        if half_h < 6 and r.random() < 0.6:
            tilt = rot_z(np.pi / 4)
            self.add(
                BOX,
                (x + side * depth, 2 * half_h - depth * 0.25, z),
                (depth * 0.8, depth * 0.8, half_len * 1.03),
                tilt,
                "roof",
                3.0,
            )

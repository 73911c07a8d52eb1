# ruff: noqa: RUF005 - arrays are added here, not lists joined
"""Furniture and small objects on it."""

from __future__ import annotations

import numpy as np

from streamdepth.models.builtin.training.builder import GREY, SOFT, rot_x, rot_y, rot_z
from streamdepth.models.builtin.training.outside import Outside
from streamdepth.models.builtin.training.primitives import BOX, CYLINDER, ELLIPSOID, LINES


class Indoors(Outside):
    """Objects in rooms."""

    def clutter(self, top: np.ndarray, axes: np.ndarray, half_w: float, half_d: float, count: int) -> None:
        """Small objects on a horizontal board centred at `top`."""
        r = self.rng
        for _ in range(count):
            p = top + axes @ [r.uniform(-0.9, 0.9) * half_w, 0, r.uniform(-0.85, 0.85) * half_d]
            turn, kind = rot_y(r.uniform(0, 6.3)), r.integers(0, 8)
            if kind == 0:
                s = r.uniform(0.02, 0.16, 3)
                self.add(BOX, p + [0, s[1], 0], s, turn, ("paper", "paper", "plain"), 0.3)
            elif kind == 1:  # cup, tin
                h = r.uniform(0.04, 0.1)
                self.add(
                    CYLINDER,
                    p + [0, h, 0],
                    (h * 0.7, h, h * 0.7),
                    turn,
                    ("plain", "tile", "paper"),
                    0.2,
                    gloss=r.uniform(0, 0.5),
                )
            elif kind == 2:  # bottle
                h, tint, gloss = r.uniform(0.09, 0.16), self.tint(0.4), r.uniform(0.2, 0.7)
                self.add(
                    CYLINDER, p + [0, h * 0.7, 0], (h * 0.3, h * 0.7, h * 0.3), turn, "plain", 0.2, tint, gloss=gloss
                )
                self.add(
                    CYLINDER, p + [0, h * 1.6, 0], (h * 0.12, h * 0.3, h * 0.12), turn, "plain", 0.2, tint, gloss=gloss
                )
            elif kind == 3:  # screen
                w, h = r.uniform(0.17, 0.34), r.uniform(0.12, 0.21)
                face = rot_y(r.normal(0, 0.5)) if r.random() < 0.7 else turn
                self.add(
                    BOX,
                    p + [0, h + 0.1, 0],
                    (w, h, 0.02),
                    axes @ face,
                    "plain",
                    0.5,
                    GREY * r.uniform(0.05, 0.3),
                    gloss=0.3,
                )
                if r.random() < 0.5:
                    self.add(
                        BOX,
                        p + [0, h + 0.1, 0] - axes @ face @ [0, 0, 0.02],
                        (w * 0.93, h * 0.9, 0.004),
                        axes @ face,
                        "paper",
                        0.4,
                        emit=r.uniform(0.7, 1.3),
                    )
                self.add(BOX, p + [0, 0.06, 0], (0.025, 0.09, 0.02), turn, "plain", 0.5, GREY * 0.2)
                self.add(BOX, p + [0, 0.01, 0], (0.12, 0.01, 0.09), turn, "plain", 0.5, GREY * 0.2)
            elif kind == 4:  # paper, keyboard, tablet
                self.add(
                    BOX,
                    p + [0, 0.008, 0],
                    (r.uniform(0.08, 0.2), 0.008, r.uniform(0.06, 0.15)),
                    turn,
                    "paper",
                    0.3,
                    GREY * r.uniform(0.2, 1.6),
                )
            elif kind == 5:
                h = r.uniform(0.03, 0.11)
                self.add(ELLIPSOID, p + [0, h, 0], (h, h, h), turn, ("plain", "fabric", "tile"), 0.3)
            elif kind == 6:  # stack of books
                y = 0.0
                for _ in range(r.integers(2, 6)):
                    h = r.uniform(0.008, 0.025)
                    self.add(
                        BOX,
                        p + [0, y + h, 0],
                        (r.uniform(0.09, 0.13), h, r.uniform(0.06, 0.1)),
                        turn @ rot_y(r.normal(0, 0.1)),
                        "paper",
                        0.3,
                    )
                    y += 2 * h
            else:  # pot plant
                h = r.uniform(0.05, 0.1)
                self.add(CYLINDER, p + [0, h, 0], (h, h, h), turn, ("plain", "brick"), 0.3)
                self.bush(p[0], p[2], h * 1.7, p[1] + 2 * h)

    def table(
        self,
        x: float,
        z: float,
        yaw: float,
        half_w: float | None = None,
        half_d: float | None = None,
        height: float | None = None,
        things: int | None = None,
    ) -> None:
        r = self.rng
        axes, w, d, h = (
            rot_y(yaw),
            half_w or r.uniform(0.35, 1.1),
            half_d or r.uniform(0.3, 0.6),
            height or r.uniform(0.4, 0.85),
        )
        t, tint, base = self.texture(("wood", "wood", "plain", "metal", "tile")), self.tint(), np.array([x, 0.0, z])
        gloss = r.uniform(0, 0.3) * (r.random() < 0.5)
        if r.random() < 0.15:
            self.add(CYLINDER, base + [0, h, 0], (w * 0.7, 0.02, w * 0.7), axes, t, 1.0, tint, gloss=gloss)
            self.add(CYLINDER, base + [0, h / 2, 0], (0.04, h / 2, 0.04), axes, t, 1.0, tint)
        else:
            self.part(base, axes, (0, h, 0), (w, 0.022, d), texture=t, tint=tint, gloss=gloss)
            if r.random() < 0.3:
                self.part(
                    base,
                    axes,
                    (w * 0.6, h / 2, 0),
                    (w * 0.35, h / 2 - 0.02, d * 0.9),
                    texture=t,
                    tint=tint,
                    pattern=LINES,
                )
            for a in (-1, 1):
                for b in (-1, 1):
                    self.part(
                        base, axes, (a * w * 0.92, h / 2, b * d * 0.9), (0.025, h / 2, 0.025), texture=t, tint=tint
                    )
        self.clutter(base + [0, h + 0.022, 0], axes, w, d, int(r.integers(0, 9)) if things is None else things)

    def chair(self, x: float, z: float, yaw: float) -> None:
        r = self.rng
        axes, t, tint, base = (
            rot_y(yaw),
            self.texture(("wood", "fabric", "plain", "metal")),
            self.tint(),
            np.array([x, 0.0, z]),
        )
        w, h = r.uniform(0.19, 0.27), r.uniform(0.4, 0.5)
        self.part(base, axes, (0, h, 0), (w, 0.025 if r.random() < 0.6 else 0.06, w), texture=t, tile_m=0.6, tint=tint)
        lean = axes @ rot_x(0.12)
        if r.random() < 0.5:
            self.add(
                BOX, base + [0, h + 0.27, 0] + axes @ [0, 0, w], (w, r.uniform(0.12, 0.26), 0.022), lean, t, 0.6, tint
            )
        else:
            for k in (-0.9, -0.3, 0.3, 0.9):
                self.add(BOX, base + [0, h + 0.24, 0] + axes @ [k * w, 0, w], (0.018, 0.24, 0.018), lean, t, 0.6, tint)
            self.add(BOX, base + [0, h + 0.46, 0] + axes @ [0, 0, w * 1.1], (w, 0.05, 0.02), lean, t, 0.6, tint)
        if r.random() < 0.3:
            self.add(CYLINDER, base + [0, h / 2, 0], (0.03, h / 2, 0.03), axes, "metal", 0.6, tint * 0.4)
            for k in range(5):
                self.add(
                    BOX,
                    base + [0, 0.06, 0] + rot_y(k * 1.257) @ [0, 0, w * 0.6],
                    (0.025, 0.025, w * 0.6),
                    rot_y(k * 1.257),
                    "metal",
                    0.6,
                    GREY * 0.2,
                )
        else:
            for a in (-1, 1):
                for b in (-1, 1):
                    self.add(
                        CYLINDER,
                        base + [0, h / 2, 0] + axes @ [a * w * 0.9, 0, b * w * 0.9],
                        (0.018, h / 2, 0.018),
                        axes,
                        t,
                        0.6,
                        tint * 0.8,
                    )

    def sofa(self, x: float, z: float, yaw: float) -> None:
        r = self.rng
        axes, base, w = rot_y(yaw), np.array([x, 0.0, z]), r.uniform(0.45, 1.15)
        look = {"texture": self.texture(SOFT), "tint": self.tint(), "tile_m": 0.8}
        self.part(base, axes, (0, 0.2, 0), (w, 0.2, 0.42), **look)
        seats = int(np.ceil(w / 0.45))
        for k in range(seats):
            self.add(
                ELLIPSOID,
                base + axes @ [(2 * k + 1 - seats) * w / seats, 0.4, -0.05],
                (w / seats * 1.15, 0.09, 0.42),
                axes,
                **look,
            )
            self.add(
                ELLIPSOID,
                base + axes @ [(2 * k + 1 - seats) * w / seats, 0.62, 0.3],
                (w / seats * 1.1, 0.26, 0.13),
                axes,
                **look,
            )
        self.part(base, axes, (0, 0.45, 0.4), (w, 0.38, 0.1), **look)
        for a in (-1, 1):
            self.part(base, axes, (a * w, 0.33, 0), (0.1, 0.3, 0.44), **look)
        for _ in range(r.integers(0, 3)):
            self.add(
                ELLIPSOID,
                base + axes @ [r.uniform(-0.7, 0.7) * w, 0.6, 0.12],
                (0.22, 0.2, 0.09),
                axes @ rot_z(r.uniform(-0.6, 0.6)),
                SOFT,
                0.4,
            )

    def bed(self, x: float, z: float, yaw: float) -> None:
        r = self.rng
        axes, base, w = rot_y(yaw), np.array([x, 0.0, z]), r.uniform(0.45, 0.9)
        self.part(base, axes, (0, 0.15, 0), (w, 0.15, 1.0), texture="wood")
        self.part(base, axes, (0, 0.38, 0), (w * 0.98, 0.1, 0.98), texture=SOFT, tint=GREY * r.uniform(0.9, 1.5))
        self.add(ELLIPSOID, base + axes @ [0, 0.46, -0.25], (w * 1.03, 0.12, 0.78), axes, SOFT, 0.8)
        for k in (-1, 1):
            self.add(
                ELLIPSOID,
                base + axes @ [k * w * 0.5, 0.52, 0.75],
                (w * 0.42, 0.1, 0.22),
                axes,
                SOFT,
                0.6,
                GREY * r.uniform(0.9, 1.5),
            )
        self.part(base, axes, (0, 0.5, 1.0), (w * 1.03, r.uniform(0.35, 0.6), 0.04), texture=("wood", "fabric"))

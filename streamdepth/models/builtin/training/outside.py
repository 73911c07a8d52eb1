# ruff: noqa: RUF005 - arrays are added here, not lists joined
"""People, trees, bushes and cars."""

from __future__ import annotations

import numpy as np

from streamdepth.models.builtin.training.builder import GREY, SOFT, rot_x, rot_y, rot_z
from streamdepth.models.builtin.training.primitives import BOX, CYLINDER, ELLIPSOID
from streamdepth.models.builtin.training.thin import Thin


class Outside(Thin):
    """Outdoor objects; people also appear indoors."""

    def person(self, x: float, z: float, y: float = 0.0, sitting: bool = False) -> None:
        r = self.rng
        h = r.uniform(1.5, 1.92) if r.random() < 0.85 else r.uniform(0.9, 1.4)
        turn, w = rot_y(r.uniform(0, 6.3)), h * r.uniform(0.115, 0.15)
        at = np.array([x, y - (h * 0.24 if sitting else 0), z])
        trousers, shirt = self.texture(SOFT), self.texture(("fabric", "plain", "paper"))
        skin, hair = np.array([1.25, 0.95, 0.8]) * r.uniform(0.35, 1.1), GREY * r.uniform(0.08, 0.6) * [1.1, 0.95, 0.8]
        flesh, shirt_tint, leg_tint = self.texture("plaster"), self.tint(), self.tint()
        stride = r.uniform(0, 0.35) * (r.random() < 0.6)
        for side in (-1, 1):
            swing = 1.4 if sitting else stride * side
            hip = at + [0, h * 0.5, 0] + turn @ [side * w * 0.5, 0, 0]
            knee = hip + turn @ rot_x(swing) @ [0, -h * 0.24, 0]
            self.add(
                ELLIPSOID,
                (hip + knee) / 2,
                (w * 0.42, h * 0.15, w * 0.45),
                turn @ rot_x(swing),
                trousers,
                0.5,
                leg_tint,
            )
            low = 0.0 if sitting else swing - 0.5 * abs(stride)
            shin = knee + turn @ rot_x(low) @ [0, -h * 0.12, 0]
            self.add(CYLINDER, shin, (w * 0.28, h * 0.13, w * 0.28), turn @ rot_x(low), trousers, 0.5, leg_tint)
            foot = knee + turn @ rot_x(low) @ [0, -h * 0.24, 0]
            self.add(
                ELLIPSOID,
                foot + turn @ [0, 0.03, 0.06],
                (0.05, 0.045, 0.13),
                turn,
                "plain",
                0.5,
                GREY * r.uniform(0.1, 0.8),
            )
            lift = r.uniform(-0.3, 0.5) if r.random() < 0.75 else r.uniform(0.5, 2.4)
            shoulder = at + [0, h * 0.79, 0] + turn @ [side * w * 1.3, 0, 0]
            arm = rot_x(-lift) @ rot_z(side * r.uniform(0, 0.25))
            elbow = shoulder + turn @ arm @ [0, -h * 0.17, 0]
            self.add(
                ELLIPSOID, (shoulder + elbow) / 2, (w * 0.33, h * 0.105, w * 0.33), turn @ arm, shirt, 0.5, shirt_tint
            )
            fore = rot_x(-lift - r.uniform(0, 1.2))
            hand = elbow + turn @ fore @ [0, -h * 0.16, 0]
            bare = r.random() < 0.5
            self.add(
                ELLIPSOID,
                (elbow + hand) / 2,
                (w * 0.24, h * 0.1, w * 0.24),
                turn @ fore,
                flesh if bare else shirt,
                0.5,
                skin if bare else shirt_tint,
            )
            self.add(ELLIPSOID, hand, (0.045, 0.06, 0.045), turn, flesh, 0.5, skin)
        self.add(ELLIPSOID, at + [0, h * 0.67, 0], (w * 1.2, h * 0.185, w * 0.8), turn, shirt, 0.5, shirt_tint)
        self.add(ELLIPSOID, at + [0, h * 0.54, 0], (w * 1.0, h * 0.09, w * 0.8), turn, trousers, 0.5, leg_tint)
        self.add(CYLINDER, at + [0, h * 0.85, 0], (w * 0.36, h * 0.04, w * 0.36), turn, flesh, 0.5, skin)
        self.add(
            ELLIPSOID,
            at + [0, h * 0.925, 0] + turn @ [0, 0, 0.01],
            (w * 0.55, h * 0.073, w * 0.66),
            turn,
            flesh,
            0.6,
            skin,
        )
        self.add(
            ELLIPSOID,
            at + [0, h * 0.948, 0] - turn @ [0, 0, 0.025],
            (w * 0.62, h * r.uniform(0.055, 0.08), w * 0.66),
            turn,
            "fabric",
            0.3,
            hair,
        )
        if r.random() < 0.25:
            self.add(BOX, at + [0, h * 0.68, 0] - turn @ [0, 0, w * 1.2], (w, h * 0.13, w * 0.55), turn, SOFT, 0.5)

    def tree(self, x: float, z: float, y: float = 0.0, height: float | None = None) -> None:
        r = self.rng
        h = height or r.uniform(2.5, 11)
        bark = np.array([0.75, 0.62, 0.5]) * r.uniform(0.4, 1.0)
        self.add(
            CYLINDER, (x, y + h * 0.3, z), (h * 0.028, h * 0.33, h * 0.028), rot_z(r.normal(0, 0.04)), "wood", 0.7, bark
        )
        leaf, green = self.texture(("leaves", "leaves", "leaves", "grass")), self.tint(0.15) * r.uniform(0.6, 1.3)
        holes = r.uniform(0.2, 0.55) if r.random() < 0.9 else 0.0
        if r.random() < 0.12:  # bare branches
            for _ in range(r.integers(5, 12)):
                tilt = rot_y(r.uniform(0, 6.3)) @ rot_x(r.uniform(0.3, 1.1))
                self.add(
                    CYLINDER,
                    np.array([x, y + h * r.uniform(0.4, 0.75), z]) + tilt @ [0, h * 0.15, 0],
                    (h * 0.008, h * 0.17, h * 0.008),
                    tilt,
                    "wood",
                    0.7,
                    bark,
                )
        elif r.random() < 0.28:
            for k in range(5):
                self.add(
                    ELLIPSOID,
                    (x, y + h * (0.28 + 0.16 * k), z),
                    (h * 0.25 * (1 - 0.17 * k), h * 0.13, h * 0.25 * (1 - 0.17 * k)),
                    None,
                    leaf,
                    1.0,
                    green,
                    holes=holes,
                )
        else:
            for _ in range(r.integers(3, 9)):
                dx, dy, dz = r.normal(0, 0.13, 3) * h
                self.add(
                    ELLIPSOID,
                    (x + dx, y + h * 0.72 + dy, z + dz),
                    h * r.uniform(0.1, 0.24, 3),
                    None,
                    leaf,
                    1.0,
                    green * r.uniform(0.8, 1.2),
                    holes=holes,
                )

    def bush(self, x: float, z: float, size: float, y: float = 0.0) -> None:
        leaf, green = self.texture("leaves"), self.tint(0.15)
        for _ in range(self.rng.integers(1, 4)):
            dx, dz = self.rng.normal(0, 0.5, 2) * size
            half = size * self.rng.uniform(0.5, 1.0, 3)
            self.add(
                ELLIPSOID,
                (x + dx, y + half[1] * 0.7, z + dz),
                half,
                None,
                leaf,
                0.8,
                green,
                holes=self.rng.uniform(0.1, 0.4),
            )

    def car(self, x: float, z: float, yaw: float) -> None:
        r = self.rng
        axes, length, w = rot_y(yaw), r.uniform(1.8, 2.35), r.uniform(0.8, 0.92)
        paint = self.texture(("plain", "metal", "plain"))
        tint = GREY * r.uniform(0.2, 1.6) if r.random() < 0.6 else self.tint(0.5)
        gloss, base, body = r.uniform(0.25, 0.7), np.array([x, 0.0, z]), r.uniform(0.32, 0.42)
        glass = GREY * 0.12
        kind = r.random()
        self.part(
            base, axes, (0, 0.28 + body, 0), (w, body * 0.8, length), texture=paint, tile_m=4.0, tint=tint, gloss=gloss
        )
        self.add(
            ELLIPSOID,
            base + [0, 0.3 + body, 0],
            (w * 1.04, body * 1.15, length * 1.05),
            axes,
            paint,
            4.0,
            tint,
            gloss=gloss,
        )
        if kind < 0.8:
            shift, roof = r.uniform(-0.35, 0.1) * (length - 1.2), 0.3 + 2 * body
            long = length * r.uniform(0.5, 0.66)
            self.add(
                ELLIPSOID,
                base + [0, roof + 0.02, 0] + axes @ [0, 0, shift],
                (w * 0.93, 0.56, long * 1.12),
                axes,
                "plain",
                4.0,
                glass,
                gloss=0.8,
            )
            self.part(
                base,
                axes,
                (0, roof + 0.43, shift),
                (w * 0.72, 0.06, long * 0.62),
                texture=paint,
                tile_m=4.0,
                tint=tint,
                gloss=gloss,
            )
            for side in (-1, 1):
                for end in (-1, 0, 1):
                    self.part(
                        base,
                        axes,
                        (side * w * 0.8, roof + 0.2, shift + end * long * 0.66),
                        (0.035, 0.26, 0.045),
                        texture=paint,
                        tile_m=4.0,
                        tint=tint,
                    )
        else:
            tall = r.uniform(0.7, 1.4)
            self.part(
                base,
                axes,
                (0, 0.7 + tall, -0.15),
                (w * 1.08, tall, length * 1.15),
                texture=paint if r.random() < 0.6 else "paper",
                tile_m=2.5,
                tint=tint,
                gloss=gloss * 0.5,
            )
            self.part(
                base,
                axes,
                (0, 0.7 + tall * 1.3, length * 0.86),
                (w * 0.95, tall * 0.4, length * 0.3),
                texture="plain",
                tint=glass,
                gloss=0.7,
            )
            self.part(
                base,
                axes,
                (0, 0.7 + tall * 1.35, -length * 1.31),
                (w * 0.8, tall * 0.35, 0.01),
                texture="plain",
                tint=glass,
                gloss=0.7,
            )
        for side in (-1, 1):
            for end in (-1, 1):
                wheel = base + [0, 0.31, 0] + axes @ [side * w * 0.9, 0, end * length * 0.62]
                self.add(CYLINDER, wheel, (0.31, 0.14, 0.31), axes @ rot_z(np.pi / 2), "plain", 1.0, GREY * 0.1)
                self.add(
                    CYLINDER, wheel, (0.18, 0.15, 0.18), axes @ rot_z(np.pi / 2), "metal", 0.5, GREY * 0.8, gloss=0.3
                )
            self.part(
                base,
                axes,
                (side * w * 0.75, 0.33 + body, -length * 1.0),
                (0.13, 0.08, 0.05),
                texture="plain",
                tint=np.array([1.5, 0.25, 0.2]),
                emit=0.9,
            )
            self.part(
                base,
                axes,
                (side * w * 0.72, 0.3 + body, length * 1.0),
                (0.15, 0.07, 0.05),
                texture="plain",
                tint=GREY * 1.8,
            )
        self.part(base, axes, (0, 0.4, -length * 1.03), (0.26, 0.06, 0.02), texture="paper", tint=GREY * 1.5)

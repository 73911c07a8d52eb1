"""Rooms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.models.builtin.training.builder import ANY, GREY, SOFT, rot_y
from streamdepth.models.builtin.training.place import Place
from streamdepth.models.builtin.training.primitives import BOX, CYLINDER, LINES, PLAIN
from streamdepth.models.builtin.training.scene import Scene

if TYPE_CHECKING:
    from streamdepth.models.builtin.training.textures import Bank


def room(rng: np.random.Generator, bank: Bank) -> Place:
    """A furnished room, kitchen, office, bedroom or corridor."""
    s = Scene(rng, bank)
    style = rng.choice(
        ["living", "kitchen", "office", "bedroom", "corridor", "store"], p=[0.24, 0.24, 0.24, 0.1, 0.09, 0.09]
    )
    w, d = rng.uniform(1.4, 4.2, 2)
    if style == "corridor":
        w, d = rng.uniform(0.8, 1.7), rng.uniform(4, 14)
    h = rng.uniform(2.2, 3.3) / 2
    wall = s.texture(
        ("plaster", "plaster", "plain", "plaster", "wood", "brick", "tile")
        if style != "store"
        else ("concrete", "brick", "plaster")
    )
    wall_tint = np.clip(rng.normal(1.05, 0.2) * (1 + rng.normal(0, 0.05, 3)), 0.4, 1.7)
    s.add(
        BOX,
        (0, -0.1, 0),
        (w + 0.2, 0.1, d + 0.2),
        None,
        ("wood", "wood", "tile", "fabric", "concrete"),
        rng.uniform(0.7, 2.5),
        gloss=rng.uniform(0, 0.35) * (rng.random() < 0.5),
    )
    s.add(
        BOX,
        (0, 2 * h + 0.1, 0),
        (w + 0.2, 0.1, d + 0.2),
        None,
        ("plaster", "plaster", "tile"),
        1.5,
        GREY * rng.uniform(0.9, 1.4),
        LINES if rng.random() < 0.2 else PLAIN,
    )
    for a in (-1, 1):
        tint = wall_tint * rng.uniform(0.93, 1.07)
        other = wall if rng.random() < 0.85 else s.texture(("plaster", "tile", "wood", "paper"))
        s.add(BOX, (a * (w + 0.1), h, 0), (0.1, h, d + 0.2), None, other, rng.uniform(1, 3), tint)
        s.add(BOX, (0, h, a * (d + 0.1)), (w + 0.2, h, 0.1), None, wall, rng.uniform(1, 3), tint)
    for a in (-1, 1):
        if rng.random() < 0.6:
            s.add(BOX, (a * w, 0.05, 0), (0.012, 0.05, d), None, "wood", 1.0, GREY * 1.2)
            s.add(BOX, (0, 0.05, a * d), (w, 0.05, 0.012), None, "wood", 1.0, GREY * 1.2)

    def along_wall(off: float) -> tuple[float, float, float, int, int, float]:
        axis, side = int(rng.integers(2)), int(rng.choice([-1, 1]))
        u = rng.uniform(-0.9, 0.9) * (w if axis else d)
        if axis:
            return u, side * (d - off), 0.0 if side > 0 else np.pi, axis, side, u
        return side * (w - off), u, side * np.pi / 2, axis, side, u

    for _ in range(rng.integers(2, 9)):
        _, _, _, axis, side, u = along_wall(0)
        kind = rng.random()
        if kind < 0.22:  # door
            half, y, look = (
                (0.42, 1.0),
                1.0,
                {"texture": ("wood", "plain", "metal"), "pattern": LINES if rng.random() < 0.3 else PLAIN},
            )
        elif kind < 0.5:  # window: bright, with a frame
            half, y = (rng.uniform(0.3, 0.9), rng.uniform(0.35, 0.65)), rng.uniform(1.3, 1.6)
            look = {
                "texture": ("plain", "paper", "leaves"),
                "emit": rng.uniform(1.1, 1.8),
                "tint": GREY * 1.5,
                "tile_m": 2.0,
            }
        else:
            half, y, look = (
                tuple(rng.uniform(0.12, 0.6, 2)),
                rng.uniform(1.0, 1.8),
                {"texture": "paper", "tile_m": rng.uniform(0.6, 1.4)},
            )
        y = min(y, 2 * h - half[1])
        thick = rng.uniform(0.006, 0.04)
        frames = [(half, thick, look)]
        if kind < 0.6:
            frames.insert(0, ((half[0] + 0.06, half[1] + 0.06), thick * 0.7, {"texture": ("wood", "plain")}))
        for (hw, hh), t, kw in frames:
            if axis:
                s.add(BOX, (u, y, side * d), (hw, hh, t), None, **kw)
            else:
                s.add(BOX, (side * w, y, u), (t, hh, hw), None, **kw)
        if 0.22 <= kind < 0.5 and rng.random() < 0.5:  # curtains
            for end in (-1, 1):
                place, size = u + end * half[0], (0.12, min(half[1] * 1.4, 2 * h - y), 0.05)
                at = (place, y, side * (d - 0.08)) if axis else (side * (w - 0.08), y, place)
                s.add(BOX, at, size if axis else size[::-1], None, SOFT, 0.3)
    if style == "kitchen":
        for _ in range(rng.integers(1, 4)):
            x, z, yaw, axis, _, _ = along_wall(0.32)
            s.counter(x * (not axis), z * bool(axis), yaw, (w if axis else d) * rng.uniform(0.4, 0.9))
    for _ in range(rng.integers(3, 10)):
        x, z, yaw, *_ = along_wall(rng.uniform(0.3, 0.5))
        yaw += rng.normal(0, 0.05)
        kind = rng.random()
        if style == "store" or kind < 0.42:
            s.cabinet(x, z, yaw, 2 * h)
        elif kind < 0.6 and style != "kitchen":
            s.sofa(x, z, yaw)
        elif kind < 0.8:
            s.table(x, z, yaw)
        elif kind < 0.88:
            s.add(CYLINDER, (x, h * 0.6, z), (0.02, h * 0.6, 0.02), None, "metal")
            s.add(CYLINDER, (x, h * 1.25, z), (0.18, 0.14, 0.18), None, SOFT, emit=1.3)
        else:
            s.add(CYLINDER, (x, 0.18, z), (0.15, 0.18, 0.15), None, ("brick", "plain"))
            s.bush(x, z, 0.35, 0.4)
    if style == "bedroom":
        x, z, yaw, *_ = along_wall(1.1)
        s.bed(x, z, yaw)
    if rng.random() < 0.35:
        s.add(
            BOX,
            (rng.uniform(-0.4, 0.4) * w, 0.008, rng.uniform(-0.4, 0.4) * d),
            (rng.uniform(0.5, 1.2), 0.008, rng.uniform(0.4, 1.0)),
            rot_y(rng.normal(0, 0.3)),
            SOFT,
            1.5,
        )
    for _ in range(rng.integers(2, 11) if style != "corridor" else rng.integers(0, 3)):
        x, z, yaw, kind = rng.uniform(-0.8, 0.8) * w, rng.uniform(-0.8, 0.8) * d, rng.uniform(0, 6.3), rng.random()
        if kind < 0.3:
            s.table(x, z, yaw)
        elif kind < 0.65:
            s.chair(x, z, yaw)
        elif kind < 0.82:
            s.person(x, z, sitting=rng.random() < 0.3)
        elif kind < 0.94:
            half = rng.uniform(0.08, 0.35, 3)
            s.add(int(rng.integers(0, 3)), (x, half[1], z), half, rot_y(yaw), ("paper", *ANY), 0.6)
        else:
            s.bush(x, z, 0.3, 0.3)
    lamps = int(rng.integers(1, 3))
    lights = np.zeros((lamps, 6))
    glow = 1 + rng.normal(0, 0.06) * np.array([1, 0, -1.5])
    for k in range(lamps):
        lights[k] = [rng.uniform(-0.8, 0.8) * w, 2 * h - 0.15, rng.uniform(-0.8, 0.8) * d, *(glow / lamps**0.7)]
        if rng.random() < 0.5:
            s.add(
                BOX,
                (lights[k, 0], 2 * h - 0.02, lights[k, 2]),
                (rng.uniform(0.1, 0.6), 0.02, 0.12),
                None,
                "plain",
                1.0,
                GREY * 1.6,
                emit=1.8,
            )
    if style == "office" or rng.random() < 0.3:  # at a desk, looking over it
        eye = np.array([rng.uniform(-0.5, 0.5) * w, rng.uniform(0.95, 1.6), rng.uniform(-0.5, 0.5) * d])
        yaw = rng.uniform(0, 6.3)
        ahead = np.array([np.sin(yaw), 0, np.cos(yaw)])
        at = eye + ahead * rng.uniform(0.6, 1.2)
        s.table(
            at[0],
            at[2],
            yaw,
            rng.uniform(0.6, 1.0),
            rng.uniform(0.35, 0.5),
            rng.uniform(0.68, 0.78),
            int(rng.integers(3, 14)),
        )
        if rng.random() < 0.5:
            side = at + ahead * 0.9
            s.chair(side[0], side[2], yaw + rng.normal(0, 0.6))
        pitch = rng.uniform(-0.05, 0.7)
    else:
        eye = np.array(
            [rng.uniform(-0.9, 0.9) * w, rng.uniform(0.6, min(1.9, 2 * h - 0.2)), rng.uniform(-0.9, 0.9) * d]
        )
        target = np.array([rng.uniform(-0.5, 0.5) * w, 0, rng.uniform(-0.5, 0.5) * d]) - eye
        yaw, pitch = np.arctan2(target[0], target[2]) + rng.normal(0, 0.4), rng.normal(0.1, 0.2)
        if style == "corridor":
            yaw, eye = rng.choice([0, np.pi]) + rng.normal(0, 0.2), eye * [0.6, 1, 0.95]
    return Place(s, eye, yaw, pitch, lights, False, rng.uniform(0.45, 0.85), walls=np.array([w, h, d]))

# ruff: noqa: RUF005 - arrays are added here, not lists joined
"""Scenes seen from below: objects in front of sky that reaches the lower edge of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.models.builtin.training.builder import ANY, rot_x, rot_y, rot_z
from streamdepth.models.builtin.training.outdoors import sun
from streamdepth.models.builtin.training.place import Place
from streamdepth.models.builtin.training.primitives import BOX, ELLIPSOID, LINES, WINDOWS
from streamdepth.models.builtin.training.scene import Scene

if TYPE_CHECKING:
    from streamdepth.models.builtin.training.textures import Bank


def aloft(rng: np.random.Generator, bank: Bank) -> Place:
    """Rides, masts, cranes, wires, tree tops, roofs and flying objects; the camera looks up."""
    s = Scene(rng, bank)
    s.add(BOX, (0, -1, 0), (3000, 1, 3000), None, ("grass", "road", "ground", "concrete"), rng.uniform(1.5, 6))
    away = np.exp(rng.uniform(1.6, 3.8))
    pitch = -rng.uniform(0.12, 0.8)
    middle = np.array([0.0, 1.6 + away * np.tan(-pitch), away])
    for _ in range(rng.integers(1, 4)):
        at = middle + rng.normal(0, 0.35, 3) * away * [1, 0.6, 0.5]
        at[1] = max(at[1], 1.0)
        kind = rng.choice(["ride", "mast", "arm", "wires", "tree", "roof", "thing", "railing", "people"])
        if kind == "ride":
            t, span = np.linspace(-1, 1, 18), away * rng.uniform(0.6, 1.6)
            a, b, c = rng.normal(0, 0.5, 3)
            path = at + np.stack([t, a * t * t + 0.4 * b * np.sin(3 * t + a), c * t], 1) * span
            path[:, 1] = np.maximum(path[:, 1], 1.0)
            s.ride(path, 0.0)
            if rng.random() < 0.6:
                train, size = path[rng.integers(4, 14)], rng.uniform(0.5, 1.0)
                for k in range(int(rng.integers(1, 5))):
                    s.add(BOX, train + [k * 2.2 * size, size, 0], (size, size * 0.6, size * 0.7), None, ANY, 1.0)
        elif kind == "mast":
            s.girder(np.array([at[0], 0, at[2]]), at + [0, away * 0.3, 0], rng.uniform(0.3, 2.5), rng.integers(6, 18))
        elif kind == "arm":
            turn = rot_y(rng.uniform(0, 6.3)) @ rot_z(rng.normal(0, 0.25))
            reach = turn @ np.array([away * rng.uniform(0.4, 1.0), 0, 0])
            s.girder(at - reach, at + reach, rng.uniform(0.3, 1.8), int(rng.integers(6, 18)))
        elif kind == "wires":
            reach = rot_y(rng.uniform(-1.2, 1.2)) @ np.array([away * 1.5, rng.normal(0, 0.1) * away, 0])
            s.wires(at - reach, at + reach, int(rng.integers(1, 7)))
            s.rod(np.array([at[0], 0, at[2]]), at + [0, 0.5, 0], rng.uniform(0.06, 0.2), "wood", s.tint())
        elif kind == "tree" and rng.random() < 0.5:
            foot = np.array([at[0], 0, at[2]])
            s.branch(foot, np.array([0, at[1] * 0.6, 0]), at[1] * 0.02, 3)
        elif kind == "tree":
            s.tree(at[0], at[2], 0.0, at[1] * rng.uniform(1.0, 1.6))
        elif kind == "roof":
            half = away * rng.uniform(0.08, 0.4, 3)
            where, turn = at - [0, half[1] * 0.5, 0], rot_y(rng.uniform(0, 6.3))
            wall = ("plaster", "brick", "concrete")
            s.add(BOX, where, half, turn, wall, 3.0, None, int(rng.choice([WINDOWS, LINES])))
            left, right = (where + [side * half[0], half[1], -half[2]] for side in (-1, 1))
            s.railing(left, right, rng.uniform(0.6, 1.4))
        elif kind == "thing":
            turn = rot_y(rng.uniform(0, 6)) @ rot_x(rng.uniform(0, 6))
            s.add(int(rng.integers(0, 3)), at, away * np.exp(rng.uniform(-4, -1.2, 3)), turn, ANY, away * 0.2)
            s.add(ELLIPSOID, at + rng.normal(0, 0.3, 3) * away, away * np.exp(rng.uniform(-4, -2, 3)), turn, ANY, 1.0)
        elif kind == "railing":
            reach = rot_y(rng.normal(0, 0.5)) @ np.array([away * rng.uniform(0.3, 1.0), 0, 0])
            s.railing(at - reach, at + reach, away * rng.uniform(0.04, 0.15))
        else:
            top = rng.uniform(1.8, 3.0)
            s.add(ELLIPSOID, (0, 0, 6), (8, top, 3), None, ("grass", "ground"), 2.0)
            for _ in range(rng.integers(1, 5)):
                s.person(rng.uniform(-3, 3), 6.0, top - 0.1)
    lights, ambient = sun(rng)
    eye = np.array([0.0, rng.uniform(0.8, 1.8), 0.0])
    return Place(s, eye, rng.normal(0, 0.1), pitch, lights, True, ambient, (35.0, 80.0))

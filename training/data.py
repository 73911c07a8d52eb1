"""Batches for training: crops of rendered pictures, worn down to what cameras and codecs leave of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.utils.data import IterableDataset

from training.place import ROOM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# network sizes (width, height) by shape of the rendered picture, all of about 50,000 pixels
WIDE = ((352, 192), (320, 192), (288, 160))
NORMAL = ((256, 192), (256, 192), (224, 224), (320, 192))
TALL = ((192, 256), (192, 320), (224, 224))
LONG = ((512, 160), (448, 160), (448, 128), (576, 192))
RESCAN_BATCHES = 40
SHAKE_PX = 3
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def sizes_for(width: int, height: int) -> tuple[tuple[int, int], ...]:
    aspect = width / height
    return LONG if aspect > 2 else WIDE if aspect > 1.5 else NORMAL if aspect > 1 else TALL


def wear(f: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera's and a codec's marks on float32 RGB in 0..1: blur, cast, contrast, vignette, noise, JPEG. -> uint8."""
    height, width = f.shape[:2]
    kind = rng.random()
    if kind < 0.15:
        f = cv2.GaussianBlur(f, (0, 0), rng.uniform(0.4, 2.0))
    elif kind < 0.27:
        s = rng.uniform(0.35, 0.85)
        f = cv2.resize(cv2.resize(f, None, fx=s, fy=s, interpolation=cv2.INTER_AREA), (width, height))
    elif kind < 0.36:
        n = int(rng.integers(3, 11))
        line = np.zeros((n, n), np.float32)
        line[n // 2] = 1 / n
        line = cv2.warpAffine(line, cv2.getRotationMatrix2D((n / 2 - 0.5, n / 2 - 0.5), rng.uniform(0, 180), 1), (n, n))
        f = cv2.filter2D(np.ascontiguousarray(f), -1, line / max(line.sum(), 1e-3))
    elif kind < 0.44:  # a camera's own sharpening
        f = f + (f - cv2.GaussianBlur(f, (0, 0), 1.2)) * rng.uniform(0.3, 1.2)
    if rng.random() < 0.85:
        grey = f.mean(2, keepdims=True)
        f = grey + (f - grey) * rng.uniform(0.1, 1.2)
        f = f * (1 + rng.normal(0, 0.1, 3)).astype(np.float32)
        f = (f - 0.5) * rng.uniform(0.6, 1.4) + 0.5 + rng.uniform(-0.15, 0.15)
        f = np.clip(f, 0, 1) ** rng.uniform(0.6, 1.6)
    if rng.random() < 0.25:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        f = f * (1 - rng.uniform(0.1, 0.5) * (x * x + y * y) / 2)[:, :, None].astype(np.float32)
    if rng.random() < 0.12:  # veiling glare
        f = f * rng.uniform(0.5, 0.9) + rng.uniform(0.05, 0.4) * np.ones(3, np.float32)
    if rng.random() < 0.06:
        f = np.repeat(f.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.45:
        grain = rng.standard_normal((height, width, 1 if rng.random() < 0.5 else 3), np.float32)
        if rng.random() < 0.4:
            grain = cv2.GaussianBlur(grain, (0, 0), 0.8).reshape(grain.shape) * 2
        f = f + grain * rng.uniform(0, 0.06)
    out = (np.clip(f, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.35:
        out = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 85))])[1], 1)
    return out


def crop(rng: np.random.Generator, width: int, height: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """x, y, w, h of a part of the picture with about the aspect of `size`."""
    aspect = size[0] / size[1] * np.exp(rng.normal(0, 0.15))
    scale = rng.uniform(0.6, 1.0) ** 0.7
    w = min(width, height * aspect) * scale
    h = min(height, w / aspect)
    w, h = max(int(w), 16), max(int(h), 16)
    return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h


class Shards(IterableDataset[Batch]):
    """Endless batches: rgb uint8 [B, H, W, 3]; inverse depth and teacher float32 [B, H/2, W/2]; flags float32 [B, 2].

    flags: is a room, has a teacher. Pictures come in pairs, 2k and 2k + 1: one crop as two cameras would see it, up to
    SHAKE_PX apart, so that the network can be asked for the same depth of both.
    Batches follow from seed and step alone once all shards are there.
    New shards are picked up as they appear, so that training can start while rendering goes on.
    """

    def __init__(self, folder: Path, batch: int, seed: int, step: int) -> None:
        self.folder, self.batch, self.seed, self.step = folder, batch, seed, step
        self.shards: dict[str, tuple[np.ndarray, ...]] = {}

    def _scan(self) -> None:
        for path in sorted(self.folder.glob("shard????.npz")):
            teacher = path.with_suffix(".teacher.npy")
            if path.name not in self.shards and teacher.exists():
                with np.load(path) as z:
                    self.shards[path.name] = (z["rgb"], z["inv"], z["kind"], np.load(teacher))

    def __iter__(self) -> Iterator[Batch]:
        cv2.setNumThreads(1)
        step = self.step
        while True:
            if (step - self.step) % RESCAN_BATCHES == 0:
                self._scan()
            yield self.make(step)
            step += 1

    def make(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        names = sorted(self.shards)
        first = self.shards[names[rng.integers(len(names))]]
        shape = first[0].shape[1:3]
        alike = [n for n in names if self.shards[n][0].shape[1:3] == shape]
        sizes = sizes_for(shape[1], shape[0])
        size = sizes[rng.integers(len(sizes))]
        chosen = [self.shards[alike[rng.integers(len(alike))]] for _ in range(self.batch // 2)]
        rows = [row for shard in chosen for row in self._pair(rng, shard, size)]
        rgb, inv, teacher, flags = (torch.from_numpy(np.stack(x)) for x in zip(*rows, strict=True))
        return rgb, inv, teacher, flags

    def _pair(
        self, rng: np.random.Generator, shard: tuple[np.ndarray, ...], size: tuple[int, int]
    ) -> list[tuple[np.ndarray, ...]]:
        i = int(rng.integers(len(shard[0])))
        rgb, inv, kind, teacher = shard[0][i], shard[1][i], shard[2][i], shard[3][i]
        height, width = inv.shape
        x, y, w, h = crop(rng, width, height, size)
        half = (size[0] // 2, size[1] // 2)
        big = cv2.resize(teacher.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        flags = np.array([kind == ROOM, teacher.max() > 0], np.float32)
        mirrored = rng.random() < 0.5
        rows = []
        for view in range(2):
            if view:
                dx, dy = rng.integers(-SHAKE_PX, SHAKE_PX + 1, 2)
                x, y = int(np.clip(x + dx, 0, width - w)), int(np.clip(y + dy, 0, height - h))
            part = (slice(y, y + h), slice(x, x + w))
            f = cv2.resize(rgb[part], size, interpolation=cv2.INTER_AREA if w > size[0] else cv2.INTER_LINEAR)
            d = cv2.resize(inv[part].astype(np.float32), half, interpolation=cv2.INTER_NEAREST)
            t = cv2.resize(big[part], half, interpolation=cv2.INTER_LINEAR)
            if mirrored:
                f, d, t = f[:, ::-1], d[:, ::-1], t[:, ::-1]
            worn = wear(f.astype(np.float32) / 255, rng)
            rows.append((np.ascontiguousarray(worn), np.ascontiguousarray(d), np.ascontiguousarray(t), flags))
        return rows

"""Training batches from the shards written by `generate.py` and `label.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch.utils.data import IterableDataset

from streamdepth.models.builtin.training.place import ROOM
from streamdepth.models.builtin.training.views import beside, crop, sizes_for, way, wear

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RESCAN_BATCHES = 40
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Shards(IterableDataset[Batch]):
    """Endless batches: rgb uint8 [B, H, W, 3]; inverse depth and teacher float32 [B, H/2, W/2]; flags float32 [B, 2];
    ways float32 [B/2, 2, 3].

    flags: is a room, has a teacher. Images 2k and 2k + 1 are neighbouring frames of a video with different artefacts.
    ways[k] maps positions in 2k + 1 to positions in 2k, so that depths can be compared. With all shards present,
    batches depend on seed and step only. New shards are read as they appear, so training can run during rendering.
    """

    def __init__(self, folder: Path, batch: int, seed: int, step: int, coarse_steps: int) -> None:
        self.folder, self.batch, self.seed, self.step, self.coarse_steps = folder, batch, seed, step, coarse_steps
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
        sizes = sizes_for(shape[1], shape[0], step < self.coarse_steps)
        size = sizes[rng.integers(len(sizes))]
        chosen = [self.shards[alike[rng.integers(len(alike))]] for _ in range(self.batch // 2)]
        pairs = [self._pair(rng, shard, size) for shard in chosen]
        rows = [row for pair, _ in pairs for row in pair]
        rgb, inv, teacher, flags = (torch.from_numpy(np.stack(x)) for x in zip(*rows, strict=True))
        return rgb, inv, teacher, flags, torch.from_numpy(np.stack([theta for _, theta in pairs]))

    def _pair(
        self, rng: np.random.Generator, shard: tuple[np.ndarray, ...], size: tuple[int, int]
    ) -> tuple[list[tuple[np.ndarray, ...]], np.ndarray]:
        i = int(rng.integers(len(shard[0])))
        rgb, inv, kind, teacher = shard[0][i], shard[1][i].astype(np.float32), shard[2][i], shard[3][i]
        height, width = inv.shape
        first = crop(rng, width, height, size)
        second = beside(rng, width, height, first)
        half = (size[0] // 2, size[1] // 2)
        big = cv2.resize(teacher.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        flags = np.array([kind == ROOM, teacher.max() > 0], np.float32)
        mirrored = bool(rng.random() < 0.5)
        rows = []
        for x, y, w, h in (first, second):
            part = (slice(y, y + h), slice(x, x + w))
            f = cv2.resize(rgb[part], size, interpolation=cv2.INTER_AREA if w > size[0] else cv2.INTER_LINEAR)
            # area average: with nearest-pixel sampling a wire would flicker
            d = cv2.resize(inv[part], half, interpolation=cv2.INTER_AREA)
            t = cv2.resize(big[part], half, interpolation=cv2.INTER_LINEAR)
            if mirrored:
                f, d, t = f[:, ::-1], d[:, ::-1], t[:, ::-1]
            worn = wear(f.astype(np.float32) / 255, rng)
            rows.append((np.ascontiguousarray(worn), np.ascontiguousarray(d), np.ascontiguousarray(t), flags))
        return rows, way(first, second, mirrored)

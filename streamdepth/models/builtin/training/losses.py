"""Losses on inverse depth, independent of scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

INDOOR_FAR_M, OUTDOOR_FAR_M = 10.0, 80.0


def centred(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, H, W] minus its mean, divided by its mean absolute deviation (as MiDaS, there with medians)."""
    n = weight.sum((1, 2), keepdim=True).clamp(min=1)
    c = (x - (x * weight).sum((1, 2), keepdim=True) / n) * weight
    return c / (c.abs().sum((1, 2), keepdim=True) / n + 1e-4)


def shape_loss(p: Tensor, g: Tensor, weight: Tensor, edges: float) -> Tensor:
    """Mean absolute difference of the centred maps, and of their gradients at four scales with weight `edges`."""
    n = weight.sum().clamp(min=1)
    r = (centred(p, weight) - centred(g, weight)) * weight
    total = r.abs().clamp(max=6).sum() / n
    for k in range(4 if edges else 0):
        s, w = r[:, :: 2**k, :: 2**k], weight[:, :: 2**k, :: 2**k]
        for a, b, m in (
            (s[:, :, 1:], s[:, :, :-1], w[:, :, 1:] * w[:, :, :-1]),
            (s[:, 1:], s[:, :-1], w[:, 1:] * w[:, :-1]),
        ):
            total = total + edges * ((a - b).abs().clamp(max=3) * m).sum() / m.sum().clamp(min=1)
    return total


def depth_loss(p: Tensor, g: Tensor, room: Tensor) -> Tensor:
    """Mean |log depth ratio| after a least-squares fit of inverse depth: as benchmarks measure. g in 1/m, 0 = sky."""
    far = (room / INDOOR_FAR_M + (1 - room) / OUTDOOR_FAR_M)[:, None, None]
    w = (g > far).float()
    n = w.sum((1, 2)).clamp(min=1)
    mp, mg = (p * w).sum((1, 2)) / n, (g * w).sum((1, 2)) / n
    dp, dg = (p - mp[:, None, None]) * w, (g - mg[:, None, None]) * w
    scale = (dp * dg).sum((1, 2)) / ((dp * dp).sum((1, 2)) + 1e-4)
    fit = (p - mp[:, None, None]) * scale[:, None, None] + mg[:, None, None]
    ratio = (torch.maximum(fit, far) / g.clamp(min=1 / OUTDOOR_FAR_M)).log().abs().clamp(max=1.5)
    return (ratio * w).sum() / w.sum().clamp(min=1)


def steady_loss(p: Tensor, ways: Tensor) -> Tensor:
    """Mean difference of the centred depth of neighbouring frames p[2k], p[2k + 1], the first warped to the
    second by ways float32 [B/2, 2, 3], where both are visible.
    """
    first, second = p[::2, None], p[1::2]
    grid = F.affine_grid(ways, list(first.shape), align_corners=False)
    seen = (grid.abs().amax(3) < 1).float()
    moved = F.grid_sample(first, grid, padding_mode="border", align_corners=False)[:, 0]
    apart = (centred(moved, seen) - centred(second, seen)).abs().clamp(max=3) * seen
    return apart.sum() / seen.sum().clamp(min=1)

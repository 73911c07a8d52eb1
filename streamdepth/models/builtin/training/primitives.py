# ruff: noqa: N803 - P is a matrix
"""Boxes, ellipsoids and cylinders as rows of a table, and their intersection with a ray."""

from __future__ import annotations

import numba as nb
import numpy as np

# columns of a primitive
KIND, CENTRE, HALF, AXES, TEXTURE, TILE_M, TINT, PATTERN, EMIT, RADIUS2, GLOSS, HOLES, WIDTH = (
    0,
    1,
    4,
    7,
    16,
    17,
    18,
    21,
    22,
    23,
    24,
    25,
    26,
)
BOX, ELLIPSOID, CYLINDER = 0, 1, 2
PLAIN, WINDOWS, LINES, CHECKS = 0, 1, 2, 3


@nb.njit(inline="always", fastmath=True)
def noise(a, b, c):
    x = np.sin(a * 12.9898 + b * 78.233 + c * 37.719) * 43758.5453
    return x - np.floor(x)


@nb.njit(inline="always", fastmath=True)
def hit(P, i, ox, oy, oz, dx, dy, dz, tmax):
    """Distance to primitive i (-1: none), position on it in local axes (+-1), and face index (0..2 box, 3, 4 round)."""
    cx, cy, cz = P[i, 1] - ox, P[i, 2] - oy, P[i, 3] - oz
    along = cx * dx + cy * dy + cz * dz
    c2 = cx * cx + cy * cy + cz * cz
    r2 = P[i, 23]
    if c2 - along * along > r2 or (along < 0 and c2 > r2):
        return -1.0, 0.0, 0.0, 0.0, 0
    lx = -(P[i, 7] * cx + P[i, 8] * cy + P[i, 9] * cz) / P[i, 4]
    ly = -(P[i, 10] * cx + P[i, 11] * cy + P[i, 12] * cz) / P[i, 5]
    lz = -(P[i, 13] * cx + P[i, 14] * cy + P[i, 15] * cz) / P[i, 6]
    ex = (P[i, 7] * dx + P[i, 8] * dy + P[i, 9] * dz) / P[i, 4]
    ey = (P[i, 10] * dx + P[i, 11] * dy + P[i, 12] * dz) / P[i, 5]
    ez = (P[i, 13] * dx + P[i, 14] * dy + P[i, 15] * dz) / P[i, 6]
    face = 0
    if P[i, 0] == 0:
        near, far = -1e30, 1e30
        for k in range(3):
            p = lx if k == 0 else (ly if k == 1 else lz)
            e = ex if k == 0 else (ey if k == 1 else ez)
            if abs(e) < 1e-12:
                if abs(p) > 1:
                    return -1.0, 0.0, 0.0, 0.0, 0
                continue
            a = (-1 - p) / e
            b = (1 - p) / e
            if a > b:
                a, b = b, a
            if a > near:
                near = a
                face = k
            far = min(far, b)
        if near > far or near < 1e-4:
            return -1.0, 0.0, 0.0, 0.0, 0
        t = near
    elif P[i, 0] == 1:
        a = ex * ex + ey * ey + ez * ez
        b = lx * ex + ly * ey + lz * ez
        q = b * b - a * (lx * lx + ly * ly + lz * lz - 1)
        if q < 0:
            return -1.0, 0.0, 0.0, 0.0, 0
        t = (-b - np.sqrt(q)) / a
        face = 3
        if P[i, 25] > 0 and t > 1e-4:  # foliage: leaves and gaps of two scales, front shell first, then the back one
            for shell in range(2):
                x, y, z = lx + t * ex, ly + t * ey, lz + t * ez
                s = 17.0 if P[i, 4] > 0.5 else 8.0
                u = np.arctan2(x, z) * s
                v = y * s
                gap = 0.6 * noise(np.floor(u), np.floor(v), i + 7.0 * shell) + 0.4 * noise(
                    np.floor(u * 2.7), np.floor(v * 2.7), i + shell
                )
                if gap > P[i, 25] * (1.0 - 0.5 * abs(y)):
                    break
                if shell == 1:
                    return -1.0, 0.0, 0.0, 0.0, 0
                t = (-b + np.sqrt(q)) / a
    else:
        a = ex * ex + ez * ez
        b = lx * ex + lz * ez
        q = b * b - a * (lx * lx + lz * lz - 1)
        if q < 0:
            return -1.0, 0.0, 0.0, 0.0, 0
        t = (-b - np.sqrt(q)) / (a + 1e-12)
        face = 4
        if abs(ly + t * ey) > 1:
            if abs(ey) < 1e-12:
                return -1.0, 0.0, 0.0, 0.0, 0
            t = ((1 if ly > 0 else -1) - ly) / ey
            x, z = lx + t * ex, lz + t * ez
            face = 1
            if x * x + z * z > 1:
                return -1.0, 0.0, 0.0, 0.0, 0
    if t < 1e-4 or t > tmax:
        return -1.0, 0.0, 0.0, 0.0, 0
    return t, lx + t * ex, ly + t * ey, lz + t * ez, face

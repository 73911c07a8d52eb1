# ruff: noqa: N803, N806 - P and S are matrices
"""Ray caster: primitives with textures, lights, shadows and haze -> image and inverse depth."""

from __future__ import annotations

import numba as nb
import numpy as np

from streamdepth.models.builtin.training.primitives import hit
from streamdepth.models.builtin.training.shading import CELL_M, CELLS, shade, sky_light, sun_columns

TILE_PX = 16
_OFFSETS = np.cumsum([0] + [(128 >> k) ** 2 for k in range(6)])[:6]
_FAR = 1e9


@nb.njit(fastmath=True, nogil=True)
def render(P, camera, f, bank, offsets, sky, lights, sun, ambient, walls, fog, fog_m, shadows, dither, img, inv):
    """Fill img float64 [H, W, 3] (0..255, unclipped) and inv float64 [H, W] (1 / distance along the axis, 0 = sky).

    camera: origin, right, down, forward; f: focal length in px; lights float64 [L, 6] direction or position, colour;
    walls: half extents of a room (y: half height), 0 outdoors; dither float64 [H, W, 2] in 0..1.
    """
    height, width = inv.shape
    n = P.shape[0]
    casters = np.array(
        [
            i
            for i in range(n)
            if P[i, 22] == 0 and P[i, 23] < 1e5 and not (walls[0] > 0 and P[i, 2] + P[i, 5] > 1.99 * walls[1])
        ]
    )
    S = np.empty((len(casters), 5))  # compact table for shadow rays, without ground, lamps, walls and ceiling
    for k in range(len(casters)):
        S[k, 0], S[k, 1], S[k, 2], S[k, 3], S[k, 4] = (
            P[casters[k], 1],
            P[casters[k], 2],
            P[casters[k], 3],
            P[casters[k], 23],
            casters[k],
        )
    grid = np.zeros((3, 3))
    starts, members = np.zeros(1, np.int64), np.zeros(1, np.int64)
    if sun:
        lx, ly, lz = lights[0, 0], lights[0, 1], lights[0, 2]
        flat = np.sqrt(lx * lx + lz * lz) + 1e-9
        grid[0, 0], grid[0, 2] = lz / flat, -lx / flat
        grid[1, 0], grid[1, 1], grid[1, 2] = -lx * ly / flat, flat, -lz * ly / flat
        for k in range(2):
            middle = 0.0
            for m in range(3):
                middle += (camera[m] + 20 * camera[9 + m]) * grid[k, m]
            grid[2, k] = middle - CELL_M * CELLS / 2
        starts, members = sun_columns(S, grid)
    near = np.empty(n, np.int64)
    o = camera[:3].copy()
    d = np.empty(3)
    rgb = np.empty(3)
    radius = np.sqrt(TILE_PX * TILE_PX * 0.5) / f * 1.1
    for ty in range(0, height, TILE_PX):
        for tx in range(0, width, TILE_PX):
            a, b = (tx + TILE_PX / 2 - width / 2) / f, (ty + TILE_PX / 2 - height / 2) / f
            for k in range(3):
                d[k] = camera[3 + k] * a + camera[6 + k] * b + camera[9 + k]
            s = 1 / np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
            d *= s
            count = 0
            for i in range(n):  # test a cone around the tile against each bounding sphere
                cx, cy, cz = P[i, 1] - o[0], P[i, 2] - o[1], P[i, 3] - o[2]
                c2 = cx * cx + cy * cy + cz * cz
                if c2 > P[i, 23]:
                    along = cx * d[0] + cy * d[1] + cz * d[2]
                    reach = np.sqrt(P[i, 23]) + max(along, 0.0) * radius + 1e-3
                    if along < -reach or c2 - along * along > reach * reach * 1.1:
                        continue
                near[count] = i
                count += 1
            for y in range(ty, min(ty + TILE_PX, height)):
                for x in range(tx, min(tx + TILE_PX, width)):
                    last, last_face = -2, -1
                    for sample in range(2):
                        jx = 0.25 + 0.5 * sample
                        jy = 0.25 + 0.5 * ((sample + x + y) % 2)
                        a, b = (x + jx - width / 2) / f, (y + jy - height / 2) / f
                        for k in range(3):
                            d[k] = camera[3 + k] * a + camera[6 + k] * b + camera[9 + k]
                        s = 1 / np.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
                        d *= s
                        best, which, px, py, pz, face = _FAR, -1, 0.0, 0.0, 0.0, 0
                        for k in range(count):
                            t, hx, hy, hz, side = hit(P, near[k], o[0], o[1], o[2], d[0], d[1], d[2], best)
                            if t > 0:
                                best, which, px, py, pz, face = t, near[k], hx, hy, hz, side
                        if (
                            which == last and face == last_face
                        ):  # one surface: textures are filtered, one sample is enough
                            for k in range(3):
                                img[y, x, k] *= 2
                            continue
                        last, last_face = which, face
                        if which < 0:
                            for k in range(3):
                                img[y, x, k] += 0.5 * sky_light(sky, d[0], d[1], d[2], k)
                            continue
                        z = best * s
                        inv[y, x] = max(inv[y, x], 1 / z)
                        shade(
                            P,
                            S,
                            grid,
                            starts,
                            members,
                            which,
                            best,
                            px,
                            py,
                            pz,
                            face,
                            o,
                            d,
                            f,
                            bank,
                            offsets,
                            sky,
                            lights,
                            sun,
                            ambient,
                            walls,
                            shadows,
                            dither[y, x, sample] - 0.5,
                            rgb,
                        )
                        haze = 1 - np.exp(-z / fog_m) if fog_m > 0 else 0.0
                        for k in range(3):
                            img[y, x, k] += 0.5 * (rgb[k] * (1 - haze) + fog[k] * haze)


def offsets() -> np.ndarray:
    """Start of each mip level in a row of the bank."""
    return _OFFSETS.astype(np.int64)

# ruff: noqa: N803 - P and S are matrices
"""Light at a point hit by a ray: texture, pattern, sun or lamps with shadows, occlusion, gloss."""

from __future__ import annotations

import numba as nb
import numpy as np

from streamdepth.models.builtin.training.primitives import hit, noise

CELLS, CELL_M = 80, 1.5  # of the plane that faces the sun


@nb.njit(inline="always", fastmath=True)
def sky_light(sky, dx, dy, dz, k):
    az = (np.arctan2(dx, dz) / 6.283 + 0.5) * 3
    el = min(max(1 - np.arcsin(min(max(dy, -1.0), 1.0)) / 1.3, 0.0), 0.999)
    return sky[int(el * (sky.shape[0] - 1)), int(abs((az % 2) - 1) * (sky.shape[1] - 0.1)), k]


@nb.njit(inline="always", fastmath=True)
def _texel(bank, offsets, texture, lod, u, v, k):
    size = 128 >> lod
    fu, fv = (u - np.floor(u)) * size, (v - np.floor(v)) * size
    u0, v0 = int(fu), int(fv)
    au, av = fu - u0, fv - v0
    u0 %= size
    v0 %= size
    u1, v1 = (u0 + 1) % size, (v0 + 1) % size
    o = offsets[lod]
    top = bank[texture, o + v0 * size + u0, k] * (1 - au) + bank[texture, o + v0 * size + u1, k] * au
    bottom = bank[texture, o + v1 * size + u0, k] * (1 - au) + bank[texture, o + v1 * size + u1, k] * au
    return top * (1 - av) + bottom * av


@nb.njit(fastmath=True)
def shade(
    P,
    S,
    grid,
    starts,
    members,
    i,
    t,
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
    soft,
    rgb,
):
    h0, h1, h2, tile = P[i, 4], P[i, 5], P[i, 6], P[i, 17]
    nx = ny = nz = 0.0
    if face == 0:
        nx = 1.0 if px > 0 else -1.0
        tu, tv = pz * h2, py * h1
    elif face == 1:
        ny = 1.0 if py > 0 else -1.0
        tu, tv = px * h0, pz * h2
    elif face == 2:
        nz = 1.0 if pz > 0 else -1.0
        tu, tv = px * h0, py * h1
    elif face == 3:
        nx, ny, nz = px / h0, py / h1, pz / h2
        tu, tv = np.arctan2(px, pz) * (h0 + h2) * 0.5, py * h1
    else:
        nx, nz = px / h0, pz / h2
        tu, tv = np.arctan2(px, pz) * h0, py * h1
    wx = P[i, 7] * nx + P[i, 10] * ny + P[i, 13] * nz
    wy = P[i, 8] * nx + P[i, 11] * ny + P[i, 14] * nz
    wz = P[i, 9] * nx + P[i, 12] * ny + P[i, 15] * nz
    q = 1 / np.sqrt(wx * wx + wy * wy + wz * wz + 1e-12)
    wx *= q
    wy *= q
    wz *= q
    hx, hy, hz = o[0] + d[0] * t, o[1] + d[1] * t, o[2] + d[2] * t
    facing = max(abs(wx * d[0] + wy * d[1] + wz * d[2]), 0.08)
    foot = t / f / tile * 128 / np.sqrt(facing)
    lod = 0
    while foot > 1.3 and lod < 5:
        foot *= 0.5
        lod += 1
    u, v = tu / tile, -tv / tile
    mark = 1.0
    window = 0.0
    pattern = int(P[i, 21])
    if pattern == 1 and face != 1:
        cu, cv = u - np.floor(u), v - np.floor(v)
        lo, hi = 0.16 + 0.14 * noise(i, 1.0, 2.0), 0.72 + 0.16 * noise(i, 3.0, 4.0)
        if lo < cu < hi and lo < cv < hi:
            window = 1.0
            if min(cu - lo, hi - cu, cv - lo, hi - cv) < 0.03 or abs(cu - 0.5 * (lo + hi)) < 0.012:
                window = 0.0
                mark = 1.3
    elif pattern == 2:
        cu, cv = u * 3, v * 3
        if min(cu - np.floor(cu), cv - np.floor(cv)) < 0.06:
            mark = 0.6
    elif pattern == 3 and (int(np.floor(u * 2)) + int(np.floor(v * 2))) % 2 == 0:
        mark = 0.5
    lr = lg = lb = 0.0
    for j in range(lights.shape[0]):
        if sun:
            lx, ly, lz, far, fall = lights[j, 0] + soft * 0.03, lights[j, 1], lights[j, 2] - soft * 0.03, 1e8, 1.0
        else:
            lx, ly, lz = lights[j, 0] - hx + soft * 0.25, lights[j, 1] - hy, lights[j, 2] - hz - soft * 0.25
            far = np.sqrt(lx * lx + ly * ly + lz * lz) + 1e-6
            lx /= far
            ly /= far
            lz /= far
            fall = 1.6 / (1 + 0.12 * far * far)
        diffuse = max(wx * lx + wy * ly + wz * lz, 0.0) * fall
        if P[i, 25] > 0:
            diffuse = 0.6 * diffuse + 0.25 * fall
        if shadows and diffuse > 0.02:
            first, last = 0, S.shape[0]
            if sun:  # only primitives in the same column of light
                gu = int((hx * grid[0, 0] + hy * grid[0, 1] + hz * grid[0, 2] - grid[2, 0]) / CELL_M)
                gv = int((hx * grid[1, 0] + hy * grid[1, 1] + hz * grid[1, 2] - grid[2, 1]) / CELL_M)
                inside = 0 <= gu < CELLS and 0 <= gv < CELLS
                first = starts[gu * CELLS + gv] if inside else 0
                last = starts[gu * CELLS + gv + 1] if inside else 0
            for m in range(first, last):
                k = members[m] if sun else m
                cx, cy, cz = S[k, 0] - hx, S[k, 1] - hy, S[k, 2] - hz
                along = cx * lx + cy * ly + cz * lz
                c2 = cx * cx + cy * cy + cz * cz
                if c2 - along * along > S[k, 3] or (along < 0 and c2 > S[k, 3]):
                    continue
                blocked_at, _, _, _, _ = hit(
                    P, int(S[k, 4]), hx + wx * 0.004, hy + wy * 0.004, hz + wz * 0.004, lx, ly, lz, far - 0.08
                )
                if blocked_at > 0:
                    diffuse *= 0.1
                    break
        lr += diffuse * lights[j, 3]
        lg += diffuse * lights[j, 4]
        lb += diffuse * lights[j, 5]
    # ambient occlusion: nearby primitives as spheres (after the form factor of a ball), and the corners of a room
    open_ = 1.0
    for k in range(S.shape[0]):
        cx, cy, cz, r2 = S[k, 0] - hx, S[k, 1] - hy, S[k, 2] - hz, S[k, 3]
        c2 = cx * cx + cy * cy + cz * cz + 1e-6
        if c2 < 16 * r2 and r2 < 2.5 and int(S[k, 4]) != i:
            c = np.sqrt(c2)
            open_ *= 1 - 0.35 * min(max((wx * cx + wy * cy + wz * cz) / c, 0.0) * r2 / c2, 1.0)
    if walls[0] > 0:
        for a in range(3):
            p = hx if a == 0 else (hy - walls[1] if a == 1 else hz)
            w = abs(wx) if a == 0 else (abs(wy) if a == 1 else abs(wz))
            gap = walls[a] - abs(p)
            open_ *= 1 - 0.45 * (1 - w) * np.exp(-max(gap, 0.0) / 0.3)
    elif wy < 0.5:
        open_ *= 1 - 0.35 * np.exp(-max(hy, 0.0) / 0.25)
    base = ambient * (0.72 + 0.28 * wy) * open_
    gloss = P[i, 24]
    mirror = 0.0
    if gloss > 0 or window > 0:
        dn = 2 * (wx * d[0] + wy * d[1] + wz * d[2])
        rx, ry, rz = d[0] - dn * wx, d[1] - dn * wy, d[2] - dn * wz
        fresnel = (1 - facing) ** 4
        mirror = min(gloss * (0.12 + 0.88 * fresnel), 0.8)
    for k in range(3):
        lit = base + (1 - ambient) * 1.25 * (lr if k == 0 else (lg if k == 1 else lb))
        if P[i, 22] > 0:
            lit = P[i, 22]
        c = _texel(bank, offsets, int(P[i, 16]), lod, u, v, k) * P[i, 18 + k] * mark
        if window > 0:
            inside = noise(np.floor(u), np.floor(v), float(i))
            glow = 150.0 - 25 * k if inside > 0.85 else 25 + 60 * inside
            c = glow * 0.55 + 0.45 * sky_light(sky, rx, max(ry, 0.05), rz, k)
            lit = 0.45 + 0.4 * lit
        c *= lit
        if mirror > 0:
            up = max(ry, 0.0)
            seen = sky_light(sky, rx, up, rz, k) if walls[0] <= 0 else 70 + 130 * up
            if ry < 0:
                seen *= 0.35
            c = c * (1 - mirror) + seen * mirror
        rgb[k] = c


@nb.njit(fastmath=True)
def sun_columns(S, grid):
    """Primitives (bounding spheres S) by square cell of the plane that faces the sun: starts [CELLS^2 + 1], members."""
    starts = np.zeros(CELLS * CELLS + 1, np.int64)
    members = np.empty(0, np.int64)
    for fill in range(2):
        if fill:
            starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(starts[1:])))
            members = np.empty(starts[-1], np.int64)
        at = starts.copy()
        for k in range(S.shape[0]):
            r = np.sqrt(S[k, 3])
            u = S[k, 0] * grid[0, 0] + S[k, 1] * grid[0, 1] + S[k, 2] * grid[0, 2] - grid[2, 0]
            v = S[k, 0] * grid[1, 0] + S[k, 1] * grid[1, 1] + S[k, 2] * grid[1, 2] - grid[2, 1]
            for a in range(max(int((u - r) / CELL_M), 0), min(int((u + r) / CELL_M), CELLS - 1) + 1):
                for b in range(max(int((v - r) / CELL_M), 0), min(int((v + r) / CELL_M), CELLS - 1) + 1):
                    cell = a * CELLS + b
                    if fill:
                        members[at[cell]] = k
                        at[cell] += 1
                    else:
                        starts[cell + 1] += 1
    return starts, members

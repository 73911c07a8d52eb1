"""A small synthetic world with real depth cues: perspective, texture gradient, occlusion, shading, haze, parallax.

Everything is a function of the frame's index and a seed. The camera travels forward along a colonnade over a chequered
plane; boxes and columns stand still in the world, balls roll across it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Color = NDArray[np.float32]

WIDTH_PX, HEIGHT_PX = 854, 480
"""Size for the start-up check: the shape of most video, so that a model whose size depends on it is compiled once."""

_EYE_M = 1.6
_FAR_M = 90.0
_HAZE_M = 38.0
_NEAR_M = 0.6
_TILE_M = 1.5
_SPEED_M_PER_S = 2.4
_SPACING_M = 3.2
_AVENUE_M = 5.0
_HAZE_RGB = np.array((196, 210, 226), np.float32)
_ZENITH_RGB = np.array((64, 118, 190), np.float32)
_TILES_RGB = (np.array((214, 198, 170), np.float32), np.array((104, 92, 84), np.float32))
_LIGHT = np.array((-0.45, -0.75, -0.48), np.float32)
_PALETTE = np.array(
    [(196, 74, 60), (62, 138, 132), (226, 168, 62), (92, 96, 168), (140, 168, 84), (190, 110, 158)], np.float32
)


def pattern(width_px: int, height_px: int, variant: int = 0) -> NDArray[np.uint8]:
    """The built-in image of start-up checks and verification, uint8 [H, W, 3] RGB: the same on every machine.

    Args:
        variant: 0, 1, 2, ...: other worlds and times.
    """
    return Scene(width_px, height_px, variant).draw(1.0 + variant)


class Scene:
    """Draws frames of one size and seed. Not thread-safe: one instance a thread.

    Args:
        width_px, height_px: size of the images, from 1x1.
        seed: another seed, another world.
    """

    def __init__(self, width_px: int, height_px: int, seed: int) -> None:
        self._width, self._height, self._seed = width_px, height_px, seed
        self._focal = 0.85 * max(width_px, height_px)
        self._center = width_px / 2
        self._horizon = 0.42 * height_px
        self._sky_rows = min(height_px, max(0, math.ceil(self._horizon)))
        self._describe = lru_cache(maxsize=256)(self._describe_place)
        self._prepare_sky()
        self._prepare_ground()

    def draw(self, seconds: float) -> NDArray[np.uint8]:
        """The image at a time as a new uint8 [H, W, 3] array, RGB."""
        rgb = np.empty((self._height, self._width, 3), np.uint8)
        travelled = _SPEED_M_PER_S * seconds
        sway = 0.5 * math.sin(0.5 * seconds)
        self._draw_sky(rgb, sway)
        self._draw_ground(rgb, travelled, sway)
        things = self._things(seconds, travelled, sway)
        for depth, _, thing in things:
            thing.shadow(rgb, depth)
        for depth, _, thing in things:
            thing.draw(rgb, depth)
        return rgb

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Pixel of a point; x right, y down from the eye, z forward, metres."""
        return self._center + self._focal * x / z, self._horizon + self._focal * y / z

    def haze(self, color: Color, z: float) -> Color:
        """A colour as seen through z metres of air."""
        clear = np.float32(math.exp(-z / _HAZE_M))
        return np.asarray(_HAZE_RGB + (color - _HAZE_RGB) * clear, np.float32)

    @property
    def focal(self) -> float:
        return self._focal

    def _prepare_sky(self) -> None:
        rows = np.linspace(0, 1, max(1, self._sky_rows), dtype=np.float32)[:, None, None]
        gradient = _ZENITH_RGB + (_HAZE_RGB - _ZENITH_RGB) * rows**0.7
        wide = self._width + 2 * self._ridge_margin()
        sky = np.broadcast_to(gradient, (gradient.shape[0], wide, 3)).copy()
        along = np.arange(wide, dtype=np.float32) / max(1, self._width)
        rng = np.random.default_rng([self._seed, 1])
        for far, shade in ((1.0, 0.82), (0.6, 0.62)):
            phases = rng.uniform(0, 2 * math.pi, 5)
            ridge = sum(
                np.sin(along * (3.1 * octave + 2) * 2 + phase) / octave for octave, phase in enumerate(phases, start=1)
            )
            top = self._sky_rows - self._height * (0.055 + 0.03 * (np.asarray(ridge) + 1.5)) * far
            below = np.arange(self._sky_rows, dtype=np.float32)[:, None] >= top[None, :]
            color = _HAZE_RGB * shade + np.array((20, 34, 44), np.float32) * (1 - shade)
            sky[: self._sky_rows][below] = color
        self._sky = sky.astype(np.uint8)

    def _ridge_margin(self) -> int:
        return max(1, self._width // 40)

    def _prepare_ground(self) -> None:
        rows = np.arange(self._sky_rows, self._height, dtype=np.float32) + 0.5
        self._ground_z = self._focal * _EYE_M / np.maximum(rows - self._horizon, 0.05)
        columns = np.arange(self._width, dtype=np.float32) + 0.5 - self._center
        self._ground_x = columns[None, :] * (self._ground_z / self._focal)[:, None]
        clear = np.exp(-self._ground_z / _HAZE_M)[:, None]
        # Tiles narrower than a few pixels would only shimmer: their contrast fades, as a lens would have it.
        tile_px = self._focal * _TILE_M / self._ground_z * np.minimum(1, _EYE_M / self._ground_z * 2)
        contrast = np.clip((tile_px - 1.0) / 5.0, 0, 1)[:, None]
        mean = (_TILES_RGB[0] + _TILES_RGB[1]) / 2
        self._tiles = np.stack(
            [_HAZE_RGB + (mean + (tile - mean) * contrast - _HAZE_RGB) * clear for tile in _TILES_RGB]
        ).astype(np.uint8)

    def _draw_sky(self, rgb: NDArray[np.uint8], sway: float) -> None:
        margin = self._ridge_margin()
        shift = margin + round(sway * margin / 0.5 * 0.9)
        rgb[: self._sky_rows] = self._sky[: self._sky_rows, shift : shift + self._width]

    def _draw_ground(self, rgb: NDArray[np.uint8], travelled: float, sway: float) -> None:
        if self._sky_rows >= self._height:
            return
        across = np.floor((self._ground_x + np.float32(sway)) * np.float32(1 / _TILE_M)).astype(np.int32)
        along = np.floor((self._ground_z.astype(np.float64) + travelled) / _TILE_M).astype(np.int64)
        odd = ((across + (along & 1)[:, None].astype(np.int32)) & 1).astype(bool)
        light, dark = self._tiles[0][:, None, :], self._tiles[1][:, None, :]
        rgb[self._sky_rows :] = np.where(odd[..., None], dark, light)

    def _describe_place(self, place: int) -> tuple[int, float, float, float, int]:
        rng = np.random.default_rng([self._seed, 2, place])
        return (
            int(rng.integers(0, 3)),
            float(rng.uniform(1.5, 3.4) * rng.choice((-1, 1))),
            float(rng.uniform(0.35, 0.8)),
            float(rng.uniform(0.5, 1.9)),
            int(rng.integers(0, len(_PALETTE))),
        )

    def _things(self, seconds: float, travelled: float, sway: float) -> list[tuple[float, int, Thing]]:
        things: list[tuple[float, int, Thing]] = []
        first = math.floor(travelled / _SPACING_M)
        for place in range(first, first + int(_FAR_M / _SPACING_M)):
            z = place * _SPACING_M - travelled
            stone = np.array((206, 198, 186), np.float32)
            things += [
                (z, 2 * place + side, Column(self, x - sway, z, 0.38, 4.6, stone))
                for side, x in enumerate((-_AVENUE_M, _AVENUE_M))
                if z > _NEAR_M
            ]
            kind, x, half, height, color = self._describe(place)
            z += _SPACING_M / 2
            if kind < 2 and z - half > _NEAR_M:
                thing = (
                    Box(self, x - sway, z, half, height, _PALETTE[color])
                    if kind == 0
                    else Column(self, x - sway, z, half * 0.5, height, _PALETTE[color])
                )
                things.append((z, -place, thing))
        for ball in range(3):
            rng = np.random.default_rng([self._seed, 3, ball])
            pace, phase, away, radius = rng.uniform((0.5, 0, 3.2, 0.4), (0.9, 6.28, 9.0, 0.85))
            angle = pace * seconds + phase
            x = 3.4 * math.sin(angle)
            z = away + 1.4 * math.cos(0.6 * angle)
            things.append((z, 10**9 + ball, Ball(self, x - sway, z, radius, _PALETTE[2 * ball], -x / radius)))
        return sorted(things, key=lambda thing: (-thing[0], thing[1]))


class Thing(ABC):
    """Something that stands on the ground at (x, z) and covers ``half`` metres around it."""

    def __init__(self, scene: Scene, x: float, z: float, half: float, height: float, color: Color) -> None:
        self.scene, self.x, self.z, self.half, self.height, self.color = scene, x, z, half, height, color

    def shadow(self, rgb: NDArray[np.uint8], depth: float) -> None:
        """Darken an ellipse of ground to the right and behind, where the light throws it."""
        reach = self.half * 1.35
        u, v = self.scene.project(self.x + reach * 0.45, _EYE_M, depth + reach * 0.15)
        half_u = self.scene.focal * reach / depth
        half_v = max(0.5, half_u * _EYE_M / depth)
        box = _clip_box(rgb, u - half_u, v - half_v, u + half_u, v + half_v)
        if box is None:
            return
        left, top, right, bottom = box
        across = (np.arange(left, right, dtype=np.float32) + 0.5 - u) / half_u
        down = (np.arange(top, bottom, dtype=np.float32) + 0.5 - v) / half_v
        inside = np.clip(1.3 * (1 - across[None, :] ** 2 - down[:, None] ** 2), 0, 1)
        factor = 1 - 0.55 * math.exp(-depth / _HAZE_M) * inside
        patch = rgb[top:bottom, left:right]
        patch[...] = patch * factor[..., None]

    @abstractmethod
    def draw(self, rgb: NDArray[np.uint8], depth: float) -> None: ...


class Column(Thing):
    """A round pillar with bands, lit from the left."""

    def draw(self, rgb: NDArray[np.uint8], depth: float) -> None:
        scene = self.scene
        u, foot = scene.project(self.x, _EYE_M, depth)
        _, head = scene.project(self.x, _EYE_M - self.height, depth)
        half_u = scene.focal * self.half / depth
        box = _clip_box(rgb, u - half_u, head, u + half_u, foot)
        if box is None:
            return
        left, top, right, bottom = box
        across = np.clip((np.arange(left, right, dtype=np.float32) + 0.5 - u) / half_u, -1, 1)
        facing = np.sqrt(1 - across**2)
        shade = 0.28 + 0.72 * np.clip(_LIGHT[0] * across - _LIGHT[2] * facing + 0.25, 0, 1)
        up = (foot - (np.arange(top, bottom, dtype=np.float32) + 0.5)) / max(foot - head, 1e-6) * self.height
        bands = np.where((up % 0.9) < 0.07, 0.72, 1.0) * np.where(up > self.height - 0.3, 1.12, 1.0)
        lit = np.minimum(bands[:, None] * shade[None, :], 1.1)[..., None] * self.color
        rgb[top:bottom, left:right] = np.clip(scene.haze(lit, depth), 0, 255)


class Box(Thing):
    """A crate: front, one side, and its top where the eye is above it."""

    def draw(self, rgb: NDArray[np.uint8], depth: float) -> None:
        near, far = max(_NEAR_M / 2, depth - self.half), depth + self.half
        floor, lid = _EYE_M, _EYE_M - self.height
        left, right = self.x - self.half, self.x + self.half
        if lid > 0:
            self._face(rgb, [(left, lid, near), (right, lid, near), (right, lid, far), (left, lid, far)], 1.08, depth)
        if left > 0:
            self._face(rgb, [(left, floor, near), (left, lid, near), (left, lid, far), (left, floor, far)], 0.9, depth)
        if right < 0:
            self._face(
                rgb, [(right, floor, near), (right, lid, near), (right, lid, far), (right, floor, far)], 0.45, depth
            )
        front = [(left, floor, near), (right, floor, near), (right, lid, near), (left, lid, near)]
        self._face(rgb, front, 0.68, depth)
        inset = 0.18 * self.half
        top, bottom = lid + inset, floor - inset
        panel = [(left + inset, bottom), (right - inset, bottom), (right - inset, top), (left + inset, top)]
        self._face(rgb, [(x, y, near) for x, y in panel], 0.56, depth)

    def _face(
        self, rgb: NDArray[np.uint8], corners: list[tuple[float, float, float]], shade: float, depth: float
    ) -> None:
        color = np.clip(self.scene.haze(self.color * np.float32(shade), depth), 0, 255)
        fill_convex(rgb, np.array([self.scene.project(*corner) for corner in corners], np.float32), color)


def fill_convex(rgb: NDArray[np.uint8], corners: NDArray[np.float32], color: Color) -> None:
    """Fill a convex polygon with soft edges, in place.

    Coverage of a pixel is the least, over the edges, of half a pixel plus its centre's distance inside the edge,
    clamped to 0..1. OpenCV's own needs X11 and OpenGL libraries that a bare container lacks, and the test scene is
    what people run there first.

    Args:
        rgb: uint8 [H, W, 3].
        corners: float32 [n, 2], x and y in pixels, either way round.
        color: three values in 0..255.
    """
    height, width = rgb.shape[:2]
    left, top = (max(0, int(np.floor(low))) for low in corners.min(axis=0))
    right, bottom = (
        min(size, int(np.ceil(high))) for size, high in zip((width, height), corners.max(axis=0), strict=True)
    )
    if left >= right or top >= bottom:
        return
    edges = np.roll(corners, -1, axis=0) - corners
    inward = np.stack([-edges[:, 1], edges[:, 0]], axis=1)
    inward /= np.maximum(np.linalg.norm(edges, axis=1, keepdims=True), np.float32(1e-6))
    if np.einsum("ij,ij->", np.roll(corners, -2, axis=0) - corners, inward) < 0:
        inward = -inward
    x = np.arange(left, right, dtype=np.float32) + np.float32(0.5)
    y = np.arange(top, bottom, dtype=np.float32) + np.float32(0.5)
    coverage = np.ones((bottom - top, right - left), np.float32)
    for (nx, ny), (cx, cy) in zip(inward, corners, strict=True):
        np.minimum(coverage, (x - cx) * nx + ((y - cy) * ny + np.float32(0.5))[:, None], out=coverage)
    np.clip(coverage, 0, 1, out=coverage)
    region = rgb[top:bottom, left:right]
    blended = region + coverage[..., None] * (np.asarray(color, np.float32) - region)
    region[...] = np.round(blended).astype(np.uint8)


class Ball(Thing):
    """A rolling ball with two-coloured segments."""

    def __init__(self, scene: Scene, x: float, z: float, radius: float, color: Color, angle: float) -> None:
        super().__init__(scene, x, z, radius, 2 * radius, color)
        self.angle = angle

    def draw(self, rgb: NDArray[np.uint8], depth: float) -> None:
        scene = self.scene
        u, v = scene.project(self.x, _EYE_M - self.half, depth)
        radius = scene.focal * self.half / depth
        box = _clip_box(rgb, u - radius, v - radius, u + radius, v + radius)
        if box is None:
            return
        left, top, right, bottom = box
        nx = ((np.arange(left, right, dtype=np.float32) + 0.5 - u) / np.float32(radius))[None, :]
        ny = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - v) / np.float32(radius))[:, None]
        square = nx**2 + ny**2
        nz = np.sqrt(np.maximum(1 - square, 0))
        light = np.maximum(nx * _LIGHT[0] + ny * _LIGHT[1] - nz * _LIGHT[2], 0)
        turn_x = nx * np.float32(math.cos(self.angle)) + ny * np.float32(math.sin(self.angle))
        turn_y = ny * np.float32(math.cos(self.angle)) - nx * np.float32(math.sin(self.angle))
        segment = (turn_x > 0) ^ (turn_y > 0) ^ (nz < 0.5)
        base = np.where(segment[..., None], self.color, np.float32(236))
        lit = base * (0.3 + 0.75 * light)[..., None] + (60 * light**24)[..., None]
        cover = np.clip((1 - np.sqrt(square)) * np.float32(radius) + 0.5, 0, 1)[..., None]
        patch = rgb[top:bottom, left:right]
        patch[...] = np.clip(patch + (scene.haze(lit, depth) - patch) * cover, 0, 255)


def _clip_box(
    rgb: NDArray[np.uint8], left: float, top: float, right: float, bottom: float
) -> tuple[int, int, int, int] | None:
    """Whole pixels a rectangle covers inside the image, None where there are none."""
    height, width = rgb.shape[:2]
    x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
    x1, y1 = min(width, math.ceil(right)), min(height, math.ceil(bottom))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None

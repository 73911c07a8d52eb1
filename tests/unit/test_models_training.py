"""The training's renderer and views, without torch: exact depth of what is drawn, and of what the next frame sees."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pytest

_TRAINING = "streamdepth.models.builtin.training"
# These modules are not type-checked: they are not a part of the wheel.
generate, place, raycast, scene, textures, views = (
    cast("Any", import_module(f"{_TRAINING}.{name}"))
    for name in ("generate", "place", "raycast", "scene", "textures", "views")
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


pytestmark = pytest.mark.slow  # the renderer's kernels take about 20 seconds to compile


@pytest.fixture(scope="module")
def bank() -> Any:
    return textures.make_bank(7, None)


def seen(s: Any, bank: Any, width: int, height: int, focal_px: float) -> NDArray[np.float64]:
    """Inverse depth of a scene from the origin, looking along z; y is up."""
    img, inv = np.zeros((height, width, 3)), np.zeros((height, width))
    camera = np.concatenate([np.zeros(3), [1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]])
    sun = np.array([[0.0, 1.0, 0.0, 1.0, 1.0, 1.0]])
    above, dither = np.full((192, 256, 3), 200.0), np.zeros((height, width, 2))
    raycast.render(
        np.array(s.rows), camera, focal_px, bank.texels, raycast.offsets(), above, sun, True, 0.5, np.zeros(3),
        np.zeros(3), 0.0, False, dither, img, inv,
    )  # fmt: skip
    return inv


@pytest.mark.timeout(600)  # numba compiles the renderer for the first test that uses it: 70 s on two busy cores
def test_a_rod_stands_where_its_ends_are_and_as_deep(bank: Any) -> None:
    s = scene.Scene(np.random.default_rng(1), bank)
    near, far, radius = np.array([-1.0, -0.5, 4.0]), np.array([1.5, 0.75, 8.0]), 0.05
    s.rod(near, far, radius, "plain", np.ones(3))
    inv = seen(s, bank, 128, 96, 100.0)
    drawn = np.argwhere(inv > 0)
    assert len(drawn) > 50
    for row, column in drawn:
        x, y = (column + 0.5 - 64) / 100, -(row + 0.5 - 48) / 100
        z = 1 / inv[row, column]
        share = np.clip((x * z - near[0]) / (far - near)[0], 0, 1)
        middle = near + (far - near) * share
        assert abs(z - middle[2]) < 0.25
        assert abs(y * z - middle[1]) < 0.15


def test_images_from_below_are_mostly_sky_and_a_seed_repeats_them(bank: Any) -> None:
    shares = []
    for seed in range(12):
        image, inv = generate.image(np.random.default_rng(seed), bank, place.ALOFT, 96, 64)
        assert image.shape == (64, 96, 3)
        assert image.dtype == np.uint8
        assert np.isfinite(inv).all()
        assert inv.min() >= 0
        shares.append((inv == 0).mean())
    again, _ = generate.image(np.random.default_rng(11), bank, place.ALOFT, 96, 64)
    np.testing.assert_array_equal(image, again)
    assert np.median(shares) > 0.5
    assert min(shares) < 0.95


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_way_between_two_views_leads_to_the_same_things(mirrored: bool) -> None:
    """An image of its own coordinates says where each view looks."""
    rng = np.random.default_rng(5)
    width, height, size = 200, 160, (64, 48)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    places = np.stack([x, y], 2)
    for _ in range(20):
        first = views.crop(rng, width, height, size)
        second = views.beside(rng, width, height, first)
        assert second[0] >= 0
        assert second[1] >= 0
        assert second[0] + second[2] <= width
        assert second[1] + second[3] <= height
        a, b = (
            cv2.resize(places[v[1] : v[1] + v[3], v[0] : v[0] + v[2]], size, interpolation=cv2.INTER_LINEAR)
            for v in (first, second)
        )
        if mirrored:
            a, b = a[:, ::-1], b[:, ::-1]
        theta = views.way(first, second, mirrored)
        u, v = np.meshgrid((np.arange(64) + 0.5) / 32 - 1, (np.arange(48) + 0.5) / 24 - 1)
        in_first = [theta[k, 0] * u + theta[k, 1] * v + theta[k, 2] for k in range(2)]
        columns, rows = (in_first[0] + 1) * 32 - 0.5, (in_first[1] + 1) * 24 - 0.5
        moved = cv2.remap(
            np.ascontiguousarray(a), columns.astype(np.float32), rows.astype(np.float32), cv2.INTER_LINEAR
        )
        inside = (columns > 1) & (columns < 62) & (rows > 1) & (rows < 46)
        assert inside.mean() > 0.5
        assert np.abs(moved - b)[inside].max() < 1.5


def test_worn_images_keep_their_size_and_still_show_the_same() -> None:
    rng = np.random.default_rng(3)
    ramp = np.repeat(np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 48, 0), 3, 2)
    alike = []
    for _ in range(30):
        worn = views.wear(ramp.copy(), rng)
        assert worn.shape == ramp.shape
        assert worn.dtype == np.uint8
        alike.append(np.corrcoef(worn.mean(2).ravel(), ramp.mean(2).ravel())[0, 1])
    assert np.median(alike) > 0.9


@pytest.mark.parametrize(("width", "height"), [(288, 224), (352, 208), (208, 288), (448, 160)])
def test_network_sizes_are_multiples_of_32_of_the_same_shape(width: int, height: int) -> None:
    fine, coarse = (views.sizes_for(width, height, c) for c in (False, True))
    for (w, h), (small_w, small_h) in zip(fine, coarse, strict=True):
        assert w % 32 == h % 32 == small_w % 32 == small_h % 32 == 0
        assert small_w * small_h < 0.5 * w * h
        assert (small_w > small_h) == (w > h)

"""Stills and depth data: the same numbers without a frame."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdepth.colorize.images import paint
from streamdepth.colorize.palettes import palette
from streamdepth.colorize.resize import resize_bilinear, resize_to_uint16
from streamdepth.core.errors import UsageError
from streamdepth.core.frame import DepthMap, DepthRange, Sense
from streamdepth.core.look import Look, Nearness, Upsampling
from tests.support import color

INVERSE = Sense.RELATIVE_INVERSE


def test_a_grey_levels_worth_of_nearness_gives_the_palettes_entry() -> None:
    """What an 8-bit depth image looked up in 256 shades gives, for every palette entry and exactly."""
    values = np.linspace(0, 255, 256, dtype=np.float32).reshape(16, 16)
    for style in ("viridis", "hsv", "alpha", "cubehelix"):
        out = paint(values, INVERSE, DepthRange(0, 255), Look(style=style))
        np.testing.assert_array_equal(out.reshape(256, 4), palette(style))
    out = paint(values, Sense.METRIC_M, DepthRange(0, 255), Look(style="jet", reverse=True, nearness=Nearness.LINEAR))
    np.testing.assert_array_equal(out.reshape(256, 4), palette("jet"))


def test_grayscale_is_one_channel_unless_it_needs_more() -> None:
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    span = DepthRange(0, 1)
    out = paint(values, INVERSE, span, Look(style="Gray"))
    np.testing.assert_array_equal(out.reshape(-1), np.arange(256))
    assert paint(values, INVERSE, span, Look(style="greys")).shape == (16, 16, 4)
    assert paint(values, INVERSE, span, Look(style="gray", alpha=(1.0, 0.5))).shape == (16, 16, 4)
    values[0, 0] = np.nan
    assert paint(values, INVERSE, span, Look(style="gray"))[0, 0, 3] == 0


def test_alpha_ramp_of_a_still() -> None:
    values = np.linspace(0, 1, 101, dtype=np.float32)[None]
    out = paint(values, Sense.RELATIVE_DEPTH, DepthRange(0, 1), Look(alpha=(0.8, 0.1), nearness=Nearness.LINEAR))
    want = 255 * np.linspace(0.8, 0.1, 101)
    assert np.abs(out[0, :, 3] - want).max() <= 0.6
    assert (out[0, 0, 3], out[0, -1, 3]) == (204, 26)


def test_a_still_at_another_size_and_guided() -> None:
    depth = color.smooth_depth(20, 15)
    span = color.span(depth)
    near = color.nearness(depth, span, 61, 43)
    rgb, _ = color.colour(near, palette("inferno"), (1, 1))
    out = paint(depth.values, INVERSE, span, Look(), size_px=(61, 43))
    assert np.abs(out[..., :3] - 255 * rgb).max() <= 1
    guide = np.random.default_rng(0).integers(0, 256, (43, 61)).astype(np.uint8)
    guided = paint(depth.values, INVERSE, span, Look(upsampling=Upsampling.GUIDED), guide=guide, size_px=(61, 43))
    assert (guided != out).any()


def test_bar_and_contours_on_a_still() -> None:
    values = np.tile(np.linspace(0, 1, 400, dtype=np.float32), (300, 1))
    plain = paint(values, INVERSE, DepthRange(0, 1), Look(alpha=(0.5, 0.5)))
    drawn = paint(values, INVERSE, DepthRange(0, 1), Look(alpha=(0.5, 0.5), bar=True, contours=2))
    changed = (plain != drawn).any(axis=2)
    assert changed[0].sum() in (2, 3, 4)
    assert changed[200:, 300:].mean() > 0.2


@settings(max_examples=60)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    out_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    seed=st.integers(0, 99),
)
def test_resize_is_bilinear_between_pixel_centres(size: tuple[int, int], out_size: tuple[int, int], seed: int) -> None:
    depth = color.smooth_depth(*size, seed)
    wide = DepthRange(-100, 100)
    want = color.nearness(depth, wide, *out_size) * 200 - 100
    np.testing.assert_allclose(resize_bilinear(depth.values, *out_size), want, atol=2e-5)


def test_resize_agrees_with_opencv_when_enlarging() -> None:
    values = np.random.default_rng(0).random((60, 80)).astype(np.float32)
    want = cv2.resize(values, (401, 233), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_bilinear(values, 401, 233), want, atol=1e-5)


def test_the_same_size_gives_the_same_values() -> None:
    values = np.random.default_rng(0).normal(size=(31, 47)).astype(np.float32)
    values[3, 4] = np.nan
    np.testing.assert_array_equal(resize_bilinear(values, 47, 31), values)
    np.testing.assert_array_equal(resize_bilinear(values[:1], 47, 1), values[:1])


def test_holes_stay_holes_and_do_not_grow() -> None:
    values = np.ones((8, 8), np.float32)
    values[2:4, 2:4] = np.nan
    values[6, 6] = np.inf
    out = resize_bilinear(values, 80, 80)
    holes = np.isnan(out)
    assert holes[20:40, 20:40].all()
    assert holes[60:70, 60:70].all()
    assert holes.sum() == 500
    np.testing.assert_allclose(out[~holes], 1, atol=1e-6)


@pytest.mark.parametrize("holes", [False, True])
def test_codes_are_the_rounded_values(holes: bool) -> None:
    depth: DepthMap = color.smooth_depth(24, 18)
    values = depth.values
    if holes:
        values[4:9, 5:11] = np.nan
    scale, offset = 1e-4, float(np.nanmin(values)) - 1e-4
    out = np.empty((90, 120), np.uint16)
    assert resize_to_uint16(values, 120, 90, scale, offset, out) == 0
    resized = resize_bilinear(values, 120, 90).astype(np.float64)
    assert ((out == 0) == np.isnan(resized)).all()
    back = out * scale + offset
    assert np.nanmax(np.abs(np.where(out == 0, np.nan, back) - resized)) <= 0.51 * scale


def test_codes_out_of_range_are_clipped_and_counted() -> None:
    values = np.array([[-1.0, 0.0, 0.4, 1.0, 65535.0, 65536.0, 1e30, np.nan]], np.float32)
    out = np.empty((1, 8), np.uint16)
    assert resize_to_uint16(values, 8, 1, 1.0, 0.0, out) == 5
    assert list(out[0]) == [1, 1, 1, 1, 65535, 65535, 65535, 0]


def test_negative_scale_is_allowed() -> None:
    out = np.empty((1, 2), np.uint16)
    resize_to_uint16(np.array([[0.0, -10.0]], np.float32), 2, 1, -0.5, 1.0, out)
    assert list(out[0]) == [2, 22]


@pytest.mark.parametrize(
    "arguments",
    [
        (np.zeros((2, 2), np.float64), 2, 2),
        (np.zeros((2, 2, 1), np.float32), 2, 2),
        (np.zeros((0, 2), np.float32), 2, 2),
        (np.zeros((2, 2), np.float32), 0, 2),
    ],
)
def test_wrong_depth_or_size(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError):
        resize_bilinear(*arguments)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_wrong_scale(scale: float) -> None:
    with pytest.raises(UsageError, match="scale"):
        resize_to_uint16(np.zeros((2, 2), np.float32), 2, 2, scale, 0.0, np.empty((2, 2), np.uint16))


def test_wrong_output() -> None:
    for out in (np.empty((3, 2), np.uint16), np.empty((2, 4), np.uint16)[:, ::2]):
        with pytest.raises(UsageError, match="contiguous"):
            resize_to_uint16(np.zeros((2, 2), np.float32), 2, 2, 1.0, 0.0, out)


def test_nearness_of_values_that_grow_with_distance() -> None:
    """Inverse depth by default, so that a metre near the camera counts more than a metre far away."""
    metres = np.array([[1, 2, 4, 8, 16]], dtype=np.float32)
    shades = {
        str(name): paint(metres, Sense.METRIC_M, DepthRange(1, 16), Look(style="gray", nearness=name))[0]
        for name in Nearness
    }
    inverse = np.rint(255 * (1 / metres[0] - 1 / 16) / (1 - 1 / 16))
    assert np.abs(shades["auto"] - inverse).max() <= 1
    np.testing.assert_array_equal(shades["auto"], shades["inverse"])
    assert np.abs(shades["linear"] - np.rint(255 * (16 - metres[0]) / 15)).max() <= 1
    disparity = paint(metres, INVERSE, DepthRange(1, 16), Look(style="gray"))
    np.testing.assert_array_equal(
        paint(metres, INVERSE, DepthRange(1, 16), Look(style="gray", nearness=Nearness.LINEAR)), disparity
    )


def test_inverse_depth_of_values_at_and_below_zero() -> None:
    values = np.array([[-3, 0, 0.005, 0.01, 1]], dtype=np.float32)
    shades = paint(values, Sense.RELATIVE_DEPTH, DepthRange(-3, 1), Look(style="gray"))[0]
    np.testing.assert_array_equal(shades, [255, 255, 255, 255, 0])
    below = paint(-values - 2, Sense.RELATIVE_DEPTH, DepthRange(-3, -2), Look(style="gray"))[0]
    assert below[0] == 0

"""What depth does to the colours: holes, flat and extreme values, guided borders, contours, the bar."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdepth.colorize.palettes import palette
from streamdepth.core.frame import DepthMap, DepthRange, Sense
from streamdepth.core.look import Look, Upsampling, View
from tests.support import color
from tests.support.painted import flat, render, same

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERLAY = Look(view=View.OVERLAY)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("upsampling", list(Upsampling))
def test_depth_without_a_value_is_not_painted(bad: float, upsampling: Upsampling) -> None:
    image = color.random_image(80, 60, "yuv420p")
    depth = color.smooth_depth(20, 15)
    depth.values[:, :10] = bad
    out = render(image, depth, Look(view=View.OVERLAY, upsampling=upsampling, alpha=(1.0, 1.0)), DepthRange(-2, 2))
    for index, (new, old) in enumerate(zip(color.channels(out), color.channels(image), strict=True)):
        middle = 40 if index == 0 else 20
        np.testing.assert_array_equal(new[:, :middle], old[:, :middle])
        assert (new[:, middle:] != old[:, middle:]).mean() > 0.5
    alone = color.channels(render(image, depth, Look(upsampling=upsampling), DepthRange(-2, 2)))
    assert (alone[0][:, :40] == 16).all()
    clear = color.channels(render(image, depth, Look(upsampling=upsampling, transparent=True), DepthRange(-2, 2)))
    assert (clear[3][:, :40] == 0).all()
    assert (clear[3][:, 40:] == 255).all()


def test_a_mask_counts_as_no_value() -> None:
    image, depth = color.random_image(80, 60, "nv12"), color.smooth_depth(20, 15)
    valid = np.ones((15, 20), np.bool_)
    valid[4:9, 3:12] = False
    holes = depth.values.copy()
    holes[~valid] = np.nan
    span = DepthRange(-2, 2)
    masked = render(image, DepthMap(depth.values, depth.sense, valid), OVERLAY, span)
    assert same(masked, render(image, DepthMap(holes, depth.sense), OVERLAY, span))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_depth_of_one_pixel_or_line(size: tuple[int, int]) -> None:
    image = color.random_image(33, 21, "yuv420p")
    for look in (OVERLAY, replace(OVERLAY, upsampling=Upsampling.GUIDED, contours=3)):
        render(image, flat(0.5, size=size), look, DepthRange(0, 1))
        render(image, flat(float("nan"), size=size), look, DepthRange(0, 1))


def test_flat_range_is_farthest_everywhere() -> None:
    image = color.random_image(33, 21, "rgb24")
    out = render(image, color.smooth_depth(9, 7), Look(), DepthRange(2.0, 2.0))
    assert all((c == palette("inferno")[0][i]).all() for i, c in enumerate(color.channels(out)))


def test_extreme_numbers_stay_in_range() -> None:
    image = color.random_image(33, 21, "rgb24")
    values = np.array([[-3e38, 3e38], [0.0, 1e-38]], np.float32)
    out = render(image, DepthMap(values, Sense.RELATIVE_INVERSE), Look(style="grey"), DepthRange(-1e-3, 1e-3))
    first = color.channels(out)[0]
    assert first[0, 0] == 0
    assert first[0, -1] == 255


def steps(width: int, height: int) -> tuple[av.VideoFrame, DepthMap, NDArray[np.bool_]]:
    """A bright disc before a dark ground, and its depth at an eighth of the size, as soft as a model gives it."""
    y, x = np.mgrid[0:height, 0:width]
    disc = (x - width * 0.47) ** 2 + (y - height * 0.53) ** 2 < (height * 0.3) ** 2
    image = av.VideoFrame(width, height, "gray")
    view = np.frombuffer(memoryview(image.planes[0]), np.uint8).reshape(height, -1)
    view[:, :width] = np.where(disc, 190, 60)
    small = disc.reshape(height // 8, 8, width // 8, 8).mean(axis=(1, 3)).astype(np.float32)
    return image, DepthMap(small, Sense.RELATIVE_INVERSE), disc


def test_guided_borders_follow_the_frame_without_halos() -> None:
    image, depth, disc = steps(320, 240)
    span = DepthRange(0.0, 1.0)
    want = np.where(disc, 255.0, 0.0)

    def far_off(upsampling: Upsampling) -> tuple[float, NDArray[np.float64]]:
        red = color.channels(render(image, depth, Look(style="grey", upsampling=upsampling, transparent=True), span))[0]
        return float((np.abs(red - want) > 64).mean()), red

    soft, _ = far_off(Upsampling.BILINEAR)
    crisp, red = far_off(Upsampling.GUIDED)
    assert crisp < soft / 4
    assert red.min() >= 0
    assert red.max() <= 255
    inside = color.nearness(DepthMap(depth.values, depth.sense), span, 320, 240)
    deep = np.abs(inside - 0.5) > 0.499
    assert np.abs(red - want)[deep].max() <= 40, "no ringing away from the border"


@pytest.mark.parametrize("turned", [False, True])
def test_a_highlight_along_a_beam_draws_no_line(turned: bool) -> None:
    """The highlight has the luma of the sky; its depth is that of the beam."""
    width, height, scale = 320, 240, 6
    luma, near = np.full((height, width), 200, np.uint8), np.zeros((height, width), np.float32)
    luma[:, 150:168], near[:, 150:168] = 60, 1.0
    luma[:, 160:162] = 200
    if turned:
        luma, near = np.ascontiguousarray(luma.T), np.ascontiguousarray(near.T)
    rows, columns = luma.shape
    image = av.VideoFrame(columns, rows, "gray")
    np.frombuffer(memoryview(image.planes[0]), np.uint8).reshape(rows, -1)[:, :columns] = luma
    whole = near[: rows // scale * scale, : columns // scale * scale]
    small = whole.reshape(rows // scale, scale, columns // scale, scale).mean(axis=(1, 3))
    look = Look(style="grey", upsampling=Upsampling.GUIDED, transparent=True)
    red = color.channels(render(image, DepthMap(small, Sense.RELATIVE_INVERSE), look, DepthRange(0.0, 1.0)))[0]
    red = red.T if turned else red
    assert red[20:-20, 155:164].min() > 200
    assert red[20:-20, :140].max() < 20


@settings(max_examples=25)
@given(seed=st.integers(0, 999), size=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_guided_never_leaves_the_span_of_its_neighbours(seed: int, size: tuple[int, int]) -> None:
    depth = color.smooth_depth(7, 5, seed)
    span = color.span(depth)
    image = color.random_image(*size, "gray", seed)
    look = Look(style="grey", upsampling=Upsampling.GUIDED, transparent=True)
    red = color.channels(render(image, depth, look, span))[0]
    lowest = (depth.values.min() - span.lo) / (span.hi - span.lo) * 255
    highest = (depth.values.max() - span.lo) / (span.hi - span.lo) * 255
    assert red.min() >= lowest - 1
    assert red.max() <= highest + 1


def test_contours_lie_where_levels_are_crossed() -> None:
    ramp = np.tile(np.linspace(0, 1, 96, dtype=np.float32), (4, 1))
    image = color.random_image(96, 48, "rgb24")
    depth = DepthMap(ramp, Sense.RELATIVE_INVERSE)
    span = DepthRange(0.0, 1.0)
    plain = color.channels(render(image, depth, Look(style="grey"), span))[0]
    lined = color.channels(render(image, depth, Look(style="grey", contours=3), span))[0]
    changed = np.flatnonzero((plain != lined).any(axis=0))
    assert len(changed) == 3
    np.testing.assert_allclose(changed, [23.5, 47.5, 71.5], atol=1)


def test_contours_stay_out_of_holes_and_flat_ground() -> None:
    image = color.random_image(64, 48, "yuv420p")
    assert same(
        render(image, flat(0.4), replace(OVERLAY, contours=9), DepthRange(0, 1)),
        render(image, flat(0.4), OVERLAY, DepthRange(0, 1)),
    )
    holes = flat(0.4)
    holes.values[2:4] = np.nan
    assert same(
        render(image, holes, replace(OVERLAY, contours=9), DepthRange(0, 1)),
        render(image, holes, OVERLAY, DepthRange(0, 1)),
    )


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv422p10le", "p010le", "rgb24", "rgba", "gray"])
@pytest.mark.parametrize("view", list(View))
def test_bar_changes_its_corner_only(pix_fmt: str, view: View) -> None:
    image, depth = color.random_image(320, 240, pix_fmt), color.smooth_depth(33, 21, sense=Sense.METRIC_M)
    plain = color.channels(render(image, depth, Look(view=view)))
    barred = color.channels(render(image, depth, Look(view=view, bar=True)))
    for before, after in zip(plain[:3], barred[:3], strict=True):
        changed = before != after
        assert changed.mean() > 0.01
        height, width = changed.shape
        rows = (height // 2, height) if view is View.STACK else (0, height)
        assert not changed[:, : width // 2].any()
        assert not changed[: rows[0] + (rows[1] - rows[0]) // 3].any()


def test_bar_is_left_out_where_it_cannot_be_read() -> None:
    image, depth = color.random_image(32, 20, "yuv420p"), color.smooth_depth(9, 7)
    assert same(render(image, depth, Look(bar=True)), render(image, depth, Look()))

"""The synthetic scene: the same for the same arguments, worth looking at, and readable by machines."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice, pairwise

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from streamdepth.core.contracts import Source
from streamdepth.core.errors import SourceError, UsageError
from streamdepth.core.frame import ColorTags
from streamdepth.media.scene import Scene, fill_convex
from streamdepth.sources.pattern import PatternSource, draw_counter, read_counter


def test_default_is_a_short_finite_clip() -> None:
    source = PatternSource.from_text("test:")
    assert isinstance(source, Source)
    info = source.open()
    assert (info.width_px, info.height_px, info.rate, info.frame_count) == (640, 360, Fraction(30), 90)
    assert (info.pix_fmt, info.color, info.duration_seconds, info.live) == (
        "yuv420p",
        ColorTags(1, 1, 1, 1),
        3.0,
        False,
    )
    frames = list(source.frames())
    assert [(frame.index, frame.pts) for frame in frames] == [(n, n) for n in range(90)]
    assert ColorTags.of(frames[0].image) == info.color
    source.close()


def test_options_in_text() -> None:
    source = PatternSource.from_text("test:?size=160x90&rate=30000/1001&frames=3&seed=4&counter=1")
    info = source.open()
    assert (info.width_px, info.height_px, info.rate, info.frame_count) == (160, 90, Fraction(30000, 1001), 3)
    assert [read_counter(frame.to_rgb()) for frame in source.frames()] == [0, 1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "test:?size=640",
        "test:?size=0x4",
        "test:?size=99999x4",
        "test:?rate=0",
        "test:?rate=1/0",
        "test:?rate=fast",
        "test:?frames=-1",
        "test:?frames=x",
        "test:?seed=-1",
        "test:?counter=2",
        "test:?colour=red",
        "test:?size=40x40&counter=1",
        "test:x",
        "nothing",
    ],
)
def test_wrong_options_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        PatternSource.from_text(text)


def test_same_arguments_same_frames() -> None:
    source = PatternSource(width_px=96, height_px=54, frames=5, seed=3)
    with pytest.raises(SourceError, match="call open\\(\\) before frames"):
        next(source.frames())
    source.open()
    first = [frame.to_rgb() for frame in source.frames()]
    again = source.again()
    again.open()
    for one, two in zip(first, again.frames(), strict=True):
        np.testing.assert_array_equal(one, two.to_rgb())
    assert all((one != two).any() for one, two in pairwise(first))
    other = PatternSource(width_px=96, height_px=54, frames=1, seed=4)
    other.open()
    assert (next(other.frames()).to_rgb() != first[0]).any()


def test_without_end_until_interrupted() -> None:
    source = PatternSource(width_px=16, height_px=16, frames=0)
    assert source.open().frame_count is None
    frames = source.frames()
    assert len(list(islice(frames, 200))) == 200
    source.interrupt()
    assert list(frames) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (17, 31), (250, 3)])
def test_any_size(size: tuple[int, int]) -> None:
    source = PatternSource(width_px=size[0], height_px=size[1], frames=2)
    source.open()
    assert [(frame.width_px, frame.height_px) for frame in source.frames()] == [size, size]


def test_far_things_are_small_pale_and_near_the_horizon() -> None:
    scene = Scene(320, 180, 0)
    red = np.array((255, 0, 0), np.float32)
    feet = [scene.project(1, 1.6, depth) for depth in (2, 4, 8)]
    heads = [scene.project(1, 0.6, depth) for depth in (2, 4, 8)]
    heights = [foot[1] - head[1] for foot, head in zip(feet, heads, strict=True)]
    assert heights[0] == pytest.approx(2 * heights[1]) == pytest.approx(4 * heights[2])
    assert feet[0][1] > feet[1][1] > feet[2][1] > 0.42 * 180
    spread = [float(np.ptp(scene.haze(red, depth))) for depth in (2, 4, 8, 1000)]
    assert spread == sorted(spread, reverse=True)


def test_sky_is_blue_above_and_the_ground_is_chequered() -> None:
    rgb = Scene(320, 180, 0).draw(0.0).astype(float)
    assert rgb[2].mean(axis=0).argmax() == 2
    assert rgb[178].std(axis=0).mean() > 20


@pytest.mark.parametrize("value", [0, 1, 255, 65_536, 0xABCDEF, 2**24 - 1, 2**24 + 5])
@pytest.mark.parametrize("size", [(640, 360), (120, 68), (121, 99)])
def test_counter_is_read_back(value: int, size: tuple[int, int]) -> None:
    rgb = np.full((size[1], size[0], 3), 128, np.uint8)
    draw_counter(rgb, value)
    assert read_counter(rgb) == value % 2**24
    assert read_counter(rgb[..., 0]) == value % 2**24


def test_counter_survives_scaling_and_coding() -> None:
    rgb = Scene(640, 360, 0).draw(1.0)
    draw_counter(rgb, 123_456)
    small = cv2.resize(rgb, (320, 180), interpolation=cv2.INTER_AREA)
    coded = cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
    assert coded is not None
    assert read_counter(np.asarray(coded, np.uint8)) == 123_456
    assert read_counter(np.asarray(cv2.resize(rgb, (1001, 563)), np.uint8)) == 123_456


@pytest.mark.parametrize("level", [0, 128, 255])
def test_no_counter_is_no_number(level: int) -> None:
    with pytest.raises(ValueError, match="counter"):
        read_counter(np.full((90, 160, 3), level, np.uint8))
    with pytest.raises(ValueError, match="too small"):
        read_counter(np.zeros((1, 1, 3), np.uint8))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(-60, 120), st.integers(-60, 120)), min_size=3, max_size=3, unique=True))
def test_polygons_are_filled_with_soft_edges(corners: list[tuple[int, int]]) -> None:
    """Against Pillow's own fill of the same triangle at eight times the size."""
    (ax, ay), (bx, by), (cx, cy) = corners
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    assume(abs(area) > 400)
    rgb = np.zeros((60, 80, 3), np.uint8)
    fill_convex(rgb, np.array(corners, np.float32), np.array([200, 100, 50], np.float32))
    large = Image.new("L", (80 * 8, 60 * 8))
    ImageDraw.Draw(large).polygon([(8 * x, 8 * y) for x, y in corners], fill=255)
    expected = np.asarray(large, np.float32).reshape(60, 8, 80, 8).mean(axis=(1, 3)) / 255
    assert np.abs(rgb[..., 0] / 200 - expected).max() < 0.75
    assert np.abs(rgb[..., 0] / 200 - expected).mean() < 0.01

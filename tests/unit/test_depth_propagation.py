"""Depth propagated along motion: scenes whose motion and depth are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.core.errors import DataFormatError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.motion import OpticalFlow
from streamdepth.depth.propagation import DepthPropagator, KnownDepth

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDTH, _HEIGHT = 256, 144
_SENSE = Sense.RELATIVE_INVERSE


def _texture(seed: int, width: int = 3 * _WIDTH, height: int = _HEIGHT) -> NDArray[np.uint8]:
    """Smooth noise: means of 9x9 random levels, stretched."""
    rough = np.random.default_rng(seed).random((height + 8, width + 8))
    sums = np.cumsum(np.cumsum(np.pad(rough, ((1, 0), (1, 0))), axis=0), axis=1)
    smooth = sums[9:, 9:] - sums[:-9, 9:] - sums[9:, :-9] + sums[:-9, :-9]
    return np.asarray(255 * (smooth - smooth.min()) / np.ptp(smooth), np.uint8)


_BACKDROP, _CARD = _texture(1), _texture(2)


def _scene(shift: int, card_at: int | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A backdrop moved ``shift`` px to the left, as deep as its columns, and before it a card of depth 500."""
    image = _BACKDROP[:, 100 + shift : 100 + shift + _WIDTH].copy()
    depth = np.tile(np.arange(100 + shift, 100 + shift + _WIDTH, dtype=np.float32), (_HEIGHT, 1))
    if card_at is not None:
        image[40:100, card_at : card_at + 60] = _CARD[40:100, :60]
        depth[40:100, card_at : card_at + 60] = 500
    return image, depth


def _known(image: NDArray[np.uint8], depth: NDArray[np.float32]) -> KnownDepth:
    return KnownDepth.of(image, DepthMap(depth, _SENSE))


def _error(got: DepthMap, wanted: NDArray[np.float32], border: int = 12) -> float:
    inner = np.s_[border:-border, border:-border]
    return float(np.abs(got.values[inner] - wanted[inner]).mean())


@pytest.mark.parametrize("shift", [-9, -2, 0, 1, 6])
def test_depth_moves_with_the_image(shift: int) -> None:
    before = _known(*_scene(0))
    image, wanted = _scene(shift)
    got = DepthPropagator().forward(image, before)
    assert got.propagated
    assert got.sense is _SENSE
    assert _error(got, wanted) < 0.35
    assert float(np.abs(before.values - wanted).mean()) == pytest.approx(abs(shift))


def test_depth_of_another_size_than_the_image_moves_as_far() -> None:
    image, wanted = _scene(8)
    first, depth = _scene(0)
    half = np.ascontiguousarray(depth.reshape(_HEIGHT // 2, 2, _WIDTH // 2, 2).mean(axis=(1, 3)))
    got = DepthPropagator().forward(image, _known(first, half))
    expected = wanted.reshape(_HEIGHT // 2, 2, _WIDTH // 2, 2).mean(axis=(1, 3))
    assert got.values.shape == expected.shape
    assert _error(got, expected) < 0.35


def test_between_two_images_depth_that_changes_is_interpolated_in_time() -> None:
    image, depth = _scene(0)
    before, after = _known(image, depth), _known(image, depth + 40)
    got = next(DepthPropagator().between([image] * 3, before, after))
    assert np.allclose(got.values, depth + 10, atol=0.01)


def test_what_one_image_hides_comes_from_the_other() -> None:
    """The card moves 18 px to the right: what it uncovers is only seen later, what it covers only earlier."""
    before, after = _known(*_scene(0, 60)), _known(*_scene(0, 78))
    image, wanted = _scene(0, 69)
    propagator = DepthPropagator()
    both = next(propagator.between([image], before, after))
    uncovered = np.s_[45:95, 62:67]
    forward = propagator.forward(image, before)
    missed = np.abs(forward.values[uncovered] - wanted[uncovered]).mean()
    assert np.abs(both.values[uncovered] - wanted[uncovered]).mean() < missed / 3
    assert _error(both, wanted) < min(_error(forward, wanted), float(np.abs(before.values - wanted).mean())) / 1.5


def test_motion_too_far_for_one_look_is_followed_step_by_step() -> None:
    propagator, before = DepthPropagator(), _known(*_scene(0))
    for shift in range(6, 73, 6):
        image, wanted = _scene(shift)
        got = propagator.forward(image, before)
    seen = np.s_[12:-12, 12:-84]  # the rest has come into the image since
    assert np.abs(got.values[seen] - wanted[seen]).mean() < 1
    leap = DepthPropagator().forward(image, before)
    assert np.abs(leap.values[seen] - wanted[seen]).mean() > 10


def test_between_two_images_motion_is_followed_from_both() -> None:
    before, after = _known(*_scene(0)), _known(*_scene(48))
    scenes = [_scene(shift) for shift in range(6, 48, 6)]
    found = list(DepthPropagator().between([image for image, _ in scenes], before, after))
    assert len(found) == 7
    for got, (_, wanted) in zip(found, scenes, strict=True):
        assert _error(got, wanted) < 0.5


@pytest.mark.parametrize("fitting", ["before", "after"])
def test_a_image_of_another_shot_is_not_listened_to(fitting: str) -> None:
    image, wanted = _scene(2)
    same = _known(*_scene(0))
    other = _known(_texture(9)[:, :_WIDTH].copy(), np.full((_HEIGHT, _WIDTH), 9000, np.float32))
    before, after = (same, other) if fitting == "before" else (other, same)
    got = next(DepthPropagator().between([image], before, after))
    assert _error(got, wanted) < 20  # of the 8,700 that the other shot is away


def test_no_depth_stays_no_depth() -> None:
    image, depth = _scene(0)
    holes = depth.copy()
    holes[60:90, 60:120] = np.nan
    moved, wanted = _scene(6)
    got = DepthPropagator().forward(moved, _known(image, holes))
    assert got.valid is None
    assert np.isnan(got.values[62:88, 58:112]).all()
    known = np.isfinite(got.values)
    known[:12] = known[-12:] = False
    known[:, :12] = known[:, -12:] = False
    assert np.abs(got.values - wanted)[known].mean() < 0.5
    assert known.mean() > 0.6


@pytest.mark.parametrize("holes", ["before", "after", "both"])
def test_one_of_two_images_with_depth_is_enough(holes: str) -> None:
    image, depth = _scene(0)
    valid = np.ones(depth.shape, bool)
    valid[50:80, 50:90] = False
    whole = KnownDepth.of(image, DepthMap(depth, _SENSE, np.ones_like(valid)))
    holed = KnownDepth.of(image, DepthMap(np.where(valid, depth, np.float32(np.inf)), _SENSE, valid))
    before, after = whole if holes == "after" else holed, whole if holes == "before" else holed
    got = next(DepthPropagator().between([image], before, after))
    assert got.valid is not None
    assert got.valid.all() if holes != "both" else (got.valid == valid).all()
    assert np.abs(got.values - depth)[got.valid].max() < 0.01


def test_images_of_other_sizes_are_left_out_of_a_blend_and_refused_alone() -> None:
    image, depth = _scene(0)
    before, other = _known(image, depth), _known(image[:100].copy(), depth)
    smaller = _known(image, depth[:72].copy())
    propagator = DepthPropagator()
    for after in (other, smaller):
        assert np.allclose(next(propagator.between([image], before, after)).values, depth, atol=0.01)
    with pytest.raises(ValueError, match="needs images of one size"):
        propagator.forward(image[:100].copy(), before)


@pytest.mark.parametrize("size", [(1, 1), (8, 4), (640, 3), (15, 700), (3000, 90)])
def test_tiny_and_narrow_images_are_held(size: tuple[int, int]) -> None:
    width, height = size
    image = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
    propagator = DepthPropagator()
    small = propagator.flow.small(image)
    assert (max(small.shape), min(small.shape) >= 32) == (256, True)
    depth = np.arange(32, dtype=np.float32).reshape(4, 8)
    known = _known(small, depth)
    for _ in range(3):
        assert np.array_equal(propagator.forward(small, known).values, depth)
    assert [np.array_equal(got.values, depth) for got in propagator.between([small] * 3, known, known)] == [True] * 3


def test_sizes_may_change() -> None:
    """OpenCV's search crashes the process where one that was used for another size is told where to begin."""
    propagator = DepthPropagator()
    depth = np.zeros((4, 8), np.float32)
    for width, height in [(256, 144), (144, 256), (256, 32), (32, 256), (256, 256)] * 3:
        known = _known(_texture(3, width, height), depth)
        for seed in (4, 5, 6):
            assert propagator.forward(_texture(seed, width, height), known).values.shape == (4, 8)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p10le", "nv12", "rgb24", "gray"])
@pytest.mark.parametrize(("width", "height", "expected"), [(1280, 720, (144, 256)), (90, 120, (256, 192))])
def test_motion_is_looked_for_in_small_luma(pix_fmt: str, width: int, height: int, expected: tuple[int, int]) -> None:
    ramp = np.tile(np.linspace(20, 230, width).astype(np.uint8), (height, 1))
    image = av.VideoFrame.from_ndarray(np.dstack([ramp] * 3), format="rgb24").reformat(format=pix_fmt)
    small = DepthPropagator().flow.small(image)
    assert small.shape == expected
    assert small.dtype == np.uint8
    middle = small[small.shape[0] // 2].astype(int)
    assert (np.diff(middle) >= -1).all()
    assert np.ptp(middle) > 170


def test_a_image_the_scaler_cannot_convert_is_named() -> None:
    image = av.VideoFrame(64, 64, "gray32be")
    with pytest.raises(DataFormatError, match=r"64x64 gray32be frames .*remove --model-every"):
        DepthPropagator().flow.small(image)


def test_flow_does_not_depend_on_earlier_calls() -> None:
    """OpenCV's search without an initial flow depends on an initial flow of the call before it."""
    y, x = np.mgrid[:144, :256]
    images = [(128 + 60 * np.sin((x + 2 * index) / 5) + 60 * np.cos(y / 7)).astype(np.uint8) for index in range(5)]
    used, fresh = OpticalFlow(), OpticalFlow()
    used.calc(images[2], images[0], used.calc(images[1], images[0]))
    np.testing.assert_array_equal(used.calc(images[4], images[3]), fresh.calc(images[4], images[3]))

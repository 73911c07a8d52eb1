"""Depth filtered over time: synthetic scenes whose depth and motion are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.stabilize import BLOCK_FRAMES, MARGIN_FRAMES, CausalStabilizer, Stabilizer, TwoSidedStabilizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

INVERSE, METRIC = Sense.RELATIVE_INVERSE, Sense.METRIC_M
_WIDTH, _HEIGHT = 256, 144
_DEPTH = (176, 96)
_RAMP = np.tile(np.linspace(0.2, 0.5, _WIDTH, dtype=np.float32), (_HEIGHT, 1))
KINDS = pytest.mark.parametrize("kind", [CausalStabilizer, TwoSidedStabilizer])


def _texture(seed: int, width: int = _WIDTH, height: int = _HEIGHT, contrast: float = 40) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return np.asarray(smooth / smooth.std() * contrast + 120, np.float32)


def _gray(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(image, 0, 255), np.uint8)


@dataclass(frozen=True)
class Shown:
    """One frame of a test: its image for optical flow, its depth, and its time in frames."""

    small: NDArray[np.uint8]
    values: NDArray[np.float32]
    time: float
    cut: bool = False
    valid: NDArray[np.bool_] | None = None


def _square(index: int, *, speed: float = 3, near: float = 1.0, shown: bool = True) -> Shown:
    """A textured square, 48 px wide, over a textured ramp."""
    image, depth = _texture(1).copy(), _RAMP.copy()
    x = int(20 + speed * index)
    if shown:
        image[50:98, x : x + 48] = _texture(2, 48, 48, 50)
        depth[50:98, x : x + 48] = near
    return Shown(_gray(image), np.asarray(cv2.resize(depth, _DEPTH, interpolation=cv2.INTER_AREA)), index)


def _filtered(kind: Any, frames: Sequence[Shown], sense: Sense = INVERSE, rate: int | None = 30) -> list[DepthMap]:
    stabilizer: Stabilizer[int] = kind(None if rate is None else Fraction(rate))
    results: list[tuple[int, DepthMap]] = []
    for index, frame in enumerate(frames):
        depth = DepthMap(frame.values, sense, frame.valid)
        results += stabilizer.append(index, frame.small, depth, frame.time / 30, cut=frame.cut)
    results += stabilizer.flush()
    assert [index for index, _ in results] == list(range(len(frames)))
    assert all(depth.stabilized and depth.sense is sense for _, depth in results)
    return [depth for _, depth in results]


def _noisy(count: int, level: float = 0.02, seed: int = 0, *, still: Shown | None = None) -> list[Shown]:
    """The same image again and again, with noise on its depth."""
    rng, still = np.random.default_rng(seed), still or _square(0)
    return [Shown(still.small, still.values + level * _noise(rng), index) for index in range(count)]


def _noise(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise as models have it: blobs of several pixels, standard deviation 1."""
    blobs = cv2.GaussianBlur(rng.standard_normal((96, 176)).astype(np.float32), (0, 0), 5)
    return np.asarray(blobs / blobs.std(), np.float32)


def _flicker(depths: Sequence[NDArray[np.float32]]) -> float:
    return float(np.mean([np.abs(b - a).mean() for a, b in pairwise(depths)]))


@KINDS
def test_noise_on_a_still_scene_is_reduced_and_edges_stay(kind: Any) -> None:
    frames, truth = _noisy(40), _square(0).values
    depths = [depth.values for depth in _filtered(kind, frames)]
    assert _flicker(depths[10:]) < 0.5 * _flicker([frame.values for frame in frames[10:]])
    assert np.abs(depths[30] - truth).mean() < np.abs(frames[30].values - truth).mean()
    edge = np.abs(np.diff(truth, axis=1)) > 0.3
    assert np.abs(np.diff(depths[30], axis=1))[edge].mean() > 0.97 * np.abs(np.diff(truth, axis=1))[edge].mean()


@KINDS
def test_jitter_of_scale_and_offset_is_reduced(kind: Any) -> None:
    rng, still = np.random.default_rng(1), _square(0)
    frames = [
        Shown(
            still.small,
            np.asarray(still.values * (1 + 0.03 * rng.standard_normal()) + 0.02 * rng.standard_normal(), np.float32),
            index,
        )
        for index in range(60)
    ]
    depths = [depth.values for depth in _filtered(kind, frames)]
    assert _flicker(depths[10:]) < 0.15 * _flicker([frame.values for frame in frames[10:]])


@KINDS
def test_a_moving_object_leaves_no_trail(kind: Any) -> None:
    frames = [_square(index) for index in range(40)]
    depths = _filtered(kind, frames)
    for index in range(10, 40):
        x = 20 + 3 * index
        behind = slice(round((x - 40) * 176 / 256), round((x - 6) * 176 / 256))
        extra = (depths[index].values - frames[index].values)[36:62, max(behind.start, 0) : behind.stop]
        assert extra.mean() < 0.01 * 0.8
        assert extra.max() < 0.01 * 0.8


@KINDS
def test_a_new_object_is_there_at_once(kind: Any) -> None:
    frames = [_square(25, shown=index >= 30) for index in range(45)]
    depths = _filtered(kind, [Shown(frame.small, frame.values, index) for index, frame in enumerate(frames)])
    before, after = (float(np.median(depths[index].values[40:60, 72:92])) for index in (29, 31))
    assert before < 0.55
    assert after > before + 0.9 * (1.0 - before)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("kind", "frames_behind"), [(CausalStabilizer, 1.5), (TwoSidedStabilizer, 1.0)])
def test_an_approaching_object_is_followed(kind: Any, frames_behind: float, noise: float) -> None:
    slope, rng = 0.01, np.random.default_rng(3)
    frames = [_square(index, speed=2, near=0.6 + slope * index) for index in range(50)]
    noisy = [Shown(frame.small, frame.values + np.float32(noise) * _noise(rng), frame.time) for frame in frames]
    depths = _filtered(kind, noisy)
    behind = []
    for index in range(20, 40):
        x = round((20 + 2 * index + 12) * 176 / 256)
        behind.append(np.median((frames[index].values - depths[index].values)[42:56, x : x + 16]) / slope)
    assert abs(float(np.mean(behind))) < frames_behind


@KINDS
def test_a_cut_starts_with_the_depth_of_its_frame(kind: Any) -> None:
    first = _noisy(20)
    other = Shown(_gray(_texture(9)), np.ascontiguousarray(_square(0).values[:, ::-1]), 0)
    second = [
        Shown(frame.small, frame.values, 20 + frame.time, cut=not frame.time) for frame in _noisy(20, still=other)
    ]
    depths = _filtered(kind, [*first, *second])
    if kind is CausalStabilizer:
        assert np.array_equal(depths[20].values, second[0].values)
    alone = _filtered(kind, [Shown(frame.small, frame.values, frame.time) for frame in second])
    for got, expected in zip(depths[20:], alone, strict=True):
        assert np.array_equal(got.values, expected.values)


@KINDS
def test_an_unmarked_change_of_scene_is_not_blended(kind: Any) -> None:
    other = Shown(_gray(_texture(9)), np.ascontiguousarray(1.5 - _square(0).values), 0)
    frames = [*_noisy(20, 0), *(Shown(other.small, other.values, 20 + index) for index in range(20))]
    depths = _filtered(kind, frames)
    assert np.abs(depths[20].values - other.values).mean() < 0.01
    assert np.abs(depths[19].values - frames[19].values).mean() < 0.01


@pytest.mark.parametrize("gain", [0.6, 1.3])
def test_a_step_of_exposure_does_not_stop_the_filter(gain: float) -> None:
    frames = _noisy(40)
    brighter = [
        Shown(_gray(frame.small.astype(np.float32) * (gain if index >= 20 else 1)), frame.values, index)
        for index, frame in enumerate(frames)
    ]
    depths = [depth.values for depth in _filtered(CausalStabilizer, brighter)]
    plain = [depth.values for depth in _filtered(CausalStabilizer, frames)]
    assert _flicker(depths[19:22]) < 0.12 * _flicker([frame.values for frame in frames[19:22]])
    assert _flicker(depths[30:]) < 1.1 * _flicker(plain[30:])


@pytest.mark.parametrize("level", [0, 255])
def test_a_black_frame_or_a_flash_has_no_effect_on_later_frames(level: int) -> None:
    frames = _noisy(30, 0)
    wrong = np.full_like(frames[0].values, 0.9)
    frames[15] = Shown(np.full_like(frames[0].small, level), wrong, 15)
    depths = _filtered(CausalStabilizer, frames)
    for index in (14, 16, 17, 20):
        assert np.abs(depths[index].values - frames[0].values).max() < 0.02


@pytest.mark.slow
def test_thousands_of_noisy_frames_do_not_drift() -> None:
    values = np.tile(np.linspace(0.2, 1, 32, dtype=np.float32), (24, 1))
    still = Shown(_gray(_texture(3, 64, 48)), values, 0)
    stabilizer: Stabilizer[int] = CausalStabilizer(Fraction(30))
    rng, sums = np.random.default_rng(5), np.zeros((24, 32))
    for index in range(5000):
        noisy = values * np.float32(1 + 0.03 * rng.standard_normal())
        noisy += np.float32(0.02) * rng.standard_normal(values.shape, np.float32)
        ((_, depth),) = stabilizer.append(index, still.small, DepthMap(noisy, INVERSE), index / 30, cut=False)
        if index >= 4000:
            sums += depth.values
    assert np.abs(sums / 1000 - values).max() < 0.02 * 0.8


def test_a_pan_over_a_repeating_pattern_keeps_depth() -> None:
    stripes = 120 + 60 * np.sin(np.arange(_WIDTH * 2) * 2 * np.pi / 16).astype(np.float32)
    wide = np.tile(stripes, (_HEIGHT, 1))
    step = np.where(np.arange(_WIDTH * 2) % 96 < 48, 0.3, 0.9).astype(np.float32)
    frames = []
    for index in range(30):
        depth = np.tile(step[3 * index : 3 * index + _WIDTH], (_HEIGHT, 1))
        image = _gray(wide[:, 3 * index : 3 * index + _WIDTH])
        frames.append(Shown(image, np.asarray(cv2.resize(depth, _DEPTH, interpolation=cv2.INTER_AREA)), index))
    for result, frame in zip(_filtered(CausalStabilizer, frames), frames, strict=True):
        assert np.abs(result.values - frame.values).mean() < 0.02 * 0.6


def test_a_still_camera_at_night() -> None:
    """Sensor noise is stronger than the scene: reliability must not depend on it."""
    rng, frames = np.random.default_rng(2), _noisy(40)
    dark = [
        Shown(
            _gray(12 + frame.small.astype(np.float32) / 16 + 4 * rng.standard_normal(frame.small.shape, np.float32)),
            frame.values,
            frame.time,
        )
        for frame in frames
    ]
    depths = [depth.values for depth in _filtered(CausalStabilizer, dark)]
    assert _flicker(depths[10:]) < 0.75 * _flicker([frame.values for frame in frames[10:]])


def test_dropped_frames_count_by_their_time() -> None:
    """The weight of the last output falls with the gap, whether the frame rate is known or estimated."""
    still = _square(0)
    wall = np.full_like(still.values, 0.5) + still.values * 0.1
    for rate in (30, None):
        moved = []
        for gap in (1, 3, 9):
            frames = [Shown(still.small, wall, index) for index in range(5)]
            bump = wall.copy()
            bump[40:60, 60:100] += 0.01
            frames.append(Shown(still.small, bump, 4 + gap))
            depths = _filtered(CausalStabilizer, frames, rate=rate)
            moved.append(float((depths[-1].values - wall)[45:55, 70:90].mean()))
        assert moved[0] < moved[1] < moved[2]
        assert moved[2] == pytest.approx(0.01, rel=1e-3)


def test_a_model_slower_than_the_camera_is_stabilized() -> None:
    """Depth of every 12th frame: the interval is that of the frames that have depth."""
    frames = [replace(frame, time=12 * frame.time) for frame in _noisy(40)]
    depths = [depth.values for depth in _filtered(CausalStabilizer, frames)]
    assert _flicker(depths[10:]) < 0.5 * _flicker([frame.values for frame in frames[10:]])


@KINDS
def test_metres_stay_metres(kind: Any) -> None:
    """A plane at 2.00 m with 1 % noise, and a step to 2.50 m that an alignment would hide."""
    rng, still = np.random.default_rng(4), _square(0)
    plane = [np.asarray((2.0 if index < 60 else 2.5) * (1 + 0.01 * _noise(rng)), np.float32) for index in range(120)]
    depths = _filtered(kind, [Shown(still.small, values, index) for index, values in enumerate(plane)], METRIC)
    assert np.mean([depth.values.mean() for depth in depths[20:45]]) == pytest.approx(2.0, abs=0.002)
    assert np.mean([depth.values.mean() for depth in depths[90:]]) == pytest.approx(2.5, abs=0.002)
    assert np.std([depth.values for depth in depths[30:45]], axis=0).mean() < 0.75 * 0.02


@KINDS
def test_far_depth_beside_a_near_object_stays_far(kind: Any) -> None:
    """The metric depth of a near object flickers in front of a wall at 80 m."""
    rng, frames = np.random.default_rng(0), []
    for index in range(40):
        scene = _square(index)
        near = scene.values > 0.7
        metres = np.where(near, 1 + 0.03 * rng.standard_normal(), 80) * (1 + 0.02 * _noise(rng))
        frames.append(Shown(scene.small, np.asarray(metres, np.float32), index))
    for frame, depth in zip(frames, _filtered(kind, frames, METRIC), strict=True):
        wall = frame.values > 50
        assert np.abs(depth.values[wall] / 80 - 1).max() < 0.11


@KINDS
def test_what_is_not_valid_stays_and_does_not_spread(kind: Any) -> None:
    frames = _noisy(30, 0.01)
    for index, frame in enumerate(frames):
        values = frame.values.copy()
        values[10:20, 10 + index : 30 + index] = np.nan
        values[70:75, 100:110] = np.inf
        valid = np.ones(values.shape, np.bool_)
        valid[80:90, 20:50] = False
        values[80:90, 20:50] = -7
        frames[index] = Shown(frame.small, values, index, valid=valid)
    for depth, frame in zip(_filtered(kind, frames), frames, strict=True):
        assert depth.valid is frame.valid
        odd = ~np.isfinite(frame.values)
        assert np.array_equal(depth.values[odd], frame.values[odd], equal_nan=True)
        assert np.all(depth.values[80:90, 20:50] == -7)
        usable = ~odd & frame.valid
        assert np.isfinite(depth.values[usable]).all()
        assert np.abs(depth.values[usable] - frame.values[usable]).max() < 0.1


@pytest.mark.parametrize("sense", [INVERSE, METRIC, Sense.RELATIVE_DEPTH])
@pytest.mark.parametrize("value", [0.0, np.nan, 3.0])
def test_depth_without_contrast_is_unchanged(sense: Sense, value: float) -> None:
    frames = [Shown(_square(index).small, np.full((96, 176), value, np.float32), index) for index in range(5)]
    for depth in _filtered(CausalStabilizer, frames, sense):
        np.testing.assert_allclose(depth.values, frames[0].values, rtol=1e-6)


def test_sizes_and_senses_may_change() -> None:
    stabilizer: Stabilizer[int] = CausalStabilizer()
    square = _square(0)
    for index, (size, sense) in enumerate([((96, 176), INVERSE), ((48, 88), INVERSE), ((48, 88), METRIC)]):
        values = np.full(size, 1.0 + index, np.float32)
        ((_, depth),) = stabilizer.append(index, square.small, DepthMap(values, sense), index / 30, cut=False)
        assert np.array_equal(depth.values, values)


def test_two_sided_memory_is_bounded_and_the_input_may_be_reused() -> None:
    frames = [_square(index % 40) for index in range(100)]
    expected = [depth.values for depth in _filtered(TwoSidedStabilizer, frames)]
    stabilizer: TwoSidedStabilizer[int] = TwoSidedStabilizer(Fraction(30))
    ring = np.empty_like(frames[0].values)
    results, largest = [], 0
    for index, frame in enumerate(frames):
        ring[...] = frame.values
        results += stabilizer.append(index, frame.small, DepthMap(ring, INVERSE), frame.time / 30, cut=index % 40 == 0)
        largest = max(largest, len(stabilizer))
    results += stabilizer.flush()
    assert largest < BLOCK_FRAMES + MARGIN_FRAMES
    assert len(results) == len(expected) == 100

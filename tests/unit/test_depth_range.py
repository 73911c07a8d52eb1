"""Range control, shots and cuts."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdepth.core.errors import MissingDependencyError, SinkError, UsageError
from streamdepth.core.frame import DepthMap, DepthRange, Frame, Sense
from streamdepth.core.queues import Aborted, Ended
from streamdepth.depth import motion
from streamdepth.depth.motion import CutDetector, OpticalFlow
from streamdepth.depth.range import (
    EmaRange,
    FixedRange,
    FrameRange,
    RangeMode,
    RangeSpec,
    RangeSwitch,
    measure,
    range_control,
)
from streamdepth.depth.shots import ShotSpool, Stamp
from streamdepth.media.frame_store import FrameStore
from tests.support import need

if TYPE_CHECKING:
    from pathlib import Path


def ramp(lo: float, hi: float, shape: tuple[int, int] = (12, 16)) -> DepthMap:
    values = np.linspace(lo, hi, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    return DepthMap(values, Sense.RELATIVE_INVERSE)


def at(pts: int) -> Frame:
    """A frame of 16 x 16 gray pixels."""
    image = av.VideoFrame.from_ndarray(np.zeros((16, 16), np.uint8), format="gray")
    return Frame("clip", pts, pts, Fraction(1, 25), 1000 + pts, image)


class TestNearness:
    @given(st.floats(-1e3, 1e3), st.floats(1e-2, 1e3), st.sampled_from(Sense))
    def test_the_ends_of_a_range_are_zero_and_one(self, lo: float, span: float, sense: Sense) -> None:
        a, b = DepthRange(lo, lo + span).nearness_scale_offset(sense)
        near, far = (lo + span, lo) if sense is Sense.RELATIVE_INVERSE else (lo, lo + span)
        assert a * near + b == pytest.approx(1, abs=1e-6)
        assert a * far + b == pytest.approx(0, abs=1e-6)

    def test_a_flat_range_is_nearness_zero(self) -> None:
        assert DepthRange(3.0, 3.0).nearness_scale_offset(Sense.METRIC_M) == (0.0, 0.0)

    @pytest.mark.parametrize("ends", [(2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
    def test_a_range_has_finite_ordered_ends(self, ends: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="LO <= HI"):
            DepthRange(*ends)


class TestMeasure:
    def test_percentiles_of_the_samples_are_those_of_all_pixels(self) -> None:
        rng = np.random.default_rng(1)
        values = rng.gamma(2.0, 3.0, (480, 640)).astype(np.float32)
        measured = measure(DepthMap(values, Sense.METRIC_M))
        lo, hi = np.percentile(values, (1, 99))
        assert measured.samples.size <= 4800
        assert measured.span() == pytest.approx((lo, hi), abs=0.05 * (hi - lo))
        assert (measured.lo, measured.hi) == (values.min(), values.max())
        assert not measured.non_finite

    def test_values_that_are_not_finite_are_left_out_and_told(self) -> None:
        values = ramp(0, 1).values.copy()
        values[0, :5] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
        measured = measure(DepthMap(values, Sense.METRIC_M))
        assert measured.non_finite
        assert np.isfinite(measured.samples).all()
        assert 0 < measured.lo < measured.hi == 1

    def test_pixels_the_model_calls_invalid_are_no_fault(self) -> None:
        depth = ramp(0, 1)
        values, valid = depth.values.copy(), np.ones(depth.values.shape, np.bool_)
        values[:2], valid[:2] = np.nan, False
        measured = measure(DepthMap(values, Sense.METRIC_M, valid))
        assert not measured.non_finite
        assert measured.lo > 0.1

    def test_one_pixel(self) -> None:
        assert measure(ramp(5, 5, (1, 1))).flat


class TestRanges:
    def test_frame_follows_every_frame_and_fixed_none(self) -> None:
        frame, fixed = FrameRange(), FixedRange(DepthRange(0, 10))
        for lo in (1.0, 5.0):
            measured = measure(ramp(lo, lo + 1))
            assert frame.update(measured, 0.0, cut=False) == DepthRange(lo, lo + 1)
            assert fixed.update(measured, 0.0, cut=False) == DepthRange(0, 10)

    @pytest.mark.parametrize("rate", [5, 30])
    def test_ema_approaches_a_step_by_media_time_whatever_the_frame_rate(self, rate: int) -> None:
        ema = EmaRange(time_constant_seconds=1.0)
        start = ema.update(measure(ramp(0, 1)), 0.0, cut=False)
        goal = measure(ramp(10, 11)).span()
        for tick in range(1, rate + 1):
            now = ema.update(measure(ramp(10, 11)), tick / rate, cut=False)
        assert (now.lo - start.lo) / (goal[0] - start.lo) == pytest.approx(1 - math.exp(-1), abs=1e-6)

    def test_ema_starts_afresh_at_a_cut_and_ignores_flat_frames(self) -> None:
        ema = EmaRange()
        first = ema.update(measure(ramp(0, 1)), 0.0, cut=False)
        assert ema.update(measure(ramp(7, 7)), 1.0, cut=False) == first
        assert ema.update(measure(ramp(10, 11)), 2.0, cut=True).lo > 9.9

    @pytest.mark.parametrize("text", ["shot", "ema", "frame", "fixed:-1,2.5"])
    def test_texts(self, text: str) -> None:
        assert str(RangeSpec.parse(text)) == text

    @pytest.mark.parametrize(
        "text", ["", "shots", "fixed", "fixed:1", "fixed:2,1", "fixed:a,b", "ema:3", "fixed:nan,1"]
    )
    def test_wrong_texts(self, text: str) -> None:
        with pytest.raises(UsageError, match="fixed:LO,HI"):
            RangeSpec.parse(text)

    def test_only_fixed_has_ends(self) -> None:
        with pytest.raises(ValueError, match="mode fixed needs ends"):
            RangeSpec(RangeMode.EMA, DepthRange(0, 1))


class TestShots:
    def test_each_shot_has_one_range_and_depth_comes_back_bit_for_bit(self) -> None:
        shot_spool = ShotSpool()
        depths = [ramp(index, index + 10) for index in range(6)] + [ramp(100, 200), ramp(100, 300)]
        for pts, depth in enumerate(depths):
            shot_spool.append(at(pts), depth, measure(depth), cut=pts == 6)
        shot_spool.end()
        taken = [shot_spool.take() for _ in depths]
        with pytest.raises(Ended):
            shot_spool.take()
        shot_spool.close()
        assert [one.stamp for one in taken] == [Stamp(pts, pts, 1000 + pts) for pts in range(8)]
        assert all((got.depth.values == depth.values).all() for got, depth in zip(taken, depths, strict=True))
        assert len({one.range for one in taken[:6]}) == len({one.range for one in taken[6:]}) == 1
        pooled = np.concatenate([depth.values.ravel() for depth in depths[:6]])
        assert (taken[0].range.lo, taken[0].range.hi) == pytest.approx(np.percentile(pooled, (1, 99)), rel=1e-4)
        assert shot_spool.shots == 2

    def test_memory_does_not_follow_the_length_of_a_shot(self) -> None:
        shot_spool = ShotSpool()
        count = 9000
        for pts in range(count):
            depth = ramp(pts, pts + 1, (2, 2))
            shot_spool.append(at(pts), depth, measure(depth), cut=False)
        assert shot_spool._open is not None
        assert len(shot_spool._open.samples) < 2048
        shot_spool.end()
        depth_range = shot_spool.take().range
        shot_spool.close()
        assert (depth_range.lo, depth_range.hi) == pytest.approx((0.01 * count, 0.99 * count), rel=0.02)

    def test_an_endless_shot_is_divided_and_glides(self) -> None:
        """A budget of 8 frames: stretches of 4, and the colour pass must keep up for the depth pass to go on."""
        frame_bytes = ramp(0, 1).values.nbytes
        shot_spool = ShotSpool(budget_bytes=8 * frame_bytes)
        most = 0

        def depth_pass() -> None:
            nonlocal most
            for pts in range(200):
                depth = ramp(pts, pts + 1)
                shot_spool.append(at(pts), depth, measure(depth), cut=False)
                most = max(most, len(shot_spool))
            shot_spool.end()

        taken = []
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(depth_pass)
            while True:
                try:
                    taken.append(shot_spool.take())
                except Ended:
                    break
            running.result(10)
        shot_spool.close()
        assert [one.stamp.pts for one in taken] == list(range(200))
        assert most <= 10
        lows = [one.range.lo for one in taken]
        assert lows == sorted(lows)
        assert max(np.diff(lows)) < 4

    def test_an_image_that_cannot_be_loaded_is_read_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shot_spool = ShotSpool()
        depth = ramp(0, 1)
        for pts in range(3):
            shot_spool.append(at(pts), depth, measure(depth), cut=False)
        shot_spool.end()
        load = FrameStore.load

        def failing(self: FrameStore, number: int) -> av.VideoFrame:
            if number == 1:
                raise OSError("input/output error")
            return load(self, number)

        monkeypatch.setattr(FrameStore, "load", failing)
        taken = [shot_spool.take() for _ in range(3)]
        shot_spool.close()
        assert [one.frame is None for one in taken] == [False, True, False]
        assert [one.stamp.index for one in taken] == [0, 1, 2]

    def test_images_are_kept_within_their_budget(self) -> None:
        """Room for four: a shot keeps its last ones, as far as the shots before it have left room."""
        frame_bytes = sum(plane.buffer_size for plane in at(0).image.planes)
        shot_spool = ShotSpool(frame_cache_bytes=4 * frame_bytes)
        depth = ramp(0, 1)
        frames = [at(pts) for pts in range(16)]

        def append(first: int, last: int, cut_at: int) -> None:
            for frame in frames[first:last]:
                shot_spool.append(frame, depth, measure(depth), cut=frame.index == cut_at)

        append(0, 6, -1)
        append(6, 9, 6)  # no room at all
        first = [shot_spool.take() for _ in range(6)]
        append(9, 11, -1)
        append(11, 16, 11)
        shot_spool.end()
        rest = [shot_spool.take() for _ in range(10)]
        shot_spool.close()
        kept = [one.frame for one in first + rest]
        assert [frame.index for frame in kept if frame is not None] == [2, 3, 4, 5, 9, 10, 14, 15]
        for index, frame in enumerate(kept):
            if frame is not None:
                np.testing.assert_array_equal(frame.to_rgb(), frames[index].to_rgb())

    def test_images_are_not_held_in_memory(self) -> None:
        shot_spool = ShotSpool()
        depth, frame = ramp(0, 1), at(0)
        held = sys.getrefcount(frame)
        shot_spool.append(frame, depth, measure(depth), cut=False)
        assert sys.getrefcount(frame) == held
        shot_spool.close()

    def test_invalid_pixels_come_back_as_nan(self) -> None:
        depth = ramp(0, 1)
        valid = np.ones(depth.values.shape, np.bool_)
        valid[0, 0] = False
        shot_spool = ShotSpool()
        shot_spool.append(at(0), DepthMap(depth.values, depth.sense, valid), measure(depth), cut=False)
        shot_spool.end()
        got = shot_spool.take().depth
        assert np.isnan(got.values[0, 0])
        assert np.isfinite(got.values.ravel()[1:]).all()
        shot_spool.close()

    @pytest.mark.parametrize("side", ["take", "append"])
    def test_abort_ends_a_wait(self, side: str) -> None:
        shot_spool = ShotSpool(budget_bytes=1)
        depth = ramp(0, 1)
        if side == "append":
            shot_spool.append(at(0), depth, measure(depth), cut=False)

        def wait() -> None:
            if side == "take":
                shot_spool.take()
            else:
                shot_spool.append(at(1), depth, measure(depth), cut=True)

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait)
            shot_spool.abort()
            with pytest.raises(Aborted):
                waiting.result(5)
        shot_spool.close()

    def test_a_folder_that_cannot_be_written_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        depth = ramp(0, 1)
        with pytest.raises(SinkError, match="TMPDIR"):
            ShotSpool().append(at(0), depth, measure(depth), cut=False)

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
    def test_a_full_disk_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115, PTH123
        depth = ramp(0, 1)
        shot_spool = ShotSpool()
        with pytest.raises(SinkError, match="No space left"):
            shot_spool.append(at(0), depth, measure(depth), cut=False)
        shot_spool.close()


def noise(seed: int, shift: int = 0, size: tuple[int, int] = (90, 160)) -> av.VideoFrame:
    """A coarse coloured pattern, the same for a seed, moved sideways by ``shift`` pixels."""
    blocks = np.random.default_rng(seed).integers(0, 256, (size[0] // 15 + 1, size[1] // 15 + 1, 3), np.uint8)
    image = np.kron(blocks, np.ones((15, 15, 1), np.uint8))[: size[0], : size[1]]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(image, shift, 1)), format="rgb24")


class TestCuts:
    def test_the_difference_is_that_of_hsv_images_by_opencv(self) -> None:
        cv2 = pytest.importorskip("cv2")
        random = np.random.default_rng(0)
        images = [random.integers(0, 256, (64, 128, 3), np.uint8) for _ in range(6)]
        images += [images[0] // 16, np.repeat(images[1][..., :1], 3, 2), np.zeros_like(images[0])]
        found = np.zeros_like(images[0])
        for image in images:
            expected = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            change = np.abs(expected.astype(int) - found).mean()
            assert motion._advance(image, found, *motion._quotients()) == pytest.approx(change, abs=1e-9)
            np.testing.assert_array_equal(found, expected)

    def test_finds_cuts_and_only_cuts(self) -> None:
        detector = CutDetector()
        found = [index for index in range(90) if detector.is_cut(noise(index // 30, index % 30))]
        assert found == [30, 60]

    def test_flow_without_opencv_names_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(MissingDependencyError, match="pip install opencv-python"):
            OpticalFlow()

    def test_one_pixel_images(self) -> None:
        detector = CutDetector()
        pixel = av.VideoFrame.from_ndarray(np.zeros((1, 1, 3), np.uint8), format="rgb24")
        assert [detector.is_cut(pixel) for _ in range(3)] == [False] * 3

    def test_a_image_of_another_shape_starts_a_shot(self) -> None:
        detector = CutDetector()
        sizes = [(90, 160)] * 3 + [(160, 90)] * 20 + [(90, 90)]
        assert [index for index, size in enumerate(sizes) if detector.is_cut(noise(3, size=size))] == [3, 23]

    def test_a_real_clip_of_one_shot_has_no_cut(self) -> None:
        path = need.shared("media/rollercoaster_960x540.mp4")
        detector = CutDetector()
        with av.open(str(path)) as container:
            assert not any(detector.is_cut(frame) for frame in container.decode(video=0))


def test_a_map_prints_as_one_line_and_has_its_unit() -> None:
    values = np.zeros((480, 640), np.float32)
    relative, metric = DepthMap(values, Sense.RELATIVE_INVERSE, propagated=True), DepthMap(values, Sense.METRIC_M)
    assert repr(relative) == "<DepthMap 640x480 relative_inverse, propagated>"
    assert repr(metric) == "<DepthMap 640x480 metric_m>"
    assert (relative.unit, metric.unit) == ("", "m")


def test_the_range_switch_starts_each_mode_afresh() -> None:
    switch = RangeSwitch(RangeSpec.parse("frame"))
    follower = range_control(switch)
    first = measure(DepthMap(np.linspace(0, 1, 100, dtype=np.float32).reshape(10, 10), Sense.METRIC_M))
    assert follower.update(first, 0, cut=False) == DepthRange(0, 1)
    switch.set(RangeSpec.parse("fixed:-1,3"))
    assert follower.update(first, 0.1, cut=False) == DepthRange(-1, 3)
    switch.set(RangeSpec(RangeMode.EMA))
    assert follower.update(first, 0.2, cut=False).hi < 1
    with pytest.raises(UsageError, match="shot"):
        switch.set(RangeSpec(RangeMode.SHOT))
    assert str(switch) == "ema"

"""What the benchmarks of the model measure: accuracy after a fit, and steadiness along the flow."""

from __future__ import annotations

import runpy
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: runpy.run_path(str(BENCHMARKS / name))


def test_scale_and_shift_of_inverse_depth_cost_nothing_and_a_bend_does(program: Any) -> None:
    score = program("accuracy.py")["score"]
    depth = np.linspace(0.5, 9.0, 48 * 64).reshape(48, 64).astype(np.float32)
    assert score(3.0 / depth + 7.0, depth, 10.0) == pytest.approx((0.0, 1.0), abs=1e-4)
    bent, within = score(1 / depth**2, depth, 10.0)
    assert bent > 0.05
    assert within < 1.0


def test_only_depth_up_to_the_cap_counts(program: Any) -> None:
    score = program("accuracy.py")["score"]
    depth = np.linspace(1.0, 20.0, 48 * 64).reshape(48, 64).astype(np.float32)
    wrong_beyond = np.where(depth > 10, 5.0, 1 / depth)
    assert score(wrong_beyond, depth, 10.0) == pytest.approx((0.0, 1.0), abs=1e-4)


def pan(path: Path) -> None:
    """Six frames of a camera that moves over a large image, six pixels a frame."""
    rng = np.random.default_rng(4)
    large = cv2.resize(rng.integers(0, 256, (30, 60, 3), np.uint8), (600, 300), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 480, 270, "bgr0"
        for k in range(6):
            part = np.asarray(large[10:280, 6 * k : 6 * k + 480], np.uint8).copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
        container.mux(stream.encode(None))


def test_depth_that_moves_with_its_things_is_steady_and_depth_that_blinks_is_not(program: Any, tmp_path: Path) -> None:
    steadiness = program("steadiness.py")
    pan(tmp_path / "pan.mkv")
    film = steadiness["frames"](tmp_path / "pan.mkv", 1, 5)
    assert len(film) == 5
    flow = [steadiness["moved"](a, b) for a, b in pairwise(film)]
    assert np.mean([seen.mean() for _, seen in flow]) > 0.8

    def bright(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(cv2.GaussianBlur(rgb.mean(2).astype(np.float32), (0, 0), 2), np.float32)

    turns = iter(range(5))

    def blinking(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(bright(rgb) ** (1 + next(turns) % 2), np.float32)

    along, still = steadiness["steadiness"](bright, film, flow)
    assert along < 0.1
    assert still > 4 * along
    blinks, _ = steadiness["steadiness"](blinking, film, flow)
    assert blinks > 1.5 * along


def test_flicker_is_measured_along_the_flow_and_at_rest(program: Any) -> None:
    program("steadiness.py")
    steady: Any = import_module("support.steady")

    rng = np.random.default_rng(0)
    large = cv2.GaussianBlur(rng.uniform(0, 255, (200, 600)).astype(np.float32), (0, 0), 2)
    large = (large - large.min()) / (large.max() - large.min()) * 255
    grays = [np.asarray(large[10:180, 4 * k : 4 * k + 480], np.uint8) for k in range(16)]
    moving = [np.asarray(gray, np.float32) for gray in grays]
    flow = steady.pairs(grays)
    steady_depth = steady.steadiness(moving, grays, flow, set())
    flicker = [depth + 20 * (k % 2) * (depth > 128) for k, depth in enumerate(moving)]
    blinking = steady.steadiness(flicker, grays, flow, set())
    assert blinking.sf > 5 * steady_depth.sf
    assert blinking.f2 > 5 * steady_depth.f2
    assert np.isnan(steady_depth.still)

    still, rest = [grays[0]] * 16, steady.pairs([grays[0]] * 16)
    offset = [moving[0] * (1 + 0.1 * (k % 2)) + 3 * (k % 3) for k in range(16)]
    at_rest = steady.steadiness(offset, still, rest, set())
    assert at_rest.sf < 0.01
    assert at_rest.still > 0.01
    assert np.isnan(steady.steadiness(offset, still, rest, {8}).still)
    step = np.zeros((60, 80), np.float32)
    step[20:40, 30:50] = 1
    assert steady.edge_f1([step], [step]) == 1
    assert steady.edge_f1([np.roll(step, 8, axis=1)], [step]) < 0.6


@pytest.mark.slow
def test_true_depth_of_a_rendered_walk_has_no_error(program: Any) -> None:
    program("steadiness.py")
    steady: Any = import_module("support.steady")
    walk = import_module("support.walk").walk

    truth = walk("room", 4)
    assert truth.rgb.shape == (4, 192, 352, 3)
    exact = list(truth.inverse)
    assert steady.accuracy(exact, truth) == pytest.approx((0, 1), abs=1e-3)
    assert steady.temporal_error(exact, truth) < 0.01
    flicker = [depth * (1 + 0.1 * (k % 2)) for k, depth in enumerate(exact)]
    assert steady.temporal_error(flicker, truth) > 0.05

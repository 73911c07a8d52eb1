"""What the benchmarks of the model measure: accuracy after a fit, and steadiness along the flow."""

from __future__ import annotations

import runpy
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

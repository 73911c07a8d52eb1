"""Many stills: read ahead, in order, a few at a time."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamdepth.core.errors import DataFormatError, InferenceError, ModelError, UsageError
from streamdepth.image.estimator import DepthEstimator, in_order
from streamdepth.image.verify import verify
from streamdepth.media.scene import pattern
from tests.support.goldens import FOLDER
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.inference.heads import RawDepth
    from streamdepth.inference.slots import Slot


@pytest.fixture
def estimator() -> Iterator[DepthEstimator]:
    with DepthEstimator(FOLDER / "dpt" / "model.onnx", threads=2) as made:
        yield made


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("streamdepth-stills")]


def test_each_gives_what_calls_give_and_takes_few_ahead(estimator: DepthEstimator) -> None:
    images = [pattern(40 + number, 30, number) for number in range(20)]
    taken: list[int] = []

    def one_by_one() -> Iterator[NDArray[np.uint8]]:
        for number, image in enumerate(images):
            taken.append(number)
            yield image

    for number, result in enumerate(estimator.each(one_by_one(), style="viridis")):
        # two are read, two painted, and one is in between
        assert len(taken) <= min(20, number + 6)
        alone = estimator(images[number], style="viridis")
        np.testing.assert_array_equal(result.data, alone.data)
        assert result.image == alone.image
    assert len(taken) == 20
    assert not workers()


def test_a_bad_image_is_named_after_those_before_it(estimator: DepthEstimator, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(pattern(32 + number, 24, number)).save(path)
    paths[4].write_bytes(b"no image")
    widths: list[int] = []
    with pytest.raises(DataFormatError, match=r"4\.png: not an image"):
        widths.extend(result.width for result in estimator.each(paths))
    assert widths == [32, 33, 34, 35]
    with pytest.raises(DataFormatError, match=r"4\.png"):
        estimator(paths)
    assert not workers()


def test_leaving_early_or_closing_ends_it(estimator: DepthEstimator) -> None:
    results = estimator.each(pattern(32, 24, number) for number in range(1000))
    next(results)
    results.close()
    assert not workers()
    rest = estimator.each(pattern(32, 24, number) for number in range(1000))
    next(rest)
    estimator.close()
    with pytest.raises(InferenceError, match="closed"):
        list(rest)
    assert not workers()


def test_a_bad_look_is_told_at_once(estimator: DepthEstimator) -> None:
    with pytest.raises(UsageError, match="nosuchstyle"):
        estimator.each(["not read.png"], style="nosuchstyle")


@pytest.mark.slow
def test_neighbours_of_one_size_share_a_run_of_a_fixed_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_depth_model(tmp_path / "three.onnx", batch=3, inverse=True)
    with DepthEstimator(path, sense="relative_inverse") as three:
        three(pattern(42, 28))
        counts: list[int] = []
        engine = three._image_engine()
        run_raw = engine.run_raw

        def counted(slot: Slot, count: int) -> list[RawDepth]:
            counts.append(count)
            return run_raw(slot, count)

        monkeypatch.setattr(engine, "run_raw", counted)
        sizes = [(42, 28)] * 4 + [(56, 28)] + [(42, 28)]
        results = three([pattern(*size, number) for number, size in enumerate(sizes)])
        assert [(result.width, result.height) for result in results] == sizes
    assert counts == [3, 1, 1, 1]


def test_results_come_in_order_whatever_ends_first() -> None:
    second_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_done.wait(10)
        if number == 1:
            second_done.set()
        return number * 10

    with ThreadPoolExecutor(2) as pool:
        assert list(in_order(pool, work, range(5), ahead=2)) == [0, 10, 20, 30, 40]


def test_an_error_of_the_values_comes_after_the_results_before_it() -> None:
    def values() -> Iterator[int]:
        yield from (1, 2)
        raise ZeroDivisionError

    seen: list[int] = []
    with ThreadPoolExecutor(2) as pool, pytest.raises(ZeroDivisionError):
        seen.extend(in_order(pool, lambda number: -number, values(), ahead=4))
    assert seen == [-1, -2]


@pytest.mark.slow
def test_verify(dpt_estimator: DepthEstimator, tmp_path: Path) -> None:
    path = FOLDER / "dpt" / "model.onnx"
    fast = verify(path, provider="cpu")
    assert fast.ok
    assert len(fast.images) == 4
    assert fast.max_error is not None
    assert 0 < fast.max_error < 0.5
    assert fast.correlation is not None
    assert fast.correlation > 0.99
    assert "fast path" in fast.model
    assert "exact path" in fast.reference
    assert all(len(row) == len(fast.COLUMNS) for row in fast.rows())
    told: list[str] = []
    same = verify(dpt_estimator, path, [pattern(40, 30)], provider="cpu", progress=told.append)
    assert same.max_error == 0
    assert same.correlation == pytest.approx(1)
    assert not same.aligned
    assert told == ["image 1"]
    json.dumps(same.to_dict(), allow_nan=False)
    near = write_depth_model(tmp_path / "near.onnx", inverse=True)
    far = write_depth_model(tmp_path / "more" / "far.onnx", inverse=True)
    options: dict[str, Any] = {"sense": "relative_inverse", "provider": "cpu"}
    with DepthEstimator(near, **options) as one_, DepthEstimator(far, **options) as two:
        aligned = verify(one_, two, [pattern(40, 30)])
    assert aligned.aligned
    assert "best scale" in aligned.title
    assert aligned.max_error == pytest.approx(0, abs=1e-5)
    with pytest.raises(UsageError, match="at least one image"):
        verify(path, images=[])
    with pytest.raises(UsageError, match="give a reference"):
        verify(dpt_estimator)
    flat = write_depth_model(tmp_path / "flat.onnx", fault="flat")
    with pytest.raises(ModelError, match="flat"):
        verify(flat, sense="relative_depth")

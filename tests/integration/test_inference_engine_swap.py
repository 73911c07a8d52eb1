"""Live on one provider while another's engine is built: real engines, a made-up build."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from streamdepth.core.errors import InferenceError, ProviderError
from streamdepth.inference.engine import Engine
from streamdepth.inference.engine_swap import EngineSwap
from streamdepth.inference.preprocess import image_of
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from streamdepth.pipeline import Pipeline
from tests.support.building import FakeBuild, Said, two_models
from tests.support.models import OFFSET, write_depth_model
from tests.support.stages import RecordingSink, ScriptedSource, flat_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.models.spec import ModelSpec


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, ModelSpec]:
    return two_models(tmp_path_factory.mktemp("models"))


class Stage:
    """An engine_swap of real engines with a made-up build."""

    def __init__(self, specs: tuple[ModelSpec, ModelSpec], **second: Any) -> None:
        self.build, self.said = FakeBuild(), Said()
        self.first = Engine(specs[0], provider="cpu")
        self.opened: list[Engine] = []
        self._spec, self._second = specs[1], second
        self.engine_swap = EngineSwap(self.first, build=self.build, second=self._open, on_status=self.said)

    def _open(self) -> Engine:
        engine = Engine(self._spec, provider="cpu", **self._second)
        self.opened.append(engine)
        return engine

    def rises(self, slot: Any = None) -> bool:
        """Which model made depth of a black image: True = the first."""
        slot = slot or self.slot()
        depth = self.engine_swap.run(slot, 1)[0].values
        assert abs(float(depth.mean()) - OFFSET) < 0.6
        return bool(depth[-1, 0] > depth[0, 0])

    def slot(self, width: int = 48, height: int = 32) -> Any:
        slot = self.engine_swap.acquire(self.engine_swap.network_size(width, height))
        slot.write(0, image_of(np.zeros((height, width, 3), np.uint8)))
        return slot

    def switch(self) -> str:
        self.build.ended.set()
        return self.said.wait_for("after that")


@pytest.fixture
def stage(specs: tuple[ModelSpec, ModelSpec]) -> Iterator[Stage]:
    made = Stage(specs)
    yield made
    made.engine_swap.close()


def test_batches_on_their_way_stay_on_the_first_and_the_next_goes_to_the_second(stage: Stage) -> None:
    assert stage.rises()
    waiting = [stage.slot() for _ in range(3)]
    stage.said.wait_for("is being built, which may take minutes; running on cpu until then")
    assert stage.build.image == (48, 32)
    stage.switch()
    after = stage.slot()
    assert [stage.rises(slot) for slot in waiting] == [True] * 3
    assert not stage.rises(after)
    assert not stage.rises()
    assert "on cpu after that" in stage.engine_swap.note
    assert stage.engine_swap.spec is stage.opened[0].spec
    assert stage.build.closed == 1


def test_the_first_engine_is_closed_once_its_last_slot_is_gone(stage: Stage) -> None:
    kept = stage.slot()
    stage.switch()
    assert stage.first.session is not None
    del kept
    gc.collect()
    thread = stage.engine_swap._thread
    assert thread is not None
    thread.join(20)
    assert stage.first.session is None
    assert not stage.rises()


def test_a_live_run_loses_no_frame_when_the_second_takes_over(specs: tuple[ModelSpec, ModelSpec]) -> None:
    """The source gives a frame once the one before has arrived, so that any loss is the switch's."""
    stage = Stage(specs)
    arrived = threading.Semaphore(1)

    def before(index: int) -> None:
        assert arrived.acquire(timeout=20)
        if index == 10:
            stage.switch()

    class Estimator:
        spec = specs[0]

        def engine(self, **_: Any) -> EngineSwap:
            raise AssertionError("a live source has an engine of its own")

        def live_engine(self, batch: int = 1) -> EngineSwap:
            assert batch == 1
            return stage.engine_swap

    sink = RecordingSink(before=lambda _: arrived.release())
    source = ScriptedSource(20, live=True, image=lambda _: flat_image(0, 48, 32), before=before)
    stats = Pipeline([source], cast("DepthEstimator", Estimator()), [sink]).run()
    assert (stats.captured, stats.processed, stats.dropped) == (20, 20, {})
    assert sink.indices == list(range(20))
    rises = [bool(result.depth.values[-1, 0] > result.depth.values[0, 0]) for result in sink.results]
    assert rises == [True] * 10 + [False] * 10
    assert any("after that" in note for note in stats.notes)


def test_a_build_that_fails_leaves_the_first_in_place_and_says_why(stage: Stage) -> None:
    stage.build.failed = "provider tensorrt: no kernel for it"
    stage.slot()
    stage.build.ended.set()
    stage.said.wait_for("stays on cpu: provider tensorrt: no kernel for it")
    assert stage.rises()
    assert not stage.opened
    assert "stays on cpu" in stage.engine_swap.note


def test_an_engine_that_cannot_be_opened_or_does_not_fit_is_not_taken(specs: tuple[ModelSpec, ModelSpec]) -> None:
    def refused() -> Engine:
        raise ProviderError("provider tensorrt: out of memory")

    broken = Stage(specs)
    broken.engine_swap._open = refused
    broken.slot()
    broken.build.ended.set()
    broken.said.wait_for("stays on cpu: provider tensorrt: out of memory")
    broken.engine_swap.close()

    other = Stage(specs, batch=4)
    other.slot()
    other.build.ended.set()
    other.said.wait_for("takes 4 images at once, not 1")
    assert other.rises()
    other.engine_swap.close()
    assert other.opened[0].session is None


def test_other_sizes_stay_on_the_first(tmp_path: Path) -> None:
    follows = Preprocessing(width_px=32, height_px=32, multiple_of=1, do_normalize=False)
    paths = (write_depth_model(tmp_path / f"{n}.onnx", inverse=n == 0) for n in range(2))
    first, second = (resolve(path, preprocessing=follows) for path in paths)
    stage = Stage((first, second))
    stage.slot(48, 32)
    stage.switch()
    assert not stage.rises(stage.slot(48, 32))
    assert stage.rises(stage.slot(32, 48))
    stage.engine_swap.close()


@pytest.mark.parametrize("end", ["close", "interrupt"])
def test_ending_while_it_is_built_ends_the_build(stage: Stage, end: str) -> None:
    slot = stage.slot()
    stage.said.wait_for("is being built")
    getattr(stage.engine_swap, end)()
    thread = stage.engine_swap._thread
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive()
    assert stage.build.closed == 1
    assert not stage.opened
    with pytest.raises(InferenceError):
        stage.engine_swap.run(slot, 1)
    stage.engine_swap.close()


def test_an_engine_opened_while_the_run_ended_is_closed(stage: Stage) -> None:
    opening, go_on = threading.Event(), threading.Event()
    real = stage._open

    def slowly() -> Engine:
        opening.set()
        assert go_on.wait(20)
        return real()

    stage.engine_swap._open = slowly
    stage.slot()
    stage.build.ended.set()
    assert opening.wait(20)
    stage.engine_swap.interrupt()
    go_on.set()
    stage.engine_swap.close()
    assert stage.opened[0].session is None
    assert not any("after that" in line or "stays" in line for line in stage.said.lines)

"""Live on one provider while another's engine is built: real engines and processes, a made-up build."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from streamdepth.errors import InferenceError, ProviderError
from streamdepth.inference import nvidia
from streamdepth.inference.build_process import BuildProcess, BuildRequest, build_first, follow
from streamdepth.inference.engine import Engine
from streamdepth.inference.handover import Handover
from streamdepth.inference.opener import Opener
from streamdepth.inference.preprocess import picture_of
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from streamdepth.pipeline import Pipeline
from tests.support.models import OFFSET, write_depth_model
from tests.support.stages import RecordingSink, ScriptedSource, flat_picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamdepth.estimator import DepthEstimator
    from streamdepth.models.spec import ModelSpec

RULES = Preprocessing(width_px=48, height_px=32, keep_aspect=False, multiple_of=1, do_normalize=False)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, ModelSpec]:
    """Two models, told apart by their depth of a black picture: it rises by 1, or falls, from top to bottom."""
    folder = tmp_path_factory.mktemp("handover")
    paths = (write_depth_model(folder / f"{n}.onnx", inverse=n == 0) for n in range(2))
    first, second = (resolve(path, preprocessing=RULES) for path in paths)
    return first, second


class FakeBuild:
    """Ends when a test says so, and how."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.failed = ""
        self.closed = 0
        self.picture: tuple[int, int] | None = None

    def __call__(self, picture: tuple[int, int]) -> FakeBuild:
        self.picture = picture
        return self

    def done(self) -> bool:
        return self.ended.is_set()

    def reason(self) -> str:
        return self.failed

    def close(self) -> None:
        self.closed += 1


class Said:
    """What was told, to be waited for."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, line: str) -> None:
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait_for(self, part: str) -> str:
        with self._changed:
            assert self._changed.wait_for(lambda: any(part in line for line in self.lines), 20), self.lines
            return next(line for line in self.lines if part in line)


class Stage:
    """A handover of real engines with a made-up build."""

    def __init__(self, specs: tuple[ModelSpec, ModelSpec], **second: Any) -> None:
        self.build, self.said = FakeBuild(), Said()
        self.first = Engine(specs[0], provider="cpu")
        self.opened: list[Engine] = []
        self._spec, self._second = specs[1], second
        self.handover = Handover(self.first, build=self.build, second=self._open, tell=self.said)

    def _open(self) -> Engine:
        engine = Engine(self._spec, provider="cpu", **self._second)
        self.opened.append(engine)
        return engine

    def rises(self, slot: Any = None) -> bool:
        """Which model made depth of a black picture: True = the first."""
        slot = slot or self.slot()
        depth = self.handover.run(slot, 1)[0].values
        assert abs(float(depth.mean()) - OFFSET) < 0.6
        return bool(depth[-1, 0] > depth[0, 0])

    def slot(self, width: int = 48, height: int = 32) -> Any:
        slot = self.handover.acquire(self.handover.network_size(width, height))
        slot.write(0, picture_of(np.zeros((height, width, 3), np.uint8)))
        return slot

    def switch(self) -> str:
        self.build.ended.set()
        return self.said.wait_for("from then on")


@pytest.fixture
def stage(specs: tuple[ModelSpec, ModelSpec]) -> Iterator[Stage]:
    made = Stage(specs)
    yield made
    made.handover.close()


def test_batches_on_their_way_stay_on_the_first_and_the_next_goes_to_the_second(stage: Stage) -> None:
    assert stage.rises()
    waiting = [stage.slot() for _ in range(3)]
    stage.said.wait_for("is being built, which may take minutes; running on cpu meanwhile")
    assert stage.build.picture == (48, 32)
    stage.switch()
    after = stage.slot()
    assert [stage.rises(slot) for slot in waiting] == [True] * 3
    assert not stage.rises(after)
    assert not stage.rises()
    assert "on cpu from then on" in stage.handover.note
    assert stage.handover.spec is stage.opened[0].spec
    assert stage.build.closed == 1


def test_the_first_engine_is_closed_once_its_last_slot_is_gone(stage: Stage) -> None:
    kept = stage.slot()
    stage.switch()
    assert stage.first.session is not None
    del kept
    gc.collect()
    thread = stage.handover._thread
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

        def live_engine(self, batch: int) -> Handover:
            assert batch == 1
            return stage.handover

    sink = RecordingSink(before=lambda _: arrived.release())
    source = ScriptedSource(20, live=True, picture=lambda _: flat_picture(0, 48, 32), before=before)
    stats = Pipeline([source], cast("DepthEstimator", Estimator()), [sink]).run()
    assert (stats.captured, stats.processed, stats.dropped) == (20, 20, {})
    assert sink.indices == list(range(20))
    rises = [bool(result.depth.values[-1, 0] > result.depth.values[0, 0]) for result in sink.results]
    assert rises == [True] * 10 + [False] * 10
    assert any("from then on" in note for note in stats.notes)


def test_a_build_that_fails_leaves_the_first_in_place_and_says_why(stage: Stage) -> None:
    stage.build.failed = "provider tensorrt: no kernel for it"
    stage.slot()
    stage.build.ended.set()
    stage.said.wait_for("stays on cpu: provider tensorrt: no kernel for it")
    assert stage.rises()
    assert not stage.opened
    assert "stays on cpu" in stage.handover.note


def test_an_engine_that_cannot_be_opened_or_does_not_fit_is_not_taken(specs: tuple[ModelSpec, ModelSpec]) -> None:
    def refused() -> Engine:
        raise ProviderError("provider tensorrt: out of memory")

    broken = Stage(specs)
    broken.handover._open = refused
    broken.slot()
    broken.build.ended.set()
    broken.said.wait_for("stays on cpu: provider tensorrt: out of memory")
    broken.handover.close()

    other = Stage(specs, batch=4)
    other.slot()
    other.build.ended.set()
    other.said.wait_for("takes 4 pictures at once, not 1")
    assert other.rises()
    other.handover.close()
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
    stage.handover.close()


@pytest.mark.parametrize("end", ["close", "interrupt"])
def test_ending_while_it_is_built_ends_the_build(stage: Stage, end: str) -> None:
    slot = stage.slot()
    stage.said.wait_for("is being built")
    getattr(stage.handover, end)()
    thread = stage.handover._thread
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive()
    assert stage.build.closed == 1
    assert not stage.opened
    with pytest.raises(InferenceError):
        stage.handover.run(slot, 1)
    stage.handover.close()


def test_an_engine_opened_while_the_run_ended_is_closed(stage: Stage) -> None:
    opening, go_on = threading.Event(), threading.Event()
    real = stage._open

    def slowly() -> Engine:
        opening.set()
        assert go_on.wait(20)
        return real()

    stage.handover._open = slowly
    stage.slot()
    stage.build.ended.set()
    assert opening.wait(20)
    stage.handover.interrupt()
    go_on.set()
    stage.handover.close()
    assert stage.opened[0].session is None
    assert not any("from then on" in line or "stays" in line for line in stage.said.lines)


# The process --------------------------------------------------------------------------------------------------------


def request_of(spec: ModelSpec, **changes: Any) -> BuildRequest:
    return BuildRequest(spec, pictures=((48, 32),), **changes)


def wait(build: BuildProcess) -> str:
    return follow(build, threading.Event(), StandingClock(), lambda _: None, "it")


class StandingClock:
    def __init__(self, step_seconds: float = 0) -> None:
        self._now_ns, self._step_ns = 0, int(step_seconds * 1e9)

    def monotonic_ns(self) -> int:
        self._now_ns += self._step_ns
        return self._now_ns


def test_a_real_build_says_why_it_cannot(
    specs: tuple[ModelSpec, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if nvidia.gpu_name():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    assert wait(BuildProcess(request_of(specs[0]))).startswith("provider tensorrt: there is no NVIDIA driver")


def test_a_real_build_ends_well_where_it_can(specs: tuple[ModelSpec, ModelSpec], tmp_path: Path) -> None:
    """The child's own code, with a build that keeps what it was asked for."""
    kept = tmp_path / "asked"
    program = (
        "import sys, pathlib; from streamdepth.inference import build, build_process\n"
        f"def keep(spec, provider, **options): pathlib.Path({str(kept)!r}).write_text(f'{{spec.name}} {{options}}')\n"
        "build.build = keep\n"
        "import pickle; sys.modules['__main__'].BuildRequest = build_process.BuildRequest\n"
        "sys.exit(build_process.main())"
    )
    build = BuildProcess(request_of(specs[0], batch=3, exact=True), command=[sys.executable, "-c", program])
    assert wait(build) == ""
    assert kept.read_text() == f"{specs[0].name} {{'pictures': ((48, 32),), 'batch': 3, 'exact': True}}"


def test_closing_kills_a_build(specs: tuple[ModelSpec, ModelSpec]) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    build = BuildProcess(request_of(specs[0]), command=[sys.executable, "-c", deaf])
    assert not build.done()
    build.close()
    build.close()
    assert build.done()
    assert "ended with" in build.reason()


def test_a_build_ends_with_its_parent(specs: tuple[ModelSpec, ModelSpec]) -> None:
    program = (
        "import sys, time; from streamdepth.inference import build, build_process\n"
        "build.build = lambda *_, **__: time.sleep(600)\n"
        "sys.exit(build_process.main())"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(pickle.dumps(request_of(specs[0])))
    child.stdin.close()
    try:
        assert child.wait(30) == 1
    finally:
        child.kill()


def test_what_takes_long_is_told_every_half_minute() -> None:
    build, lines = FakeBuild(), list[str]()

    def tell(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            build.ended.set()

    assert follow(build, threading.Event(), StandingClock(10), tell, "it") == ""
    assert lines == ["it: still building, 30 s", "it: still building, 60 s", "it: still building, 90 s"]
    assert build.closed == 1


def test_a_run_of_a_file_builds_first_or_says_why_not(
    specs: tuple[ModelSpec, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, lines = FakeBuild(), list[str]()
    build.ended.set()
    monkeypatch.setattr("streamdepth.inference.build_process.BuildProcess", lambda _: build)
    monkeypatch.setattr("streamdepth.inference.providers.why_not", lambda _: "")
    build_first(request_of(specs[0]), StandingClock(), lines.append)
    assert len(lines) == 1
    assert "building, which takes minutes and is kept" in lines[0]
    build.failed = "no room on the disk"
    with pytest.raises(ProviderError, match="provider tensorrt: no room on the disk"):
        build_first(request_of(specs[0]), StandingClock(), lines.append)
    build.ended.clear()

    def pressed(_: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: pressed(seconds))
    with pytest.raises(KeyboardInterrupt):
        build_first(request_of(specs[0]), StandingClock(), lines.append)
    assert build.closed == 3


# Which of the two ---------------------------------------------------------------------------------------------------


def opener_of(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, *, built: bool) -> tuple[Opener, list[str], Said]:
    asked: list[str] = []

    def opened(_: Opener, provider: str, batch: int, **__: Any) -> Engine:
        asked.append(provider)
        return Engine(spec, provider="cpu", batch=batch)

    said = Said()
    monkeypatch.setattr(Opener, "_opened", opened)
    monkeypatch.setattr("streamdepth.inference.build.is_built", lambda *_, **__: built)
    monkeypatch.setattr("streamdepth.inference.providers.why_not", lambda _: "")

    def never() -> ModelSpec:
        raise AssertionError

    return Opener(spec, "tensorrt", threads=None, fp32=never, tell=said), asked, said


def test_a_live_run_goes_straight_to_an_engine_that_is_there(
    specs: tuple[ModelSpec, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, asked, said = opener_of(specs[0], monkeypatch, built=True)
    runner = opener.live(2, exact=False)
    assert isinstance(runner, Engine)
    assert (asked, said.lines) == (["tensorrt"], [])
    runner.close()


def test_a_live_run_starts_on_cuda_where_there_is_none(
    specs: tuple[ModelSpec, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, asked, said = opener_of(specs[0], monkeypatch, built=False)
    requests: list[BuildRequest] = []

    def build(request: BuildRequest) -> FakeBuild:
        requests.append(request)
        made = FakeBuild()
        made.ended.set()
        return made

    monkeypatch.setattr("streamdepth.inference.opener.BuildProcess", build)
    runner = opener.live(2, exact=False)
    assert isinstance(runner, Handover)
    assert asked == ["cuda"]
    runner.acquire(runner.network_size(640, 480))
    said.wait_for("from then on")
    assert asked == ["cuda", "tensorrt"]
    assert (requests[0].pictures, requests[0].batch) == (((640, 480),), 2)
    runner.close()


@pytest.mark.parametrize("built", [True, False])
def test_a_run_of_a_file_builds_what_is_missing(
    built: bool, specs: tuple[ModelSpec, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, asked, _ = opener_of(specs[0], monkeypatch, built=built)
    requests: list[BuildRequest] = []
    monkeypatch.setattr("streamdepth.inference.opener.build_first", lambda request, *_: requests.append(request))
    opener.engine(1, exact=False).close()
    assert asked == ["tensorrt"]
    assert len(requests) == (not built)


def test_a_model_whose_size_follows_the_picture_says_what_to_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follows = resolve(write_depth_model(tmp_path / "m.onnx"), preprocessing=Preprocessing(multiple_of=1))
    opener, _, said = opener_of(follows, monkeypatch, built=False)
    opener.engine(1, exact=False).close()
    assert "give --size WxH" in said.lines[0]


def test_tensorrt_that_cannot_run_is_an_error_at_once(specs: tuple[ModelSpec, ModelSpec]) -> None:
    if nvidia.gpu_name():
        pytest.skip("there is a GPU")
    said = Said()
    opener = Opener(specs[0], "tensorrt", threads=None, fp32=lambda: specs[0], tell=said)
    request = request_of(specs[0])
    for use in (
        lambda: opener.live(1, exact=False),
        lambda: opener.engine(1, exact=False),
        lambda: build_first(request, StandingClock(), said),
    ):
        with pytest.raises(ProviderError, match="provider tensorrt: there is no NVIDIA driver"):
            cast("Callable[[], Any]", use)()
    assert not said.lines

"""Building TensorRT's engine in a process of its own, and when a run waits for it: real processes, made-up builds."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from streamdepth.core.errors import ProviderError
from streamdepth.inference import nvidia
from streamdepth.inference.build import BuildProcess, BuildRequest, build_first, follow
from streamdepth.inference.engine import Engine
from streamdepth.inference.engine_swap import EngineSwap
from streamdepth.inference.model import EngineFactory
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from tests.support.building import FakeBuild, Said, two_models
from tests.support.clock import ManualClock
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, ModelSpec]:
    return two_models(tmp_path_factory.mktemp("models"))


def request_of(spec: ModelSpec, **changes: Any) -> BuildRequest:
    return BuildRequest(spec, images=((48, 32),), **changes)


def wait(build: BuildProcess) -> str:
    return follow(build, threading.Event(), ManualClock(now_ns=0), lambda _: None, "it")


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
        "import sys, pathlib; from streamdepth.inference import build\n"
        f"def keep(spec, provider, **options): pathlib.Path({str(kept)!r}).write_text(f'{{spec.name}} {{options}}')\n"
        "build.build = keep\n"
        "import pickle; sys.modules['__main__'].BuildRequest = build.BuildRequest\n"
        "sys.exit(build.main())"
    )
    build = BuildProcess(request_of(specs[0], batch=3, exact=True), command=[sys.executable, "-c", program])
    assert wait(build) == ""
    assert kept.read_text() == f"{specs[0].name} {{'images': ((48, 32),), 'batch': 3, 'exact': True}}"


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
        "import sys, time; from streamdepth.inference import build\n"
        "build.build = lambda *_, **__: time.sleep(600)\n"
        "sys.exit(build.main())"
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

    assert follow(build, threading.Event(), ManualClock(step_seconds=10, now_ns=0), tell, "it") == ""
    assert lines == ["it: still building, 30 s", "it: still building, 60 s", "it: still building, 90 s"]
    assert build.closed == 1


def test_a_run_of_a_file_builds_first_or_says_why_not(
    specs: tuple[ModelSpec, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, lines = FakeBuild(), list[str]()
    build.ended.set()
    monkeypatch.setattr("streamdepth.inference.build.BuildProcess", lambda _: build)
    monkeypatch.setattr("streamdepth.inference.providers.why_not", lambda _: "")
    build_first(request_of(specs[0]), ManualClock(now_ns=0), lines.append)
    assert len(lines) == 1
    assert "building; this takes minutes once" in lines[0]
    build.failed = "no room on the disk"
    with pytest.raises(ProviderError, match="provider tensorrt: no room on the disk"):
        build_first(request_of(specs[0]), ManualClock(now_ns=0), lines.append)
    build.ended.clear()

    def pressed(_: float) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Event, "wait", lambda _, seconds: pressed(seconds))
    with pytest.raises(KeyboardInterrupt):
        build_first(request_of(specs[0]), ManualClock(now_ns=0), lines.append)
    assert build.closed == 3


# Which of the two ---------------------------------------------------------------------------------------------------


def opener_of(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, *, built: bool
) -> tuple[EngineFactory, list[str], Said]:
    asked: list[str] = []

    def opened(_: EngineFactory, provider: str, batch: int, **__: Any) -> Engine:
        asked.append(provider)
        return Engine(spec, provider="cpu", batch=batch)

    said = Said()
    monkeypatch.setattr(EngineFactory, "_opened", opened)
    monkeypatch.setattr("streamdepth.inference.model.is_built", lambda *_, **__: built)
    monkeypatch.setattr("streamdepth.inference.providers.why_not", lambda _: "")

    def never() -> ModelSpec:
        raise AssertionError

    return EngineFactory(spec, "tensorrt", threads=None, fp32=never, on_status=said), asked, said


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

    monkeypatch.setattr("streamdepth.inference.model.BuildProcess", build)
    runner = opener.live(2, exact=False)
    assert isinstance(runner, EngineSwap)
    assert asked == ["cuda"]
    runner.acquire(runner.network_size(640, 480))
    said.wait_for("after that")
    assert asked == ["cuda", "tensorrt"]
    assert (requests[0].images, requests[0].batch) == (((640, 480),), 2)
    runner.close()


@pytest.mark.parametrize("built", [True, False])
def test_a_run_of_a_file_builds_what_is_missing(
    built: bool, specs: tuple[ModelSpec, ModelSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, asked, _ = opener_of(specs[0], monkeypatch, built=built)
    requests: list[BuildRequest] = []
    monkeypatch.setattr("streamdepth.inference.model.build_first", lambda request, *_: requests.append(request))
    opener.engine(1, exact=False).close()
    assert asked == ["tensorrt"]
    assert len(requests) == (not built)


def test_a_model_whose_size_follows_the_image_says_what_to_expect(
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
    opener = EngineFactory(specs[0], "tensorrt", threads=None, fp32=lambda: specs[0], on_status=said)
    request = request_of(specs[0])
    for use in (
        lambda: opener.live(1, exact=False),
        lambda: opener.engine(1, exact=False),
        lambda: build_first(request, ManualClock(now_ns=0), said),
    ):
        with pytest.raises(ProviderError, match="provider tensorrt: there is no NVIDIA driver"):
            cast("Callable[[], Any]", use)()
    assert not said.lines

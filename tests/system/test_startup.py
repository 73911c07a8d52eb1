"""What a start does without: collections of garbage, sessions and images that are known not to matter."""

from __future__ import annotations

import dataclasses
import gc
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.cli import main, process
from streamdepth.core.host import cache_root
from streamdepth.inference import agreement, openvino_runtime, providers, sessions
from streamdepth.inference.engine import Engine
from streamdepth.inference.geometry import plan
from streamdepth.inference.preprocess import image_of
from streamdepth.media.scene import HEIGHT_PX, WIDTH_PX, pattern
from streamdepth.models import selection as provider_table
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from streamdepth.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec


@pytest.fixture
def collecting() -> Iterator[None]:
    """The collector as it was before, afterwards."""
    yield
    gc.enable()
    gc.unfreeze()


@pytest.mark.usefixtures("collecting")
class TestCollector:
    @pytest.fixture
    def own_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``main`` without arguments takes the process for its own, and would leave it where a thread is stuck."""
        monkeypatch.setattr(process, "leave_stuck_threads", lambda _: None)

    def test_release_undoes_hold_and_leaves_what_is_there_out(self) -> None:
        process.hold_collections()
        assert not gc.isenabled()
        process.resume_collections()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000

    def test_release_leaves_a_collector_alone_that_was_not_held(self) -> None:
        gc.unfreeze()
        process.resume_collections()
        assert gc.get_freeze_count() == 0

    @pytest.mark.usefixtures("own_process")
    def test_a_run_collects_again_once_all_is_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[str, bool]] = []
        opened, ran = Pipeline.open, Pipeline.run

        def noted(name: str, call: Any) -> Any:
            def wrapper(pipeline: Pipeline) -> Any:
                seen.append((name, gc.isenabled()))
                return call(pipeline)

            return wrapper

        monkeypatch.setattr(Pipeline, "open", noted("open", opened))
        monkeypatch.setattr(Pipeline, "run", noted("run", ran))
        monkeypatch.setattr(sys, "argv", ["streamdepth", "run", "test:?frames=2", "-o", "null:", "--quiet"])
        assert main() == 0
        assert seen[:2] == [("open", False), ("run", True)]

    @pytest.mark.usefixtures("own_process")
    def test_every_other_command_collects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[bool] = []

        def examine() -> list[Any]:
            seen.append(gc.isenabled())
            return []

        monkeypatch.setattr("streamdepth.doctor.examine", examine)
        monkeypatch.setattr(sys, "argv", ["streamdepth", "doctor", "--json"])
        main()
        assert seen == [True]

    def test_a_process_that_goes_on_keeps_its_collector(self) -> None:
        gc.unfreeze()
        assert main(["styles"]) == 0
        assert gc.isenabled()
        assert gc.get_freeze_count() == 0


class _Counted:
    """A session that counts its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, *arguments: Any) -> None:
        self.runs += 1
        self._session.run_with_iobinding(*arguments)


class TestCheck:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_the_run_that_tells_a_shape_gives_its_depth_too(self, batch: int) -> None:
        engine = Engine(resolve("built-in"), provider="cpu", batch=batch)
        engine.session = counted = _Counted(engine.session)
        slot = engine.acquire(engine.network_size(320, 240))
        for row in range(batch):
            slot.write(row, image_of(pattern(320, 240, row)))
        first = [depth.values.copy() for depth in engine.run(slot, batch)]
        assert counted.runs == 1
        second = [depth.values for depth in engine.run(slot, batch)]
        assert counted.runs == 2
        np.testing.assert_array_equal(first, second)
        assert len({depth.tobytes() for depth in first}) == batch

    @pytest.mark.parametrize("closest", [True, False])
    @pytest.mark.parametrize("video", [(1280, 720), (1920, 1080), (3840, 2160)])
    def test_it_takes_the_size_that_most_video_will_have(self, video: tuple[int, int], closest: bool) -> None:
        built_in = resolve("built-in")
        spec = dataclasses.replace(built_in, preprocessing=Preprocessing()) if closest else built_in
        assert plan(spec, *video).net_size == plan(spec, WIDTH_PX, HEIGHT_PX).net_size


class TestVerdicts:
    """``auto`` with a provider that may compute in a narrower type; ONNX Runtime stands for OpenVINO."""

    @pytest.fixture
    def spec(self, tmp_path: Path) -> ModelSpec:
        built_in = resolve("built-in")
        own = tmp_path / "model.onnx"
        shutil.copy(built_in.path, own)
        return dataclasses.replace(built_in, path=own)

    @pytest.fixture
    def opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Providers of the sessions that were opened."""
        seen: list[str] = []
        real = sessions._open

        def noted(spec: ModelSpec, provider: provider_table.Provider, *arguments: Any, **options: Any) -> Any:
            seen.append(provider.name)
            return real(spec, provider, *arguments, **options)

        def runtime(path: Path, **_: Any) -> Any:
            return real(dataclasses.replace(resolve("built-in"), path=path), provider_table.PROVIDERS[0], 1).session

        monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(openvino_runtime, "installed", lambda: True)
        monkeypatch.setattr(openvino_runtime, "RuntimeSession", runtime)
        monkeypatch.setattr(providers, "installed_plugins", lambda: ())
        monkeypatch.setattr(providers, "AUTO_ORDER", ("openvino", "cpu"))
        monkeypatch.setattr(sessions, "_open", noted)
        return seen

    def test_a_second_start_opens_no_reference(self, spec: ModelSpec, opened: list[str]) -> None:
        for _ in range(3):
            found = sessions.open_session(spec)
            assert (found.provider, found.note) == ("openvino", "")
        assert opened == ["openvino", "cpu", "openvino", "openvino"]

    def test_one_that_says_something_else_is_not_opened_again(
        self, spec: ModelSpec, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(agreement, "disagreement", lambda *_: "differs from the CPU (correlation 0.9)")
        notes = {(found := sessions.open_session(spec)).provider: found.note for _ in range(2)}
        assert notes == {"cpu": "running on the CPU; provider openvino differs from the CPU (correlation 0.9)"}
        assert opened == ["openvino", "cpu", "cpu", "cpu"]

    def test_a_failure_to_run_is_asked_again(
        self, spec: ModelSpec, opened: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as short:
            short.setattr(agreement, "disagreement", lambda *_: f"{agreement.FAILS} (no memory)")
            assert sessions.open_session(spec).provider == "cpu"
        assert sessions.open_session(spec).provider == "openvino"
        assert opened == ["openvino", "cpu", "cpu", "openvino", "cpu"]

    @pytest.mark.parametrize("content", ["", "damaged", "null", "[]", "{}", "\x00"])
    def test_a_damaged_file_is_asked_again_and_mended(self, content: str, spec: ModelSpec, opened: list[str]) -> None:
        sessions.open_session(spec)
        [file] = (cache_root() / "agreement").iterdir()
        file.write_text(content)
        for _ in range(2):
            assert sessions.open_session(spec).provider == "openvino"
        assert opened == ["openvino", "cpu", "openvino", "cpu", "openvino"]

    def test_a_cache_that_cannot_be_written_does_not_matter(
        self, spec: ModelSpec, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "file"))
        for _ in range(2):
            assert sessions.open_session(spec).provider == "openvino"
        assert opened == ["openvino", "cpu"] * 2

    def test_whatever_could_change_it_has_it_asked_again(
        self, spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = providers.provider_named("openvino")
        first = agreement.processor_key(spec, provider)
        assert agreement.processor_key(dataclasses.replace(spec), provider) == first
        rules = dataclasses.replace(spec.preprocessing, do_normalize=not spec.preprocessing.do_normalize)
        others: tuple[dict[str, Any], ...] = (
            {"dtype": "q8"},
            {"preprocessing": rules},
            {"depth_output": dataclasses.replace(spec.depth_output, name="other")},
        )
        keys = [agreement.processor_key(dataclasses.replace(spec, **one), provider) for one in others] + [first]
        os.utime(spec.path, ns=(1, 1))
        keys.append(agreement.processor_key(spec, provider))
        with spec.path.open("ab") as file:
            file.write(b"x")
        os.utime(spec.path, ns=(1, 1))
        keys.append(agreement.processor_key(spec, provider))
        weights = tmp_path / "weights"
        weights.touch()
        keys.append(agreement.processor_key(dataclasses.replace(spec, external_data=(weights,)), provider))
        for name, value in (
            ("onnxruntime.__version__", "9.9"),
            ("importlib.metadata.version", lambda _: "9.9"),
            ("streamdepth.inference.agreement.__version__", "9.9"),
            ("llvmlite.binding.get_host_cpu_name", lambda: "another"),
        ):
            with monkeypatch.context() as other:
                other.setattr(name, value)
                keys.append(agreement.processor_key(spec, provider))
        assert len(set(keys)) == len(keys) == 11

    def test_a_model_that_has_gone_is_for_the_session_to_tell(self, spec: ModelSpec) -> None:
        spec.path.unlink()
        assert agreement.processor_key(spec, providers.provider_named("openvino"))

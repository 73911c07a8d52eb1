from __future__ import annotations

import importlib.util
import re
import threading
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.core.errors import InferenceError, ProviderError, UsageError
from streamdepth.image.estimator import DepthEstimator
from streamdepth.inference import agreement, openvino_runtime, providers, sessions
from streamdepth.inference import ort as ort_words
from streamdepth.inference.engine import Engine
from streamdepth.models.resolve import resolve
from streamdepth.pipeline import Pipeline
from streamdepth.sinks.consumers import CallbackSink
from streamdepth.sources.pattern import PatternSource

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return resolve("built-in")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "cache"))


def a_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str = "missing.so") -> providers.Plugin:
    module = f"onnxruntime_ep_{name}"
    (folder / f"{module}.py").write_text(
        f"def get_library_path():\n    return {str(folder / library)!r}\n\ndef get_ep_names():\n    return ['X']\n"
    )
    monkeypatch.syspath_prepend(folder)
    found = providers.find_plugin(name.replace("_", "-"))
    assert found is not None
    return found


def cpu_device() -> Any:
    import onnxruntime as ort

    return next(device for device in ort.get_ep_devices() if device.ep_name == "CPUExecutionProvider")


# Plugins ------------------------------------------------------------------------------------------------------------


def test_an_installed_plugin_is_a_provider_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_plugin(tmp_path, monkeypatch, "acme_rtx")
    assert "acme-rtx" in providers.provider_names()
    assert providers.provider_named("acme-rtx").package == "onnxruntime-ep-acme-rtx"
    assert providers.provider_named("rtx").plugin == "onnxruntime_ep_acme_rtx"
    assert providers.provider_named("acme-rtx:gpu").device == "gpu"


def test_an_ending_that_two_plugins_share_names_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_plugin(tmp_path, monkeypatch, "one_rtx")
    a_plugin(tmp_path, monkeypatch, "two_rtx")
    with pytest.raises(UsageError, match="unknown provider 'rtx'"):
        providers.provider_named("rtx")


@pytest.mark.parametrize("name", ["cpu:gpu", "openvino:tpu", "nonesuch", "nonesuch:gpu"])
def test_names_that_mean_nothing_are_refused_with_the_names_there_are(name: str) -> None:
    refused = pytest.raises(UsageError, match=r"choose one of auto, cpu, cuda|a plugin's device is cpu, gpu, npu")
    with refused:
        providers.provider_named(name)


def test_a_plugin_whose_library_is_broken_says_so_and_how_to_mend_it(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_plugin(tmp_path, monkeypatch, "broken", "broken.so")
    (tmp_path / "broken.so").write_bytes(b"not a library")
    with pytest.raises(
        ProviderError, match=r"provider broken: .*pip install --upgrade onnxruntime-ep-broken"
    ) as caught:
        sessions.open_session(spec, "broken")
    assert "\n" not in caught.value.message


def test_a_plugin_without_a_device_of_the_kind_wanted_says_which_it_has(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_plugin(tmp_path, monkeypatch, "acme")
    monkeypatch.setattr(providers, "plugin_devices", lambda _: (cpu_device(),))
    with pytest.raises(ProviderError, match="does not run on the npu of this machine but on its cpu"):
        sessions.open_session(spec, "acme:npu")


def test_a_session_runs_on_a_plugins_device(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_plugin(tmp_path, monkeypatch, "acme")
    # ONNX Runtime's own device stands for the plugin's: all but the registering is real
    monkeypatch.setattr(providers, "plugin_devices", lambda _: (cpu_device(),))
    opened = sessions.open_session(spec, "acme:cpu")
    assert (opened.provider, opened.note) == ("acme:cpu", "")
    fed = agreement.inputs(spec)
    wanted = sessions.open_session(spec, "cpu").session.run(None, fed)[0]
    np.testing.assert_allclose(opened.session.run(None, fed)[0], wanted, rtol=1e-4, atol=1e-4)


def auto_with_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        a_plugin(tmp_path, monkeypatch, "openvino")
    monkeypatch.setattr(providers, "plugin_devices", lambda _: (cpu_device(),))
    monkeypatch.setattr(openvino_runtime, "installed", lambda: False)
    monkeypatch.setattr(providers, "AUTO_ORDER", ("openvino", "cpu"))


def test_auto_names_the_command_and_its_gain_where_the_plugin_has_no_device(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    monkeypatch.setattr(providers, "plugin_devices", lambda _: ())
    opened = sessions.open_session(spec, "auto")
    assert opened.provider == "cpu"
    assert "pip install openvino, which runs on any and takes 25 % less CPU time, with bf16 60 %," in opened.note


def test_auto_takes_openvino_where_it_agrees_with_the_cpu(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    assert providers.likely() == "openvino"
    assert sessions.open_session(spec).provider == "openvino"


@pytest.mark.parametrize(
    ("name", "ort_name"), [("directml", "DmlExecutionProvider"), ("coreml", "CoreMLExecutionProvider")]
)
@pytest.mark.parametrize("wrong", ["", "differs from the CPU (correlation 0.9)"])
def test_auto_takes_the_systems_provider_where_it_agrees_with_the_cpu(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ort_name: str, wrong: str
) -> None:
    """The build of Windows or macOS, with the CPU's session in place of the provider's."""
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr(providers, "built_in", lambda: (ort_name, "CPUExecutionProvider"))
    opens = sessions._open
    monkeypatch.setattr(
        sessions,
        "_open",
        lambda spec, provider, threads, *_, **__: replace(
            opens(spec, providers.provider_named("cpu"), threads), provider=provider.name
        ),
    )
    monkeypatch.setattr(agreement, "disagreement", lambda *_: wrong)
    assert name in providers.AUTO_ORDER
    monkeypatch.setattr(providers, "AUTO_ORDER", (name, "cpu"))
    opened = sessions.open_session(spec)
    assert opened.provider == ("cpu" if wrong else name)
    assert opened.note == (f"running on the CPU; provider {name} {wrong}" if wrong else "")


def test_auto_leaves_openvino_where_it_does_not_and_says_by_how_much(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    monkeypatch.setattr(agreement, "disagreement", lambda *_: "differs from the CPU (correlation 0.9)")
    opened = sessions.open_session(spec)
    assert opened.provider == "cpu"
    assert opened.note == "running on the CPU; provider openvino differs from the CPU (correlation 0.9)"


def test_auto_says_why_an_installed_plugin_is_not_used(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    monkeypatch.setattr(providers, "plugin_devices", lambda _: ())
    opened = sessions.open_session(spec)
    assert opened.provider == "cpu"
    assert opened.note.startswith("running on the CPU; provider openvino: onnxruntime-ep-openvino does not run on")


def test_the_real_openvino_plugin_runs_or_says_why_not(spec: ModelSpec) -> None:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("onnxruntime-ep-openvino is not installed")
    chosen = providers.provider_named("openvino")
    reason = providers.why_not(chosen)
    if reason:
        with pytest.raises(ProviderError, match="use --provider cpu"):
            sessions.open_session(spec, "openvino")
        return
    opened = sessions.open_session(spec, "openvino")
    assert not agreement.disagreement(spec, opened.session, sessions.open_session(spec, "cpu").session)


# Nodes left to the CPU ----------------------------------------------------------------------------------------------


def test_heavy_nodes_left_to_the_cpu_are_counted_by_operator() -> None:
    nodes = [("Fast", "Conv")] * 6 + [("CPUExecutionProvider", "MatMul")] * 2 + [("CPUExecutionProvider", "Shape")] * 9
    given = ort_words.split_nodes(nodes, "Fast")
    assert given.heavy_left == Counter(MatMul=2)
    assert given.report("fast") == "provider fast leaves 2 of 8 heavy nodes to the CPU (2 MatMul)"


def test_shape_arithmetic_on_the_cpu_is_not_worth_a_word() -> None:
    assert ort_words.split_nodes([("Fast", "Conv"), ("CPUExecutionProvider", "Gather")], "Fast").report("fast") == ""


def test_a_provider_that_takes_no_heavy_node_is_refused(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_plugin(tmp_path, monkeypatch, "acme")
    monkeypatch.setattr(providers, "plugin_devices", lambda _: (cpu_device(),))
    monkeypatch.setattr(sessions, "assignment_of", lambda *_: ort_words.Assignment(Counter(Cast=1), Counter(Conv=30)))
    with pytest.raises(ProviderError, match="takes none of the heavy nodes"):
        sessions.open_session(spec, "acme")


def test_onnx_runtime_tells_which_nodes_went_where(spec: ModelSpec) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry(*ort_words.RECORD)
    session = ort.InferenceSession(str(spec.path), options, providers=["CPUExecutionProvider"])
    given = ort_words.assignment_of(session, "CPUExecutionProvider")
    if given is None:
        pytest.skip("this onnxruntime does not tell")
    assert given.heavy_taken > 10
    assert not given.left


# Agreement ----------------------------------------------------------------------------------------------------------


def test_a_session_agrees_with_itself(spec: ModelSpec) -> None:
    session = sessions.open_session(spec, "cpu").session
    assert agreement.disagreement(spec, session, session) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d, ""),
        (lambda d: d.astype(np.float16), ""),
        (lambda d: d * 1.001, ""),
        (lambda d: d[..., ::-1], "correlation"),
        (lambda d: d + 0.1 * np.ptp(d), "mean error 10.00%"),
        (lambda d: np.where(d > d.mean(), np.nan, d), "not finite"),
        (lambda d: np.zeros_like(d), "correlation 0.0000"),
        (lambda d: d[:, :4], "shape"),
    ],
)
def test_depth_that_differs_is_noticed(change: Any, reason: str) -> None:
    depth = np.random.default_rng(0).random((1, 32, 48), dtype=np.float32) + np.linspace(0, 3, 48, dtype=np.float32)
    said = agreement.compare(change(depth), depth)
    assert reason in said
    assert bool(said) == bool(reason)


def test_flat_depth_is_nothing_to_compare_with() -> None:
    assert agreement.compare(np.ones((1, 4, 4)), np.full((1, 4, 4), 2.0)) == ""


def test_a_provider_that_fails_to_run_disagrees(spec: ModelSpec) -> None:
    def run(*_: Any) -> Any:
        raise RuntimeError("no kernel\nmore")

    reference = sessions.open_session(spec, "cpu").session
    assert "no kernel" in agreement.disagreement(spec, SimpleNamespace(run=run), reference)
    with pytest.raises(InferenceError, match=rf"{spec.name}: failed at .*, batch 1: no kernel; "):
        agreement.disagreement(spec, reference, SimpleNamespace(run=run))


def test_what_another_provider_refuses_is_not_the_models_fault(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    monkeypatch.setattr(providers, "plugin_devices", lambda _: (cpu_device(),))
    real = sessions._open

    def refuse(one: ModelSpec, provider: Any, *arguments: Any, **options: Any) -> Any:
        if provider.name == "openvino":
            raise sessions._refused(RuntimeError("external data is outside the base directory"), one, provider)
        return real(one, provider, *arguments, **options)

    monkeypatch.setattr(sessions, "_open", refuse)
    opened = sessions.open_session(spec)
    assert opened.provider == "cpu"
    assert "provider openvino: cannot run" in opened.note
    with pytest.raises(ProviderError, match="outside the base directory"):
        sessions.open_session(spec, "openvino")


# Runs that fail ------------------------------------------------------------------------------------------------------


class FailingSession:
    """A session whose runs fail once ``broken`` is set."""

    def __init__(self, session: Any, broken: threading.Event) -> None:
        self._session, self._broken = session, broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, *arguments: Any) -> None:
        if self._broken.is_set():
            raise RuntimeError("the device was removed")
        self._session.run_with_iobinding(*arguments)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The switch that makes every later run of the provider that ``auto`` chooses fail."""
    auto_with_openvino(monkeypatch, tmp_path)
    found, real = threading.Event(), sessions._open

    def opened(one: ModelSpec, provider: Any, *arguments: Any, **options: Any) -> Any:
        made = real(one, provider, *arguments, **options)
        return replace(made, session=FailingSession(made.session, found)) if provider.name == "openvino" else made

    monkeypatch.setattr(sessions, "_open", opened)
    return found


CAUSE = r"running on cpu, because provider openvino failed at \d+x\d+, batch 1: .*the device was removed"


def test_an_image_whose_run_fails_is_run_on_the_next_provider(broken: threading.Event) -> None:
    image = np.random.default_rng(3).integers(0, 255, (48, 64, 3), np.uint8)
    told: list[str] = []
    with DepthEstimator("built-in", on_status=told.append) as estimator:
        before = estimator(image)
        assert (estimator.provider, before.notes) == ("openvino", ())
        broken.set()
        after = estimator(image)
        again = estimator(image)
        assert estimator.provider == "cpu"
        assert re.search(CAUSE, "; ".join(estimator.notes))  # what the server's header says
    np.testing.assert_allclose(after.data, before.data, rtol=1e-4)
    np.testing.assert_array_equal(again.data, after.data)
    assert re.search(CAUSE, "; ".join(after.notes))
    assert len([line for line in told if re.search(CAUSE, line)]) == 1


def test_a_run_whose_provider_fails_goes_on_with_the_next_one(broken: threading.Event) -> None:
    seen: list[int] = []

    def see(frame: Any, _: Any) -> None:
        seen.append(frame.index)
        if len(seen) == 3:
            broken.set()

    with DepthEstimator("built-in") as estimator:
        pipeline = Pipeline([PatternSource(width_px=64, height_px=48, frames=12)], estimator, [CallbackSink(see)])
        with pipeline:
            stats = pipeline.run()
    assert seen == list(range(12))
    assert stats.provider == "cpu"
    assert re.search(CAUSE, "; ".join(stats.notes))


@pytest.mark.usefixtures("broken")
def test_an_input_that_fails_everywhere_does_not_change_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def refuse(engine: Engine, *_: Any) -> None:
        ran.append(engine.provider)
        raise InferenceError("model: too small")

    with DepthEstimator("built-in") as estimator:
        engine = estimator.engine()
        size = engine.network_size(64, 48)
        monkeypatch.setattr(Engine, "run_raw", refuse)
        for _ in range(2):
            with pytest.raises(InferenceError, match="too small"):
                engine.run_raw(engine.acquire(size), 1)
        assert (engine.provider, engine.note) == ("openvino", "")
        assert ran == ["openvino", "cpu", "openvino"]
        engine.close()

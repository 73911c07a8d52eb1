"""OpenVINO's own runtime where ONNX Runtime cannot use it: chosen when it should be, and equal to the CPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest

from streamdepth.core import host
from streamdepth.core.errors import InferenceError, ModelError, ProviderError
from streamdepth.inference import agreement, openvino_runtime, providers, sessions
from streamdepth.inference.engine import Engine
from streamdepth.inference.preprocess import image_of
from streamdepth.media.scene import pattern
from streamdepth.models.resolve import resolve
from tests.support.models import write_depth_model
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed (the extra openvino brings it)"
)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return resolve("built-in")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """As if openvino were installed and its plugin not; ONNX Runtime stands in. How each session was asked for."""
    asked: list[dict[str, Any]] = []

    def session(_path: Path, **how: Any) -> Any:
        asked.append(how)
        return sessions.open_session(resolve("built-in"), "cpu", threads=1).session

    monkeypatch.setattr(openvino_runtime, "installed", lambda: True)
    monkeypatch.setattr(openvino_runtime, "RuntimeSession", session)
    monkeypatch.setattr(providers, "installed_plugins", lambda: ())
    monkeypatch.setattr(providers, "AUTO_ORDER", ("openvino", "cpu"))
    for module in ("sessions", "engine"):
        monkeypatch.setattr(f"streamdepth.inference.{module}.cores", lambda: 4)
    return asked


# Which one is taken -------------------------------------------------------------------------------------------------


def test_auto_takes_the_runtime_where_there_is_no_plugin(spec: ModelSpec, there: list[dict[str, Any]]) -> None:
    assert providers.likely() == "openvino"
    assert providers.why_not(providers.provider_named("openvino")) == ""
    opened = sessions.open_session(spec)
    assert (opened.provider, opened.note) == ("openvino", "")
    assert [(how["threads"], how["streams"]) for how in there] == [(4, 1)]


def test_workers_share_the_cores_out(spec: ModelSpec, there: list[dict[str, Any]]) -> None:
    engine = Engine(spec, provider="openvino", workers=2)
    assert engine.workers == 2
    assert [(how["threads"], how["streams"]) for how in there] == [(2, 2)]


@pytest.mark.usefixtures("there")
def test_auto_goes_back_to_the_cpu_where_it_disagrees(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "disagreement", lambda *_: "differs from the CPU (correlation 0.9)")
    engine = Engine(spec, workers=2)
    assert (engine.provider, engine.workers) == ("cpu", 2)
    assert "provider openvino differs from the CPU" in engine.note


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("kind", "own"), [("CPU", False), ("GPU", True), (None, True)])
def test_a_plugin_with_a_fitting_device_comes_first(
    kind: str | None, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = providers.Plugin("openvino", "onnxruntime_ep_openvino", "onnxruntime-ep-openvino")
    device = SimpleNamespace(device=SimpleNamespace(type=SimpleNamespace(name=kind)), ep_name="X")

    def offered(_: providers.Plugin) -> tuple[Any, ...]:
        if kind is None:
            raise ProviderError("provider openvino: made for another onnxruntime")
        return (device,)

    monkeypatch.setattr(providers, "installed_plugins", lambda: (plugin,))
    monkeypatch.setattr(providers, "plugin_devices", offered)
    assert providers.on_own_runtime(providers.provider_named("openvino")) is own


def test_the_runtime_stays_chosen_once_the_plugin_is_registered(
    spec: ModelSpec, there: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime then lists the plugin's provider as if it were built in, even where the plugin has a GPU only."""
    ort_name = "OpenVINOExecutionProvider"
    listed = ort.get_available_providers()
    gpu = SimpleNamespace(device=SimpleNamespace(type=SimpleNamespace(name="GPU")), ep_name=ort_name)
    package = SimpleNamespace(get_library_path=lambda: "", get_ep_names=lambda: [ort_name])
    # A registration is remembered for the life of the process. Another package name keeps it apart from the real one.
    plugin = providers.Plugin("openvino", "onnxruntime_ep_openvino", "stand-in")
    monkeypatch.setitem(sys.modules, plugin.module, package)
    monkeypatch.setattr(providers, "installed_plugins", lambda: (plugin,))
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(listed))
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *_: listed.append(ort_name))
    monkeypatch.setattr(ort, "get_ep_devices", lambda: [gpu])
    for _ in range(2):
        assert providers.on_own_runtime(providers.provider_named("openvino"))
        assert sessions.open_session(spec).provider == "openvino"
    assert listed[-1] == ort_name
    assert len(there) == 2


@pytest.mark.usefixtures("there")
def test_it_runs_on_the_cpu_only() -> None:
    assert "not installed" in providers.why_not(providers.provider_named("openvino:gpu"))


def test_without_the_package_it_says_what_to_install(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "installed", lambda: False)
    monkeypatch.setattr(providers, "installed_plugins", lambda: ())
    with pytest.raises(ProviderError, match=r"pip install '\.\[openvino\]' .*, or use --provider cpu"):
        sessions.open_session(spec, "openvino")


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    for age in range(4):
        path = tmp_path / f"{age}.blob"
        path.write_bytes(bytes(1000))
        os.utime(path, (1e9 - age, 1e9 - age))
    host.prune(tmp_path, 2500)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.blob", "1.blob"]


# The real thing -----------------------------------------------------------------------------------------------------


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "installed_plugins", lambda: ())


@needs_openvino
@pytest.mark.usefixtures("real")
def test_it_agrees_with_the_cpu_at_every_size(spec: ModelSpec, tmp_path: Path) -> None:
    engines = [Engine(spec, provider=name, workers=2) for name in ("openvino", "cpu")]
    for width, height in ((640, 480), (320, 640), (640, 480)):
        depths = []
        for engine in engines:
            slot = engine.acquire(engine.network_size(width, height))
            slot.write(0, image_of(pattern(width, height)))
            depths.append(engine.run(slot, 1)[0].values)
        assert not agreement.compare(*depths)
    assert engines[0].provider == "openvino"
    assert any((tmp_path / "cache" / "openvino").iterdir())


@needs_openvino
@pytest.mark.usefixtures("real")
def test_runs_side_by_side_give_what_they_give_alone(spec: ModelSpec) -> None:
    engine = Engine(spec, provider="openvino", workers=2)
    slots = []
    for variant in range(4):
        slot = engine.acquire(engine.network_size(320, 240))
        slot.write(0, image_of(pattern(320, 240, variant)))
        slots.append(slot)
    alone = [engine.run(slot, 1)[0].values.copy() for slot in slots]
    together = threading.Barrier(2)

    def run(first: int) -> list[Any]:
        together.wait(10)
        return [engine.run(slots[number], 1)[0].values.copy() for _ in range(5) for number in (first, first + 1)]

    with ThreadPoolExecutor(2) as pool:
        for first, found in zip((0, 2), pool.map(run, (0, 2)), strict=True):
            for number, values in enumerate(found):
                np.testing.assert_allclose(values, alone[first + number % 2], rtol=1e-5, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 0.1


@needs_openvino
@pytest.mark.usefixtures("real")
@pytest.mark.slow
def test_it_takes_what_graphs_there_are(tmp_path: Path) -> None:
    """A fixed batch, another element type and layout, an output that is not the first."""
    graphs = [
        write_depth_model(tmp_path / "batch.onnx", batch=2, height=32, width=48),
        write_depth_model(tmp_path / "hwc.onnx", layout="hwc", output_rank=2),
        write_depth_model(tmp_path / "second.onnx", outputs_before={"features": (1, 4)}),
        write_depth_model(tmp_path / "graphs.onnx", input_dtype="float16", output_dtype="float16"),
    ]
    for path in graphs:
        found = resolve(path)
        openvino, cpu = (sessions.open_session(found, name).session for name in ("openvino", "cpu"))
        assert not agreement.disagreement(found, openvino, cpu)


@needs_openvino
@pytest.mark.usefixtures("real")
@pytest.mark.slow
def test_an_interrupted_run_says_so(spec: ModelSpec) -> None:
    engine = Engine(spec, provider="openvino")
    slot = engine.acquire(engine.network_size(320, 240))
    engine.interrupt()
    with pytest.raises(InferenceError, match="interrupted"):
        engine.run(slot, 1)
    session = openvino_runtime.RuntimeSession(spec.path, threads=1, streams=1)
    binding = session.io_binding()
    slow = np.zeros((1, 3, 2048, 2048), np.float32)
    binding.bind_input("pixel_values", "cpu", 0, np.float32, slow.shape, slow.ctypes.data)
    binding.bind_output("predicted_depth")
    with pytest.raises(InferenceError, match="interrupted"):
        session.run_with_iobinding(binding, SimpleNamespace(terminate=True))


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int]:
    """Address and size of this thread's alternate stack for signals."""
    found = _Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.address, found.size


@needs_openvino
@pytest.mark.skipif(sys.platform != "linux", reason="sets an alternate signal stack on Linux only")
def test_signals_do_not_arrive_on_memory_of_the_library(tmp_path: Path) -> None:
    """It frees that memory with the session, and the next Ctrl-C would be a segmentation fault."""
    path = write_depth_model(tmp_path / "model.onnx", height=56, width=56)
    before = signal_stack()
    sessions_open = [openvino_runtime.RuntimeSession(path, threads=1, streams=1) for _ in range(2)]
    for session in sessions_open:
        session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 56, 56), np.float32)})
        assert signal_stack() == before
    sessions_open.pop(0)
    sessions_open.pop(0)
    assert signal_stack() == before


_OPENED = """
from streamdepth.inference import sessions
from streamdepth.models.resolve import resolve
from tests.integration.test_inference_providers_openvino import signal_stack

before = signal_stack()
opened = sessions.open_session(resolve("built-in"), "openvino")
assert "OpenVINOExecutionProvider" in opened.session.get_providers()
assert signal_stack() == before, signal_stack()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets an alternate signal stack on Linux only")
@pytest.mark.slow
def test_nor_on_memory_of_the_plugin() -> None:
    if (
        providers.device_of(
            [device for plugin in providers.installed_plugins() for device in providers.plugin_devices(plugin)],
            providers.provider_named("openvino"),
        )
        is None
    ):
        pytest.skip("OpenVINO's plugin does not run here")
    subprocess.run([sys.executable, "-c", _OPENED], check=True, cwd=ROOT, timeout=60)


@needs_openvino
@pytest.mark.usefixtures("real")
def test_what_it_cannot_read_is_one_clear_line(spec: ModelSpec, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00" * 100)
    with pytest.raises((ModelError, ProviderError)) as caught:
        sessions.open_session(replace(spec, path=garbage), "openvino")
    assert "\n" not in str(caught.value)


@needs_openvino
@pytest.mark.usefixtures("real")
def test_a_cache_that_cannot_be_written_is_done_without(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "file" / "below"))
    session = sessions.open_session(spec, "openvino").session
    assert not agreement.disagreement(spec, session, sessions.open_session(spec, "cpu").session)


@pytest.mark.parametrize(
    ("name", "features", "precision"),
    [
        ("emeraldrapids", {"avx512bf16", "avx512vnni"}, "f32"),
        ("cooperlake", {"avx512bf16"}, "f32"),
        ("sapphirerapids", {"avx512bf16", "amx-bf16"}, None),
        ("znver5", {"avx512bf16"}, None),
        ("icelake-server", {"avx512vnni"}, None),
        ("neoverse-v2", {"bf16"}, None),
    ],
)
def test_float32_where_bf16_is_slower(
    monkeypatch: pytest.MonkeyPatch, name: str, features: set[str], precision: str | None
) -> None:
    monkeypatch.setattr(openvino_runtime, "processor", lambda: (name, frozenset(features)))
    assert openvino_runtime.cpu_options(1, 2).get("INFERENCE_PRECISION_HINT") == precision

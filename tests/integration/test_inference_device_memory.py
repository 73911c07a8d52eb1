"""Memory of a device: fixed addresses in rotation, locked host pages, graphs recorded or not. The CPU stands for it."""

from __future__ import annotations

import dataclasses
import gc
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest

from streamdepth.core.errors import InferenceError
from streamdepth.inference import nvidia, sessions
from streamdepth.inference import ort as ort_words
from streamdepth.inference.engine import Engine
from streamdepth.inference.memory import PAGE_BYTES, BufferPool, DeviceBinding, DeviceRing, PageLock
from streamdepth.inference.preprocess import image_of
from streamdepth.inference.sessions import open_session
from streamdepth.media.scene import pattern
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Family, Preprocessing
from tests.support.devices import CopyingSession, FakeDriver, Sessions
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec

RULES = Preprocessing(width_px=64, height_px=48, keep_aspect=False, multiple_of=1)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = write_depth_model(tmp_path_factory.mktemp("device") / "fixed.onnx", batch=1, height=48, width=64)
    return resolve(path, preprocessing=RULES)


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """Engines that ask for CUDA get the CPU's memory as a device's, copied into as a GPU's is."""
    driver = FakeDriver()

    def opened(spec: ModelSpec, name: str, *arguments: Any, **options: Any) -> sessions.OpenSession:
        real = sessions.open_session(spec, "cpu", *arguments, **options)
        if name == "cpu":
            return real
        return sessions.OpenSession(CopyingSession(real.session), name, device="cpu", graph=options["graph"])

    monkeypatch.setattr("streamdepth.inference.engine.open_session", opened)
    monkeypatch.setattr("streamdepth.inference.nvidia.driver", lambda: driver)
    yield driver
    gc.collect()
    assert not driver.locked
    assert driver.depth == 0


def graph_of(options: Any) -> str | None:
    try:
        return str(options.get_run_config_entry("gpu_graph_id"))
    except RuntimeError:
        return None


def depths(engine: Engine, variants: list[int]) -> list[Any]:
    """Depth of built-in images, one batch."""
    slot = engine.acquire(engine.network_size(256, 192))
    for row, variant in enumerate(variants):
        slot.write(row, image_of(pattern(256, 192, variant)))
    return [depth.values.copy() for depth in engine.run(slot, len(variants))]


def wanted(spec: ModelSpec, variants: list[int]) -> list[Any]:
    engine = Engine(spec, provider="cpu", batch=len(variants))
    found = depths(engine, variants)
    engine.close()
    return found


# Fixed addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bytes_in", [False, True])
def test_runs_on_a_device_give_the_same_depth(
    spec: ModelSpec, bytes_in: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_device: FakeDriver
) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    engine = Engine(spec, provider="cuda", batch=3, bytes_in=bytes_in)
    for variants in ([0, 1, 2], [2, 0, 1]):
        for got, expected in zip(depths(engine, variants), wanted(spec, variants), strict=True):
            assert np.abs(got - expected).max() < 1e-4 * np.ptp(expected)
    assert on_device.locked
    engine.close()


def test_a_device_with_several_runs_keeps_each_at_its_addresses(spec: ModelSpec, on_device: FakeDriver) -> None:
    """Two runs at once: two bindings in rotation, each with a CUDA graph of its own; never a third."""
    made: list[Any] = []
    inside, most, lock = 0, 0, threading.Lock()

    class Watched(DeviceBinding):
        def __init__(self, *given: Any, **options: Any) -> None:
            made.append(graph_of(options["options"]))
            super().__init__(*given, **options)

        def run(self) -> None:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
            super().run()
            with lock:
                inside -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streamdepth.inference.engine.DeviceBinding", Watched)
        engine = Engine(spec, provider="cuda", workers=5, bytes_in=False)
        assert engine.workers == 2
        expected = {variant: wanted(spec, [variant])[0] for variant in range(4)}
        wrong: list[int] = []

        def work(first: int) -> None:
            for number in range(20):
                variant = (first + number) % 4
                if not np.allclose(depths(engine, [variant])[0], expected[variant], atol=1e-5):
                    wrong.append(variant)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert not wrong
    assert most == 1  # a session on a device runs one at a time
    assert 1 <= len(made) <= 2
    assert sorted(made) == ["1", "2"][: len(made)]
    engine.close()
    assert on_device.depth == 0


def test_without_graphs_no_run_names_one(spec: ModelSpec, on_device: FakeDriver) -> None:
    engine = Engine(spec, provider="cuda", bytes_in=False, cuda_graph=False)
    engine.check()
    assert not engine.cuda_graph
    assert [graph_of(options) for options in engine._every_option] == [None, "-1", None]
    engine.close()
    assert on_device.depth == 0


def test_interrupting_reaches_runs_on_a_device(spec: ModelSpec, on_device: FakeDriver) -> None:
    engine = Engine(spec, provider="cuda", bytes_in=False)
    depths(engine, [0])
    engine.interrupt()
    assert all(options.terminate for options in engine._every_option)
    with pytest.raises(InferenceError, match="interrupted"):
        depths(engine, [0])
    engine.close()
    assert on_device.depth == 0


def test_a_binding_whose_run_failed_is_not_used_again() -> None:
    made: list[object] = []

    def make() -> Any:
        made.append(object())
        return made[-1]

    ring = DeviceRing(make)
    with ring.lend() as first:
        pass
    with pytest.raises(ZeroDivisionError), ring.lend() as second:
        assert 1 / (second is not first)
    with ring.lend() as third:
        assert third is not first
    assert len(made) == 2


def binding(output: Any = None) -> DeviceBinding:
    """Of a graph that adds nothing; ``output`` stands for the device's memory of its result."""

    class Session:
        def io_binding(self) -> Any:
            return SimpleNamespace(bind_ortvalue_input=lambda *_: None, bind_ortvalue_output=lambda *_: None)

    made = DeviceBinding(
        Session(), "x", np.zeros((1, 2), np.float32), {}, {"y": ((1, 2), np.dtype(np.float32))}, "cpu", options=None
    )
    if output is not None:
        made._outputs = [output]
        made._copies_in_place = made._can_copy_in_place()
    return made


def test_depth_copies_in_place_in_the_same_host_memory_every_time() -> None:
    device = binding(ort.OrtValue.ortvalue_from_numpy(np.array([[1, 2]], np.float32)))
    assert device._copies_in_place
    first = device.download()[0]
    assert first.tolist() == [[1, 2]]
    assert device.download()[0].ctypes.data == first.ctypes.data


def test_an_onnx_runtime_that_cannot_copy_down_in_place_is_asked_for_an_array() -> None:
    device = binding(SimpleNamespace(numpy=lambda: np.array([[3, 4]], np.float32)))
    assert not device._copies_in_place
    assert device.download()[0].tolist() == [[3, 4]]


def test_a_second_output_comes_down_too(tmp_path: Path, on_device: FakeDriver) -> None:
    path = write_depth_model(tmp_path / "pro.onnx", batch=1, height=48, width=64, outputs_after={"field_of_view": [1]})
    rules = dataclasses.replace(RULES, family=Family.DEPTH_PRO, width_px=64, height_px=48)
    pro = resolve(path, preprocessing=rules)
    engine = Engine(pro, provider="cuda", batch=2, bytes_in=False)
    slot = engine.acquire(engine.network_size(64, 48))
    for row in range(2):
        slot.write(row, image_of(pattern(64, 48, row)))
    raw = engine.run_raw(slot, 2)
    assert [one.extra.field_of_view_degrees for one in raw] == [1.0, 1.0]
    on_host = Engine(pro, provider="cpu", batch=2)
    for got, expected in zip(depths_of(engine), depths_of(on_host), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    engine.close()
    on_host.close()
    assert on_device.depth == 0


def depths_of(engine: Engine) -> list[Any]:
    slot = engine.acquire(engine.network_size(64, 48))
    for row in range(2):
        slot.write(row, image_of(pattern(64, 48, row)))
    return [depth.values for depth in engine.run(slot, 2)]


def test_a_provider_that_copies_inputs_when_they_are_bound_sees_every_image(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DirectML and GPU plugins: bound in host memory, copied by ONNX Runtime once for each time they are bound."""

    def opened(spec: ModelSpec, name: str, *arguments: Any, **options: Any) -> sessions.OpenSession:
        real = sessions.open_session(spec, "cpu", *arguments, **options)
        return real if name == "cpu" else sessions.OpenSession(CopyingSession(real.session), name)

    monkeypatch.setattr("streamdepth.inference.engine.open_session", opened)
    engine = Engine(spec, provider="directml", batch=2)
    for variants in ([0, 1], [1, 0]):
        for got, expected in zip(depths(engine, variants), wanted(spec, variants), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-5)
    engine.close()


# Locked pages -------------------------------------------------------------------------------------------------------


def test_buffers_are_locked_as_whole_pages_and_unlocked_when_they_go() -> None:
    driver = FakeDriver()
    pool = BufferPool(1000, PageLock(driver=driver))
    lent = [pool.lend() for _ in range(3)]
    assert all(buffer.nbytes == 1000 and buffer.ctypes.data % PAGE_BYTES == 0 for buffer in lent)
    assert sorted(driver.locked) == sorted(buffer.ctypes.data for buffer in lent)
    assert set(driver.locked.values()) == {PAGE_BYTES}
    kept = lent[0][:10]
    del lent, pool
    gc.collect()
    assert kept.ctypes.data in driver.locked
    del kept
    gc.collect()
    assert not driver.locked


@pytest.mark.parametrize("fails", ["cuInit", "cuDevicePrimaryCtxRetain"])
def test_memory_a_driver_will_not_lock_is_used_as_it_is(fails: str) -> None:
    driver = FakeDriver(fails=fails)
    assert not PageLock(driver=driver).lock(np.zeros(PAGE_BYTES, np.uint8))
    assert not driver.locked
    assert BufferPool(64, PageLock(driver=driver)).lend().nbytes == 64


def test_without_a_driver_nothing_is_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamdepth.inference.nvidia.driver", lambda: None)
    assert not PageLock().lock(np.zeros(PAGE_BYTES, np.uint8))


# CUDA graphs --------------------------------------------------------------------------------------------------------


def asked_for_graphs(sessions: Sessions) -> list[str]:
    names = ("enable_cuda_graph", "trt_cuda_graph_enable")
    return [options[name] for options in sessions.asked for name in names if name in options]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_an_eligible_model_is_opened_again_with_graphs(
    spec: ModelSpec, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    sessions = Sessions(monkeypatch)
    opened = open_session(spec, provider)
    assert (opened.graph, opened.note, opened.device) == (True, "", "cuda")
    assert asked_for_graphs(sessions)[-2:] == ["0", "1"]
    assert not open_session(spec, provider, graph=False).graph


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"left": 2}, "leaves 2 of its nodes to another provider"),
        ({"refuses_graphs": True}, "This session cannot use the graph capture feature: control flow"),
    ],
)
def test_what_keeps_a_graph_from_being_recorded_is_said(
    spec: ModelSpec, options: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Sessions(monkeypatch, **options)
    opened = sessions.open_session(spec, "cuda")
    assert not opened.graph
    assert opened.note.endswith(reason)
    assert "no CUDA graph: " in opened.note


def test_further_inputs_do_not_keep_a_graph_from_being_recorded(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", inputs_after={"focal_length": ("float32", ["batch"])})
    further = resolve(path, preprocessing=RULES)
    assert further.other_inputs
    assert nvidia.graph_obstacle(further, ort_words.split_nodes([("it", "Conv")], "it")) == ""

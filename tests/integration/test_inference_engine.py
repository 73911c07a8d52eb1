"""The engine: buffers in rotation, batches, interruption, start-up check, and models that are no good."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from streamdepth.core.errors import InferenceError, ModelError, ProviderError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.geometry.readers import parse_intrinsics
from streamdepth.inference import ort as ort_words
from streamdepth.inference import slots
from streamdepth.inference.engine import Engine
from streamdepth.inference.memory import BufferPool
from streamdepth.inference.preprocess import image_of
from streamdepth.inference.providers import likely, provider_names, why_not
from streamdepth.inference.sessions import open_session
from streamdepth.models.resolve import resolve
from streamdepth.models.selection import PROVIDERS
from streamdepth.models.spec import Preprocessing, TensorSpec
from tests.support.models import expected_depth, write_depth_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import av

    from streamdepth.models.spec import ModelSpec

RAW = Preprocessing(width_px=48, height_px=32, keep_aspect=False, multiple_of=1, do_normalize=False)
# Depth is compared at the precision of float32. Other providers may compute in a narrower type.
on_cpu = partial(Engine, provider="cpu")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return resolve(write_depth_model(tmp_path_factory.mktemp("engine") / "model.onnx"), preprocessing=RAW)


def grey(value: int, width: int = 48, height: int = 32) -> av.VideoFrame:
    return image_of(np.full((height, width, 3), value, np.uint8))


def wanted(value: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return expected_depth(np.full((32, 48, 3), value / 255, np.float32))


def test_rows_of_a_batch_keep_their_order(spec: ModelSpec) -> None:
    engine = on_cpu(spec, batch=3)
    slot = engine.acquire((48, 32))
    for row, value in enumerate((10, 100, 200)):
        slot.write(row, grey(value))
    maps = engine.run(slot, 3)
    for depth, value in zip(maps, (10, 100, 200), strict=True):
        assert depth.sense is spec.sense
        assert np.abs(depth.values - wanted(value)).max() < 1e-5
    assert len(engine.run(slot, 2)) == 2


@pytest.mark.parametrize(("fixed", "asked", "batch", "per_run"), [(1, 4, 4, 1), (4, 2, 4, 4), (None, 3, 3, 3)])
def test_batches_of_fixed_graphs(tmp_path: Path, fixed: int | None, asked: int, batch: int, per_run: int) -> None:
    path = write_depth_model(tmp_path / "m.onnx", batch=fixed, height=32, width=48)
    engine = on_cpu(resolve(path, preprocessing=RAW), batch=asked)
    assert (engine.batch, engine.rows_per_run) == (batch, per_run)
    assert ("fixed batch of 4, not 2" in engine.note) is (fixed == 4)
    slot = engine.acquire((48, 32))
    for row in range(2):
        slot.write(row, grey(50 + row))
    for row, depth in enumerate(engine.run(slot, 2)):
        assert np.abs(depth.values - wanted(50 + row)).max() < 1e-5


def test_a_map_somebody_keeps_is_never_overwritten(spec: ModelSpec) -> None:
    engine = on_cpu(spec, batch=2)
    kept = []
    for value in range(40):
        slot = engine.acquire((48, 32))
        for row in range(2):
            slot.write(row, grey(value + 100 * row))
        depth = engine.run(slot, 2)[value % 2].values
        # a view of a view: what keeps the memory must survive every derivation
        kept.append((value + 100 * (value % 2), depth[::2][:, 1:].T))
    for value, view in kept:
        assert np.abs(view - wanted(value)[::2][:, 1:].T).max() < 1e-5


def test_no_buffers_are_made_in_a_steady_state(spec: ModelSpec) -> None:
    engine = on_cpu(spec, batch=2)
    held = []
    made = []
    for value in range(60):
        slot = engine.acquire((48, 32))
        slot.write(0, grey(value))
        held.append(engine.run(slot, 1)[0])
        del held[:-3]
        made.append(engine.buffers_made)
    assert made[-1] == made[10]


def test_a_slot_nobody_runs_returns_to_the_ring(spec: ModelSpec) -> None:
    engine = on_cpu(spec)
    for _ in range(20):
        engine.acquire((48, 32))
    assert engine.buffers_made <= 2


def test_pool_lends_distinct_memory_until_it_comes_back() -> None:
    pool = BufferPool(256)
    one, two = pool.lend(), pool.lend()
    one[:], two[:] = 1, 2
    assert one.ctypes.data % 64 == 0
    assert (one == 1).all()
    part = one[10:20].view(np.uint16)
    del one
    gc.collect()
    three = pool.lend()
    three[:] = 3
    assert (part == 0x0101).all()
    assert pool.made == 3
    del two
    assert pool.lend() is not None
    assert pool.made == 3


def test_writing_goes_on_while_another_thread_runs(spec: ModelSpec) -> None:
    engine = on_cpu(spec, batch=2)
    wrong: list[int] = []
    handed: list[tuple[int, object]] = []
    ready = threading.Condition()

    def runner() -> None:
        for _ in range(50):
            with ready:
                assert ready.wait_for(lambda: handed, timeout=20)
                value, slot = handed.pop(0)
            depth = engine.run(slot, 1)[0]  # type: ignore[arg-type]
            if np.abs(depth.values - wanted(value)).max() > 1e-5:
                wrong.append(value)

    thread = threading.Thread(target=runner)
    thread.start()
    for value in range(50):
        slot = engine.acquire((48, 32))
        slot.write(0, grey(value))
        with ready:
            handed.append((value, slot))
            ready.notify()
        del slot
    thread.join(30)
    assert not thread.is_alive()
    assert wrong == []


def test_metres_per_unit_scales_metric_depth_only(spec: ModelSpec) -> None:
    for sense, factor in ((Sense.METRIC_M, 0.5), (Sense.RELATIVE_DEPTH, 1.0)):
        engine = on_cpu(replace(spec, sense=sense, metres_per_unit=0.5))
        slot = engine.acquire((48, 32))
        slot.write(0, grey(40))
        assert np.abs(engine.run(slot, 1)[0].values - factor * wanted(40)).max() < 1e-5


def test_mixed_sizes_have_rings_of_their_own(spec: ModelSpec) -> None:
    free = replace(spec, preprocessing=replace(RAW, do_resize=False))
    engine = on_cpu(free)
    for side in range(20, 40):
        slot = engine.acquire(engine.network_size(side, 20))
        slot.write(0, grey(3, side, 20))
        assert engine.run(slot, 1)[0].values.shape == (20, side)
    with pytest.raises(ValueError, match="this slot has network size"):
        slot.write(0, grey(3, 99, 20))


def _endless(path: Path) -> ModelSpec:
    """A graph that loops a billion times: only interruption ends it."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Sin", ["x"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixel_values"], ["grey"], axes=[1], keepdims=0),
            helper.make_node("Loop", ["count", "yes", "grey"], ["predicted_depth"], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 32, 48])],
        [helper.make_tensor_value_info("predicted_depth", TensorProto.FLOAT, [1, 32, 48])],
        [
            helper.make_tensor("count", TensorProto.INT64, [], [10**9]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return resolve(path, preprocessing=RAW)


def test_a_run_in_progress_can_be_interrupted(tmp_path: Path) -> None:
    engine = on_cpu(_endless(tmp_path / "endless.onnx"))
    slot = engine.acquire((48, 32))
    slot.write(0, grey(1))
    errors: list[Exception] = []
    started = threading.Event()

    def work() -> None:
        started.set()
        try:
            engine.run(slot, 1)
        except InferenceError as exc:
            errors.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(10)
    thread.join(0.2)  # let it get into the loop; interrupting before it would be told as well
    assert thread.is_alive()
    engine.interrupt()
    engine.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    assert "interrupted" in str(errors[0])
    with pytest.raises(InferenceError, match="interrupted"):
        engine.run(slot, 1)


def test_close_twice_then_nothing_works_but_maps_stay(spec: ModelSpec) -> None:
    engine = on_cpu(spec)
    slot = engine.acquire((48, 32))
    slot.write(0, grey(9))
    depth = engine.run(slot, 1)[0]
    engine.close()
    engine.close()
    assert np.abs(depth.values - wanted(9)).max() < 1e-5
    with pytest.raises(InferenceError, match="closed"):
        engine.run(slot, 1)
    with pytest.raises(InferenceError, match="closed"):
        engine.acquire((48, 32))


def test_start_up_check(tmp_path: Path, spec: ModelSpec) -> None:
    on_cpu(spec).check()
    bad = resolve(write_depth_model(tmp_path / "nan.onnx", fault="nan"), preprocessing=RAW)
    with pytest.raises(ModelError, match=r"100 % of its depth is not finite .*; try --dtype fp32"):
        on_cpu(replace(bad, dtype="fp16")).check()
    flat = resolve(write_depth_model(tmp_path / "flat.onnx", fault="flat"), preprocessing=RAW)
    with pytest.raises(ModelError, match=r"is flat, 1 everywhere .*; try another export"):
        on_cpu(replace(flat, dtype="fp32")).check()


def test_an_output_that_is_no_depth_map_is_told_at_the_check(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixel_values"], ["predicted_depth"], axes=[1, 3], keepdims=0)],
        "rows",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("predicted_depth", TensorProto.FLOAT, ["b", "h", "w"])],
    )
    path = tmp_path / "rows.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    with pytest.raises(ModelError) as caught:
        on_cpu(resolve(path, preprocessing=RAW), batch=2).check()
    assert "\n" not in str(caught.value)


def test_a_size_the_graph_does_not_take(tmp_path: Path) -> None:
    engine = on_cpu(resolve(write_depth_model(tmp_path / "m.onnx", height=32, width=48), preprocessing=RAW))
    with pytest.raises(ModelError, match="its input is 48 wide, not 64"):
        engine.acquire((64, 32))


def test_further_inputs_are_fed_or_refused(tmp_path: Path) -> None:
    known = write_depth_model(
        tmp_path / "known.onnx",
        inputs_before={"pixel_mask": ("int64", ["batch", "height", "width"])},
        inputs_after={"focal_length": ("float32", ["batch"])},
    )
    engine = on_cpu(resolve(known, preprocessing=RAW))
    engine.check()
    assert "60 degrees" in engine.note
    odd = write_depth_model(tmp_path / "odd.onnx", inputs_after={"mystery": ("float32", [1])})
    with pytest.raises(ModelError, match=r"further input mystery .*constant"):
        on_cpu(resolve(odd, preprocessing=RAW)).check()


def test_intrinsics_without_a_size_are_not_those_of_the_networks_input(spec: ModelSpec) -> None:
    typed = parse_intrinsics("900,900,639.5,359.5", any_shape=True)
    for tensor in (TensorSpec("intrinsics", "float32", ("b", 3, 3)), TensorSpec("focal_length", "float32", ("b",))):
        with pytest.raises(UsageError, match="state no size; give a calibration file or --fov"):
            slots.feed(tensor, spec, 1, (48, 32), typed)
    tokens = slots.feed(TensorSpec("num_tokens", "int64", ()), spec, 1, (48, 32), typed)
    assert tokens == 1200


def test_intrinsics_are_those_of_a_60_degree_camera(spec: ModelSpec) -> None:
    value = slots.feed(TensorSpec("intrinsics", "float32", ("b", 3, 3)), spec, 2, (48, 32))
    assert value.shape == (2, 3, 3)
    assert value[1, 0, 0] == pytest.approx(24 / np.tan(np.pi / 6))
    assert (value[0, 0, 2], value[0, 1, 2]) == (24, 16)


def _broken(path: Path, change: Callable[[bytes], bytes]) -> Path:
    write_depth_model(path)
    path.write_bytes(change(path.read_bytes()))
    return path


def test_models_onnxruntime_refuses_are_one_clear_line(tmp_path: Path, spec: ModelSpec) -> None:
    garbage = _broken(tmp_path / "cut.onnx", lambda data: data[: len(data) // 2])
    with pytest.raises(ModelError, match="damaged or not a valid"):
        open_session(replace(spec, path=garbage), "cpu")
    with pytest.raises(ModelError, match="no such file"):
        open_session(replace(spec, path=tmp_path / "none.onnx"), "cpu")
    model = onnx.load(str(spec.path))
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, str(tmp_path / "op.onnx"))
    with pytest.raises(ModelError, match="operator"):
        open_session(replace(spec, path=tmp_path / "op.onnx"), "cpu")
    model = onnx.load(str(spec.path))
    model.opset_import[0].version = 99
    onnx.save(model, str(tmp_path / "opset.onnx"))
    with pytest.raises(ModelError, match="newer ONNX"):
        open_session(replace(spec, path=tmp_path / "opset.onnx"), "cpu")
    for path in ("cut.onnx", "op.onnx", "opset.onnx"):
        with pytest.raises(ModelError) as caught:
            open_session(replace(spec, path=tmp_path / path), "cpu")
        assert "\n" not in str(caught.value)


def test_missing_external_data(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", external_data="m.onnx_data")
    spec = resolve(path, preprocessing=RAW)
    (tmp_path / "m.onnx_data").unlink()
    with pytest.raises(ModelError, match=r"external weights|damaged|m\.onnx_data"):
        open_session(spec, "cpu")


def test_a_failed_run_says_what_to_try(spec: ModelSpec) -> None:
    error = ort_words.run_error(RuntimeError("Failed to allocate memory for 1 GB\nmore"), spec, (48, 32), 2)
    assert "smaller --size or --batch" in str(error)
    assert "more" not in str(error)
    assert "multiples of 1" in str(ort_words.run_error(RuntimeError("Reshape"), spec, (48, 32), 2))


@pytest.mark.parametrize("bad", [{"batch": 0}, {"threads": 0}])
def test_wrong_use(spec: ModelSpec, bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be 1 to"):
        on_cpu(spec, **bad)  # type: ignore[arg-type]


def test_providers(spec: ModelSpec) -> None:
    assert provider_names()[0] == "auto"
    assert open_session(spec, "cpu", threads=1).provider == "cpu"
    with pytest.raises(UsageError, match="unknown provider 'gpu'; choose one of auto, cpu"):
        open_session(spec, "gpu")
    auto = open_session(spec, "auto")
    assert auto.provider in provider_names()
    assert likely("openvino") == "openvino"
    assert likely() in provider_names()


@pytest.mark.parametrize("provider", [p for p in PROVIDERS if p.name != "cpu"], ids=lambda p: p.name)
def test_a_named_provider_runs_or_says_why_not(spec: ModelSpec, provider: object) -> None:
    chosen = next(p for p in PROVIDERS if p == provider)
    reason = why_not(chosen)
    if not reason:
        assert open_session(spec, chosen.name).provider == chosen.name
        return
    assert "; " in reason
    with pytest.raises(ProviderError, match=f"provider {chosen.name}: .*--provider cpu"):
        open_session(spec, chosen.name)

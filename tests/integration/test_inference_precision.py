"""Half precision: made, judged and taken or left. The CPU stands for the GPU; the models are real."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamdepth.core.errors import InferenceError, ModelError, ModelNotFoundError, ProviderError
from streamdepth.core.host import cache_root
from streamdepth.image.estimator import DepthEstimator
from streamdepth.inference import agreement, fused, providers, sessions
from streamdepth.inference.sessions import open_session
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from tests.support.devices import Sessions
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.inference.engine import Engine
    from streamdepth.models.spec import ModelSpec


RULES = Preprocessing(width_px=64, height_px=48, keep_aspect=False, multiple_of=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def good(tmp_path: Path) -> ModelSpec:
    return resolve(write_depth_model(tmp_path / "good.onnx", batch=1, height=48, width=64), preprocessing=RULES)


@pytest.fixture
def bad(tmp_path: Path) -> ModelSpec:
    """Depth = 1e6 * (mean of the channels) - 1e6 * 0.99 * (mean): half precision has no 1e6."""
    nodes = [
        helper.make_node("ReduceMean", ["pixel_values"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["mean", "million"], ["large"]),
        helper.make_node("Mul", ["mean", "nearly"], ["also_large"]),
        helper.make_node("Sub", ["large", "also_large"], ["predicted_depth"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 48, 64])],
        [helper.make_tensor_value_info("predicted_depth", TensorProto.FLOAT, [1, 48, 64])],
        [
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("million", 1e6), ("nearly", 0.99e6))
        ],
    )
    path = tmp_path / "bad.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return resolve(path, preprocessing=RULES)


def on_cpu(spec: ModelSpec) -> Any:
    return sessions.open_session(spec, "cpu").session


def never() -> ModelSpec:
    raise AssertionError("nothing to look for")


# Making it ----------------------------------------------------------------------------------------------------------


def test_a_model_in_half_precision_says_the_same(good: ModelSpec) -> None:
    made = fused.halved(good)
    assert (made.dtype, made.image_input) == ("fp16", good.image_input)
    kinds = {tensor.data_type for tensor in onnx.load(str(made.path)).graph.initializer}
    assert TensorProto.FLOAT16 in kinds
    assert agreement.disagreement(made, on_cpu(made), on_cpu(good)) == ""


def test_the_model_in_the_package_passes() -> None:
    spec = resolve("built-in")
    chosen, note = agreement.for_cuda(spec, open_reference=on_cpu, open_half=on_cpu, fp32=never)
    assert (chosen.dtype, note) == ("fp16", "")


def test_it_is_made_once_of_the_models_content(good: ModelSpec) -> None:
    first = fused.halved(good).path
    stamp = first.stat().st_mtime_ns
    assert fused.halved(good).path == first
    assert first.stat().st_mtime_ns == stamp


def test_weights_among_the_inputs_are_converted_too(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "old.onnx", batch=1, height=48, width=64, initializers_as_inputs=True)
    old = resolve(path, preprocessing=RULES)
    graph = onnx.load(str(fused.halved(old).path)).graph
    assert [value.name for value in graph.input] == [old.image_input.name]
    assert TensorProto.FLOAT not in {tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2}


def test_weights_beside_the_model_go_into_it(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", batch=1, height=48, width=64, external_data="m.onnx_data")
    spec = resolve(path, preprocessing=RULES)
    made = fused.halved(spec)
    assert made.external_data == ()
    assert agreement.disagreement(made, on_cpu(made), on_cpu(spec)) == ""


@pytest.mark.parametrize("dtype", ["fp16", "q8"])
def test_what_is_not_float32_is_left_alone(good: ModelSpec, dtype: str) -> None:
    with pytest.raises(ModelError, match=f"is {dtype}, not fp32"):
        fused.halved(dataclasses.replace(good, dtype=dtype))


def test_a_graph_the_converter_chokes_on_is_one_line(good: ModelSpec) -> None:
    good.path.write_bytes(good.path.read_bytes()[:300])
    with pytest.raises(ModelError, match="cannot be converted to half precision") as caught:
        fused.halved(good)
    assert "\n" not in str(caught.value)


# Judging it ---------------------------------------------------------------------------------------------------------


def test_a_model_that_passes_runs_in_half_precision(good: ModelSpec) -> None:
    chosen, note = agreement.for_cuda(good, open_reference=on_cpu, open_half=on_cpu, fp32=never)
    assert (chosen.dtype, note) == ("fp16", "")


def test_a_model_that_does_not_stays_in_float32_and_says_by_how_much(bad: ModelSpec) -> None:
    chosen, note = agreement.for_cuda(bad, open_reference=on_cpu, open_half=on_cpu, fp32=never)
    assert chosen is bad
    assert note.startswith(f"{bad.name}: computed in fp32, since fp16 ")
    assert "of the range" in note or "not finite" in note


def test_a_half_precision_file_that_does_not_pass_gives_way_to_the_float32_one(good: ModelSpec, bad: ModelSpec) -> None:
    file = dataclasses.replace(good, dtype="fp16")

    def wrong(_: ModelSpec) -> Any:
        return on_cpu(fused.halved(bad))

    chosen, note = agreement.for_cuda(file, open_reference=on_cpu, open_half=wrong, fp32=lambda: bad)
    assert chosen is bad
    assert "computed in fp32" in note

    def nothing() -> ModelSpec:
        raise ModelNotFoundError("no such file")

    chosen, note = agreement.for_cuda(file, open_reference=on_cpu, open_half=wrong, fp32=nothing)
    assert chosen is file
    assert "has no fp32 file" in note


def test_nobody_who_asked_for_float32_gets_less(good: ModelSpec) -> None:
    asked = dataclasses.replace(good, origins={**good.origins, "dtype": "user"})
    assert agreement.for_cuda(asked, open_reference=on_cpu, open_half=on_cpu, fp32=never) == (asked, "")
    quantised = dataclasses.replace(good, dtype="q8")
    assert agreement.for_cuda(quantised, open_reference=on_cpu, open_half=on_cpu, fp32=never) == (quantised, "")


def test_a_verdict_is_remembered_but_not_a_failure_to_run(good: ModelSpec) -> None:
    def fails(_: ModelSpec) -> Any:
        raise ProviderError("provider cuda: out of memory")

    chosen, note = agreement.for_cuda(good, open_reference=on_cpu, open_half=fails, fp32=never)
    assert chosen is good
    assert "out of memory" in note
    assert agreement.for_cuda(good, open_reference=on_cpu, open_half=on_cpu, fp32=never)[0].dtype == "fp16"

    def unused(_: ModelSpec) -> Any:
        raise AssertionError("asked again")

    assert agreement.for_cuda(good, open_reference=on_cpu, open_half=unused, fp32=never)[0].dtype == "fp16"
    [file] = (cache_root() / "agreement").iterdir()
    assert json.loads(file.read_text()) == {"wrong": ""}
    file.write_text("damaged")
    assert agreement.for_cuda(good, open_reference=on_cpu, open_half=on_cpu, fp32=never)[0].dtype == "fp16"


def test_a_cache_that_cannot_be_written_is_asked_again(
    good: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "file"))
    assert agreement.gpu_disagreement(good, "cuda", lambda: "differs") == "differs"
    assert agreement.gpu_disagreement(good, "cuda", lambda: "") == ""


# TensorRT -----------------------------------------------------------------------------------------------------------


def halves(sessions: Sessions) -> list[str]:
    return [options["trt_fp16_enable"] for options in sessions.asked]


def test_tensorrt_computes_in_half_precision_where_it_agrees(good: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(monkeypatch)
    assert agreement.tensorrt_halves(good) is None
    assert open_session(good, "tensorrt", graph=False).note == ""
    assert halves(sessions) == ["1", "1"]  # judged, then opened
    assert agreement.tensorrt_halves(good) is True
    open_session(good, "tensorrt", graph=False)
    assert halves(sessions) == ["1"] * 3


def test_tensorrt_is_told_to_compute_in_float32_where_it_does_not(
    good: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = Sessions(monkeypatch)
    monkeypatch.setattr(agreement, "disagreement", lambda *_: "differs from the CPU (correlation 0.9)")
    opened = open_session(good, "tensorrt", graph=False)
    assert opened.note == f"{good.name}: computed in fp32, since fp16 differs from the CPU (correlation 0.9)"
    assert halves(sessions) == ["1", "0"]
    assert agreement.tensorrt_halves(good) is False
    assert len({options["trt_engine_cache_path"] for options in sessions.asked}) == 2


def test_tensorrt_is_not_judged_where_float32_was_asked_for(good: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions(monkeypatch)
    asked = dataclasses.replace(good, origins={**good.origins, "dtype": "user"})
    open_session(asked, "tensorrt", graph=False)
    assert halves(sessions) == ["0"]
    assert agreement.tensorrt_halves(asked) is False


# The estimator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "dtype", "wanted"), [("good", "auto", "fp16"), ("good", "fp32", "fp32"), ("bad", "auto", "fp32")]
)
def test_an_estimator_settles_for_what_passes(
    model: str, dtype: str, wanted: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec: ModelSpec = request.getfixturevalue(model)
    real = sessions.open_session

    def opened(spec: ModelSpec, name: str, *arguments: Any, **options: Any) -> Any:
        if name == "cpu":
            return real(spec, name)
        return dataclasses.replace(real(spec, "cpu", *arguments, **options), provider=name, device="cpu")

    monkeypatch.setattr(sessions, "open_session", opened)
    monkeypatch.setattr(providers, "why_not", lambda _: "")
    monkeypatch.setattr("streamdepth.inference.engine.open_session", opened)
    with DepthEstimator(spec.path, provider="cuda", dtype=dtype, preprocessing=RULES) as estimator:
        assert estimator.spec.dtype == "fp32"
        engine = estimator.engine()
        assert engine.spec.dtype == estimator.spec.dtype == wanted
        assert ("computed in fp32" in engine.note) is (model == "bad")
        engine.close()


def test_auto_that_cannot_use_cuda_is_not_judged_on_the_cpu(good: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU without CUDA's libraries: ``auto`` falls back to the CPU, where half precision is only slow."""
    monkeypatch.setattr(
        "streamdepth.inference.providers.likely", lambda name="auto": "cuda" if name == "auto" else name
    )
    monkeypatch.setattr(providers, "AUTO_ORDER", ("cpu",))
    monkeypatch.setattr(providers, "why_not", lambda one: "no library" if one.name == "cuda" else "")
    with DepthEstimator(good.path, preprocessing=RULES) as estimator:
        engine = estimator.engine()
        assert (engine.provider, engine.spec.dtype) == ("cpu", "fp32")
        engine.close()
    assert not (cache_root() / "agreement").exists()


def test_an_engine_whose_graph_cannot_be_recorded_runs_without_one(
    good: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamdepth.inference.engine import Engine

    real = sessions.open_session

    def opened(spec: ModelSpec, name: str, *arguments: Any, **options: Any) -> Any:
        cpu = real(spec, "cpu", *arguments, **options)
        return dataclasses.replace(cpu, provider=name, device="cpu", graph=options.get("graph", False))

    ran = Engine._run_on_device

    def refuses(self: Engine, *given: Any) -> Any:
        if self.cuda_graph:
            raise InferenceError("operation not permitted when stream is capturing")
        return ran(self, *given)

    monkeypatch.setattr("streamdepth.inference.engine.open_session", opened)
    monkeypatch.setattr(Engine, "_run_on_device", refuses)
    with DepthEstimator(good.path, provider="cuda", dtype="fp32", preprocessing=RULES) as estimator:
        engine = estimator.engine()
        assert not engine.cuda_graph
        assert "no CUDA graph: operation not permitted" in engine.note
        engine.close()


@pytest.fixture
def linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A graph and its external weights as links to files of other names in another folder."""
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "cache"))
    source = write_depth_model(tmp_path / "source.onnx")
    model = onnx.load(source)
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "x" / "onnx"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
            onnx.external_data_helper.set_external_data(tensor, "model.onnx_data")
    onnx.save(model, blobs / "graph")
    (blobs / "model.onnx_data").rename(blobs / "weights")
    (snapshot / "model.onnx").symlink_to("../../../blobs/graph")
    (snapshot / "model.onnx_data").symlink_to("../../../blobs/weights")
    return resolve(snapshot / "model.onnx", preprocessing={"multiple_of": 1}, size="48x32")


def test_weights_behind_links_become_hard_links(linked: ModelSpec, tmp_path: Path) -> None:
    found = fused.with_regular_files(linked)
    assert not found.path.is_symlink()
    assert found.path.is_relative_to(tmp_path / "cache" / "linked")
    [weights], [original] = found.external_data, linked.external_data
    assert weights.samefile(original)
    assert fused.with_regular_files(linked) == found
    assert fused.with_regular_files(found) == found


def test_weights_behind_links_run_in_a_fused_graph(linked: ModelSpec) -> None:
    spec = fused.fused(linked)
    opened = sessions.open_session(spec, "cpu")
    assert [one.name for one in opened.session.get_outputs()] == [spec.depth_output.name]


def test_links_on_another_file_system_stay(linked: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", link)
    assert fused.with_regular_files(linked) == linked

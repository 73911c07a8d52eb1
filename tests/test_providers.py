from __future__ import annotations

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.errors import ProviderError, UsageError
from streamdepth.inference import agreement, assignment, fused, nvidia, plugins, providers
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from streamdepth.threads import ThreadPlan, cores, plan_threads

if TYPE_CHECKING:
    from streamdepth.models.spec import ModelSpec


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return resolve("built-in")


@pytest.fixture(autouse=True)
def _no_plugins_remembered() -> None:
    plugins._register.cache_clear()


def a_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, library: str = "missing.so") -> plugins.Plugin:
    module = f"onnxruntime_ep_{name}"
    (folder / f"{module}.py").write_text(
        f"def get_library_path():\n    return {str(folder / library)!r}\n\ndef get_ep_names():\n    return ['X']\n"
    )
    monkeypatch.syspath_prepend(folder)
    found = plugins.find(name.replace("_", "-"))
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
    refused = pytest.raises(
        (ProviderError, UsageError), match=r"choose one of auto, cpu, cuda|a plugin's device is cpu, gpu, npu"
    )
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
        providers.open_session(spec, "broken")
    assert "\n" not in caught.value.message


def test_a_plugin_without_a_device_of_the_kind_wanted_says_which_it_has(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_plugin(tmp_path, monkeypatch, "acme")
    monkeypatch.setattr(plugins, "devices", lambda _: (cpu_device(),))
    with pytest.raises(ProviderError, match="does not run on the npu of this machine but on its cpu"):
        providers.open_session(spec, "acme:npu")


def test_a_session_runs_on_a_plugins_device(spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_plugin(tmp_path, monkeypatch, "acme")
    # ONNX Runtime's own device stands for the plugin's: all but the registering is real
    monkeypatch.setattr(plugins, "devices", lambda _: (cpu_device(),))
    opened = providers.open_session(spec, "acme:cpu")
    assert (opened.provider, opened.note) == ("acme:cpu", "")
    fed = agreement.inputs(spec)
    wanted = providers.open_session(spec, "cpu").session.run(None, fed)[0]
    np.testing.assert_allclose(opened.session.run(None, fed)[0], wanted, rtol=1e-4, atol=1e-4)


def auto_with_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        a_plugin(tmp_path, monkeypatch, "openvino")
    monkeypatch.setattr(plugins, "devices", lambda _: (cpu_device(),))
    monkeypatch.setattr(providers, "_AUTO_ORDER", ("openvino", "cpu"))


def test_auto_takes_openvino_where_it_agrees_with_the_cpu(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    assert providers.likely() == "openvino"
    assert providers.open_session(spec).provider == "openvino"


def test_auto_leaves_openvino_where_it_does_not_and_says_by_how_much(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    monkeypatch.setattr(agreement, "disagreement", lambda *_: "differs from the CPU (correlation 0.9)")
    opened = providers.open_session(spec)
    assert opened.provider == "cpu"
    assert opened.note == "running on the CPU; provider openvino differs from the CPU (correlation 0.9)"


def test_auto_says_why_an_installed_plugin_is_not_used(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto_with_openvino(monkeypatch, tmp_path)
    monkeypatch.setattr(plugins, "devices", lambda _: ())
    opened = providers.open_session(spec)
    assert opened.provider == "cpu"
    assert opened.note.startswith("running on the CPU; provider openvino: onnxruntime-ep-openvino does not run on")


def test_the_real_openvino_plugin_runs_or_says_why_not(spec: ModelSpec) -> None:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("onnxruntime-ep-openvino is not installed")
    chosen = providers.provider_named("openvino")
    reason = providers.why_not(chosen)
    if reason:
        with pytest.raises(ProviderError, match="use --provider cpu"):
            providers.open_session(spec, "openvino")
        return
    opened = providers.open_session(spec, "openvino")
    assert not agreement.disagreement(spec, opened.session, providers.open_session(spec, "cpu").session)


# Nodes left to the CPU ----------------------------------------------------------------------------------------------


def test_heavy_nodes_left_to_the_cpu_are_counted_by_operator() -> None:
    nodes = [("Fast", "Conv")] * 6 + [("CPUExecutionProvider", "MatMul")] * 2 + [("CPUExecutionProvider", "Shape")] * 9
    given = assignment.split(nodes, "Fast")
    assert given.heavy_left == Counter(MatMul=2)
    assert given.report("fast") == "provider fast leaves 2 of 8 heavy nodes to the CPU (2 MatMul)"


def test_shape_arithmetic_on_the_cpu_is_not_worth_a_word() -> None:
    assert assignment.split([("Fast", "Conv"), ("CPUExecutionProvider", "Gather")], "Fast").report("fast") == ""


def test_a_provider_that_takes_no_heavy_node_is_refused(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_plugin(tmp_path, monkeypatch, "acme")
    monkeypatch.setattr(plugins, "devices", lambda _: (cpu_device(),))
    monkeypatch.setattr(assignment, "of", lambda *_: assignment.Assignment(Counter(Cast=1), Counter(Conv=30)))
    with pytest.raises(ProviderError, match="takes none of the heavy nodes"):
        providers.open_session(spec, "acme")


def test_onnx_runtime_tells_which_nodes_went_where(spec: ModelSpec) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.add_session_config_entry(*assignment.RECORD)
    session = ort.InferenceSession(str(spec.path), options, providers=["CPUExecutionProvider"])
    given = assignment.of(session, "CPUExecutionProvider")
    if given is None:
        pytest.skip("this onnxruntime does not tell")
    assert given.heavy_taken > 10
    assert not given.left


# Agreement ----------------------------------------------------------------------------------------------------------


def test_a_session_agrees_with_itself(spec: ModelSpec) -> None:
    session = providers.open_session(spec, "cpu").session
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

    reference = providers.open_session(spec, "cpu").session
    assert "no kernel" in agreement.disagreement(spec, SimpleNamespace(run=run), reference)


# NVIDIA -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def dynamic(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(
        spec, image_input=dataclasses.replace(spec.image_input, shape=("b", 3, "h", "w"), name="x"), image_layout="chw"
    )


def key(spec: ModelSpec, **changes: Any) -> nvidia.EngineKey:
    given: dict[str, Any] = {"batch": 4, "fp16": True, "gpu": "A (8.0)", "tensorrt": "10.1"}
    return nvidia.engine_key(spec, **given | changes)


@pytest.mark.parametrize("change", [{"batch": 8}, {"fp16": False}, {"gpu": "B (9.0)"}, {"tensorrt": "10.2"}])
def test_an_engine_is_kept_apart_for_whatever_it_depends_on(dynamic: ModelSpec, change: dict[str, Any]) -> None:
    assert key(dynamic).digest == key(dynamic).digest
    assert key(dynamic).digest != key(dynamic, **change).digest


def test_a_size_of_the_users_own_has_an_engine_of_its_own(dynamic: ModelSpec) -> None:
    other = dataclasses.replace(dynamic, preprocessing=dataclasses.replace(dynamic.preprocessing, width_px=128))
    assert key(other) != key(dynamic)


def test_sizes_that_follow_the_picture_are_not_promised_to_tensorrt(dynamic: ModelSpec, tmp_path: Path) -> None:
    follows = dataclasses.replace(dynamic, preprocessing=Preprocessing())
    assert key(follows).shapes == ()
    assert not any("profile" in name for name in nvidia.tensorrt_options(key(follows), tmp_path))


def test_a_graph_of_fixed_batch_has_one_engine_for_any_batch(spec: ModelSpec) -> None:
    assert spec.fixed_batch == 1
    assert key(spec, batch=8) == key(spec)


def test_an_engine_is_of_the_models_content_not_of_its_name(spec: ModelSpec, tmp_path: Path) -> None:
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(spec.path.read_bytes())
    moved = dataclasses.replace(spec, path=copy)
    assert key(moved) == key(spec)
    copy.write_bytes(spec.path.read_bytes() + b"\0")
    assert key(moved) != key(spec)
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    assert key(dataclasses.replace(spec, external_data=(weights,))) != key(spec)


def test_tensorrt_is_told_its_caches_and_the_batches_to_come(dynamic: ModelSpec, tmp_path: Path) -> None:
    folder = nvidia.engine_folder(key(dynamic), tmp_path)
    options = nvidia.tensorrt_options(key(dynamic), folder)
    assert options["trt_profile_min_shapes"] == "x:1x3x192x256"
    assert options["trt_profile_max_shapes"] == options["trt_profile_opt_shapes"] == "x:4x3x192x256"
    assert options["trt_fp16_enable"] == "1"
    assert Path(options["trt_engine_cache_path"]).parent == Path(options["trt_timing_cache_path"])
    assert all(isinstance(value, str) for value in options.values())


def test_an_engine_is_built_once_there_is_one(tmp_path: Path) -> None:
    assert not nvidia.is_built(tmp_path / "nothing")
    assert not nvidia.is_built(tmp_path)
    (tmp_path / "x.engine").touch()
    assert nvidia.is_built(tmp_path)


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    assert nvidia.cache_root() == tmp_path


def test_a_cuda_graph_is_refused_with_the_reason(spec: ModelSpec) -> None:
    whole = assignment.Assignment(Counter(Conv=3), Counter())
    assert nvidia.graph_obstacle(spec, 1, whole) == ""
    assert "2 network sizes" in nvidia.graph_obstacle(spec, 2, whole)
    assert "1 of its nodes" in nvidia.graph_obstacle(spec, 1, assignment.Assignment(Counter(Conv=3), Counter(Shape=1)))
    assert nvidia.graph_obstacle(spec, 1, None)
    assert nvidia.cuda_options(graph=True)["enable_cuda_graph"] == "1"


def test_without_nvidias_packages_nothing_is_preloaded(capsys: Any) -> None:
    if importlib.util.find_spec("nvidia") is not None:
        pytest.skip("NVIDIA's packages are installed")
    assert nvidia.preload() == ""
    assert capsys.readouterr().out == ""


# Threads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"cores": 1}, ThreadPlan(1, 1, 1, 1)),
        ({"cores": 2}, ThreadPlan(2, 3, 3, 1)),
        ({"cores": 2, "decoders": 2}, ThreadPlan(2, 1, 3, 1)),
        ({"cores": 8, "decoders": 2, "encoders": 1}, ThreadPlan(8, 4, 9, 2)),
        ({"cores": 8, "decoders": 8, "encoders": 8}, ThreadPlan(8, 1, 1, 1)),
        ({"cores": 64}, ThreadPlan(16, 4, 12, 4)),
        ({"cores": 8, "on_device": True}, ThreadPlan(1, 4, 9, 2)),
        ({"cores": 8, "session": 3}, ThreadPlan(3, 4, 9, 2)),
    ],
)
def test_threads_are_planned_together(given: dict[str, Any], wanted: ThreadPlan) -> None:
    assert plan_threads(**given) == wanted


@pytest.mark.parametrize("wrong", [{"cores": 0}, {"cores": 2, "decoders": 0}, {"cores": 2, "session": 0}])
def test_threads_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan_threads(**wrong)


def test_there_is_a_core() -> None:
    assert cores() >= 1


# Preprocessing in the graph -----------------------------------------------------------------------------------------


def picture(width: int = 90, height: int = 70) -> Any:
    from streamdepth.inference.pattern import pattern
    from streamdepth.inference.preprocess import picture_of

    return picture_of(pattern(width, height))


def depth_of(spec: ModelSpec, batch: int = 1) -> Any:
    from streamdepth.inference.engine import Engine

    engine = Engine(spec, provider="cpu", batch=batch)
    shown = picture()
    slot = engine.acquire(engine.network_size(shown.width, shown.height))
    for row in range(engine.batch):
        slot.write(row, shown)
    maps = [depth.values.copy() for depth in engine.run(slot, engine.batch)]
    engine.close()
    return maps


def test_pictures_as_bytes_give_the_depth_of_the_fast_path(spec: ModelSpec, tmp_path: Path) -> None:
    bytes_in = fused.fused(spec, tmp_path)
    assert bytes_in.image_input.dtype == "uint8"
    wanted = depth_of(spec)[0]
    assert np.abs(depth_of(bytes_in)[0] - wanted).max() < 1e-4 * np.ptp(wanted)


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_shape_of_input_takes_pictures_as_bytes(rank: int, opset: int, dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    small_model(path, rank, opset, dtype)
    plain = resolve(path, preprocessing=NORMALISED)
    assert len(plain.image_input.shape) == rank
    tolerance = 1e-5 if dtype == "float32" else 4e-3
    np.testing.assert_allclose(depth_of(fused.fused(plain, tmp_path))[0], depth_of(plain)[0], atol=tolerance)


def test_weights_beside_the_model_are_found_from_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "model" / "model.onnx"
    path.parent.mkdir()
    small_model(path, 4, 17, "float32", external=True)
    plain = resolve(path, preprocessing=NORMALISED)
    assert plain.external_data
    bytes_in = fused.fused(plain, tmp_path / "cache")
    assert fused.weights_folder(bytes_in) == str(path.parent)
    assert fused.weights_folder(plain) == ""
    np.testing.assert_allclose(depth_of(bytes_in)[0], depth_of(plain)[0], atol=1e-5)


def test_a_graph_is_made_once_and_again_when_the_model_changes(spec: ModelSpec, tmp_path: Path) -> None:
    first = fused.fused(spec, tmp_path).path
    made = first.stat().st_mtime_ns
    assert fused.fused(spec, tmp_path).path == first
    assert first.stat().st_mtime_ns == made
    other = dataclasses.replace(spec, preprocessing=NORMALISED)
    assert fused.fused(other, tmp_path).path != first
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".onnx", ".onnx"]


def test_models_that_cannot_take_bytes_say_why(spec: ModelSpec, tmp_path: Path) -> None:
    from streamdepth.errors import ModelError

    padded = dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, do_pad=True))
    with pytest.raises(ModelError, match="pads after normalising"):
        fused.fused(padded, tmp_path)
    with pytest.raises(ModelError, match="takes uint8 already"):
        fused.fused(fused.fused(spec, tmp_path), tmp_path)


def test_a_cache_that_cannot_be_written_says_so(spec: ModelSpec, tmp_path: Path) -> None:
    from streamdepth.errors import ModelError

    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="STREAMDEPTH_CACHE"):
        fused.fused(spec, tmp_path / "file" / "below")


NORMALISED = Preprocessing(width_px=16, height_px=12, keep_aspect=False, multiple_of=1)


def small_model(path: Path, rank: int, opset: int, dtype: str, *, external: bool = False) -> None:
    """Mean over the channels, weighed: [rows.., 3, 12, 16] -> [rows.., 12, 16]."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.FLOAT16
    rows = [1] * (rank - 3)
    weights = np.arange(1, 3 * 12 * 16 + 1, dtype=dtype).reshape(3, 12, 16) / 576
    nodes = [
        helper.make_node("Mul", ["pixels", "weights"], ["weighed"]),
        helper.make_node("ReduceMean", ["weighed"], ["depth"], axes=[rank - 3], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", kind, [*rows, 3, 12, 16])],
        [helper.make_tensor_value_info("depth", kind, [*rows, 12, 16])],
        [numpy_helper.from_array(np.asarray(weights, dtype=dtype), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=0)


def test_an_engine_takes_bytes_where_asked_and_not_beside_the_exact_path(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamdepth.inference.engine import Engine

    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    engine = Engine(spec, provider="cpu", bytes_in=True)
    engine.check()
    assert engine.spec.image_input.dtype == "uint8"
    engine.close()
    plain = Engine(spec, provider="cpu")
    assert plain.spec is spec
    plain.close()
    with pytest.raises(UsageError, match="choose one"):
        Engine(spec, provider="cpu", bytes_in=True, exact=True)


def test_tensorrt_stands_before_cuda_and_both_get_options(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    by_name = {provider.name: provider for provider in providers.PROVIDERS}
    order = providers._with_options(spec, by_name["tensorrt"], 4)
    assert [name for name, _ in order] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert Path(order[0][1]["trt_engine_cache_path"]).is_dir()
    assert providers._with_options(spec, by_name["cuda"], 4) == [("CUDAExecutionProvider", nvidia.cuda_options())]
    assert providers._with_options(spec, by_name["cpu"], 4) == ["CPUExecutionProvider"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ProviderError, match="STREAMDEPTH_CACHE"):
        providers._with_options(spec, by_name["tensorrt"], 4)


def test_inference_threads_do_not_spin_for_long() -> None:
    assert providers._spin("1.31.1") == ("session.intra_op.spin_duration_us", "20")
    assert providers._spin("1.23.0") == ("session.intra_op.allow_spinning", "0")

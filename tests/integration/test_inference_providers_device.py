"""What runs on NVIDIA's GPUs, as far as it can be tested without one: options, cache keys, graphs that take bytes."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
import pytest

from streamdepth.cli import main
from streamdepth.core.errors import ProviderError, UsageError
from streamdepth.core.host import cache_root
from streamdepth.inference import fused, nvidia, sessions
from streamdepth.inference import ort as ort_words
from streamdepth.inference.build import build
from streamdepth.models import selection as provider_table
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Preprocessing
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from streamdepth.inference.build import BuildRequest
    from streamdepth.models.spec import ModelSpec


FIXED_RULES = Preprocessing(width_px=64, height_px=48, keep_aspect=False, multiple_of=1)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = write_depth_model(tmp_path_factory.mktemp("device") / "fixed.onnx", batch=1, height=48, width=64)
    return resolve(path, preprocessing=FIXED_RULES)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    path = write_depth_model(tmp_path_factory.mktemp("device") / "dynamic.onnx", input_name="x")
    return resolve(path, preprocessing=FIXED_RULES)


# NVIDIA -------------------------------------------------------------------------------------------------------------


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


def test_sizes_that_follow_the_image_are_not_promised_to_tensorrt(dynamic: ModelSpec, tmp_path: Path) -> None:
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
    assert options["trt_profile_min_shapes"] == "x:1x3x48x64"
    assert options["trt_profile_max_shapes"] == options["trt_profile_opt_shapes"] == "x:4x3x48x64"
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
    assert cache_root() == tmp_path


def test_a_cuda_graph_is_refused_with_the_reason(spec: ModelSpec, dynamic: ModelSpec) -> None:
    whole = ort_words.Assignment(Counter(Conv=3), Counter())
    assert nvidia.graph_obstacle(spec, whole) == ""
    follows = dataclasses.replace(dynamic, preprocessing=Preprocessing())
    assert "give --size WxH" in nvidia.graph_obstacle(follows, whole)
    assert "1 of its nodes" in nvidia.graph_obstacle(spec, ort_words.Assignment(Counter(Conv=3), Counter(Shape=1)))
    assert nvidia.graph_obstacle(spec, None)
    assert nvidia.cuda_options(graph=True)["enable_cuda_graph"] == "1"


def test_without_nvidias_packages_nothing_is_preloaded(capsys: Any) -> None:
    if importlib.util.find_spec("nvidia") is not None:
        pytest.skip("NVIDIA's packages are installed")
    assert nvidia.preload() == ""
    assert capsys.readouterr().out == ""


# Preprocessing in the graph -----------------------------------------------------------------------------------------


def image(width: int = 90, height: int = 70) -> Any:
    from streamdepth.inference.preprocess import image_of
    from streamdepth.media.scene import pattern

    return image_of(pattern(width, height))


def depth_of(spec: ModelSpec, batch: int = 1) -> Any:
    from streamdepth.inference.engine import Engine

    engine = Engine(spec, provider="cpu", batch=batch)
    shown = image()
    slot = engine.acquire(engine.network_size(shown.width, shown.height))
    for row in range(engine.batch):
        slot.write(row, shown)
    maps = [depth.values.copy() for depth in engine.run(slot, engine.batch)]
    engine.close()
    return maps


def test_images_as_bytes_give_the_depth_of_the_fast_path(spec: ModelSpec, tmp_path: Path) -> None:
    bytes_in = fused.fused(spec, tmp_path)
    assert bytes_in.image_input.dtype == "uint8"
    wanted = depth_of(spec)[0]
    assert np.abs(depth_of(bytes_in)[0] - wanted).max() < 1e-4 * np.ptp(wanted)


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_shape_of_input_takes_images_as_bytes(rank: int, opset: int, dtype: str, tmp_path: Path) -> None:
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


def test_weights_in_a_folder_below_the_graph(tmp_path: Path) -> None:
    small_model(tmp_path / "model.onnx", 4, 17, "float32", external=True)
    model = onnx.load(tmp_path / "model.onnx")
    (tmp_path / "weights").mkdir()
    path = tmp_path / "moved.onnx"
    onnx.save(
        model,
        path,
        save_as_external_data=True,
        location="weights/w.bin",
        all_tensors_to_one_file=True,
        size_threshold=0,
    )
    plain = resolve(path, preprocessing=NORMALISED)
    assert [one.name for one in plain.external_data] == ["w.bin"]
    bytes_in = fused.fused(plain, tmp_path / "cache")
    assert (fused.weights_folder(plain), fused.weights_folder(bytes_in)) == ("", str(tmp_path))
    np.testing.assert_allclose(depth_of(bytes_in)[0], depth_of(plain)[0], atol=1e-5)


def test_a_graph_is_made_once_and_again_when_the_model_changes(spec: ModelSpec, tmp_path: Path) -> None:
    first = fused.fused(spec, tmp_path).path
    made = first.stat().st_mtime_ns
    assert fused.fused(spec, tmp_path).path == first
    assert first.stat().st_mtime_ns == made
    other = dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, do_normalize=False))
    assert fused.fused(other, tmp_path).path != first
    assert [entry.suffix for entry in tmp_path.iterdir()] == [".onnx", ".onnx"]


def test_models_that_cannot_take_bytes_say_why(spec: ModelSpec, tmp_path: Path) -> None:
    from streamdepth.core.errors import ModelError

    padded = dataclasses.replace(spec, preprocessing=dataclasses.replace(spec.preprocessing, do_pad=True))
    with pytest.raises(ModelError, match="pads after normalising"):
        fused.fused(padded, tmp_path)
    with pytest.raises(ModelError, match="already takes uint8"):
        fused.fused(fused.fused(spec, tmp_path), tmp_path)


def test_a_cache_that_cannot_be_written_says_so(spec: ModelSpec, tmp_path: Path) -> None:
    from streamdepth.core.errors import ModelError

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
    by_name = {provider.name: provider for provider in provider_table.PROVIDERS}
    order = sessions._with_options(spec, by_name["tensorrt"], 4)
    assert [name for name, _ in order] == ["TensorrtExecutionProvider", "CUDAExecutionProvider"]
    assert Path(order[0][1]["trt_engine_cache_path"]).is_dir()
    assert sessions._with_options(spec, by_name["cuda"], 4) == [("CUDAExecutionProvider", nvidia.cuda_options())]
    assert sessions._with_options(spec, by_name["cpu"], 4) == ["CPUExecutionProvider"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ProviderError, match="STREAMDEPTH_CACHE"):
        sessions._with_options(spec, by_name["tensorrt"], 4)


def test_inference_threads_do_not_spin_for_long() -> None:
    assert ort_words.spin("1.31.1") == ("session.intra_op.spin_duration_us", "20")
    assert ort_words.spin("1.23.0") == ("session.intra_op.allow_spinning", "0")


# Building ahead -----------------------------------------------------------------------------------------------------


class _Engine:
    """Stands for the engine, which needs a GPU here; remembers what it was asked to run."""

    sizes: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, spec: ModelSpec, *, provider: str, batch: int, exact: bool) -> None:
        assert not exact
        assert (spec.image_input.dtype, provider, batch) == ("uint8", "tensorrt", 4)

    def check(self, width: int, height: int) -> None:
        self.sizes.append((width, height))

    def close(self) -> None:
        self.sizes.append((0, 0))


def test_a_build_runs_every_size_and_says_where_the_engine_is(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr("streamdepth.inference.engine.Engine", _Engine)
    said: list[str] = []
    made = build(spec, images=((640, 480), (480, 640)), batch=4, progress=said.append)
    assert _Engine.sizes == [(640, 480), (480, 640), (0, 0)]
    assert [one.name for one in made] == ["graph", "engine"]
    assert made[0].path.is_file()
    assert made[1].path.parent == tmp_path / "tensorrt"
    assert len(said) == 2


def test_a_build_for_what_needs_none_or_cannot_run_here_is_refused(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="builds nothing; choose one of tensorrt, cuda"):
        build(spec, "cpu")
    with pytest.raises(UsageError, match="1x1 pixels"):
        build(spec, images=((0, 4),))
    if nvidia.gpu_name():
        pytest.skip("there is a GPU")
    with pytest.raises(ProviderError, match="provider tensorrt: "):
        build(spec)


def test_the_build_command_reads_image_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("big", "0x5"):
        assert main(["build", "built-in", "--image-size", size]) == 2
        assert f"image-size: '{size}' is not a size; give WxH" in capsys.readouterr().err


def test_the_build_command_builds_in_a_process_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamdepth.inference.build import Built

    requests: list[BuildRequest] = []
    monkeypatch.setattr("streamdepth.inference.build.build_first", lambda one, *_: requests.append(one))
    made = (Built("engine", tmp_path / "here", 1.0),)
    monkeypatch.setattr("streamdepth.inference.build.build", lambda *_, **__: made)
    sizes = ["--image-size", "640x480", "--image-size", "320x240"]
    assert main(["build", "built-in", *sizes, "--batch", "4"]) == 0
    assert "engine" in capsys.readouterr().out
    assert [(one.images, one.batch, one.spec.name) for one in requests] == [(((640, 480), (320, 240)), 4, "built-in")]
    assert main(["build", "built-in", "--provider", "cuda"]) == 0
    assert len(requests) == 1

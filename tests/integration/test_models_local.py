"""Models by path and folder, and the one in the package: what the spec says and where it says it is from."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.inference.engine import Engine
from streamdepth.inference.geometry import plan
from streamdepth.inference.preprocess import image_of
from streamdepth.models.resolve import resolve
from streamdepth.models.selection import target_of
from streamdepth.models.spec import ModelSpec, Preprocessing
from tests.support import need
from tests.support.hub import DA_PREPROCESSOR
from tests.support.models import write_depth_model, write_json


def test_the_model_in_the_package() -> None:
    spec = resolve("built-in")
    assert (spec.name, spec.source, spec.dtype) == ("built-in", "built-in", "fp32")
    assert spec.sense is Sense.RELATIVE_INVERSE
    assert spec.licence
    assert spec.revision
    assert spec.path.is_file()
    assert spec.notes == ()
    assert resolve("builtin") == spec
    with pytest.raises(ModelNotFoundError, match="built-in: has no q8 file; it has fp32"):
        resolve("built-in", dtype="q8")
    with pytest.raises(UsageError, match="revision 'v1': built-in is not on the Hub"):
        resolve("built-in", revision="v1")


def test_the_model_in_the_package_gives_near_as_large() -> None:
    import onnxruntime as ort

    spec = resolve("built-in")
    session = ort.InferenceSession(str(spec.path), providers=["CPUExecutionProvider"])
    width, height = 352, 192
    # a floor that runs away under a bright sky
    rows = np.linspace(1, 0, height, dtype=np.float32)[:, None, None]
    image = np.broadcast_to(rows, (height, width, 3)).transpose(2, 0, 1)[None]
    depth = np.squeeze(session.run([spec.depth_output.name], {spec.image_input.name: np.ascontiguousarray(image)})[0])
    assert np.isfinite(depth).all()
    assert depth[-10:].mean() > depth[:10].mean()


def test_a_bare_file_and_what_is_assumed_of_it(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    spec = resolve(path)
    assert (spec.source, spec.path, spec.dtype, spec.revision) == ("file", path, "fp32", "")
    assert spec.preprocessing == Preprocessing()
    assert dict(spec.origins) == {
        "dtype": "graph",
        "image_input": "graph",
        "depth_output": "graph",
        "preprocessing": "default",
        "size": "default",
        "sense": "default",
        "licence": "default",
        "metres_per_unit": "default",
    }
    preprocessing, sense = spec.notes
    assert "Depth Anything's is assumed" in preprocessing
    assert "near = large (relative_inverse) is assumed" in sense
    assert resolve(str(path)) == spec


def test_each_source_outranks_the_one_before(tmp_path: Path) -> None:
    path = write_depth_model(
        tmp_path / "m.onnx", metadata={"streamdepth.sense": "relative_depth", "license": "BSD-3-Clause"}
    )
    spec = resolve(path)
    assert (spec.sense, spec.origins["sense"]) == (Sense.RELATIVE_DEPTH, "graph")
    assert (spec.licence, spec.origins["licence"]) == ("BSD-3-Clause", "graph")
    write_json(tmp_path / "config.json", {"model_type": "depth_anything", "depth_estimation_type": "metric"})
    spec = resolve(path)
    assert (spec.sense, spec.origins["sense"]) == (Sense.METRIC_M, "config")
    write_json(tmp_path / "config.json", {"model_type": "depth_anything"})
    spec = resolve(path, sense="relative_depth")
    assert (spec.sense, spec.origins["sense"]) == (Sense.RELATIVE_DEPTH, "user")


def test_metres_are_not_to_be_had_by_saying_so(tmp_path: Path) -> None:
    relative = "sense metric_m: .* gives relative_inverse; leave sense out, or choose another model"
    with pytest.raises(UsageError, match=relative):
        resolve("built-in", sense="metric_m")
    with pytest.raises(UsageError, match=r"built-in: gives relative_inverse, not metres, .*; choose a metric model"):
        resolve("built-in", metres_per_unit=2.0)
    declared = write_depth_model(tmp_path / "declared.onnx", metadata={"streamdepth.sense": "metric_m"})
    with pytest.raises(UsageError, match=r"sense relative_depth: .* gives metric_m"):
        resolve(declared, sense="relative_depth")
    path = write_depth_model(tmp_path / "configured.onnx")
    write_json(tmp_path / "config.json", {"model_type": "depth_anything"})
    with pytest.raises(UsageError, match=relative):
        resolve(path, sense="metric_m")
    write_json(tmp_path / "config.json", {"model_type": "dpt"})  # as dpt-dinov2-small-nyu, which gives metres
    assert resolve(path, sense="metric_m", metres_per_unit=0.5).sense is Sense.METRIC_M
    write_json(tmp_path / "config.json", {"model_type": "dpt", "depth_estimation_type": "relative"})
    with pytest.raises(UsageError, match=relative):
        resolve(path, sense="metric_m")


@pytest.mark.parametrize(
    ("config", "sense"),
    [
        ({"model_type": "glpn"}, Sense.METRIC_M),
        ({"model_type": "zoedepth"}, Sense.METRIC_M),
        ({"model_type": "depth_pro"}, Sense.METRIC_M),
        ({"model_type": "dpt"}, Sense.RELATIVE_INVERSE),
        ({"model_type": "depth_anything"}, Sense.RELATIVE_INVERSE),
        ({"model_type": "depth_anything", "depth_estimation_type": "metric"}, Sense.METRIC_M),
    ],
)
def test_config_tells_the_sense(tmp_path: Path, config: Any, sense: Sense) -> None:
    write_json(tmp_path / "config.json", config)
    assert resolve(write_depth_model(tmp_path / "m.onnx")).sense is sense


def test_metres_need_a_metric_model(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", inverse=False)
    spec = resolve(path, sense="metric_m", metres_per_unit=0.5)
    assert (spec.metres_per_unit, spec.origins["metres_per_unit"]) == (0.5, "user")
    with pytest.raises(UsageError, match="gives relative_inverse, not metres"):
        resolve(path, metres_per_unit=0.5)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="is not a positive number of metres"):
            resolve(path, sense="metric_m", metres_per_unit=wrong)


def test_the_model_in_the_package_is_called_by_its_name() -> None:
    with pytest.raises(ModelError, match=r"^built-in: has no input 'foo'; its inputs are pixel_values$"):
        resolve("built-in", input_name="foo")
    with pytest.raises(ModelError, match=r"^built-in: has no output 'foo'; its outputs are"):
        resolve("built-in", output_name="foo")


def test_wrong_words(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="sense 'near': choose one of relative_inverse, relative_depth, metric_m"):
        resolve(path, sense="near")
    with pytest.raises(
        UsageError, match="dtype 'fp8': choose one of auto, fp32, fp16, int8, uint8, q8, q4, q4f16, bnb4"
    ):
        resolve(path, dtype="fp8")
    with pytest.raises(UsageError, match="is not on the Hub"):
        resolve(path, revision="main")


def test_a_file_has_the_dtype_it_has(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "model.onnx")
    other = write_depth_model(tmp_path / "model_quantized.onnx")
    assert resolve(other).dtype == "q8"
    assert resolve(other, dtype="q8").origins["dtype"] == "user"
    with pytest.raises(UsageError, match=r"dtype 'q8': .*model.onnx is fp32; give .*model_quantized.onnx"):
        resolve(path, dtype="q8")
    with pytest.raises(UsageError, match=r"leave the dtype out or say fp32"):
        resolve(path, dtype="q4")


def test_a_folder_in_the_layout_of_transformers_js(tmp_path: Path) -> None:
    for suffix in ("", "_fp16", "_quantized"):
        write_depth_model(tmp_path / "onnx" / f"model{suffix}.onnx")
    write_json(tmp_path / "config.json", {"model_type": "depth_anything"})
    write_json(tmp_path / "preprocessor_config.json", DA_PREPROCESSOR)
    spec = resolve(tmp_path)
    assert (spec.dtype, spec.path, spec.source) == ("fp32", tmp_path / "onnx" / "model.onnx", "file")
    assert spec.origins["preprocessing"] == "config"
    assert resolve(tmp_path, dtype="q8").path.name == "model_quantized.onnx"
    assert resolve(tmp_path, provider="cuda").dtype == "fp16"
    with pytest.raises(ModelNotFoundError, match="has no q4 file; it has fp32, fp16, q8: choose one of these or auto"):
        resolve(tmp_path, dtype="q4")


@pytest.mark.parametrize(
    ("js", "provider", "expected"),
    [
        ({"dtype": "q8"}, "cpu", ("q8", "config")),
        ({"dtype": {"model": "fp16"}}, "cpu", ("fp16", "config")),
        ({"dtype": "bnb4"}, "cpu", ("fp32", "default")),
        ({"dtype": "q8", "device_config": {"cuda": {"dtype": "fp32"}}}, "cuda", ("fp32", "config")),
        ({"device_config": {"wasm": {"dtype": "q8"}}}, "cpu", ("q8", "config")),
        ({}, "openvino", ("fp32", "default")),
    ],
)
def test_the_authors_dtype(tmp_path: Path, js: Any, provider: str, expected: tuple[str, str]) -> None:
    for suffix in ("", "_fp16", "_quantized"):
        write_depth_model(tmp_path / "onnx" / f"model{suffix}.onnx")
    write_json(tmp_path / "config.json", {"transformers.js_config": js})
    spec = resolve(tmp_path, provider=provider)
    assert (spec.dtype, spec.origins["dtype"]) == expected


def test_free_dimensions_are_fixed_by_the_author(tmp_path: Path) -> None:
    write_depth_model(tmp_path / "onnx" / "model.onnx")
    overrides = {"batch": 1, "height": 28, "width": 42}
    write_json(tmp_path / "config.json", {"transformers.js_config": {"free_dimension_overrides": overrides}})
    spec = resolve(tmp_path)
    assert spec.image_input.shape == (1, 3, 28, 42)
    assert (spec.fixed_batch, spec.image_input.shape[-2:]) == (1, (28, 42))


@pytest.mark.parametrize(
    ("js", "said"),
    [
        ([], "transformers.js_config is not an object"),
        ({"dtype": 5}, "dtype is a string or a map"),
        ({"model_file_name": 5}, "model_file_name and subfolder are strings"),
        ({"free_dimension_overrides": {"a": "b"}}, "free_dimension_overrides maps names"),
    ],
)
def test_a_broken_js_config(tmp_path: Path, js: Any, said: str) -> None:
    write_depth_model(tmp_path / "onnx" / "model.onnx")
    write_json(tmp_path / "config.json", {"transformers.js_config": js})
    with pytest.raises(ModelError, match=said):
        resolve(tmp_path)


def test_folders_with_one_model_or_many(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="has no ONNX files"):
        resolve(tmp_path)
    write_depth_model(tmp_path / "weights" / "midas_fp16.onnx")
    assert resolve(tmp_path).dtype == "fp16"
    write_depth_model(tmp_path / "weights" / "decoder.onnx")
    with pytest.raises(ModelError, match=r"several models \(weights/decoder.onnx, weights/midas_fp16.onnx\); name one"):
        resolve(tmp_path)
    named = {"transformers.js_config": {"model_file_name": "midas", "subfolder": "weights"}}
    write_json(tmp_path / "config.json", named)
    assert resolve(tmp_path).path.name == "midas_fp16.onnx"


def test_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert target_of("Built-In").kind == "built-in"
    assert target_of("org/name").kind == "hub"
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert target_of("org/name").kind == "hub"  # a folder without a model is no model
    write_depth_model(tmp_path / "org" / "name" / "onnx" / "model.onnx")
    local = target_of("org/name")
    assert (local.kind, local.path) == ("folder", Path("org/name"))
    assert "hf://org/name" in local.note
    assert resolve("org/name").notes[0] == local.note
    assert target_of("./org/name").note == ""
    assert target_of(Path("org/name")).kind == "folder"
    assert target_of("hf://org/name").kind == "hub"
    assert target_of("hf://org/name/onnx/a.onnx").file == "onnx/a.onnx"
    page = target_of("https://huggingface.co/org/name/blob/main/onnx/a.onnx")
    assert (page.repository, page.file) == ("org/name", "onnx/a.onnx")


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("", UsageError, "model: empty; give built-in"),
        ("nothing-like-it", ModelNotFoundError, "no such file or folder; give built-in, an existing path, or a Hub"),
        ("depth-anything-v2-smal", ModelNotFoundError, "did you mean 'onnx-community/depth-anything-v2-small'?"),
        ("Depth-Anything-V2-small", ModelNotFoundError, "did you mean 'onnx-community/depth-anything-v2-small'?"),
        ("org/name@main", ModelNotFoundError, "give the revision of org/name with --revision"),
        ("x" * 5000, ModelError, r"x{200}\.\.\.: "),
        ("here/model.onnx", ModelNotFoundError, "here/model.onnx: no such file or folder"),
        ("/no/such/folder", ModelNotFoundError, "no such file or folder"),
        ("ftp://host/x.onnx", UsageError, "not a Hub address"),
        ("https://example.com/org/name", UsageError, "not a Hub address; download the file"),
        ("hf://org", UsageError, "give hf://org/name"),
        ("hf://org/name/readme.md", UsageError, "give hf://org/name"),
        ("https://user:secret@example.com/x", UsageError, r"https://\*\*\*@example.com/x: not a Hub address"),
    ],
)
def test_names_that_are_none(name: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        resolve(name)
    assert "secret" not in str(caught.value)


def test_a_spec_is_frozen_and_travels(tmp_path: Path) -> None:
    spec = resolve(write_depth_model(tmp_path / "m.onnx"))
    with pytest.raises(TypeError):
        spec.origins["sense"] = "user"  # type: ignore[index]
    assert copy.deepcopy(spec) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert isinstance(spec, ModelSpec)
    said = json.loads(json.dumps(spec.to_dict()))
    assert said["preprocessing"]["family"] == "dpt"
    assert said["image_input"]["shape"] == ["batch", 3, "height", "width"]


def test_a_third_party_model() -> None:
    path = need.shared("models/fastdepth/fastdepth.onnx")
    spec = resolve(path, sense="metric_m", preprocessing={"do_normalize": False, "resample": "bilinear"})
    assert (spec.image_input.shape[-2:], spec.fixed_batch, spec.image_input.name) == ((224, 224), 1, "0")
    assert spec.depth_output.shape == (1, 1, 224, 224)
    assert spec.other_inputs == ()


# Evidence beside the graph --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "segformer", "architectures": ["SegformerForSemanticSegmentation"]},
        {"model_type": "birefnet", "architectures": ["BiRefNetForImageSegmentation"]},
        {"model_type": "clip", "architectures": ["CLIPModel"]},
        {"model_type": "SegformerForSemanticSegmentation", "architectures": ["BriaRMBG"]},
        {"architectures": ["BiRefNet"]},
        {"model_type": "u2net"},
    ],
)
def test_a_configuration_of_another_task_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "onnx" / "model.onnx")
    write_json(tmp_path / "config.json", config)
    with pytest.raises(ModelError, match="is not a depth model; choose a depth model, or give --sense"):
        resolve(path)
    assert resolve(path, sense="relative_depth").sense is Sense.RELATIVE_DEPTH


@pytest.mark.parametrize(("imgsz", "size"), [("[96, 128]", (128, 96)), ("64", (64, 64)), ("[]", (640, 640))])
def test_the_size_in_metadata(imgsz: str, size: tuple[int, int], tmp_path: Path) -> None:
    rules = resolve(write_depth_model(tmp_path / "m.onnx", metadata={"task": "depth", "imgsz": imgsz})).preprocessing
    assert (rules.width_px, rules.height_px) == size
    with pytest.raises(ModelError, match=r"its metadata has imgsz \[0, 9999999\]; export it again"):
        resolve(write_depth_model(tmp_path / "m.onnx", metadata={"task": "depth", "imgsz": "[0, 9999999]"}))


def test_metadata_of_another_task_is_refused(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", metadata={"task": "segment"})
    with pytest.raises(ModelError, match="its metadata says task segment, not depth"):
        resolve(path)


def test_an_assumed_multiple_does_not_restrict_the_size(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    rules = resolve(path, size="384x256").preprocessing
    assert (rules.width_px, rules.height_px, rules.multiple_of) == (384, 256, 1)
    write_json(tmp_path / "preprocessor_config.json", DA_PREPROCESSOR)
    with pytest.raises(UsageError, match="takes multiples of 14, the nearest is 378x252"):
        resolve(path, size="384x256")


@pytest.mark.parametrize(
    ("multiple", "size"), [(14.0, (518, 518)), (32, (512, 512)), (0.5, (518, 518)), (24.5, (514, 514))]
)
def test_a_fractional_multiple(multiple: float, size: tuple[int, int], tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    config = DA_PREPROCESSOR | {"ensure_multiple_of": multiple, "keep_aspect_ratio": False}
    write_json(tmp_path / "preprocessor_config.json", config)
    assert plan(resolve(path), 640, 480).net_size == size


@pytest.mark.parametrize(
    ("metadata", "note"),
    [
        ({"license": "CC-BY-NC-4.0"}, "licence CC-BY-NC-4.0 forbids commercial use"),
        ({"license": "AGPL-3.0 (see x.y)"}, "licence AGPL-3.0 is copyleft: it extends to software that uses the model"),
        ({"license": "MIT"}, None),
    ],
)
def test_what_a_licence_restricts_is_noted(metadata: dict[str, str], note: str | None, tmp_path: Path) -> None:
    spec = resolve(write_depth_model(tmp_path / "m.onnx", metadata=metadata))
    found = [one.partition(": ")[2] for one in spec.notes if ": licence " in one]
    assert found == ([] if note is None else [note])


def test_blue_green_red_is_the_image_with_swapped_channels(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    rows = []
    for exact in (True, False):
        for bgr in (True, False):
            rules = {"bgr": bgr, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "multiple_of": 1}
            engine = Engine(resolve(path, preprocessing=rules, size="96x64"), provider="cpu", exact=exact)
            slot = engine.acquire((96, 64))
            slot.write(0, image_of(rgb))
            rows.append(slot.input_chw(0).copy())
            engine.close()
    np.testing.assert_array_equal(rows[0], rows[1][::-1])
    np.testing.assert_array_equal(rows[2], rows[3][::-1])

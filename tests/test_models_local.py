"""Models by path and folder, and the one in the package: what the spec says and where it says it is from."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamdepth.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.frame import Sense
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Family, ModelSpec, Preprocessing
from streamdepth.models.target import target_of
from tests.support.hub import DA_PREPROCESSOR
from tests.support.models import write_depth_model


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_the_model_in_the_package() -> None:
    spec = resolve("built-in")
    assert (spec.name, spec.source, spec.dtype) == ("built-in", "built-in", "fp32")
    assert spec.sense is Sense.RELATIVE_INVERSE
    assert spec.licence
    assert spec.revision
    assert spec.path.is_file()
    assert spec.fixed_size_px is None
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
    assert [part in " ".join(spec.notes) for part in ("Depth Anything's rules", "near = large is assumed")] == [
        True
    ] * 2
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
    with pytest.raises(UsageError, match="built-in gives relative_inverse, not metres; choose a metric model"):
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


@pytest.mark.parametrize("place", [".", "onnx"])
def test_the_preprocessor_file_is_honoured(tmp_path: Path, place: str) -> None:
    path = write_depth_model(tmp_path / place / "model.onnx")
    write_json(tmp_path / "preprocessor_config.json", {**DA_PREPROCESSOR, "resample": 2, "do_pad": False})
    spec = resolve(path)
    assert spec.preprocessing == Preprocessing(resample="bilinear")
    assert spec.origins["preprocessing"] == "config"


def test_other_programs_config_above_is_left_alone(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "anything" / "m.onnx")
    write_json(tmp_path / "config.json", "{ not json")
    assert resolve(path).origins["sense"] == "default"
    write_json(tmp_path / "config.json", {"theme": "dark"})
    assert resolve(path).origins["sense"] == "default"
    write_json(tmp_path / "config.json", {"model_type": "glpn"})
    assert resolve(path).origins["sense"] == "config"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"image_processor_type": "DPTImageProcessor"},
            Preprocessing(
                width_px=384, height_px=384, keep_aspect=False, multiple_of=1, mean=(0.5,) * 3, std=(0.5,) * 3
            ),
        ),
        (
            {"feature_extractor_type": "DPTFeatureExtractor", "size": 384, "resample": 2},
            Preprocessing(
                width_px=384,
                height_px=384,
                keep_aspect=False,
                multiple_of=1,
                resample="bilinear",
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
            ),
        ),
        (
            {"image_processor_type": "GLPNImageProcessor", "size_divisor": 32, "resample": 2},
            Preprocessing(
                family=Family.GLPN,
                multiple_of=32,
                resample="bilinear",
                do_normalize=False,
                mean=(0, 0, 0),
                std=(1, 1, 1),
            ),
        ),
        (
            {
                "image_processor_type": "DPTImageProcessor",
                "do_resize": False,
                "do_rescale": False,
                "do_pad": True,
                "size_divisor": 14,
                "image_mean": [123.675, 116.28, 103.53],
                "image_std": [58.395, 57.12, 57.375],
            },
            Preprocessing(
                width_px=384,
                height_px=384,
                do_resize=False,
                do_rescale=False,
                do_pad=True,
                keep_aspect=False,
                multiple_of=14,
                mean=(123.675, 116.28, 103.53),
                std=(58.395, 57.12, 57.375),
            ),
        ),
        (
            {"image_processor_type": "ZoeDepthImageProcessorFast", "size": {"height": 384, "width": 512}},
            Preprocessing(
                family=Family.ZOEDEPTH,
                width_px=512,
                height_px=384,
                do_pad=True,
                multiple_of=32,
                resample="bilinear",
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
            ),
        ),
        (
            {"image_processor_type": "DepthProImageProcessor", "size": {"height": 768, "width": 768}},
            Preprocessing(
                family=Family.DEPTH_PRO,
                width_px=768,
                height_px=768,
                keep_aspect=False,
                multiple_of=1,
                resample="bilinear",
                mean=(0.5,) * 3,
                std=(0.5,) * 3,
            ),
        ),
    ],
)
def test_each_processor_and_its_defaults(tmp_path: Path, config: Any, expected: Preprocessing) -> None:
    write_json(tmp_path / "preprocessor_config.json", config)
    assert resolve(write_depth_model(tmp_path / "m.onnx")).preprocessing == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "config.json: not valid JSON"),
        ("config.json", "[1]", "config.json: holds no JSON object"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "std is three positive numbers"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, "image_mean has three numbers"),
        ("preprocessor_config.json", {"size": "big"}, "size is a number or"),
        ("preprocessor_config.json", {"size": 0}, "at least 1x1 pixels"),
        ("preprocessor_config.json", {"resample": 5}, "resample 5 is none of 0"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, "could not convert"),
        ("preprocessor_config.json", {"image_processor_type": "CLIPImageProcessor"}, "CLIPImageProcessor is not an"),
    ],
)
def test_broken_configuration_is_named(tmp_path: Path, name: str, content: Any, said: str) -> None:
    write_json(tmp_path / name, content)
    with pytest.raises(ModelError, match=said) as caught:
        resolve(write_depth_model(tmp_path / "m.onnx"))
    assert name in str(caught.value)


def test_a_fixed_graph_and_sizes(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", height=192, width=256)
    spec = resolve(path)
    assert (spec.preprocessing.width_px, spec.preprocessing.height_px) == (256, 192)
    assert not spec.preprocessing.keep_aspect
    assert spec.origins["size"] == "graph"
    with pytest.raises(UsageError, match="takes only 256x192"):
        resolve(path, size="320x240")
    free = write_depth_model(tmp_path / "free.onnx")
    spec = resolve(free, size="280x140")
    assert (spec.preprocessing.width_px, spec.preprocessing.height_px) == (280, 140)
    assert spec.origins["size"] == "user"


def test_bytes_need_no_scaling(tmp_path: Path) -> None:
    spec = resolve(write_depth_model(tmp_path / "m.onnx", input_dtype="uint8"))
    assert (spec.preprocessing.do_rescale, spec.preprocessing.do_normalize) == (False, False)


def test_preprocessing_of_the_user(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    spec = resolve(path, preprocessing={"do_normalize": False, "mean": [0, 0, 0]})
    assert spec.preprocessing == Preprocessing(do_normalize=False, mean=(0, 0, 0))
    assert spec.origins["preprocessing"] == "user"
    assert resolve(path, preprocessing=Preprocessing(width_px=28)).preprocessing.width_px == 28


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sharpen": 1}, "there is no sharpen; choose from family"),
        ({"keep_aspect": "false"}, "keep_aspect is true or false, not 'false'"),
        ({"width_px": 1.5}, "width_px is a whole number"),
        ({"mean": 0.5}, "mean is three numbers"),
        ({"mean": [0.5, 0.5]}, "mean is three finite numbers"),
        ({"family": "clip"}, "'clip' is not a valid Family"),
        ({"resample": "cubic"}, "resample is one of nearest, bilinear, bicubic, lanczos"),
        ({"multiple_of": 0}, "multiple_of is at least 1"),
    ],
)
def test_preprocessing_of_the_user_is_checked(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(write_depth_model(tmp_path / "m.onnx"), preprocessing=values)


def test_a_change_of_what_is_known_is_told(tmp_path: Path) -> None:
    changed = resolve("built-in", preprocessing={"do_normalize": True, "mean": [0.5] * 3})
    assert changed.notes == ("built-in: how pictures become input is known, and changed by you: do_normalize, mean",)
    assert resolve("built-in", preprocessing={"do_normalize": False}).notes == ()
    bare = resolve(write_depth_model(tmp_path / "m.onnx"), preprocessing={"do_normalize": False})
    assert not any("changed by you" in note for note in bare.notes)


def test_metres_need_a_metric_model(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", inverse=False)
    spec = resolve(path, sense="metric_m", metres_per_unit=0.5)
    assert (spec.metres_per_unit, spec.origins["metres_per_unit"]) == (0.5, "user")
    with pytest.raises(UsageError, match="gives relative_inverse, not metres"):
        resolve(path, metres_per_unit=0.5)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="a positive number of metres"):
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
    assert (spec.fixed_batch, spec.fixed_size_px) == (1, (42, 28))


@pytest.mark.parametrize(
    ("js", "said"),
    [
        ([], "transformers.js_config is no object"),
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
        ("nothing-like-it", ModelNotFoundError, "no such file or folder; give built-in, a path that exists, or a Hub"),
        ("depth-anything-v2-smal", ModelNotFoundError, "did you mean onnx-community/depth-anything-v2-small?"),
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
    path = Path(__file__).parents[2] / "shared" / "models" / "fastdepth" / "fastdepth.onnx"
    if not path.is_file():
        pytest.skip("the shared third-party model is not here")
    spec = resolve(path, sense="metric_m", preprocessing={"do_normalize": False, "resample": "bilinear"})
    assert (spec.fixed_size_px, spec.fixed_batch, spec.image_input.name) == ((224, 224), 1, "0")
    assert spec.depth_output.shape == (1, 1, 224, 224)
    assert spec.other_inputs == ()

"""How images become a model's input: what its own files, its graph and the user say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.core.errors import ModelError, UsageError
from streamdepth.core.frame import Sense
from streamdepth.models.resolve import resolve
from streamdepth.models.spec import Family, Preprocessing
from tests.support.families import (
    lite_mono,
    nameless,
    plain,
    two_outputs,
)
from tests.support.hub import DA_PREPROCESSOR
from tests.support.models import write_depth_model, write_json

if TYPE_CHECKING:
    from pathlib import Path

INVERSE, FAR, METRES = Sense.RELATIVE_INVERSE, Sense.RELATIVE_DEPTH, Sense.METRIC_M


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
        ("config.json", "[1]", "config.json: not a JSON object"),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}, "std is three positive numbers"),
        ("preprocessor_config.json", {"image_mean": [1, 2]}, "image_mean has three numbers"),
        ("preprocessor_config.json", {"size": "big"}, "size is a number or"),
        ("preprocessor_config.json", {"size": 0}, "at least 1x1 pixels"),
        ("preprocessor_config.json", {"resample": 5}, "resample 5: choose one of 0"),
        ("preprocessor_config.json", {"rescale_factor": "x"}, "could not convert"),
        (
            "preprocessor_config.json",
            {"image_processor_type": "CLIPImageProcessor"},
            "unknown image processor CLIPImageProcessor",
        ),
    ],
)
def test_broken_configuration_is_named(tmp_path: Path, name: str, content: Any, said: str) -> None:
    write_json(tmp_path / name, content)
    with pytest.raises(ModelError, match=said) as caught:
        resolve(write_depth_model(tmp_path / "m.onnx"))
    assert name in str(caught.value)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('\ufeff{"size": 224}', encoding="utf-8")
    assert resolve(write_depth_model(tmp_path / "m.onnx")).preprocessing.width_px == 224


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
        ({"multiple_of": 0}, "multiple_of is a positive number"),
    ],
)
def test_preprocessing_of_the_user_is_checked(tmp_path: Path, values: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve(write_depth_model(tmp_path / "m.onnx"), preprocessing=values)


def test_a_change_of_what_is_known_is_told(tmp_path: Path) -> None:
    write_json(tmp_path / "known" / "preprocessor_config.json", DA_PREPROCESSOR)
    known = write_depth_model(tmp_path / "known" / "m.onnx")
    notes = resolve(known, sense="relative_inverse", preprocessing={"do_rescale": False, "mean": [0.5] * 3}).notes
    assert notes == (f"{known}: known preprocessing changed by the user: do_rescale, mean",)
    with pytest.raises(UsageError, match="built-in: its preprocessing is fixed"):
        resolve("built-in", preprocessing={"do_normalize": False})
    bare = resolve(write_depth_model(tmp_path / "m.onnx"), preprocessing={"do_normalize": False})
    assert not any("changed by you" in note for note in bare.notes)


def test_a_nameless_output_is_noted_or_confirmed(tmp_path: Path) -> None:
    noted = resolve(nameless(tmp_path / "model.onnx", "Relu"))
    assert any(
        note.endswith("output output is assumed to be depth; nothing in its name says so") for note in noted.notes
    )
    for sure in (
        resolve(nameless(tmp_path / "a.onnx", "Sigmoid"), output_name="output"),
        resolve(nameless(tmp_path / "a.onnx", "Sigmoid"), sense="relative_depth"),
        resolve(nameless(tmp_path / "monodepth2.onnx", "Sigmoid")),
    ):
        assert not any("is assumed to be depth" in note for note in sure.notes)


@pytest.mark.parametrize(
    ("name", "sense"),
    [
        *((f"{word}.onnx", INVERSE) for word in ("panda3d", "homogeneous", "geometric_net", "depth_projection")),
        *((f"{word}.onnx", FAR) for word in ("da3-small", "my_moge")),
        *((f"{word}.onnx", METRES) for word in ("net_metric", "depth_pro", "DepthPro_fp16", "moge2")),
    ],
)
def test_names_are_read_by_whole_words(name: str, sense: Sense, tmp_path: Path) -> None:
    spec = resolve(plain(tmp_path / name))
    assert (spec.sense, spec.origins["sense"] == "default") == (sense, sense is INVERSE)


def test_the_licence_of_equal_graphs_is_that_of_the_name(tmp_path: Path) -> None:
    found = {name: resolve(lite_mono(tmp_path / f"{name}.onnx")) for name in ("net", "lite-mono", "monodepth2_640x192")}
    assert [one.licence for one in found.values()] == ["", "MIT", "Monodepth2 (non-commercial)"]
    assert "forbids commercial use" in found["monodepth2_640x192"].notes[-1]


@pytest.mark.parametrize("name", ["display.onnx", "depthwise.onnx"])
def test_a_name_that_only_looks_like_depth_is_no_evidence(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="may not be depth: it ends in Sigmoid"):
        resolve(nameless(tmp_path / name, "Sigmoid"))


def test_what_other_outputs_say_of_the_depth(tmp_path: Path) -> None:
    beside = resolve(two_outputs(tmp_path / "a.onnx", "depth", "inv_depth"))
    assert (beside.depth_output.name, beside.sense) == ("depth", FAR)
    metric = resolve(two_outputs(tmp_path / "b.onnx", "metric_depth", "rel_depth"))
    assert (metric.depth_output.name, metric.sense) == ("metric_depth", METRES)
    far = resolve(two_outputs(tmp_path / "c.onnx", "distance", "kappa"))
    assert (far.depth_output.name, far.sense, far.origins["sense"]) == ("distance", FAR, "name")

"""Reading names, shapes and weight files off real ONNX graphs, without their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from streamdepth.core.errors import ModelError
from streamdepth.models.graph import (
    GraphInfo,
    RawTensor,
    check_external,
    read_graph,
    slim_model,
)
from streamdepth.models.signature import depth_output, image_input, other_inputs
from streamdepth.models.spec import TensorSpec
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write_graph(path: Path, inputs: Sequence[Any], outputs: Sequence[Any]) -> Path:
    """A graph with these ends and nothing sensible between them."""
    nodes = [helper.make_node("Foo", [i[0] for i in inputs], [o[0] for o in outputs])]
    takes, gives = ([helper.make_tensor_value_info(*end) for end in side] for side in (inputs, outputs))
    model = helper.make_model(helper.make_graph(nodes, "g", takes, gives), opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())
    return path


MEANS, STDS = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
F32, F16, I64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
DEPTH = [("depth", F32, ["b", "h", "w"])]


@pytest.mark.parametrize(
    ("layout", "expected", "shape"),
    [
        ("nchw", "chw", ("batch", 3, 28, 42)),
        ("nhwc", "hwc", ("batch", 28, 42, 3)),
        ("chw", "chw", (3, 28, 42)),
        ("hwc", "hwc", (28, 42, 3)),
        ("rank5", "nchw", ("batch", 1, 3, 28, 42)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_image_input_of_every_rank_layout_and_dtype(
    tmp_path: Path, layout: Any, expected: str, shape: tuple[Any, ...], dtype: Any
) -> None:
    path = write_depth_model(tmp_path / "m.onnx", layout=layout, height=28, width=42, input_dtype=dtype)
    graph = read_graph(path)
    assert image_input(path, graph) == (TensorSpec("pixel_values", dtype, shape), expected)


@pytest.mark.parametrize("initializers_as_inputs", [False, True])
def test_weights_listed_as_inputs_are_not_inputs(tmp_path: Path, initializers_as_inputs: bool) -> None:
    path = write_depth_model(tmp_path / "m.onnx", initializers_as_inputs=initializers_as_inputs)
    assert [t.name for t in read_graph(path).inputs] == ["pixel_values"]


def test_undeclared_channels_are_the_first_axis(tmp_path: Path) -> None:
    dims = ["batch_size", "num_channels", "height", "width"]
    path = write_graph(tmp_path / "m.onnx", [("pixel_values", F32, dims)], DEPTH)
    assert image_input(path, read_graph(path))[1] == "chw"
    path = write_graph(tmp_path / "m.onnx", [("pixel_values", F32, ["n", "h", "w", "c"])], DEPTH)
    assert image_input(path, read_graph(path))[1] == "hwc"


def test_the_image_is_found_among_further_inputs(tmp_path: Path) -> None:
    path = write_depth_model(
        tmp_path / "m.onnx",
        inputs_before={"ids": ("int64", ["n", 8])},
        inputs_after={"intrinsics": ("float32", [1, 3, 3]), "focal": ("float32", [1])},
    )
    graph = read_graph(path)
    image, _ = image_input(path, graph)
    assert image.name == "pixel_values"
    assert [t.name for t in other_inputs(path, graph, image.name)] == ["ids", "intrinsics", "focal"]


def test_two_images_are_a_stereo_model(tmp_path: Path) -> None:
    image = [1, 3, 8, 8]
    path = write_graph(tmp_path / "m.onnx", [("left", F32, image), ("right", F32, image)], DEPTH)
    graph = read_graph(path)
    with pytest.raises(ModelError, match=r"needs 2 images at once \(left, right\), as stereo models do; choose a"):
        image_input(path, graph)
    assert image_input(path, graph, "right")[0].name == "right"
    with pytest.raises(ModelError, match="no input 'centre'; its inputs are left, right"):
        image_input(path, graph, "centre")


@pytest.mark.parametrize(
    ("shape", "elem", "reason"),
    [
        ([1, 1, 8, 8], F32, "1 channels, images have 3"),
        ([1, 6, 8, 8], F32, "6 channels"),
        (["n", "h", "w", 4], F32, "4 channels"),
        ([1, 3, 8, 8], I64, "images are float32, float16, uint8"),
        ([1, 512], F32, "rank 2"),
        ([1, 32, 3, 8, 8], F32, "clips of 32 images"),
    ],
)
def test_no_image_input_says_why(tmp_path: Path, shape: list[Any], elem: int, reason: str) -> None:
    path = write_graph(tmp_path / "m.onnx", [("x", elem, shape)], DEPTH)
    with pytest.raises(ModelError, match=f"has no image input .*{reason}"):
        image_input(path, read_graph(path))
    with pytest.raises(ModelError, match=f"does not take images: .*{reason}"):
        image_input(path, read_graph(path), "x")


@pytest.mark.parametrize(("rank", "shape"), [(2, (28, 42)), (3, (1, 28, 42)), (4, (1, 1, 28, 42))])
def test_depth_output_of_every_rank(tmp_path: Path, rank: int, shape: tuple[int, ...]) -> None:
    path = write_depth_model(tmp_path / "m.onnx", output_rank=rank, batch=1, height=28, width=42)
    assert depth_output(path, read_graph(path)) == TensorSpec("predicted_depth", "float32", shape)


def test_depth_is_told_from_other_outputs(tmp_path: Path) -> None:
    outputs = [("focallength_px", F32, [1]), ("normals", F32, [1, 3, 8, 8]), ("d", F32, [1, 1, 8, 8])]
    path = write_graph(tmp_path / "m.onnx", [("x", F32, [1, 3, 8, 8])], outputs)
    graph = read_graph(path)
    assert depth_output(path, graph).name == "d"
    with pytest.raises(ModelError, match=r"output normals float32 .* 3 channels, depth has 1"):
        depth_output(path, graph, "normals")
    with pytest.raises(ModelError, match="no output 'nope'; its outputs are focallength_px, normals, d"):
        depth_output(path, graph, "nope")


@pytest.mark.parametrize(
    ("form", "layout", "shape"),
    [
        (  # Depth Anything 3
            {"layout": "rank5", "output_rank": 4, "outputs_after": {"extrinsics": [1, 3, 4], "intrinsics": [1, 3, 3]}},
            "nchw",
            ("batch", 1, "out_height", "out_width"),
        ),
        (  # DepthPro
            {"height": 1536, "width": 1536, "outputs_after": {"focallength_px": [1]}},
            "chw",
            ("batch", 1536, 1536),
        ),
        (  # Metric3D
            {"outputs_after": {"predicted_normal": [1, 3, 8, 8], "normal_confidence": [1, 8, 8]}},
            "chw",
            ("batch", "out_height", "out_width"),
        ),
        (  # depth last, behind things that look like it
            {"outputs_before": {"normal_confidence": [1, 8, 8]}},
            "chw",
            ("batch", "out_height", "out_width"),
        ),
    ],
)
def test_forms_of_well_known_models(tmp_path: Path, form: Any, layout: str, shape: tuple[Any, ...]) -> None:
    path = write_depth_model(tmp_path / "m.onnx", **form)
    graph = read_graph(path)
    assert image_input(path, graph)[1] == layout
    assert depth_output(path, graph) == TensorSpec("predicted_depth", "float32", shape)


def test_a_usual_name_beats_the_first_output(tmp_path: Path) -> None:
    outputs = [("confidence", F32, [1, 8, 8]), ("predicted_depth", F16, [1, 8, 8])]
    path = write_graph(tmp_path / "m.onnx", [("x", F32, [1, 3, 8, 8])], outputs)
    assert depth_output(path, read_graph(path)) == TensorSpec("predicted_depth", "float16", (1, 8, 8))
    assert depth_output(path, read_graph(path), "confidence").name == "confidence"


def test_a_classifier_has_no_depth_output(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", [("x", F32, [1, 3, 8, 8])], [("logits", F32, [1, 5, 1, 1000])])
    with pytest.raises(ModelError, match=r"has no depth output .*5 channels"):
        depth_output(path, read_graph(path))


def test_an_output_without_a_shape_may_be_depth(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx", [("x", F32, [1, 3, 8, 8])], [("out", F32, None)])
    assert depth_output(path, read_graph(path)) == TensorSpec("out", "float32", ("", "", ""))


def test_the_slim_model_is_the_model_without_larger_weights(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", metadata={"license": "MIT"})
    full, slim = onnx.load(path), onnx.ModelProto.FromString(slim_model(path))
    large = [tensor for tensor in full.graph.initializer if tensor.ByteSize() > 512]
    assert 0 < len(large) < len(full.graph.initializer)
    for tensor in large:
        for field in ("raw_data", "float_data", "int64_data", "int32_data"):
            tensor.ClearField(field)
    assert slim == full


def test_large_weights_are_not_read(tmp_path: Path) -> None:
    weights = numpy_helper.from_array(np.zeros(2_000_000, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Foo", ["x", "w"], ["depth"])],
        "g",
        [helper.make_tensor_value_info("x", F32, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("depth", F32, [1, 8, 8])],
        [weights],
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert len(slim_model(tmp_path / "m.onnx")) < 1000
    assert [t.name for t in read_graph(tmp_path / "m.onnx").inputs] == ["x"]


def test_external_data_is_found_and_measured(tmp_path: Path) -> None:
    path = write_depth_model(tmp_path / "m.onnx", external_data="m.onnx_data")
    graph = read_graph(path)
    data = tmp_path / "m.onnx_data"
    assert [e.location for e in graph.external] == ["m.onnx_data"]
    assert graph.external[0].needed_bytes == data.stat().st_size
    assert check_external(path, graph) == (data,)
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(ModelError, match=rf"m.onnx_data: truncated, {len(whole) - 1} of at least {len(whole)} bytes"):
        check_external(path, graph)
    data.unlink()
    with pytest.raises(ModelError, match=r"weights are in m.onnx_data, which is missing"):
        check_external(path, graph)


@pytest.mark.parametrize("location", ["../secrets", "/etc/passwd", "a/../../b", "C:/windows", "..\\up", ""])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    path = write_depth_model(tmp_path / "m.onnx", external_data="m.onnx_data")
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its own folder; do not trust this file"):
        read_graph(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n", "git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>404", "a web page"),
        (b"this is not a model\n", "a text file, not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "an image, not an ONNX model"),
        (
            b"PK\x03\x04" + bytes(64),
            "a PyTorch checkpoint or a ZIP archive, not an ONNX model; export the model to ONNX",
        ),
        (b"\x20" + bytes(7) + b'{"w":{}}', "a safetensors file"),
        (b"\x1c\0\0\0TFL3" + bytes(9), "a TensorFlow Lite model"),
        (b'<?xml version="1.0"?>\n<net name="x">', "an OpenVINO model"),
        (b"\x01" + b"\xfe" * 64, "not an ONNX file, or damaged"),
        (b"\x08\x08", "it has no graph"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_any_damage_is_an_error_of_ours_or_none(tmp_path: Path, data: st.DataObject) -> None:
    sound = tmp_path / "sound.onnx"
    if not sound.exists():
        write_depth_model(sound, external_data="sound.onnx_data", inputs_after={"k": ("float32", [1, 3, 3])})
    content = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    said = ""
    try:
        graph = read_graph(path)
        image, _ = image_input(path, graph)
        depth_output(path, graph)
        other_inputs(path, graph, image.name)
        check_external(path, graph)
    except ModelError as exc:
        said = str(exc)
    assert "\n" not in said


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_cut_off_model_is_damaged(tmp_path: Path, kept: float) -> None:
    path = write_depth_model(tmp_path / "m.onnx")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ModelError, match=r"damaged|no graph"):
        read_graph(path)


# Which output is depth ------------------------------------------------------------------------------------------------


def outputs_of(*outputs: tuple[str, list[Any]], size: tuple[int, int] = (64, 96)) -> str:
    """Name of the depth output of a graph with these outputs and an image input of (height, width)."""
    tensors = tuple(RawTensor(name, 1, tuple(shape)) for name, shape in outputs)
    graph = GraphInfo((RawTensor("image", 1, (1, 3, *size)),), tensors, (), {}, half_weights=False)
    return depth_output("m", graph, None, size).name


MAP: list[Any] = [1, 64, 96]


@pytest.mark.parametrize(
    ("outputs", "chosen"),
    [
        ([("confidence", MAP), ("depth_map", MAP)], "depth_map"),
        ([("Confidence", MAP), ("Depth", MAP)], "Depth"),
        ([("model/conf:0", MAP), ("model/depth:0", MAP)], "model/depth:0"),
        ([("depth_conf", MAP), ("depth", [1, 64, 96, 1])], "depth"),
        ([("depth_mask", MAP), ("predictedDepth", MAP)], "predictedDepth"),
        ([("disp_2", [1, 1, 16, 24]), ("disp_1", [1, 1, 32, 48]), ("disp_0", [1, 1, 64, 96])], "disp_0"),
        ([("disp_2", ["b", 1, "h2", "w2"]), ("disp_0", ["b", 1, "h", "w"])], "disp_0"),
        ([("normal", [1, 64, 96, 3]), ("depth_pred", [1, 64, 96, 1])], "depth_pred"),
        ([("sky", MAP), ("1234", MAP)], "1234"),
        ([("coarse_depth", MAP), ("refined_depth", MAP)], "refined_depth"),
        ([("metric_depth", MAP), ("relative_depth", MAP)], "metric_depth"),
        ([("inv_depth", MAP), ("depth", MAP)], "depth"),
        ([("depthconf", MAP), ("preddepth", MAP)], "preddepth"),
        ([("mask", MAP), ("depth_image", MAP)], "depth_image"),
    ],
)
def test_the_depth_output_among_others(outputs: list[tuple[str, list[Any]]], chosen: str) -> None:
    assert outputs_of(*outputs) == chosen


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([("a", MAP), ("b", MAP)], r"2 outputs that could be depth \(a .*, b .*\); choose one with --output-name"),
        ([("a", MAP), ("output", MAP)], "2 outputs that could be depth"),
        ([("left_disp", MAP), ("right_disp", MAP)], r"2 outputs that could be depth \(left_disp .*, right_disp"),
        *[
            ([(name, MAP)], f"its name says {word}, not depth")
            for name, word in [
                *(
                    ("depth_error", "error"),
                    ("log_depth", "log"),
                    ("neg_disparity", "neg"),
                    ("DepthToSpace:0", "space"),
                ),
                *(("model/depthwise_conv", "wise"), ("depthmask", "mask"), ("crowd_density", "crowd")),
                *(("output_image", "image"), ("anomaly_map", "anomaly"), ("sigmoid_0.tmp_0", "sigmoid")),
            ]
        ],
        ([("points", ["b", "h", "w", 3])], "3 channels, depth has 1"),
        ([("output0", [1, 84, 2000])], "2000x84 does not have the aspect ratio of the input's 96x64"),
        ([("output0", [1, 300, 6])], "6x300 does not have the aspect ratio"),
        ([("pred_boxes", [1, 100, 4])], "has no depth output"),
        ([("last_hidden_state", [1, 197, 32])], "has no depth output"),
        ([("depth", [1, 1, 96, 64])], "64x96 does not have the aspect ratio of the input's 96x64"),
        ([("alpha", [1, 1, 64, 96])], "its name says alpha, not depth"),
        ([("confidence", MAP)], "its name says confidence, not depth"),
        ([("saliency", MAP)], "its name says saliency, not depth"),
        ([("logits", [1, 21, 64, 96])], "21 channels, depth has 1"),
        ([("xyz", ["b", "h", "w", 3])], "has no depth output"),
    ],
)
def test_an_output_that_is_not_depth(outputs: list[tuple[str, list[Any]]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        outputs_of(*outputs)


@pytest.mark.parametrize(
    ("nodes", "scale"),
    [
        ([("Sub", MEANS), ("Div", STDS)], 1),
        ([("Sub", [m * 255 for m in MEANS]), ("Div", [s * 255 for s in STDS])], 255),
        ([("Div", [255.0]), ("Sub", MEANS), ("Div", STDS)], 255),
        ([("Mul", [1 / 255])], 255),
        ([("Mul", [2.0]), ("Sub", [1.0])], 1),
        ([("Mul", [1e-3])], 0),
        ([], 0),
    ],
)
def test_what_the_graph_does_with_an_image(nodes: list[tuple[str, list[float]]], scale: int, tmp_path: Path) -> None:
    made, constants, last = [], [], "x"
    for number, (op, values) in enumerate(nodes):
        array = np.array(values, np.float32).reshape(1, -1, 1, 1)
        constants.append(numpy_helper.from_array(array, f"k{number}"))
        made.append(helper.make_node(op, [last, f"k{number}"], [f"y{number}"]))
        last = f"y{number}"
    made.append(helper.make_node("ReduceMean", [last], ["depth"], axes=[1], keepdims=0))
    image = helper.make_tensor_value_info("x", F32, [1, 3, 8, 8])
    depth = helper.make_tensor_value_info("depth", F32, [1, 8, 8])
    onnx.save(helper.make_model(helper.make_graph(made, "g", [image], [depth], constants)), tmp_path / "m.onnx")
    assert read_graph(tmp_path / "m.onnx").input_scale.get("x", 0) == scale

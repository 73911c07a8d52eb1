"""Graphs with the names, shapes and layout of the families of depth models, and random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Array = Any

F, F16, F64, BF16, I64, U8 = (
    getattr(TensorProto, name) for name in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16", "INT64", "UINT8")
)
AX1, AX4 = ("ax1", np.array([1], np.int64)), ("ax4", np.array([4], np.int64))
Shape = list["int | str"]


def node(op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, outputs, **attributes)


def conv(source: str, target: str, seed: int = 0) -> tuple[Any, tuple[str, Array]]:
    """A 1x1 convolution of three channels to one with random weights, and the weights."""
    weights = np.random.default_rng(seed).uniform(0.2, 0.6, (1, 3, 1, 1)).astype(np.float32)
    return node("Conv", [source, f"w{seed}"], target, kernel_shape=[1, 1]), (f"w{seed}", weights)


def write(
    path: Path,
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Shape]],
    outputs: Sequence[tuple[str, int, Shape]],
    constants: Sequence[tuple[str, Any]] = (),
    metadata: dict[str, str] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "family",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    for key, value in (metadata or {}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def plain(path: Path, image: str = "pixel_values", depth: str = "predicted_depth", **options: Any) -> Path:
    shape: Shape = options.pop("shape", ["b", 3, "h", "w"])
    first, weights = conv(image, "c")
    nodes = [first, node("Exp", ["c"], "e"), node("Squeeze", ["e", "ax1"], depth)]
    return write(path, nodes, [(image, F, shape)], [(depth, F, [shape[0], *shape[2:]])], [weights, AX1], **options)


def da3_metric(path: Path) -> Path:
    first, weights = conv("image", "c")
    nodes = [
        first,
        node("Exp", ["c"], "e"),
        node("Squeeze", ["e", "ax1"], "depth"),
        node("Sub", ["c", "half"], "k"),
        node("Sigmoid", ["k"], "sky"),
    ]
    outputs: list[tuple[str, int, Shape]] = [("depth", F, [1, 280, 504]), ("sky", F, [1, 1, 280, 504])]
    return write(path, nodes, [("image", F, [1, 3, 280, 504])], outputs, [weights, AX1, ("half", np.float32(1.5))])


def da3(path: Path) -> Path:
    nodes = [
        node("ReduceMean", ["pixel_values"], "m", axes=[2], keepdims=0),
        node("Exp", ["m"], "predicted_depth"),
        node("Neg", ["m"], "confidence"),
    ]
    views: Shape = ["batch_size", "num_images", "height", "width"]
    return write(
        path,
        nodes,
        [("pixel_values", F, ["batch_size", "num_images", 3, "height", "width"])],
        [("confidence", F, views), ("predicted_depth", F, views)],
    )


def moge(path: Path) -> Path:
    """Points of a wavy plane seen with a focal length, less a shift; the image is used for the mask and for ripples."""
    nodes = [
        node("ReduceMean", ["image"], "grey", axes=[1], keepdims=1),
        node("Mul", ["grey", "zero"], "ripple"),
        node("Add", ["plane", "ripple"], "raw"),
        node("Transpose", ["raw"], "points", perm=[0, 2, 3, 1]),
        node("Identity", ["points"], "normal"),
        node("Squeeze", ["grey", "ax1"], "mask"),
        node("Cast", ["num_tokens"], "tokens", to=F),
        node("Div", ["tokens", "tokens"], "one"),
        node("Mul", ["one", "two"], "metric_scale"),
    ]
    height, width, focal = 56, 84, 70.0
    v, u = np.mgrid[0:height, 0:width].astype(np.float32)
    z = 3 + np.sin(u / 9) + np.cos(v / 7)
    x, y = (u + 0.5 - width / 2) / focal * z, (v + 0.5 - height / 2) / focal * z
    plane = np.stack([x, y, z - 1.5])[None].astype(np.float32)
    return write(
        path,
        nodes,
        [("image", F, [1, 3, height, width]), ("num_tokens", I64, [])],
        [
            ("points", F, [1, height, width, 3]),
            ("normal", F, [1, height, width, 3]),
            ("mask", F, [1, height, width]),
            ("metric_scale", F, [1]),
        ],
        [("plane", plane), AX1, ("zero", np.float32(0)), ("two", np.array([2], np.float32))],
    )


def unidepth(path: Path) -> Path:
    first, weights = conv("rgbs", "c")
    nodes = [
        node("Exp", ["rgbs"], "pts_3d"),
        first,
        node("Sigmoid", ["c"], "confidence"),
        node("Identity", ["K"], "intrinsics"),
    ]
    camera = np.array([[[90, 0, 49], [0, 90, 35], [0, 0, 1]]], np.float32)
    outputs: list[tuple[str, int, Shape]] = [
        ("pts_3d", F, [1, 3, 70, 98]),
        ("confidence", F, [1, 1, 70, 98]),
        ("intrinsics", F, [1, 3, 3]),
    ]
    return write(path, nodes, [("rgbs", F, [1, 3, 70, 98])], outputs, [weights, ("K", camera)])


def vggt(path: Path) -> Path:
    nodes = [
        node("ReduceMean", ["images"], "m", axes=[2], keepdims=0),
        node("Exp", ["m"], "e"),
        node("Unsqueeze", ["e", "ax4"], "depth"),
        node("Neg", ["m"], "depth_conf"),
    ]
    outputs: list[tuple[str, int, Shape]] = [("depth", F, [1, 1, 56, 70, 1]), ("depth_conf", F, [1, 1, 56, 70])]
    return write(path, nodes, [("images", F, [1, 1, 3, 56, 70])], outputs, [AX4])


def metric3d(path: Path) -> Path:
    first, weights = conv("n", "c")
    nodes = [
        node("Sub", ["pixel_values", "mean"], "s"),
        node("Div", ["s", "std"], "n"),
        first,
        node("Exp", ["c"], "predicted_depth"),
        node("Identity", ["n"], "predicted_normal"),
        node("Sigmoid", ["c"], "normal_confidence"),
    ]
    side = (1, 3, 1, 1)
    constants = [
        weights,
        ("mean", np.array([123.675, 116.28, 103.53], np.float32).reshape(side)),
        ("std", np.array([58.395, 57.12, 57.375], np.float32).reshape(side)),
    ]
    outputs: list[tuple[str, int, Shape]] = [
        ("predicted_depth", F, [1, 1, 56, 98]),
        ("predicted_normal", F, [1, 3, 56, 98]),
        ("normal_confidence", F, [1, 1, 56, 98]),
    ]
    return write(path, nodes, [("pixel_values", F, [1, 3, 56, 98])], outputs, constants)


def depth_pro(path: Path) -> Path:
    first, weights = conv("pixel_values", "c")
    nodes = [
        first,
        node("Exp", ["c"], "e"),
        node("Squeeze", ["e", "ax1"], "predicted_depth"),
        node("Identity", ["f"], "focallength_px"),
    ]
    outputs: list[tuple[str, int, Shape]] = [("predicted_depth", F, [1, 96, 96]), ("focallength_px", F, [1])]
    constants = [weights, AX1, ("f", np.array([120], np.float32))]
    return write(path, nodes, [("pixel_values", F, [1, 3, 96, 96])], outputs, constants)


def yolo(path: Path) -> Path:
    first, weights = conv("images", "c")
    metadata = {"task": "depth", "stride": "32", "imgsz": "[64, 96]", "license": "AGPL-3.0 License (https://a.b)"}
    nodes = [first, node("Exp", ["c"], "output0")]
    shape: Shape = [1, 3, 64, 96]
    return write(path, nodes, [("images", F, shape)], [("output0", F, [1, 1, 64, 96])], [weights], metadata)


def lite_mono(path: Path) -> Path:
    first, weights = conv("input", "c")
    nodes = [first, node("Sigmoid", ["c"], "disp_0")]
    half = {"kernel_shape": [2, 2], "strides": [2, 2]}
    nodes += [node("AveragePool", [f"disp_{n - 1}"], f"disp_{n}", **half) for n in (1, 2)]
    outputs: list[tuple[str, int, Shape]] = [(f"disp_{n}", F, [1, 1, 64 >> n, 128 >> n]) for n in (2, 1, 0)]
    return write(path, nodes, [("input", F, [1, 3, 64, 128])], outputs, [weights])


def nhwc(path: Path) -> Path:
    first, weights = conv("x", "c")
    nodes = [
        node("Transpose", ["input_1"], "x", perm=[0, 3, 1, 2]),
        first,
        node("Transpose", ["c"], "out", perm=[0, 2, 3, 1]),
    ]
    return write(path, nodes, [("input_1", F, ["n", 64, 96, 3])], [("out", F, ["n", 64, 96, 1])], [weights])


def in_graph_resize(path: Path) -> Path:
    first, weights = conv("y2", "c")
    nodes = [
        node("Cast", ["image"], "f", to=F),
        node("Transpose", ["f"], "x", perm=[0, 3, 1, 2]),
        node("Resize", ["x", "", "", "size"], "y", mode="linear", coordinate_transformation_mode="half_pixel"),
        node("Div", ["y", "k"], "y2"),
        first,
        node("Squeeze", ["c", "ax1"], "depth"),
    ]
    constants = [weights, AX1, ("k", np.float32(255)), ("size", np.array([1, 3, 64, 96], np.int64))]
    return write(path, nodes, [("image", U8, ["b", "h", "w", 3])], [("depth", F, ["b", 64, 96])], constants)


def typed(path: Path, kind: int) -> Path:
    first, weights = conv("image", "c")
    nodes = [first, node("Squeeze", ["c", "ax1"], "d"), node("Cast", ["d"], "depth", to=kind)]
    return write(path, nodes, [("image", F, [1, 3, 56, 84])], [("depth", kind, [1, 56, 84])], [weights, AX1])


def pooled(path: Path, step: int) -> Path:
    first, weights = conv("image", "c")
    nodes = [
        first,
        node("AveragePool", ["c"], "p", kernel_shape=[step, step], strides=[step, step]),
        node("Squeeze", ["p", "ax1"], "depth"),
    ]
    shape: Shape = [1, 56 // step, 84 // step]
    return write(path, nodes, [("image", F, [1, 3, 56, 84])], [("depth", F, shape)], [weights, AX1])


def prompt_da(path: Path) -> Path:
    first, weights = conv("image", "c")
    nodes = [first, node("Add", ["c", "prompt_depth"], "depth")]
    inputs = [("image", F, [1, 3, 56, 84]), ("prompt_depth", F, [1, 1, 56, 84])]
    return write(path, nodes, inputs, [("depth", F, [1, 1, 56, 84])], [weights])  # type: ignore[arg-type]


def nameless(path: Path, last: str, **attributes: Any) -> Path:
    """A graph of one output without a depth word in its name, which ends in the operator ``last``."""
    first, weights = conv("image", "c")
    more = ["", "factors"] if last == "Resize" else []
    before = [node("Cast", ["c"], "d", to=TensorProto.BOOL)] if last == "Not" else [node("Identity", ["c"], "d")]
    nodes = [first, *before, node(last, ["d", *more], "e", **attributes), node("Cast", ["e"], "output", to=F)]
    constants = [weights, ("factors", np.array([1, 1, 2, 2], np.float32))]
    return write(path, nodes, [("image", F, ["b", 3, "h", "w"])], [("output", F, ["b", 1, "h2", "w2"])], constants)


def two_outputs(path: Path, *names: str) -> Path:
    first, weights = conv("image", "c")
    nodes = [first, *(node("Identity", ["c"], name) for name in names)]
    outputs: list[tuple[str, int, Shape]] = [(name, F, ["b", 1, "h", "w"]) for name in names]
    return write(path, nodes, [("image", F, ["b", 3, "h", "w"])], outputs, [weights])


def odd_axes(path: Path) -> Path:
    first, weights = conv("x.1", "c")
    nodes = [first, node("Squeeze", ["c", "ax1"], "1234")]
    shape: Shape = ["unk__615", 3, "floor(H/1)", "2*s1 + 0"]
    return write(path, nodes, [("x.1", F, shape)], [("1234", F, ["", "", ""])], [weights, AX1])

"""Tiny real ONNX depth models whose output is known in closed form.

Every model computes, per pixel of its input (row ``y`` of ``H``, channels R, G, B)::

    depth = OFFSET + gain * mean(R, G, B) + slope * (y + 0.5) / H

with slope = +1 where ``inverse`` (the bottom is near, near = large), else -1 (the bottom is near, far = large).
The mean goes through two constant MatMuls, so that every quantisation tool finds weights to work on and changes
nothing that matters.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

OFFSET = 2.0

Dtype = Literal["float32", "float16", "uint8", "int64"]
InputLayout = Literal["nchw", "nhwc", "chw", "hwc", "rank5"]
Fault = Literal["", "nan", "flat"]

_ELEM = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int64": TensorProto.INT64,
}
_HIDDEN = 64


def write_depth_model(
    path: Path,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
    input_dtype: Dtype = "float32",
    layout: InputLayout = "nchw",
    output_rank: int = 3,
    output_channel_last: bool = False,
    output_dtype: Dtype = "float32",
    stride: int = 1,
    inverse: bool = True,
    gain: float = 1.0,
    fault: Fault = "",
    input_name: str = "pixel_values",
    output_name: str = "predicted_depth",
    outputs_before: Mapping[str, Sequence[int]] | None = None,
    outputs_after: Mapping[str, Sequence[int]] | None = None,
    inputs_before: Mapping[str, tuple[Dtype, Sequence[int | str]]] | None = None,
    inputs_after: Mapping[str, tuple[Dtype, Sequence[int | str]]] | None = None,
    initializers_as_inputs: bool = False,
    external_data: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write the model to ``path`` (folders are made) and return ``path``.

    Args:
        height, width, batch: fixed dimensions; None = dynamic.
        layout: of the image input; ``"rank5"`` is [batch, 1, 3, H, W], ``"chw"`` and ``"hwc"`` have no batch axis.
        output_rank: 2 = [H, W] (needs batch 1), 3 = [batch, H, W], 4 = [batch, 1, H, W] (or [batch, H, W, 1] where
            ``output_channel_last``).
        stride: the output takes every ``stride``-th pixel, so that it is smaller than the input.
        fault: ``"nan"`` makes every output NaN, ``"flat"`` constant.
        outputs_before, outputs_after: further float32 outputs (name -> shape, filled with 1) around depth.
        inputs_before, inputs_after: further inputs (name -> dtype, shape) around the image; read by the graph, without
            effect on depth.
        initializers_as_inputs: list the weights as graph inputs too, as exporters of IR version 3 did.
        external_data: name of a file beside the model that holds the weights; empty = inside the model.
    """
    weights = {
        "w_mean": np.full((3, _HIDDEN), gain / 3, np.float32),
        "w_sum": np.full((_HIDDEN, 1), 1 / _HIDDEN, np.float32),
    }
    constants: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
        "slope": np.array(1 if inverse else -1, np.float32),
        "offset": np.array(OFFSET, np.float32),
        "axis_h": np.array(1, np.int64),
        "axes_h": np.array([1], np.int64),
        "axes_channel": np.array([3], np.int64),
        "axes_first": np.array([0], np.int64),
        "axes_second": np.array([1], np.int64),
        "stride_from": np.array([0, 0], np.int64),
        "stride_to": np.array([2**31, 2**31], np.int64),
        "stride_axes": np.array([1, 2], np.int64),
        "stride_steps": np.array([stride, stride], np.int64),
    }
    n = helper.make_node
    nodes: list[onnx.NodeProto] = []
    current = input_name
    if input_dtype != "float32":
        nodes.append(n("Cast", [current], ["as_float"], to=TensorProto.FLOAT))
        current = "as_float"
    if layout == "rank5":
        nodes.append(n("Squeeze", [current, "axes_second"], ["four"]))
        current = "four"
    elif layout in ("chw", "hwc"):
        nodes.append(n("Unsqueeze", [current, "axes_first"], ["four"]))
        current = "four"
    if layout in ("nchw", "rank5", "chw"):
        nodes.append(n("Transpose", [current], ["channels_last"], perm=[0, 2, 3, 1]))
        current = "channels_last"
    nodes += [
        n("MatMul", [current, "w_mean"], ["hidden"], name="matmul_mean"),
        n("MatMul", ["hidden", "w_sum"], ["mean_nhw1"], name="matmul_sum"),
        n("Squeeze", ["mean_nhw1", "axes_channel"], ["mean_nhw"]),
        n("Mul", ["mean_nhw", "zero"], ["zeros"]),
        n("Add", ["zeros", "one"], ["ones"]),
        n("CumSum", ["ones", "axis_h"], ["count"]),
        n("Sub", ["count", "half"], ["row"]),
        n("ReduceSum", ["ones", "axes_h"], ["rows"], keepdims=1),
        n("Div", ["row", "rows"], ["ramp"]),
        n("Mul", ["ramp", "slope"], ["signed_ramp"]),
        n("Add", ["mean_nhw", "signed_ramp"], ["sum_ramp"]),
        n("Add", ["sum_ramp", "offset"], ["full"]),
    ]
    current = "full"
    if fault == "nan":
        nodes.append(n("Div", ["zeros", "zeros"], ["broken"]))
        current = "broken"
    elif fault == "flat":
        nodes.append(n("Identity", ["ones"], ["broken"]))
        current = "broken"
    if stride > 1:
        nodes.append(n("Slice", [current, "stride_from", "stride_to", "stride_axes", "stride_steps"], ["small"]))
        current = "small"
    if output_dtype != "float32":
        nodes.append(n("Cast", [current], ["as_output"], to=_ELEM[output_dtype]))
        current = "as_output"
    if output_rank == 2:
        nodes.append(n("Squeeze", [current, "axes_first"], [output_name]))
    elif output_rank == 4:
        nodes.append(n("Unsqueeze", [current, "axes_channel" if output_channel_last else "axes_second"], [output_name]))
    else:
        nodes.append(n("Identity", [current], [output_name]))

    b, h, w = (d if d is not None else s for d, s in ((batch, "batch"), (height, "height"), (width, "width")))
    in_shape: list[int | str] = {
        "nchw": [b, 3, h, w],
        "nhwc": [b, h, w, 3],
        "chw": [3, h, w],
        "hwc": [h, w, 3],
        "rank5": [b, 1, 3, h, w],
    }[layout]
    out_b: int | str = 1 if layout in ("chw", "hwc") else b
    out_h: int | str = -(-height // stride) if height is not None else "out_height"
    out_w: int | str = -(-width // stride) if width is not None else "out_width"
    out_shape: list[int | str] = [out_h, out_w] if output_rank == 2 else [out_b, out_h, out_w]
    if output_rank == 4:
        out_shape.insert(3 if output_channel_last else 1, 1)

    def value(name: str, dtype: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, _ELEM[dtype], list(shape))

    inputs = [value(k, d, s) for k, (d, s) in (inputs_before or {}).items()]
    inputs.append(value(input_name, input_dtype, in_shape))
    inputs += [value(k, d, s) for k, (d, s) in (inputs_after or {}).items()]
    outputs = [value(k, "float32", s) for k, s in (outputs_before or {}).items()]
    outputs.append(value(output_name, output_dtype, out_shape))
    outputs += [value(k, "float32", s) for k, s in (outputs_after or {}).items()]
    for name, shape in {**(outputs_before or {}), **(outputs_after or {})}.items():
        filled = numpy_helper.from_array(np.ones(tuple(shape), np.float32), f"{name}_value")
        nodes.append(n("Constant", [], [name], value=filled))
    nodes += [n("Identity", [name], [f"{name}_read"]) for name in (*(inputs_before or {}), *(inputs_after or {}))]
    read = {name for node in nodes for name in node.input}
    tensors = {k: v for k, v in {**weights, **constants}.items() if k in read}
    initializers = [numpy_helper.from_array(v, k) for k, v in tensors.items()]
    if initializers_as_inputs:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in initializers]
    graph = helper.make_graph(nodes, "depth", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    if external_data:
        # save_model appends to a data file that is there; small constants stay inside, since shape inference reads them
        (path.parent / external_data).unlink(missing_ok=True)
        onnx.save_model(
            model,
            str(path),
            save_as_external_data=True,
            location=external_data,
            size_threshold=64,
            all_tensors_to_one_file=True,
        )
    else:
        onnx.save_model(model, str(path))
    return path


def expected_depth(
    image_hwc: NDArray[np.float32], *, inverse: bool = True, gain: float = 1.0, stride: int = 1
) -> NDArray[np.float64]:
    """What :func:`write_depth_model`'s model gives for one network input [H, W, 3], as float64 [h, w]."""
    height = image_hwc.shape[0]
    ramp = (np.arange(height, dtype=np.float64)[:, None] + 0.5) / height
    depth = OFFSET + gain * image_hwc.astype(np.float64).mean(axis=2) + (ramp if inverse else -ramp)
    return np.asarray(depth[::stride, ::stride])


def write_json(path: Path, value: Any) -> None:
    """A configuration beside a model; text goes in as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")

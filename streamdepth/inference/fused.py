"""A model with its preprocessing in the graph: 8-bit images in, so that a quarter of the bytes go to the device.

The decoder's scaler still brings images to the network's size: what is uploaded is then smallest (190 kB at 252x252,
6.2 MB for a 1080p image). Conversion, normalisation and layout are nodes in front of the model's own. Graphs are
kept in the cache, by the content of the model they were made of.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.inference.graphs import graphs_folder, keep
from streamdepth.inference.nvidia import model_digest
from streamdepth.models.spec import Family, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec, Preprocessing

_VERSION = 1
"""Raised when the nodes in front change."""
_INPUT = "streamdepth_images"
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""Session configuration entry that says where the weights beside the original model are."""


def obstacle(spec: ModelSpec) -> str:
    """Why this model cannot take 8-bit images, empty where it can."""
    pre = spec.preprocessing
    if spec.image_input.dtype not in ("float32", "float16"):
        return f"{spec.name} takes {spec.image_input.dtype} already"
    if spec.image_layout == "hwc":
        return f"{spec.name} wants its channels last"
    if pre.family is Family.ZOEDEPTH or pre.do_pad:
        return f"{spec.name} pads after normalising"
    return ""


def fused(spec: ModelSpec, folder: Path | None = None) -> ModelSpec:
    """The same model for uint8 [batch, height, width, 3] RGB images of the network's size.

    Args:
        folder: where such graphs are kept; None = the user's cache.
    Raises:
        ModelError: there is an :func:`obstacle`, or the graph cannot be read or written.
    """
    reason = obstacle(spec)
    if reason:
        raise ModelError(f"{reason}: its preprocessing cannot go into the graph; use the graph as it is")
    path = (folder or graphs_folder()) / f"{_digest(spec)}.onnx"
    if not path.is_file():
        _write(spec, path)
    old = spec.image_input
    rows = 1 if len(old.shape) == 3 else old.shape[0]
    shape = (rows, old.shape[-2], old.shape[-1], 3)
    return replace(spec, path=path, image_input=TensorSpec(_INPUT, "uint8", shape), image_layout="hwc")


def weights_folder(spec: ModelSpec) -> str:
    """Where ONNX Runtime has to look for external weights, empty where they lie beside the graph."""
    folders = {path.parent for path in spec.external_data}
    return str(folders.pop()) if folders and spec.path.parent not in folders else ""


def _digest(spec: ModelSpec) -> str:
    pre = spec.preprocessing
    rules = (pre.do_rescale, pre.rescale_factor, pre.do_normalize, pre.mean, pre.std, spec.image_input.name)
    text = f"{_VERSION} {model_digest((spec.path,))} {rules}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _write(spec: ModelSpec, path: Path) -> None:
    import onnx

    try:
        model = onnx.load(str(spec.path), load_external_data=False)
        _prepend(model, spec)
        content = model.SerializeToString()
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{spec.name}: its graph cannot be read ({error}); export it again") from error
    keep(path, content, spec.name)


def _prepend(model: Any, spec: ModelSpec) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    old = next(value for value in graph.input if value.name == spec.image_input.name)
    scale, offset = _scale_and_offset(spec.preprocessing)
    shape = spec.image_input.shape
    rows = 1 if len(shape) == 3 else shape[0]
    # ONNX before IR version 4 lists weights among the inputs; those stay as they are
    images = helper.make_tensor_value_info(
        _INPUT, TensorProto.UINT8, [rows or "batch", shape[-2] or "height", shape[-1] or "width", 3]
    )
    graph.initializer.extend(
        [numpy_helper.from_array(scale, "streamdepth_scale"), numpy_helper.from_array(offset, "streamdepth_offset")]
    )
    last = old.name
    nodes = [
        helper.make_node("Cast", [_INPUT], ["streamdepth_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["streamdepth_float", "streamdepth_scale"], ["streamdepth_scaled"]),
        helper.make_node("Add", ["streamdepth_scaled", "streamdepth_offset"], ["streamdepth_normal"]),
    ]
    half = spec.image_input.dtype == "float16"
    planar = "streamdepth_planar" if half or len(shape) != 4 else last
    nodes.append(helper.make_node("Transpose", ["streamdepth_normal"], [planar], perm=[0, 3, 1, 2]))
    if half:
        typed = "streamdepth_half" if len(shape) != 4 else last
        nodes.append(helper.make_node("Cast", [planar], [typed], to=TensorProto.FLOAT16))
        planar = typed
    if len(shape) != 4:
        # [3, H, W] or [B, 1, 3, H, W]
        operator, axis = ("Squeeze", 0) if len(shape) == 3 else ("Unsqueeze", 1)
        if _opset(model) >= 13:
            graph.initializer.append(numpy_helper.from_array(np.array([axis], dtype=np.int64), "streamdepth_axes"))
            nodes.append(helper.make_node(operator, [planar, "streamdepth_axes"], [last]))
        else:
            nodes.append(helper.make_node(operator, [planar], [last], axes=[axis]))
    position = list(graph.input).index(old)
    del graph.input[position]
    graph.input.insert(position, images)
    own = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *own])


def _opset(model: Any) -> int:
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def _scale_and_offset(pre: Preprocessing) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """value * scale + offset, float32 [3] each; computed in double, so that it rounds once more than the fast path."""
    factor = pre.rescale_factor if pre.do_rescale else 1.0
    mean = np.array(pre.mean if pre.do_normalize else (0.0, 0.0, 0.0))
    std = np.array(pre.std if pre.do_normalize else (1.0, 1.0, 1.0))
    return (factor / std).astype(np.float32), (-mean / std).astype(np.float32)

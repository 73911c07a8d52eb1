"""Graphs derived from a model, stored in the user's cache by the content of the model: fused and half precision.

Fused: rescaling, normalisation and layout become nodes before the model's own, so that 8-bit images of the network's
size are uploaded, a quarter of the bytes (190 kB at 252x252). Half: a float32 model computes in float16, which matrix
units of GPUs are made for, by ONNX Runtime's converter; inputs and outputs stay float32, because the steps of a
half-precision output are visible as bands.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.core.host import CACHE_HINT, cache_root, content_digest, digest, write_whole
from streamdepth.inference.ort import first_line
from streamdepth.models.graph import read_graph
from streamdepth.models.spec import Family, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec, Preprocessing

_FUSED_VERSION = 1
"""Incremented when the added nodes change."""
_INPUT = "streamdepth_images"
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""Session entry for the folder of the original model's external weights."""
_HALF_VERSION = 1
"""Incremented when the conversion changes."""
_MOST_BYTES = 1 << 30
"""Larger models have external weights, and are published in half precision as well."""


def fusing_obstacle(spec: ModelSpec) -> str:
    """Why this model cannot take 8-bit images, empty where it can."""
    pre = spec.preprocessing
    if spec.image_input.dtype not in ("float32", "float16"):
        return f"{spec.name} already takes {spec.image_input.dtype}"
    if spec.image_layout == "hwc":
        return f"{spec.name} takes channels last"
    if spec.window:
        return spec.video_only
    if pre.family is Family.ZOEDEPTH or pre.do_pad:
        return f"{spec.name} pads after normalising"
    return ""


def fused(spec: ModelSpec, folder: Path | None = None) -> ModelSpec:
    """The same model for uint8 [batch, height, width, 3] RGB images of the network's size.

    Args:
        folder: where the graph is stored; None = the user's cache.
    Raises:
        ModelError: there is an :func:`fusing_obstacle`, or the graph cannot be read or written.
    """
    reason = fusing_obstacle(spec)
    if reason:
        raise ModelError(f"{reason}: its preprocessing cannot be added to the graph; use the original graph")
    spec = with_regular_files(spec)
    path = (folder or cache_root() / "graphs") / f"{_fused_digest(spec)}.onnx"
    if not path.is_file():
        _write_fused(spec, path)
    old = spec.image_input
    rows = 1 if len(old.shape) == 3 else old.shape[0]
    shape = (rows, old.shape[-2], old.shape[-1], 3)
    return replace(spec, path=path, image_input=TensorSpec(_INPUT, "uint8", shape), image_layout="hwc")


def weights_folder(spec: ModelSpec) -> str:
    """Folder that the graph's names of its external weights start from, empty where it is the graph's own."""
    if not spec.external_data or spec.external_data[0].is_relative_to(spec.path.parent):
        return ""
    location = PurePosixPath(read_graph(spec.path).external[0].location)
    return str(spec.external_data[0].parents[len(location.parts) - 1])


def _fused_digest(spec: ModelSpec) -> str:
    pre = spec.preprocessing
    rules = (pre.do_rescale, pre.rescale_factor, pre.do_normalize, pre.mean, pre.std, spec.image_input.name)
    text = f"{_FUSED_VERSION} {content_digest((spec.path,))} {rules}"
    return digest(text, 32)


def _write_fused(spec: ModelSpec, path: Path) -> None:
    import onnx

    try:
        model = onnx.load(str(spec.path), load_external_data=False)
        _prepend(model, spec)
        content = model.SerializeToString()
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{spec.name}: its graph cannot be read ({error}); export it again") from error
    _store(path, content, spec.name)


def _prepend(model: Any, spec: ModelSpec) -> None:
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    old = next(value for value in graph.input if value.name == spec.image_input.name)
    scale, offset = _scale_and_offset(spec.preprocessing)
    shape = spec.image_input.shape
    rows = 1 if len(shape) == 3 else shape[0]
    # ONNX before IR version 4 lists weights among the inputs; those stay unchanged
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
    """value * scale + offset, float32 [3] each; computed in double, which rounds once more than the fast path."""
    factor = pre.rescale_factor if pre.do_rescale else 1.0
    mean = np.array(pre.mean if pre.do_normalize else (0.0, 0.0, 0.0))
    std = np.array(pre.std if pre.do_normalize else (1.0, 1.0, 1.0))
    return (factor / std).astype(np.float32), (-mean / std).astype(np.float32)


def halving_obstacle(spec: ModelSpec) -> str:
    """Why this model is not converted to half precision, empty where it can be."""
    if spec.dtype != "fp32":
        return f"{spec.name} is {spec.dtype}, not fp32"
    if spec.image_input.dtype != "float32":
        return f"{spec.name} takes {spec.image_input.dtype}"
    if sum(path.stat().st_size for path in (spec.path, *spec.external_data)) > _MOST_BYTES:
        return f"{spec.name} is too large"
    return ""


def halved(spec: ModelSpec) -> ModelSpec:
    """The same model computing in float16, dtype ``fp16``. Its graph is stored in the user's cache.

    Raises:
        ModelError: there is an :func:`halving_obstacle`, or the graph cannot be read, converted or written.
    """
    reason = halving_obstacle(spec)
    if reason:
        raise ModelError(f"{reason}: it cannot be converted to half precision; use the original model")
    key = f"half {_HALF_VERSION} {content_digest((spec.path, *spec.external_data))}"
    path = cache_root() / "graphs" / f"{digest(key, 32)}.onnx"
    if not path.is_file():
        _write_half(spec, path)
    return replace(spec, path=path, dtype="fp16", external_data=())


def _write_half(spec: ModelSpec, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        model = onnx.load(str(spec.path))
        # ONNX before IR version 4 lists weights among the inputs, and the converter would cast those in every run
        weights = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in weights]
        del model.graph.input[:]
        model.graph.input.extend(given)
        model.ir_version = max(model.ir_version, 4)
        content = convert_float_to_float16(model, keep_io_types=True).SerializeToString()
    except Exception as error:  # the converter's errors have many classes
        reason = first_line(error)
        raise ModelError(f"{spec.name}: cannot be converted to half precision ({reason}); use --dtype fp32") from error
    _store(path, content, spec.name)


def _store(path: Path, content: bytes, name: str) -> None:
    try:
        write_whole(path, content)
    except OSError as error:
        raise ModelError(
            f"{name}: a converted graph cannot be stored in {path.parent} ({error.strerror}); {CACHE_HINT}"
        ) from error


def with_regular_files(spec: ModelSpec) -> ModelSpec:
    """The same model with hard links instead of symbolic links, where its weights are external.

    The Hub's cache links a graph and its weights to files of other names in another folder. ONNX Runtime refuses
    external weights that resolve to another folder for a graph in memory, and OpenVINO refuses them always. The hard
    links are in the cache folder, or beside the Hub's files if that is on another file system. The model is returned
    unchanged if none can be made.
    """
    files = (spec.path, *spec.external_data)
    if not spec.external_data or not any(path.is_symlink() for path in files):
        return spec
    real = [path.resolve() for path in files]
    name = digest(repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in real]))
    for folder in (cache_root() / "linked" / name, real[0].parent.parent / "streamdepth" / name):
        links = [folder / path.relative_to(spec.path.parent) for path in files]
        with contextlib.suppress(OSError):
            for source, link in zip(real, links, strict=True):
                link.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.link(source, link)
            return replace(spec, path=links[0], external_data=tuple(links[1:]))
    return spec

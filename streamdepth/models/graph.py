"""The interface of an ONNX graph: inputs, outputs, metadata, the files of its weights, and its own normalisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.models.spec import TensorSpec
from streamdepth.models.wire import slim_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ImageLayout = Literal["chw", "hwc", "nchw"]

# onnx.TensorProto.DataType, numbers of the ONNX IR that never change
_DTYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_DTYPE_NAMES = {
    3: "int8",
    4: "uint16",
    5: "int16",
    8: "string",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
}
_IMAGE_DTYPES = ("float32", "float16", "uint8")
_IMAGE_NAMES = ("pixel_values", "image", "images", "input_image", "input", "x")
_PASSING = frozenset({"Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Resize", "Slice", "Pad"})


@dataclass(frozen=True, slots=True)
class ExternalData:
    """A file with weights, relative to the graph's folder, and the minimum of bytes that the graph needs."""

    location: str
    needed_bytes: int


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A graph input or output as declared; ``shape`` is None where it is not declared."""

    name: str
    elem_type: int
    shape: tuple[int | str, ...] | None

    @property
    def dtype(self) -> str:
        return _DTYPES.get(self.elem_type) or _DTYPE_NAMES.get(self.elem_type, f"type {self.elem_type}")

    def describe(self) -> str:
        shape = (
            "unknown shape"
            if self.shape is None
            else "[" + ", ".join(repr(d)[1:-1] or "?" if isinstance(d, str) else str(d) for d in self.shape) + "]"
        )
        return f"{self.shown_name} {self.dtype} {shape}"

    @property
    def shown_name(self) -> str:
        return self.name if self.name.isprintable() else repr(self.name)


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """The interface of an ONNX file. ``inputs`` leaves out weights that old exporters list as inputs."""

    inputs: tuple[RawTensor, ...]
    outputs: tuple[RawTensor, ...]
    external: tuple[ExternalData, ...]
    metadata: Mapping[str, str]
    half_weights: bool
    input_scale: Mapping[str, int] = field(default_factory=dict)
    """Image input -> 1 or 255, the largest value it takes, where the graph's first nodes normalise images."""


def read_graph(path: Path) -> GraphInfo:
    """Read the graph of an ONNX file without its weights (a file of 1.3 GB takes no longer than a small one).

    Raises:
        ModelError: not an ONNX file, damaged, or empty.
    """
    _refuse_other_files(path)
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.ModelProto.FromString(slim_model(path))
    except (DecodeError, ValueError) as exc:
        raise ModelError(f"{path}: not an ONNX file, or damaged ({exc}); export or download it again") from exc
    graph = model.graph
    if not graph.node or not graph.output:
        raise ModelError(f"{path}: not an ONNX model, it has no graph; export or download it again")
    weights = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    kinds = [t.data_type for t in graph.initializer if len(t.dims) > 1]
    return GraphInfo(
        inputs=tuple(_raw(v) for v in graph.input if v.name not in weights),
        outputs=tuple(_raw(v) for v in graph.output),
        external=_external(path, model),
        metadata={_text(p.key): _text(p.value) for p in model.metadata_props},
        half_weights=bool(kinds) and kinds.count(10) * 2 > len(kinds),
        input_scale={v.name: scale for v in graph.input if (scale := _input_scale(graph, v.name))},
    )


def _refuse_other_files(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as exc:
        raise ModelError(f"{path}: cannot be read ({exc.strerror}); check the path and its permissions") from exc
    if not head:
        raise ModelError(f"{path}: empty file; export or download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path}: a git-lfs pointer, not the model itself; run `git lfs pull` in its repository")
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelError(f"{path}: a web page, not an ONNX model; download the file itself")
    # a serialised model has control bytes from its first field (varint ir_version) on; text has none
    if all(byte >= 32 or byte in b"\t\n\r\f" for byte in head):
        raise ModelError(f"{path}: a text file, not an ONNX model; give the exported .onnx file")


def _text(value: str | bytes) -> str:
    # protobuf returns text that is not UTF-8 as bytes
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")


def _raw(value: Any) -> RawTensor:
    kind = value.type.tensor_type
    shape: tuple[int | str, ...] | None = None
    if kind.HasField("shape"):
        # some exporters write 0 or -1 for a dynamic dimension
        shape = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else _text(d.dim_param) for d in kind.shape.dim
        )
    return RawTensor(_text(value.name), int(kind.elem_type), shape)


def _input_scale(graph: Any, name: str) -> int:
    """1 or 255 for an input that the first nodes normalise by constants, 0 where they do not.

    With x the input, these nodes compute a * x + b. The largest value is the one that puts the result into -4..4 with
    a span of at least 0.5.
    """
    constants = {t.name: t for t in graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute}
    factor, offset, current, found = np.ones(1), np.zeros(1), name, False
    while True:
        node = next((n for n in graph.node if current in n.input and n.op_type != "Shape"), None)
        if node is None or not node.output:
            break
        other = [one for one in node.input if one and one != current]
        if node.op_type in _PASSING and node.input[0] == current:
            current = node.output[0]
            continue
        if node.op_type not in ("Sub", "Div", "Mul", "Add") or len(other) != 1 or other[0] not in constants:
            break
        value = _small(constants[other[0]])
        if value is None or (node.op_type in ("Sub", "Div") and node.input[0] != current):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            if node.op_type in ("Sub", "Add"):
                offset = offset + (value if node.op_type == "Add" else -value)
            else:
                ratio = value if node.op_type == "Mul" else 1 / value
                factor, offset = factor * ratio, offset * ratio
        current, found = node.output[0], True
    for scale in (1, 255) if found else ():
        low, high = offset, factor * scale + offset
        if np.all(np.abs(low) <= 4) and np.all(np.abs(high) <= 4) and np.all(high - low >= 0.5):
            return scale
    return 0


def _small(tensor: Any) -> Any:
    """The value of a constant of 1 or 3 elements, else None."""
    if int(np.prod(tensor.dims or (1,))) not in (1, 3) or tensor.data_location == 1:
        return None
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor), np.float64).reshape(-1)


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _external(path: Path, model: Any) -> tuple[ExternalData, ...]:
    needed: dict[str, int] = {}
    tensors = list(_tensors(model.graph))
    for function in model.functions:
        tensors += _node_tensors(function.node)
    for tensor in tensors:
        if tensor.data_location != 1:
            continue
        entry = {_text(e.key): _text(e.value) for e in tensor.external_data}
        location = entry.get("location", "").replace("\\", "/")
        # by the ONNX format these files are beside or below the graph; other paths may read foreign files
        if not location or location.startswith("/") or ".." in location.split("/") or ":" in location.split("/")[0]:
            raise ModelError(
                f"{path}: refers to weights in {location!r}, outside its own folder; do not trust this file"
            )
        try:
            end = int(entry.get("offset", 0)) + int(entry.get("length", 0))
        except ValueError as exc:
            raise ModelError(f"{path}: damaged entry for external data {location!r}; download it again") from exc
        needed[location] = max(needed.get(location, 0), end)
    return tuple(ExternalData(location, size) for location, size in needed.items())


def check_external(path: Path, graph: GraphInfo) -> tuple[Path, ...]:
    """Local paths of the weight files beside ``path``.

    Raises:
        ModelError: one is missing or shorter than the graph needs.
    """
    found = []
    for data in graph.external:
        file = path.parent / data.location
        if not file.is_file():
            raise ModelError(f"{path}: its weights are in {data.location}, which is missing; put that file beside it")
        size = file.stat().st_size
        if size < data.needed_bytes:
            raise ModelError(
                f"{file}: truncated, {size} of at least {data.needed_bytes} bytes; copy or download it again"
            )
        found.append(file)
    return tuple(found)


def image_input(model: str | Path, graph: GraphInfo, name: str | None = None) -> tuple[TensorSpec, ImageLayout]:
    """The image input, and its layout without the batch axis.

    Args:
        model: its name in messages.
        name: the user's choice; None = found by shape, then by name.
    Raises:
        ModelError: none, several without a known name, or not the shape of an image.
    """
    if name is not None:
        chosen = next((t for t in graph.inputs if t.name == name), None)
        if chosen is None:
            raise ModelError(f"{model}: has no input {name!r}; its inputs are {names_of(graph.inputs)}")
        layout = _image_layout(chosen)
        if isinstance(layout, str):
            return tensor_spec(chosen), layout
        raise ModelError(f"{model}: input {chosen.describe()} does not take images: {layout.reason}")
    layouts = [(t, _image_layout(t)) for t in graph.inputs]
    fits = [(t, found) for t, found in layouts if isinstance(found, str)]
    if not fits:
        reasons = "; ".join(f"{t.describe()}: {found.reason}" for t, found in layouts if not isinstance(found, str))
        raise ModelError(
            f"{model}: has no image input ({reasons or 'no inputs at all'}); a depth model takes RGB images,"
            " [batch, 3, height, width] or [batch, height, width, 3]"
        )
    if len(fits) > 1:
        known = [n for n in _IMAGE_NAMES if n in {t.name for t, _ in fits}]
        if not known:
            raise ModelError(
                f"{model}: has {len(fits)} inputs that could take images ({names_of(t for t, _ in fits)});"
                " choose one with --input-name"
            )
        fits = [fit for fit in fits if fit[0].name == known[0]]
    tensor, layout = fits[0]
    return tensor_spec(tensor), layout


@dataclass(frozen=True, slots=True)
class _NoImage:
    reason: str


def _image_layout(tensor: RawTensor) -> ImageLayout | _NoImage:
    if tensor.dtype not in _IMAGE_DTYPES:
        return _NoImage(f"images are {', '.join(_IMAGE_DTYPES)}")
    shape = tensor.shape
    if shape is None:
        return _NoImage("its shape is not declared")
    if len(shape) not in (3, 4, 5):
        return _NoImage(f"rank {len(shape)}, images have rank 3 to 5")
    if len(shape) == 5:
        if isinstance(shape[1], int) and shape[1] != 1:
            return _NoImage(f"takes clips of {shape[1]} images, streamdepth gives single images")
        return "nchw" if _may_be(shape[2], 3) else _NoImage(_channels(shape[2]))
    first, last = shape[-3], shape[-1]
    if first == 3:
        return "chw"
    if last == 3:
        return "hwc"
    if isinstance(first, int):
        return _NoImage(_channels(first))
    if last in (1, 4):
        return _NoImage(_channels(last))
    # an undeclared channel axis is the first one, as in exporters that name it "num_channels"
    return "chw"


def _may_be(dimension: int | str, value: int) -> bool:
    return not isinstance(dimension, int) or dimension == value


def _channels(dimension: int | str) -> str:
    return f"{dimension} channels, images have 3 (RGB)"


def other_inputs(model: str | Path, graph: GraphInfo, image: str) -> tuple[TensorSpec, ...]:
    """Inputs besides the image.

    Raises:
        ModelError: one has a dtype nothing here can feed.
    """
    others = tuple(t for t in graph.inputs if t.name != image)
    for tensor in others:
        if tensor.elem_type not in _DTYPES:
            raise ModelError(f"{model}: cannot feed its input {tensor.describe()}; export the model without it")
    return tuple(tensor_spec(t) for t in others)


def tensor_spec(tensor: RawTensor) -> TensorSpec:
    """A tensor of a known dtype as a value of the specification."""
    # Without a declared shape, [batch, height, width] is the usual one; the running model shows the real rank.
    shape = ("", "", "") if tensor.shape is None else tensor.shape
    return TensorSpec(tensor.name, cast("Any", _DTYPES[tensor.elem_type]), shape)


def names_of(tensors: Any) -> str:
    """Names for a message."""
    return ", ".join(t.shown_name for t in tensors) or "none"

"""The interface of an ONNX graph: inputs, outputs, metadata, the files of its weights, and its own normalisation."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.models.config import refuse_other_formats
from streamdepth.models.spec import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Buffer = mmap.mmap | bytes

# onnx.TensorProto.DataType, numbers of the ONNX IR that never change
DTYPES = {1: "float32", 2: "uint8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_PASSING = frozenset(
    {"Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Resize", "Upsample", "Slice", "Pad"}
)


@dataclass(frozen=True, slots=True)
class ExternalData:
    """A file with weights, relative to the graph's folder, and the minimum of bytes that the graph needs."""

    location: str
    needed_bytes: int


def shown(name: str) -> str:
    """The name of a tensor on one line."""
    return name if name.isprintable() else repr(name)


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A graph input or output as declared; ``shape`` is None where it is not declared."""

    name: str
    elem_type: int
    shape: tuple[int | str, ...] | None

    @property
    def dtype(self) -> str:
        from onnx import TensorProto

        names = {number: name.lower() for name, number in TensorProto.DataType.items()}
        return DTYPES.get(self.elem_type) or names.get(self.elem_type, f"type {self.elem_type}")

    def describe(self) -> str:
        shape = (
            "unknown shape"
            if self.shape is None
            else "[" + ", ".join(repr(d)[1:-1] or "?" if isinstance(d, str) else str(d) for d in self.shape) + "]"
        )
        return f"{self.shown_name} {self.dtype} {shape}"

    @property
    def shown_name(self) -> str:
        return shown(self.name)


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
    last_operators: Mapping[str, str] = field(default_factory=dict)
    """Output -> the operator that computes it; operators that only convert or rearrange values are skipped."""


def read_graph(path: Path) -> GraphInfo:
    """Read the graph of an ONNX file without its weights (a file of 1.3 GB takes no longer than a small one).

    Raises:
        ModelError: not an ONNX file, damaged, or empty.
    """
    refuse_other_formats(path)
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
        last_operators=_last_operators(graph),
    )


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


def _last_operators(graph: Any) -> dict[str, str]:
    makers = {name: node for node in graph.node for name in node.output if name}
    found = {}
    for output in graph.output:
        node, steps = makers.get(output.name), 0
        while node is not None and node.op_type in (*_PASSING, "Clip") and node.input and steps < len(makers):
            node, steps = makers.get(node.input[0]), steps + 1
        if node is not None:
            found[_text(output.name)] = str(node.op_type)
    return found


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


def tensor_spec(tensor: RawTensor) -> TensorSpec:
    """A tensor of a known dtype as a value of the specification."""
    # Without a declared shape, [batch, height, width] is the usual one; the running model shows the real rank.
    shape = ("", "", "") if tensor.shape is None else tensor.shape
    return TensorSpec(tensor.name, cast("Any", DTYPES[tensor.elem_type]), shape)


def names_of(tensors: Any) -> str:
    """Names for a message."""
    return ", ".join(t.shown_name for t in tensors) or "none"


# The file without its weights -----------------------------------------------------------------------------------------
#
# Fields of protocol buffers have a length, so a reader can skip gigabytes of weights without touching them: only pages
# with field headers are read. Field numbers: onnx.proto, ``ModelProto.graph`` = 7, ``GraphProto.node`` = 1 and
# ``initializer`` = 5, ``TensorProto`` data in 4, 5, 6, 7, 9, 10 and 11; wire types: protobuf encoding guide.

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_MODEL_GRAPH: Final = 7
_GRAPH_INITIALIZER: Final = 5
_SMALL_BYTES: Final = 512
"""Tensors up to this size are kept: means and standard deviations of images are among them."""
_TENSOR_DATA: Final = frozenset({4, 5, 6, 7, 9, 10, 11})


def slim_model(path: Path) -> bytes:
    """Serialised ``ModelProto`` of the file without the data of its larger initializers. ``Constant`` nodes are kept.

    Raises:
        ValueError: not a protocol buffer, or truncated.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        out = bytearray()
        for number, start, body, end in _fields(data, 0, len(data)):
            if number == _MODEL_GRAPH:
                graph = _slim_graph(data, body, end)
                out += bytes((_MODEL_GRAPH << 3 | _LENGTH,)) + _varint(len(graph)) + graph
            else:
                out += data[start:end]
        return bytes(out)


def _slim_graph(data: Buffer, start: int, end: int) -> bytes:
    out = bytearray()
    for number, head, body, stop in _fields(data, start, end):
        if number == _GRAPH_INITIALIZER and stop - body > _SMALL_BYTES:
            tensor = bytearray()
            for inner, inner_head, _, inner_stop in _fields(data, body, stop):
                if inner not in _TENSOR_DATA:
                    tensor += data[inner_head:inner_stop]
            out += bytes((_GRAPH_INITIALIZER << 3 | _LENGTH,)) + _varint(len(tensor)) + tensor
        else:
            out += data[head:stop]
    return bytes(out)


def _fields(data: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """``(field number, start of its tag, start of its content, end)`` of each field in ``data[start:end]``."""
    at = start
    while at < end:
        tag, body = _read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, stop = _read_varint(data, body, end)
        elif wire == _FIXED64:
            stop = body + 8
        elif wire == _FIXED32:
            stop = body + 4
        elif wire == _LENGTH:
            length, body = _read_varint(data, body, end)
            stop = body + length
        else:
            raise ValueError(f"not a protocol buffer at byte {at}")
        if number == 0:
            raise ValueError(f"not a protocol buffer at byte {at}")
        if stop > end:
            raise ValueError(f"truncated: {stop - end} bytes are missing")
        yield number, at, body, stop
        at = stop


def _read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise ValueError("truncated within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError(f"not a protocol buffer at byte {at}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

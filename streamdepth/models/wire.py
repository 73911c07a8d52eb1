"""A serialised ONNX model without the bytes of its weights.

Fields of protocol buffers have a length, so a reader can skip gigabytes of weights without touching them: only pages
with field headers are read. Field numbers: onnx.proto, ``ModelProto.graph`` = 7, ``GraphProto.node`` = 1 and
``initializer`` = 5, ``TensorProto`` data in 4, 5, 6, 7, 9, 10 and 11; wire types: protobuf encoding guide.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Buffer = mmap.mmap | bytes

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

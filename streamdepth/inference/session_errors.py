"""ONNX Runtime's exceptions in our words. Its classes are one per status code, its texts are for its developers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from streamdepth.core.errors import InferenceError, ModelError, ModelNotFoundError

if TYPE_CHECKING:
    from streamdepth.models.spec import ModelSpec

_LIMIT = 200
_OPSET = re.compile(r"opset (\d+) is under development|till opset (\d+)|support for opset (\d+)", re.IGNORECASE)
_IR = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_MISSING_OP = re.compile(r"Could not find an implementation for (\S+)")
_UNKNOWN_OP = re.compile(r"(?:No Op registered for|is not a registered function/op) ?(\S*)|Fatal error: (\S+) is not")
_EXTERNAL = re.compile(r"external (?:data|initializer)|\.onnx_data|\.data\b", re.IGNORECASE)


def first_line(exc: BaseException) -> str:
    """The first line of an exception's text, without ONNX Runtime's status prefix, cut to a readable length."""
    lines = str(exc).strip().splitlines()
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", lines[0] if lines else type(exc).__name__)
    line = re.sub(r"\S*/onnxruntime/\S+:\d+ ", "", line)  # source file and line of their build
    return line if len(line) <= _LIMIT else line[: _LIMIT - 3] + "..."


def load_error(exc: BaseException, spec: ModelSpec) -> ModelError | None:
    """What is wrong with the model itself, or None where the text does not say that it is the model."""
    kind, text, name = type(exc).__name__, str(exc), spec.name
    if _IR.search(text) or _OPSET.search(text):
        return ModelError(
            f"{name}: made for a newer ONNX than this onnxruntime knows ({first_line(exc)}); update onnxruntime, or "
            "export the model with a lower opset"
        )
    missing = _MISSING_OP.search(text)
    if missing:
        return ModelError(
            f"{name}: onnxruntime has no kernel for {missing[1]} as this model uses it; try another --dtype, or update "
            "onnxruntime"
        )
    unknown = _UNKNOWN_OP.search(text)
    if unknown:
        return ModelError(
            f"{name}: uses an operator this onnxruntime does not know ({first_line(exc)}); export it with standard "
            "operators, or update onnxruntime"
        )
    if spec.external_data and _EXTERNAL.search(text):
        return ModelError(f"{name}: its external weights cannot be read ({first_line(exc)}); download it again")
    if kind == "NoSuchFile":
        return ModelNotFoundError(f"{name}: {spec.path} is not there; check the path")
    if kind in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument") or isinstance(exc, UnicodeDecodeError):
        return ModelError(f"{name}: damaged or not a valid ONNX model ({first_line(exc)}); export or download it again")
    return None


def run_error(exc: BaseException, spec: ModelSpec, size: tuple[int, int], rows: int) -> InferenceError:
    """A failed run at (width, height) ``size`` with ``rows`` images at once."""
    text = str(exc)
    if "Failed to allocate" in text or "bad_alloc" in text or "out of memory" in text.lower():
        hint = "use a smaller --size or --batch, or a smaller dtype"
    else:
        hint = f"--size takes multiples of {spec.preprocessing.multiple_of} here; try another --size, or --batch 1"
    return InferenceError(f"{spec.name}: failed at {size[0]}x{size[1]}, batch {rows}: {first_line(exc)}; {hint}")

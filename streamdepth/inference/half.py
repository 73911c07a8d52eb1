"""A float32 model that computes in half precision: what a GPU's matrix units are made for.

Made with ONNX Runtime's own converter, kept in the cache by the content of the model. Inputs and outputs stay float32,
so that nothing else changes: half a step of a half-precision output would be seen as bands.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from streamdepth.core.errors import ModelError
from streamdepth.inference.graphs import graphs_folder, keep
from streamdepth.inference.nvidia import model_digest
from streamdepth.inference.session_errors import first_line

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec

_VERSION = 1
"""Raised when the conversion changes."""
_MOST_BYTES = 1 << 30
"""Larger models come with external weights and, by those who publish them, in half precision already."""


def obstacle(spec: ModelSpec) -> str:
    """Why this model is not brought to half precision here, empty where it can be."""
    if spec.dtype != "fp32":
        return f"{spec.name} is {spec.dtype}, not fp32"
    if spec.image_input.dtype != "float32":
        return f"{spec.name} takes {spec.image_input.dtype}"
    if sum(path.stat().st_size for path in (spec.path, *spec.external_data)) > _MOST_BYTES:
        return f"{spec.name} is too large"
    return ""


def halved(spec: ModelSpec, folder: Path | None = None) -> ModelSpec:
    """The same model computing in float16, dtype ``fp16``.

    Args:
        folder: where such graphs are kept; None = the user's cache.
    Raises:
        ModelError: there is an :func:`obstacle`, or the graph cannot be read, converted or written.
    """
    reason = obstacle(spec)
    if reason:
        raise ModelError(f"{reason}: it cannot be brought to half precision; use it as it is")
    digest = hashlib.sha256(f"half {_VERSION} {model_digest((spec.path, *spec.external_data))}".encode()).hexdigest()
    path = (folder or graphs_folder()) / f"{digest[:32]}.onnx"
    if not path.is_file():
        _write(spec, path)
    return replace(spec, path=path, dtype="fp16", external_data=())


def _write(spec: ModelSpec, path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        model = onnx.load(str(spec.path))
        # ONNX before IR version 4 lists weights among the inputs, and the converter would cast those at every run
        weights = {tensor.name for tensor in model.graph.initializer}
        given = [value for value in model.graph.input if value.name not in weights]
        del model.graph.input[:]
        model.graph.input.extend(given)
        model.ir_version = max(model.ir_version, 4)
        content = convert_float_to_float16(model, keep_io_types=True).SerializeToString()
    except Exception as error:  # the converter raises whatever its graph surgery runs into
        reason = first_line(error)
        raise ModelError(f"{spec.name}: cannot be brought to half precision ({reason}); use --dtype fp32") from error
    keep(path, content, spec.name)

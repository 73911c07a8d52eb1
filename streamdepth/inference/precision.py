"""Half precision on GPUs: taken by ``--dtype auto`` where one image's depth says the same as in float32.

The bound is that of :mod:`streamdepth.inference.agreement`: finite, not flat, correlation of 0.999 and a mean error of
2 % of the range, on a built-in image, against the CPU. A verdict is remembered in the cache for the model, GPU and
versions it was found with, since asking costs two sessions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ModelError, ModelNotFoundError, StreamDepthError
from streamdepth.inference import agreement_cache, half, nvidia
from streamdepth.inference.agreement import FAILS, disagreement

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.models.spec import ModelSpec

_TRIED = ("fp32", "fp16")
"""A model of another dtype was made so by somebody who knew why."""


def may_halve(spec: ModelSpec) -> bool:
    """Whether nobody asked for float32 by name."""
    return spec.dtype == "fp16" or spec.origins.get("dtype") != "user"


def for_cuda(
    spec: ModelSpec, *, open_half: Callable[[ModelSpec], Any], fp32: Callable[[], ModelSpec]
) -> tuple[ModelSpec, str]:
    """The model to run on CUDA in place of ``spec``, and a line about why not in half precision, or an empty one.

    A float32 model is converted. For a file in half precision the reference is the same file on the CPU, which
    computes it in float32: its weights cost 2.4e-4 of the range (measured on Depth Anything V2 small), and are not
    worth a second download.

    Args:
        open_half: opens a session on the GPU.
        fp32: finds the model's float32 file, where a half-precision one does not pass.
    Raises:
        StreamDepthError: as ``fp32``, for other reasons than that there is none.
    """
    if spec.dtype not in _TRIED or not may_halve(spec):
        return spec, ""
    try:
        candidate = half.halved(spec) if spec.dtype == "fp32" else spec
    except ModelError as error:
        return spec, error.message
    wrong = verdict(candidate, "cuda", lambda: _compared(candidate, spec, open_half))
    if not wrong:
        return candidate, ""
    note = f"{spec.name}: computed in fp32, since fp16 {wrong}"
    if spec.dtype == "fp32":
        return spec, note
    try:
        return fp32(), note
    except ModelNotFoundError:
        return spec, f"{spec.name}: fp16 {wrong}, and it has no fp32 file; try another --dtype"


def tensorrt_halves(spec: ModelSpec) -> bool | None:
    """Whether TensorRT computes this model in half precision here; None where that has not been found out yet."""
    if not may_halve(spec):
        return False
    unknown = f"{FAILS} (not tried)"
    wrong = verdict(spec, "tensorrt", lambda: unknown)
    return None if wrong == unknown else not wrong


def _compared(candidate: ModelSpec, reference: ModelSpec, open_half: Callable[[ModelSpec], Any]) -> str:
    from streamdepth.inference.sessions import open_session

    try:
        session = open_half(candidate)
    except StreamDepthError as error:
        return f"{FAILS} ({error.message})"
    return disagreement(candidate, session, open_session(reference, "cpu").session)


def verdict(spec: ModelSpec, provider: str, judge: Callable[[], str]) -> str:
    """What ``judge`` says, or said before of this model on this provider, GPU and versions: what is wrong, or ''."""
    import onnxruntime as ort

    model = nvidia.model_digest((spec.path, *spec.external_data))
    versions = (str(ort.__version__), nvidia.tensorrt_version() if provider == "tensorrt" else "")
    key = json.dumps((model, provider, nvidia.gpu_name(), versions, spec.image_input.dtype))
    wrong = agreement_cache.known(key)
    if wrong is None:
        wrong = judge()
        agreement_cache.keep(key, wrong)
    return wrong

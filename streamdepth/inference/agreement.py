"""Does a provider's depth of the built-in image agree with the CPU's? In which precision does a GPU run a model?

Providers may compute in a narrower type than the model's (bf16 on CPUs that have it, fp16 on GPUs). ``auto`` accepts
them if the correlation is at least 0.999 and the mean error at most 2 % of the range. A comparison costs two sessions,
so its result is stored in the cache, under a key of everything that may change it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError, ModelNotFoundError, StreamDepthError
from streamdepth.core.host import cache_root, content_digest, digest, processor, write_whole
from streamdepth.inference import fused, nvidia
from streamdepth.inference.geometry import plan
from streamdepth.inference.ort import first_line, run_error
from streamdepth.inference.slots import feed, state_shapes
from streamdepth.media.scene import HEIGHT_PX, WIDTH_PX, pattern
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.models.selection import Provider
    from streamdepth.models.spec import ModelSpec

LEAST_CORRELATION = 0.999
MOST_ERROR = 0.02
"""Mean error as a share of the reference's range: two grey levels of a hundred are visible as flicker."""
_FLAT = 1e-6
"""Range as a share of the largest value below which there is no contrast."""
FAILS = "fails where the CPU does not"
"""Prefix of the reason when a session does not run at all."""


def disagreement(spec: ModelSpec, session: Any, reference: Any) -> str:
    """How ``session``'s depth of the built-in image differs from ``reference``'s; empty where they agree.

    A session that fails to run disagrees.

    Raises:
        InferenceError: the reference fails.
    """
    fed = inputs(spec)
    try:
        truth = reference.run([spec.depth_output.name], fed)[0]
    except Exception as exc:  # ONNX Runtime's errors have many classes
        raise run_error(exc, spec, plan(spec, WIDTH_PX, HEIGHT_PX).net_size, spec.fixed_batch or 1) from exc
    try:
        got = session.run([spec.depth_output.name], fed)[0]
    except Exception as exc:  # the class does not matter: the reference ran the same inputs
        return f"{FAILS} ({first_line(exc)[:120]})"
    return compare(np.asarray(got), np.asarray(truth))


def compare(got: NDArray[Any], reference: NDArray[Any]) -> str:
    """As :func:`disagreement`, for two arrays of any float dtype."""
    if got.shape != reference.shape:
        return f"gives depth of shape {list(got.shape)} where the CPU gives {list(reference.shape)}"
    found = difference(got, reference)
    if found.finite < 1:
        return "gives depth that is not finite"
    if found.mean_error is None:
        return ""  # a flat reference: check_depth refuses the model itself
    correlation = found.correlation or 0.0
    if correlation < LEAST_CORRELATION or found.mean_error > MOST_ERROR:
        return f"differs from the CPU (correlation {correlation:.4f}, mean error {found.mean_error:.2%} of the range)"
    return ""


@dataclass(frozen=True, slots=True)
class Difference:
    """How depth differs from a reference, over the values that are finite in both.

    Attributes:
        finite: share of finite values of the depth, 0..1.
        flat: the depth has no contrast.
        max_error, mean_error: as a share of the reference's range; None if the reference is flat.
        correlation: Pearson's; None if either is flat.
    """

    finite: float
    flat: bool
    max_error: float | None = None
    mean_error: float | None = None
    correlation: float | None = None


def difference(depth: NDArray[Any], reference: NDArray[Any], *, aligned: bool = False) -> Difference:
    """Compare two arrays of one shape and any float dtypes.

    Args:
        aligned: compare after the best scale and shift (least squares) of the depth.
    """
    good = np.isfinite(depth)
    values = depth[good].astype(np.float64)
    flat = _is_flat(values)
    both = good & np.isfinite(reference)
    truth, mine = reference[both].astype(np.float64), depth[both].astype(np.float64)
    if _is_flat(truth):
        return Difference(float(good.mean()), flat)
    if aligned:
        mine = _fitted(mine, truth)
    error = np.abs(mine - truth) / float(np.ptp(truth))
    correlation = None if flat else float(np.corrcoef(mine, truth)[0, 1])
    return Difference(float(good.mean()), flat, float(error.max()), float(error.mean()), correlation)


def _is_flat(values: NDArray[np.floating[Any]]) -> bool:
    return not values.size or float(np.ptp(values)) <= _FLAT * max(float(np.abs(values).max()), 1e-20)


def _fitted(values: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """``a * values + b`` with the least squared distance to ``truth``."""
    centred = values - values.mean()
    power = float((centred**2).sum())
    scale = float((centred * (truth - truth.mean())).sum()) / power if power > 0 else 0.0
    return np.asarray(scale * centred + truth.mean())


def inputs(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """The built-in image in the graph's layout, and the further inputs."""
    from streamdepth.inference.preprocess import FastWriter, image_of

    geometry = plan(spec, WIDTH_PX, HEIGHT_PX)
    width, height = geometry.net_size
    chw = np.zeros((3, height, width), np.dtype(spec.image_input.dtype))
    FastWriter(spec).write(chw, image_of(pattern(WIDTH_PX, HEIGHT_PX)), geometry)
    image = np.ascontiguousarray(chw.transpose(1, 2, 0)) if spec.image_layout == "hwc" else chw
    if spec.window:
        return {spec.image_input.name: np.ascontiguousarray(np.broadcast_to(chw, (1, spec.window, *chw.shape)))}
    rows = spec.fixed_batch or 1
    shape = (1,) * (len(spec.image_input.shape) - image.ndim) + image.shape
    batch = np.repeat(image.reshape(shape), rows, axis=0) if len(shape) > image.ndim else image
    fed: dict[str, NDArray[Any]] = {spec.image_input.name: batch}
    fed |= {other.name: feed(other, spec, rows, geometry.net_size) for other in spec.other_inputs}
    shapes = state_shapes(spec, geometry.net_size) if spec.states else []
    states = zip(spec.states, shapes, strict=True)
    return fed | {one.input.name: np.zeros(shape, np.dtype(one.input.dtype)) for one, shape in states}


def processor_key(spec: ModelSpec, provider: Provider) -> str:
    """Cache key of a provider's agreement for a model on this processor.

    Files are identified by path, size and modification time: hashing takes as long as opening a session (0.4 s for
    100 MB).
    """
    import onnxruntime as ort

    files = [_file(path) for path in (spec.path, *spec.external_data)]
    model = (files, spec.dtype, spec.preprocessing, spec.image_input, spec.image_layout, spec.depth_output)
    packages = [f"{name} {_version(name)}" for name in (provider.package, provider.runtime) if name]
    versions = (__version__, str(ort.__version__), *packages)
    name, features = processor()
    return repr((model, spec.other_inputs, provider.name, provider.device, versions, name, sorted(features)))


def cached(key: str) -> str | None:
    """The stored disagreement, empty = agrees; None where nothing valid is stored."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(_path(key).read_text(encoding="utf-8"))["wrong"])
    return None


def store(key: str, wrong: str) -> None:
    """Store a disagreement. A failure to run is not stored: memory may have been short."""
    if wrong.startswith(FAILS):
        return
    with contextlib.suppress(OSError):
        write_whole(_path(key), json.dumps({"wrong": wrong}).encode())


def _path(key: str) -> Path:
    return cache_root() / "agreement" / f"{digest(key)}.json"


def _file(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0  # opening the file reports the error
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


_LEAST_FINITE = 0.5


def check_depth(values: NDArray[np.float32], spec: ModelSpec, provider: str) -> None:
    """Check depth of the built-in image. Infinity is depth of the sky in float32, and overflow in other dtypes.

    Raises:
        ModelError: it is not finite or has no contrast; says what to try.
    """
    finite = np.isfinite(values)
    other = "try another export of the model" if spec.dtype == "fp32" else "try --dtype fp32"
    sky = spec.dtype == "fp32" and finite.mean() >= _LEAST_FINITE and not (np.isnan(values) | (values == -np.inf)).any()
    if not (sky or finite.all()):
        share = 100 * (1 - float(finite.mean()))
        raise ModelError(
            f"{spec.name}: {share:.3g} % of its depth is not finite on the built-in image (dtype {spec.dtype}, "
            f"{provider}); {other}"
        )
    values = values[finite]
    if _is_flat(values):
        raise ModelError(
            f"{spec.name}: its depth of the built-in image is flat, {float(values.flat[0]):.6g} everywhere (dtype "
            f"{spec.dtype}, {provider}); {other}, and check that it is a depth model"
        )


_TRIED = ("fp32", "fp16")
"""dtypes compared in half precision; others were quantised on purpose."""


def may_halve(spec: ModelSpec) -> bool:
    """Whether half precision may be tried: float32 was not requested by name."""
    return spec.dtype == "fp16" or spec.origins.get("dtype") != "user"


def for_cuda(
    spec: ModelSpec,
    *,
    open_half: Callable[[ModelSpec], Any],
    open_reference: Callable[[ModelSpec], Any],
    fp32: Callable[[], ModelSpec],
) -> tuple[ModelSpec, str]:
    """The model to run on CUDA instead of ``spec``, and a line that says why not in half precision, or empty.

    Half precision is taken where its depth agrees with the CPU's. A float32 model is converted. For a half-precision
    file the reference is the same file on the CPU, which computes in float32: its weights cost 2.4e-4 of the range
    (measured on Depth Anything V2 small), which is not worth a second download.

    Args:
        open_half: opens a session on the GPU.
        open_reference: opens a session on the CPU.
        fp32: finds the model's float32 file, used where a half-precision one disagrees.
    Raises:
        StreamDepthError: as ``fp32``, unless the file does not exist.
    """
    if spec.dtype not in _TRIED or not may_halve(spec):
        return spec, ""
    try:
        candidate = fused.halved(spec) if spec.dtype == "fp32" else spec
    except ModelError as error:
        return spec, error.message
    wrong = gpu_disagreement(candidate, "cuda", lambda: _compared(candidate, spec, open_half, open_reference))
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
    """Whether TensorRT computes this model in half precision here; None where that is not known yet."""
    if not may_halve(spec):
        return False
    unknown = f"{FAILS} (not tried)"
    wrong = gpu_disagreement(spec, "tensorrt", lambda: unknown)
    return None if wrong == unknown else not wrong


def _compared(
    candidate: ModelSpec,
    reference: ModelSpec,
    open_half: Callable[[ModelSpec], Any],
    open_reference: Callable[[ModelSpec], Any],
) -> str:
    try:
        session = open_half(candidate)
    except StreamDepthError as error:
        return f"{FAILS} ({error.message})"
    return disagreement(candidate, session, open_reference(reference))


def gpu_disagreement(spec: ModelSpec, provider: str, compare_now: Callable[[], str]) -> str:
    """The stored disagreement of this model on this provider, GPU and versions, else that of ``compare_now``."""
    import onnxruntime as ort

    model = content_digest((spec.path, *spec.external_data))
    versions = (str(ort.__version__), nvidia.tensorrt_version() if provider == "tensorrt" else "")
    key = json.dumps((model, provider, nvidia.gpu_name(), versions, spec.image_input.dtype))
    wrong = cached(key)
    if wrong is None:
        wrong = compare_now()
        store(key, wrong)
    return wrong

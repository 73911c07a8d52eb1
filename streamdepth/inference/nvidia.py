"""What the CUDA and TensorRT providers are told, and where TensorRT's engines are kept. Values; nothing is opened."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.inference.assignment import Assignment
    from streamdepth.models.spec import ModelSpec

CUDA_EXTRA = 'pip install "streamdepth[cuda]"'
_READ_BYTES = 1 << 20


def preload() -> str:
    """Load CUDA and cuDNN from the packages of extra ``cuda`` where they are installed; what ONNX Runtime says of it.

    Without those packages the system's own libraries are found in the usual way, and nothing is done.
    """
    import onnxruntime as ort

    if importlib.util.find_spec("nvidia") is None or not hasattr(ort, "preload_dlls"):
        return ""
    said = io.StringIO()
    # its failures are printed, not raised
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        ort.preload_dlls()
    return " ".join(said.getvalue().split())


def cuda_options(*, device: int = 0, graph: bool = False) -> dict[str, str]:
    """Options of the CUDA provider.

    ``HEURISTIC``: an exhaustive search of convolution algorithms costs seconds at every new shape, before the first
    frame. ``kSameAsRequested``: a depth model's few shapes need no room to grow.
    """
    return {
        "device_id": str(device),
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if graph else "0",
    }


def graph_obstacle(spec: ModelSpec, sizes: int, assignment: Assignment | None) -> str:
    """Why a run of this model cannot be recorded as a CUDA graph and replayed; empty where it can.

    A recorded graph replays fixed addresses and shapes, and nothing may run on the CPU in between.

    Args:
        sizes: network sizes the run will see.
        assignment: None where it is not known.
    """
    if sizes != 1:
        return f"{spec.name} runs at {sizes} network sizes, a CUDA graph replays one"
    if assignment is None:
        return "this onnxruntime does not say which nodes run on the GPU"
    left = sum(assignment.left.values())
    if left:
        return f"{spec.name} leaves {left} of its nodes to the CPU"
    return ""


@dataclass(frozen=True, slots=True)
class EngineKey:
    """All that a TensorRT engine depends on: another value of any needs another engine.

    Attributes:
        model: SHA-256 of the model file and of its external data, hexadecimal.
        shapes: input name -> smallest, best and largest shape.
        dtype: ``fp32`` or ``fp16``, what TensorRT may compute in.
        gpu: name and compute capability.
        onnxruntime, tensorrt: versions.
    """

    model: str
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...]
    dtype: str
    gpu: str
    onnxruntime: str
    tensorrt: str

    @property
    def digest(self) -> str:
        """Short name of the key's folder."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def batch(self) -> int:
        """The largest batch."""
        return max(largest[0] for _, _, _, largest in self.shapes)


def engine_key(
    spec: ModelSpec, *, batch: int, size: tuple[int, int], fp16: bool, gpu: str, tensorrt: str | None = None
) -> EngineKey:
    """The key of an engine for one network size (width, height) and batches of 1 to ``batch``."""
    import onnxruntime as ort

    width, height = size
    picture = (height, width, 3) if spec.image_layout == "hwc" else (3, height, width)
    middle = (1,) if spec.image_layout == "nchw" else ()
    fixed = spec.fixed_batch
    least, most = (fixed, fixed) if fixed is not None else (1, batch)
    unbatched = len(spec.image_input.shape) == len(picture)
    small, large = (picture if unbatched else (rows, *middle, *picture) for rows in (least, most))
    return EngineKey(
        model=model_digest((spec.path, *spec.external_data)),
        shapes=((spec.image_input.name, small, large, large),),
        dtype="fp16" if fp16 else "fp32",
        gpu=gpu,
        onnxruntime=str(ort.__version__),
        tensorrt=tensorrt if tensorrt is not None else tensorrt_version(),
    )


def model_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    return digest.hexdigest()


def tensorrt_version() -> str:
    """Version of the TensorRT package installed, empty where it came another way."""
    for name in ("tensorrt-cu13-libs", "tensorrt-cu12-libs", "tensorrt_cu13_libs", "tensorrt", "tensorrt-libs"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""


def engine_folder(key: EngineKey, root: Path | None = None) -> Path:
    """Where the engines of ``key`` are kept. Not created."""
    return (root or cache_root()) / "tensorrt" / key.digest


def cache_root() -> Path:
    """The user's cache folder for streamdepth: ``STREAMDEPTH_CACHE``, or the system's usual place."""
    own = os.environ.get("STREAMDEPTH_CACHE")
    if own:
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local"))) / "streamdepth"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "streamdepth"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamdepth"


def tensorrt_options(key: EngineKey, folder: Path, *, device: int = 0, graph: bool = False) -> dict[str, str]:
    """Options of the TensorRT provider: engine and timing caches, one profile from batch 1 up."""
    profile = {
        which: ",".join(f"{name}:{'x'.join(map(str, shapes[at]))}" for name, *shapes in key.shapes)
        for at, which in enumerate(("min", "opt", "max"))
    }
    return {
        "device_id": str(device),
        "trt_fp16_enable": "1" if key.dtype == "fp16" else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
        "trt_profile_min_shapes": profile["min"],
        "trt_profile_opt_shapes": profile["opt"],
        "trt_profile_max_shapes": profile["max"],
        "trt_cuda_graph_enable": "1" if graph else "0",
        "trt_builder_optimization_level": "3",
    }


def is_built(folder: Path) -> bool:
    """Whether an engine lies in the folder, so that a session starts in seconds instead of minutes."""
    return folder.is_dir() and any(entry.suffix == ".engine" for entry in folder.iterdir())


def gpu_name(device: int = 0) -> str:
    """Name and compute capability of a GPU, ``NVIDIA H100 (9.0)``; empty without a driver. Loads only the driver."""
    import ctypes

    try:
        driver: Any = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ""
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), device):
        return ""
    driver.cuDeviceGetName(name, len(name), handle)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, handle)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, handle)
    return f"{name.value.decode(errors='replace')} ({major.value}.{minor.value})"

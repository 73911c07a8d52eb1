"""Options of the CUDA and TensorRT providers, keys of TensorRT's engines, and what the NVIDIA driver reports."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from streamdepth.core.host import cache_root, content_digest, digest
from streamdepth.inference.geometry import plan
from streamdepth.media.scene import HEIGHT_PX, WIDTH_PX

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.inference.ort import Assignment
    from streamdepth.models.spec import ModelSpec

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def preload() -> str:
    """Load CUDA and cuDNN from the packages of extra ``cuda`` if they are installed; ONNX Runtime's output.

    Without these packages the system's libraries are found in the usual way.
    """
    import onnxruntime as ort

    if importlib.util.find_spec("nvidia") is None or not hasattr(ort, "preload_dlls"):
        return ""
    output = io.StringIO()
    # failures are printed, not raised
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        ort.preload_dlls()
    return " ".join(output.getvalue().split())


def cuda_options(*, graph: bool = False) -> dict[str, str]:
    """Options of the CUDA provider.

    ``HEURISTIC``: an exhaustive search of convolution algorithms takes seconds for every new shape, before the first
    frame. ``kSameAsRequested``: the few shapes of a depth model need no spare memory.
    """
    return {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if graph else "0",
    }


def graph_obstacle(spec: ModelSpec, assignment: Assignment | None) -> str:
    """Why a run of this model cannot be recorded as a CUDA graph; empty where it can.

    A graph replays fixed addresses and shapes, with no node on the CPU.

    Args:
        assignment: None where it is unknown.
    """
    if follows_image(spec):
        return f"the network size of {spec.name} depends on the image, and a recorded run has one size; give --size WxH"
    if assignment is None:
        return "this onnxruntime does not report which nodes run on the GPU"
    left = sum(assignment.left.values())
    if left:
        return f"{spec.name} leaves {left} of its nodes to another provider"
    return ""


def follows_image(spec: ModelSpec) -> bool:
    """Whether the network's size depends on the image's."""
    return plan(spec, WIDTH_PX, HEIGHT_PX).net_size != plan(spec, 360, 640).net_size


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that a TensorRT engine depends on: a change of any value needs another engine.

    Attributes:
        model: SHA-256 of the model file and of its external data, hexadecimal.
        shapes: input name -> smallest and largest shape, where the network's size does not depend on the image;
            empty where it does: TensorRT then widens the engine's range for each new size.
        batch: maximum images of a run.
        dtype: ``fp32`` or ``fp16``, the type that TensorRT may compute in.
        gpu: name and compute capability.
        onnxruntime, tensorrt: versions.
    """

    model: str
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    batch: int
    dtype: str
    gpu: str
    onnxruntime: str
    tensorrt: str

    @property
    def digest(self) -> str:
        """Name of the key's folder."""
        return digest(json.dumps(asdict(self), sort_keys=True))


def engine_key(spec: ModelSpec, *, batch: int, fp16: bool, gpu: str, tensorrt: str | None = None) -> EngineKey:
    """The key of an engine for batches of 1 to ``batch``. Reads the whole model."""
    import onnxruntime as ort

    fixed = spec.fixed_batch
    return EngineKey(
        model=content_digest((spec.path, *spec.external_data)),
        shapes=_shapes(spec, batch),
        batch=batch if fixed is None else fixed,
        dtype="fp16" if fp16 else "fp32",
        gpu=gpu,
        onnxruntime=str(ort.__version__),
        tensorrt=tensorrt if tensorrt is not None else tensorrt_version(),
    )


def _shapes(spec: ModelSpec, batch: int) -> tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]:
    if follows_image(spec) or spec.other_inputs or spec.video_only:
        return ()  # further inputs have their own shapes
    width, height = plan(spec, WIDTH_PX, HEIGHT_PX).net_size
    image = (height, width, 3) if spec.image_layout == "hwc" else (3, height, width)
    middle = (1,) if spec.image_layout == "nchw" else ()
    if len(spec.image_input.shape) == len(image):
        return ((spec.image_input.name, image, image),)
    least, most = (1, batch) if spec.fixed_batch is None else (spec.fixed_batch, spec.fixed_batch)
    return ((spec.image_input.name, (least, *middle, *image), (most, *middle, *image)),)


def tensorrt_version() -> str:
    """Version of the installed TensorRT package, empty where there is no such package."""
    for name in ("tensorrt-cu13-libs", "tensorrt-cu12-libs", "tensorrt_cu13_libs", "tensorrt", "tensorrt-libs"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""


def engine_folder(key: EngineKey, root: Path | None = None) -> Path:
    """Folder of the engines of ``key``. Not created."""
    return (root or cache_root()) / "tensorrt" / key.digest


def tensorrt_options(key: EngineKey, folder: Path, *, graph: bool = False) -> dict[str, str]:
    """Options of the TensorRT provider: caches of engines and timings, and a profile from batch 1 up for fixed sizes.

    A size outside the profile fails. Without a profile TensorRT widens its own for each new size.
    """
    options = {
        "device_id": "0",
        "trt_fp16_enable": "1" if key.dtype == "fp16" else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
        "trt_cuda_graph_enable": "1" if graph else "0",
        "trt_builder_optimization_level": "3",
    }
    if key.shapes:
        for name, at in (("min", 1), ("opt", 2), ("max", 2)):
            texts = (f"{shape[0]}:{'x'.join(str(side) for side in shape[at])}" for shape in key.shapes)
            options[f"trt_profile_{name}_shapes"] = ",".join(texts)
    return options


def is_built(folder: Path) -> bool:
    """Whether the folder has an engine: a session then starts in seconds instead of minutes."""
    return folder.is_dir() and any(entry.suffix == ".engine" for entry in folder.iterdir())


def driver() -> Any:
    """NVIDIA's driver library (CUDA driver API), None where there is none."""
    import ctypes

    try:
        return ctypes.CDLL(DRIVER)
    except OSError:
        return None


def no_driver() -> str:
    """Why no NVIDIA GPU can be used, empty where one can."""
    import ctypes

    cuda = driver()
    if cuda is None:
        return f"there is no NVIDIA driver ({DRIVER})"
    count = ctypes.c_int(0)
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return ""


def gpu_name() -> str:
    """Name and compute capability of the first GPU, ``NVIDIA H100 (9.0)``; empty without a driver."""
    import ctypes

    cuda = driver()
    if cuda is None:
        return ""
    handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return ""
    cuda.cuDeviceGetName(name, len(name), handle)
    # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, handle)
    return f"{name.value.decode(errors='replace')} ({major.value}.{minor.value})"

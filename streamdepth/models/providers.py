"""The execution providers of ONNX Runtime: one row each, with everything that differs between them.

Order of dtypes, from best to worst: on the CPU fp32 first, with bnb4, q4 and q8 within a few per cent of it, of which
q8 is the most accurate; fp16 is emulated. On CUDA and DirectML half precision is native, and 8-bit matrices have no
kernels. TensorRT, Core ML and OpenVINO choose their precision from the fp32 graph. Measurements of the CPU's order (two
x86-64 cores, ONNX Runtime 1.31, Depth Anything V2 small at 518x518): fp32 548 ms, q8 585 to 623, int8 913 to 991; at
252x252 fp32 132 to 143, q8 235. On a CPU with VNNI 8-bit matrices take 0.42 (int8) to 0.78 (q8) of the time of float32,
but 3x3 convolutions 5.6 (int8) and 2.0 (q8) times, and every depth network ends in convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

AUTO: Final = "auto"

_CPU = ("fp32", "q8", "bnb4", "q4", "fp16", "q4f16", "uint8", "int8")
_GPU = ("fp16", "fp32", "q4f16", "q4", "bnb4", "q8", "uint8", "int8")
_COMPILER = ("fp32", "fp16", "q8", "uint8", "int8", "q4", "q4f16", "bnb4")


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider.

    Attributes:
        name: the name users type.
        ort_name: its name in ONNX Runtime.
        aliases: other accepted names.
        dtypes: dtypes of a model's files from best to worst.
        auto: rank in the order that ``auto`` tries, 0 = not tried.
        package: package to install, empty where every build has the provider.
        extra: extra of streamdepth that brings the package or its libraries, empty where there is none.
        library: shared library in ONNX Runtime, without prefix and suffix; empty = inside the main one.
        platform: the only ``sys.platform`` it exists on, empty = any.
        nvidia: needs an NVIDIA driver; inputs and outputs stay on the GPU.
        plugin: module of the package that registers it with a running ONNX Runtime, empty where there is none.
        runtime: package of the provider's own runtime, used on the CPU where ONNX Runtime cannot use the provider.
        device: kind of device it runs on (``cpu``, ``gpu``, ``npu``), for plugins; empty = the first one offered.
        note: its restriction, for messages.
    """

    name: str
    ort_name: str
    aliases: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = _CPU
    auto: int = 0
    package: str = ""
    extra: str = ""
    library: str = ""
    platform: str = ""
    nvidia: bool = False
    plugin: str = ""
    runtime: str = ""
    device: str = ""
    note: str = ""


CPU: Final = Provider("cpu", "CPUExecutionProvider", auto=4)
CUDA: Final = Provider(
    "cuda",
    "CUDAExecutionProvider",
    dtypes=_GPU,
    auto=1,
    package="onnxruntime-gpu",
    extra="cuda",
    library="onnxruntime_providers_cuda",
    nvidia=True,
)
PROVIDERS: Final = (
    CPU,
    CUDA,
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        aliases=("trt",),
        dtypes=_COMPILER,
        package="onnxruntime-gpu",
        library="onnxruntime_providers_tensorrt",
        nvidia=True,
    ),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        dtypes=_COMPILER,
        auto=3,
        package="onnxruntime-ep-openvino",
        extra="openvino",
        library="onnxruntime_providers_openvino",
        plugin="onnxruntime_ep_openvino",
        runtime="openvino",
        device="cpu",
        note="OpenVINO's plugin supports Intel hardware only",
    ),
    Provider(
        "directml",
        "DmlExecutionProvider",
        aliases=("dml",),
        dtypes=_GPU,
        auto=2,
        package="onnxruntime-directml",
        platform="win32",
    ),
    Provider("coreml", "CoreMLExecutionProvider", dtypes=_COMPILER, auto=2, package="onnxruntime", platform="darwin"),
)


def find_provider(name: str) -> Provider | None:
    """The row of a name or alias, with or without a device (``openvino:gpu``); None where there is none."""
    short = name.lower().partition(":")[0]
    return next((one for one in PROVIDERS if short == one.name or short in one.aliases), None)


def dtype_order(provider: str) -> tuple[str, ...]:
    """dtypes from best to worst for a provider; one without a row gets the CPU's order."""
    return (find_provider(provider) or CPU).dtypes

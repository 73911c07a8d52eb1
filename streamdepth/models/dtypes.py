"""The dtypes of transformers.js repositories (eight files and ``auto``): file names, and what ``auto`` takes.

The node this project comes from takes ``q8`` wherever nobody says otherwise (ask for it
by name and you get exactly that). Here the default is ``auto``, because the smallest file is not the fastest one: on
two x86-64 cores with ONNX Runtime 1.31, Depth Anything V2 small at 518x518 takes 548 ms as fp32, 585 to 623 ms as q8
and 913 to 991 ms as int8 (at 252x252: 132 to 143 ms against 235 ms as q8). Why, measured apart and side by side on a
CPU with VNNI: 8-bit matrices take 0.42 (int8) to 0.78 (q8) of the time of float32, but 3x3 convolutions 5.6 (int8)
and 2.0 (unsigned weights, as in q8) times, and every depth network ends in convolutions. CUDA has no kernels for
8-bit matrices at all, so that they run on the CPU. ``auto`` costs a larger download once (99 MB against 27 MB for
that model).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUFFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "fp32": "",
        "fp16": "_fp16",
        "int8": "_int8",
        "uint8": "_uint8",
        "q8": "_quantized",
        "q4": "_q4",
        "q4f16": "_q4f16",
        "bnb4": "_bnb4",
    }
)
"""dtype -> what its file name has between the stem and ``.onnx``."""

AUTO: Final = "auto"
DEFAULT_DTYPE: Final = AUTO

# First that exists wins. CPU: the measurements above put fp32 first and bnb4, q4, q8 within a few per cent of it, of
# which q8 loses the least accuracy; fp16 is emulated. CUDA and DirectML: half precision is native, 8-bit has no
# kernels.
# TensorRT, Core ML and OpenVINO choose their own precision from the fp32 graph.
_CPU = ("fp32", "q8", "bnb4", "q4", "fp16", "q4f16", "uint8", "int8")
_GPU = ("fp16", "fp32", "q4f16", "q4", "bnb4", "q8", "uint8", "int8")
_COMPILER = ("fp32", "fp16", "q8", "uint8", "int8", "q4", "q4f16", "bnb4")
_ORDERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "cpu": _CPU,
        "auto": _CPU,
        "cuda": _GPU,
        "rocm": _GPU,
        "migraphx": _GPU,
        "dml": _GPU,
        "webgpu": _GPU,
        "tensorrt": _COMPILER,
        "nv_tensorrt_rtx": _COMPILER,
        "openvino": _COMPILER,
        "coreml": _COMPILER,
    }
)


def auto_order(provider: str) -> tuple[str, ...]:
    """dtypes from best to worst for a provider's short name; an unknown provider gets the CPU's order."""
    return _ORDERS.get(provider.lower(), _CPU)


def split_dtype(stem: str) -> tuple[str, str]:
    """``"model_quantized"`` -> ``("model", "q8")``; a stem without a known suffix is ``"fp32"``."""
    for dtype, suffix in SUFFIXES.items():
        if suffix and stem.endswith(suffix) and stem != suffix:
            return stem.removesuffix(suffix), dtype
    return stem, "fp32"


def in_order(dtypes: Iterable[str]) -> list[str]:
    """The given dtypes in the order of :data:`SUFFIXES`."""
    known = list(SUFFIXES)
    return sorted(dtypes, key=known.index)

"""What this machine has for streamdepth, what is missing, and the command that installs it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from typing import Any

from streamdepth.core.errors import StreamDepthError
from streamdepth.core.host import cache_note, cache_root, cores, install_system, processor
from streamdepth.version import __version__

_PACKAGES = ("av", "numba", "numpy", "onnx", "opencv-python", "huggingface_hub", "cmap", "pillow")
_ENCODERS = ("libx264", "libvpx-vp9", "prores_ks", "ffv1")
_TENSORRT = "pip install tensorrt-cu13"
# What bf16 and int8 models are fast with, as LLVM calls it.
_INSTRUCTIONS = (
    *("avx2", "avx512f", "avxvnni", "avx512vnni", "avx512bf16", "avx512fp16", "amx-bf16", "amx-int8"),
    *("dotprod", "i8mm", "bf16"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        topic: what was looked at.
        found: what there is.
        ok: False where something that matters is missing.
        hint: what to do about it, empty if nothing.
        there: False where it is not there or cannot be used; with ``ok`` it is one that can be done without.
    """

    topic: str
    found: str
    ok: bool = True
    hint: str = ""
    there: bool = True


def examine() -> list[Finding]:
    """Look at versions, processor and GPU, providers, codecs, display, cameras, cache and the built-in model.

    Hardware decoders and encoders are opened for a moment, cameras are not.
    """
    return [
        Finding("streamdepth", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"),
        Finding("cores", f"{cores()}"),
        _processor(),
        *_gpu(),
        *(_package(name) for name in _PACKAGES),
        *_providers(),
        *_encoders(),
        *_hardware(),
        _display(),
        *_cameras(),
        _cache(),
        _model(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", ok=False, there=False, hint=f"pip install {name}")


def _processor() -> Finding:
    try:
        name, there = processor()
    except ImportError:  # of llvmlite, which numba brings
        return Finding("processor", platform.processor() or platform.machine())
    found = ", ".join(one for one in _INSTRUCTIONS if one in there)
    return Finding("processor", f"{name}{found and ': '}{found}")


def _gpu() -> list[Finding]:
    from streamdepth.inference.nvidia import gpu_name, tensorrt_version

    name = gpu_name()
    if not name:
        return [Finding("GPU", "none with an NVIDIA driver", there=False)]
    version = tensorrt_version()
    tensorrt = (
        Finding("TensorRT", version) if version else Finding("TensorRT", "no package", there=False, hint=_TENSORRT)
    )
    return [Finding("GPU", f"{name}, driver {_nvidia_driver() or 'of unknown version'}"), tensorrt]


def _nvidia_driver() -> str:
    """Version of the NVIDIA driver, asked from its management library; empty where that is missing."""
    try:
        library: Any = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return ""
    text = ctypes.create_string_buffer(80)
    if library.nvmlInit_v2():
        return ""
    library.nvmlSystemGetDriverVersion(text, len(text))
    library.nvmlShutdown()
    return text.value.decode(errors="replace")


def _providers() -> list[Finding]:
    from streamdepth.inference.providers import all_providers, why_not

    try:
        import onnxruntime
    except ImportError as error:
        gpu = "-gpu" if platform.machine() in ("x86_64", "AMD64") and sys.platform != "darwin" else ""
        hint = f"pip install onnxruntime{gpu}"
        return [Finding("onnxruntime", f"cannot be imported: {error}", ok=False, there=False, hint=hint)]
    return [
        Finding("onnxruntime", str(onnxruntime.__version__)),
        # Only the CPU is needed; every other one is an offer.
        *(_offer(f"provider {one.name}", why_not(one), needed=one.name == "cpu") for one in all_providers()),
    ]


def _offer(topic: str, reason: str, *, needed: bool = False) -> Finding:
    """A finding of why something cannot be used, with the way out after a semicolon."""
    found, _, hint = reason.partition("; ")
    return Finding(topic, found or "can run", ok=not reason or not needed, hint=hint, there=not reason)


def _encoders() -> list[Finding]:
    import av

    findings = [Finding("FFmpeg", f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")]
    missing = [name for name in _ENCODERS if name not in av.codecs_available]
    if missing:
        findings.append(
            Finding(
                "encoders",
                f"missing: {', '.join(missing)}",
                ok=False,
                there=False,
                hint="pip install --force-reinstall av",
            )
        )
    return findings


def _hardware() -> list[Finding]:
    from streamdepth.media.hwaccel import HARDWARE, cannot_decode, cannot_encode, kinds

    findings = []
    for kind in kinds():
        findings.append(_offer(f"decoding on {kind}", cannot_decode(kind)))
        findings += [_offer(f"encoder {name}", cannot_encode(name)) for name in HARDWARE[kind].encoders.values()]
    return findings


def _display() -> Finding:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        hint = "xvfb-run streamdepth run ... --show" if shutil.which("Xvfb") else install_system("xvfb")
        return Finding("display", "none: --show cannot open a window; everything else works", there=False, hint=hint)
    return Finding("display", os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "the desktop's")


def _cameras() -> list[Finding]:
    from streamdepth.sources.cameras import list_cameras

    cameras = list_cameras()
    if not cameras:
        return [Finding("cameras", "none found", there=False)]
    return [Finding(f"camera {camera.index}", f"{camera.name} {camera.path}".strip()) for camera in cameras]


def _cache() -> Finding:
    what, _, hint = cache_note().partition("; ")
    return Finding("cache", what or str(cache_root()), there=not what, hint=hint)


def _model() -> Finding:
    from streamdepth.inference.model import DepthModel

    try:
        model = DepthModel()
        engine = model.engine()
        found = f"{model.spec.dtype}, runs on {engine.provider}"
        engine.close()
    except StreamDepthError as error:
        return Finding(
            "built-in model",
            str(error),
            ok=False,
            there=False,
            hint="pip install --force-reinstall . in the source folder of streamdepth",
        )
    return Finding("built-in model", found)

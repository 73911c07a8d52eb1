"""What this machine has for streamdepth, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass

from streamdepth.errors import StreamDepthError
from streamdepth.version import __version__

_PACKAGES = ("av", "numba", "numpy", "onnx", "opencv-python", "huggingface_hub", "scenedetect", "cmap", "pillow")
_ENCODERS = ("libx264", "libvpx-vp9", "prores_ks", "ffv1")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        topic: what was looked at.
        found: what there is.
        ok: False where something that matters is missing.
        hint: what to do about it, empty if nothing.
    """

    topic: str
    found: str
    ok: bool = True
    hint: str = ""


def examine() -> list[Finding]:
    """Look at versions, providers, encoders, display, cameras and the built-in model. Opens no device."""
    return [
        Finding("streamdepth", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"),
        Finding("cores", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"),
        *(_package(name) for name in _PACKAGES),
        *_providers(),
        *_encoders(),
        _display(),
        *_cameras(),
        _model(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "missing", ok=False, hint=f"pip install {name}")


def _providers() -> list[Finding]:
    from streamdepth.inference.providers import all_providers, why_not

    try:
        import onnxruntime
    except ImportError as error:
        return [Finding("onnxruntime", f"cannot be imported: {error}", ok=False, hint="pip install onnxruntime-gpu")]
    findings = [Finding("onnxruntime", str(onnxruntime.__version__))]
    for provider in all_providers():
        reason = why_not(provider)
        # Only the CPU is needed; every other one is an offer.
        findings.append(
            Finding(f"provider {provider.name}", reason or "can run", ok=not reason or provider.name != "cpu")
        )
    return findings


def _encoders() -> list[Finding]:
    import av

    findings = [Finding("FFmpeg", f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}")]
    missing = [name for name in _ENCODERS if name not in av.codecs_available]
    if missing:
        findings.append(
            Finding("encoders", f"missing: {', '.join(missing)}", ok=False, hint="pip install --force-reinstall av")
        )
    return findings


def _display() -> Finding:
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        hint = "" if shutil.which("Xvfb") is None else "xvfb-run streamdepth run ... --show"
        return Finding("display", "none: --show cannot open a window; everything else works", hint=hint)
    return Finding("display", os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "the desktop's")


def _cameras() -> list[Finding]:
    from streamdepth.sources.cameras import list_cameras

    cameras = list_cameras()
    if not cameras:
        return [Finding("cameras", "none found")]
    return [Finding(f"camera {camera.index}", f"{camera.name} {camera.path}".strip()) for camera in cameras]


def _model() -> Finding:
    from streamdepth.estimator import DepthEstimator

    try:
        with DepthEstimator() as estimator:
            engine = estimator.engine()
            found = f"{estimator.spec.dtype}, runs on {engine.provider}"
            engine.close()
    except StreamDepthError as error:
        return Finding("built-in model", str(error), ok=False, hint="pip install --force-reinstall streamdepth")
    return Finding("built-in model", found)

"""What runs a model: ONNX Runtime's execution providers, asked for by short names.

A provider asked for by name either runs the model or the session is refused with the reason; only ``auto`` falls back,
and its note says from what and why.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.errors import ModelError, ProviderError, StreamDepthError
from streamdepth.inference import session_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.models.spec import ModelSpec

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Provider:
    """One execution provider.

    Attributes:
        name: what users type.
        ort_name: what ONNX Runtime calls it.
        package: what to install to get it, empty where it comes with every build.
        library: shared library of ONNX Runtime that holds it, without prefix and suffix; empty = inside the main one.
        nvidia: needs an NVIDIA driver.
    """

    name: str
    ort_name: str
    package: str = ""
    library: str = ""
    nvidia: bool = False


PROVIDERS: tuple[Provider, ...] = (
    Provider("cpu", "CPUExecutionProvider"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "onnxruntime_providers_cuda", nvidia=True),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", "onnxruntime_providers_tensorrt", nvidia=True),
    Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino", "onnxruntime_providers_openvino"),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml"),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime"),
)
_AUTO_ORDER = ("cuda", "directml", "cpu")


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A running session. ``note`` says what ``auto`` fell back from, empty if from nothing."""

    session: Any
    provider: str
    note: str = ""


def provider_names() -> tuple[str, ...]:
    """Every name ``open_session`` takes, ``auto`` first."""
    return (AUTO, *(p.name for p in PROVIDERS))


def open_session(spec: ModelSpec, provider: str = AUTO, threads: int | None = None) -> OpenSession:
    """Load a model.

    Args:
        threads: threads of one operator on the CPU; None = one for each core this process may use.
    Raises:
        ProviderError: no such provider, or it cannot run here; says why and what would help.
        ModelError: the model cannot be loaded.
    """
    if provider == AUTO:
        return _open_auto(spec, threads)
    chosen = next((p for p in PROVIDERS if p.name == provider), None)
    if chosen is None:
        raise ProviderError(f"unknown provider {provider!r}; choose one of {', '.join(provider_names())}")
    return OpenSession(_open(spec, chosen, threads), chosen.name)


def likely(provider: str = AUTO) -> str:
    """The provider that ``auto`` tries first here; any other name as it is. Loads nothing but the GPU's driver."""
    if provider != AUTO:
        return provider
    import onnxruntime as ort

    there = ort.get_available_providers()
    for name in _AUTO_ORDER:
        candidate = next(p for p in PROVIDERS if p.name == name)
        if candidate.ort_name in there and not (candidate.nvidia and _no_nvidia_driver()):
            return name
    return "cpu"


def why_not(provider: Provider) -> str:
    """Why this provider cannot run on this machine, with the way out after a semicolon; empty where it can.

    Loads the provider's library as the session would, since ONNX Runtime lists providers it cannot load.
    """
    import onnxruntime as ort

    if provider.ort_name not in ort.get_available_providers():
        where = {"directml": "win32", "coreml": "darwin"}.get(provider.name)
        if where is not None and sys.platform != where:
            return f"exists only on {'Windows' if where == 'win32' else 'macOS'}; use --provider cpu"
        return (
            f"the installed onnxruntime was built without it; install the package {provider.package} in place of "
            "the one there, or use --provider cpu"
        )
    if provider.nvidia:
        reason = _no_nvidia_driver()
        if reason:
            return f"{reason}; install an NVIDIA driver, or use --provider cpu"
    if provider.library:
        reason = _cannot_load(Path(ort.__file__).parent / "capi", provider.library)
        if reason:
            return f"{reason}; install the libraries that onnxruntime {ort.__version__} needs, or use --provider cpu"
    return ""


def _open_auto(spec: ModelSpec, threads: int | None) -> OpenSession:
    missed: list[str] = []
    for name in _AUTO_ORDER:
        candidate = next(p for p in PROVIDERS if p.name == name)
        if name == "cpu":
            note = f"running on the CPU; {'; '.join(missed)}" if missed else ""
            return OpenSession(_open(spec, candidate, threads), name, note)
        if candidate.nvidia and _no_nvidia_driver():
            continue  # no such hardware: the CPU is the choice, not a fallback
        import onnxruntime as ort

        if candidate.ort_name not in ort.get_available_providers():
            continue
        try:
            return OpenSession(_open(spec, candidate, threads), name)
        except ProviderError as exc:
            missed.append(exc.message.replace("; ", ", "))
    raise ProviderError("no execution provider is left; reinstall onnxruntime")


def _open(spec: ModelSpec, provider: Provider, threads: int | None) -> Any:
    import onnxruntime as ort

    reason = why_not(provider)
    if reason:
        raise ProviderError(f"provider {provider.name}: {reason}")
    options = ort.SessionOptions()
    # everything that matters comes as an exception as well; what ONNX Runtime logs beside it is its own affair
    options.log_severity_level = 4
    options.intra_op_num_threads = _threads(threads)
    # Threads that spin for work take it from decoder and encoder: 256x192 on two cores, 15.5 ms of CPU a run against
    # 7.8 without, at the same speed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted: Sequence[str] = (
        [provider.ort_name] if provider.name == "cpu" else [provider.ort_name, PROVIDERS[0].ort_name]
    )
    # A path, not bytes: external data is looked for beside it.
    try:
        session = ort.InferenceSession(str(spec.path), sess_options=options, providers=list(wanted))
    except Exception as exc:
        raise _refused(exc, spec, provider) from exc
    running = session.get_providers()
    if provider.ort_name not in running:
        raise ProviderError(
            f"provider {provider.name}: onnxruntime could not start it and fell back to "
            f"{', '.join(running)}; check driver and libraries, or use --provider cpu"
        )
    return session


def _refused(exc: Exception, spec: ModelSpec, provider: Provider) -> StreamDepthError:
    known = session_errors.load_error(exc, spec)
    if known is not None:
        return known
    if provider.name != "cpu":
        return ProviderError(
            f"provider {provider.name}: cannot run {spec.name}: {session_errors.first_line(exc)}; use --provider cpu"
        )
    return ModelError(f"{spec.name}: cannot be loaded: {session_errors.first_line(exc)}; export it again")


def _threads(threads: int | None) -> int:
    if threads is not None:
        return threads
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    # 0 lets ONNX Runtime count physical cores and pin threads to them; it does not know about a smaller affinity
    return 0 if allowed == cores else allowed


def _no_nvidia_driver() -> str:
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"there is no NVIDIA driver ({name})"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    return ""


def _cannot_load(folder: Path, library: str) -> str:
    prefix, suffix = ("", ".dll") if sys.platform == "win32" else ("lib", ".so")
    path = folder / f"{prefix}{library}{suffix}"
    if not path.is_file():
        return f"{path.name} is missing from onnxruntime"
    try:
        if sys.platform != "win32":
            shared = folder / f"{prefix}onnxruntime_providers_shared{suffix}"
            ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(path))
    except OSError as exc:
        return f"{path.name} cannot be loaded ({session_errors.first_line(exc)})"
    return ""

"""What runs a model: ONNX Runtime's execution providers, asked for by short names, and which of them can run here."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ProviderError, UsageError
from streamdepth.inference import (
    nvidia,
    openvino_runtime,
    plugins,
    session_errors,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        plugin: module of the package that registers it with a running ONNX Runtime, empty where there is none.
        runtime: package of the provider's own runtime, which takes over on the CPU where ONNX Runtime cannot use the
            provider; empty where there is none.
        device: kind of device it runs on (``cpu``, ``gpu``, ``npu``), for plugins; empty = the first it offers.
    """

    name: str
    ort_name: str
    package: str = ""
    library: str = ""
    nvidia: bool = False
    plugin: str = ""
    device: str = ""
    runtime: str = ""


PROVIDERS: tuple[Provider, ...] = (
    Provider("cpu", "CPUExecutionProvider"),
    Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "onnxruntime_providers_cuda", nvidia=True),
    Provider("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu", "onnxruntime_providers_tensorrt", nvidia=True),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        "onnxruntime-ep-openvino",
        "onnxruntime_providers_openvino",
        plugin="onnxruntime_ep_openvino",
        device="cpu",
        runtime=openvino_runtime.PACKAGE,
    ),
    Provider("directml", "DmlExecutionProvider", "onnxruntime-directml"),
    Provider("coreml", "CoreMLExecutionProvider", "onnxruntime"),
)
ON_DEVICE = ("cuda", "tensorrt")
"""Providers whose inputs and outputs stay on an NVIDIA GPU between host and model."""
AUTO_ORDER = ("cuda", "directml", "openvino", "cpu")
_DEVICES = ("cpu", "gpu", "npu")


def provider_names() -> tuple[str, ...]:
    """Every name ``open_session`` takes, ``auto`` first, installed plugins last. A plugin takes ``NAME:DEVICE`` too."""
    return (AUTO, *(p.name for p in all_providers()))


def all_providers() -> tuple[Provider, ...]:
    """The known providers, and the installed plugins beside them."""
    known = {p.plugin for p in PROVIDERS}
    others = (p for p in plugins.installed() if p.module not in known)
    return (*PROVIDERS, *(Provider(p.name, "", p.package, plugin=p.module) for p in others))


def provider_named(name: str) -> Provider:
    """The provider of a name, ``openvino`` or ``openvino:gpu``.

    Raises:
        UsageError: there is none, or it takes no device.
    """
    short, _, device = name.partition(":")
    chosen = next((p for p in all_providers() if p.name == short), None)
    if chosen is None:
        found = plugins.find(short)
        chosen = None if found is None else Provider(found.name, "", found.package, plugin=found.module)
    if chosen is None:
        raise UsageError(f"unknown provider {name!r}; choose one of {', '.join(provider_names())}")
    if device and (not chosen.plugin or device not in _DEVICES):
        raise UsageError(f"provider {name!r}: a plugin's device is {', '.join(_DEVICES)}; use --provider {short}")
    return replace(chosen, device=device) if device else chosen


def likely(provider: str = AUTO) -> str:
    """The provider that ``auto`` tries first here; any other name as it is. Loads nothing but the GPU's driver."""
    if provider != AUTO:
        return provider
    there = plugins.built_in()
    for name in AUTO_ORDER:
        candidate = next(p for p in PROVIDERS if p.name == name)
        if candidate.plugin and to_be_tried(candidate):
            if not why_not(candidate):
                return name
        elif candidate.ort_name in there and not (candidate.nvidia and nvidia.no_driver()):
            return name
    return "cpu"


def why_not(provider: Provider) -> str:
    """Why this provider cannot run on this machine, with the way out after a semicolon; empty where it can.

    Loads the provider's library as the session would, since ONNX Runtime lists providers it cannot load.
    """
    import onnxruntime as ort

    if on_own_runtime(provider):
        return ""
    if provider.plugin and (provider.ort_name not in plugins.built_in() or plugin_of(provider) is not None):
        return _why_not_plugin(provider)
    if provider.ort_name not in plugins.built_in():
        where = {"directml": "win32", "coreml": "darwin"}.get(provider.name)
        if where is not None and sys.platform != where:
            return f"exists only on {'Windows' if where == 'win32' else 'macOS'}; use --provider cpu"
        return (
            f"the installed onnxruntime was built without it; install the package {provider.package} in place of "
            "the one there, or use --provider cpu"
        )
    if provider.nvidia:
        reason = nvidia.no_driver()
        if reason:
            return f"{reason}; install an NVIDIA driver, or use --provider cpu"
        nvidia.preload()
    if provider.library:
        reason = _cannot_load(Path(ort.__file__).parent / "capi", provider.library)
        if reason:
            wanted = f"the libraries that onnxruntime {ort.__version__} needs"
            way = f"{nvidia.CUDA_EXTRA} brings {wanted}" if provider.name == "cuda" else f"install {wanted}"
            return f"{reason}; {way}, or use --provider cpu"
    return ""


def check_runs(provider: Provider) -> None:
    """
    Raises:
        ProviderError: the provider cannot run on this machine; says why and what would help.
    """
    reason = why_not(provider)
    if reason:
        raise ProviderError(f"provider {provider.name}: {reason}")


def runs_on_cores(name: str) -> bool:
    """Whether runs of the provider of this name share the cores, so that two of one thread each may go side by side."""
    return name == "cpu" or any(one.name == name and on_own_runtime(one) for one in PROVIDERS)


def on_own_runtime(provider: Provider) -> bool:
    if not provider.runtime or provider.device not in ("", "cpu") or not openvino_runtime.installed():
        return False
    if provider.ort_name in plugins.built_in():
        return False
    plugin = plugin_of(provider)
    try:
        return plugin is None or device_of(plugins.devices(plugin), provider) is None
    except ProviderError:  # a plugin for another ONNX Runtime
        return True


def plugin_of(provider: Provider) -> plugins.Plugin | None:
    return next((p for p in plugins.installed() if p.module == provider.plugin), None)


def _why_not_plugin(provider: Provider) -> str:
    plugin = plugin_of(provider)
    if plugin is None:
        wanted = f"'streamdepth[{provider.name}]'" if provider.runtime else provider.package
        return f"the package {provider.package} is not installed; pip install {wanted}, or use --provider cpu"
    try:
        offered = plugins.devices(plugin)
    except ProviderError as exc:
        return exc.message.removeprefix(f"provider {plugin.name}: ")
    if device_of(offered, provider) is None:
        kinds = ", ".join(sorted({plugins.device_kind(device) for device in offered}))
        what = f"{provider.device or 'device'} of this machine"
        return (
            f"{plugin.package} does not run on the {what}{f' but on its {kinds}' if kinds else ''} (OpenVINO's plugin "
            f"takes Intel hardware only); pip install {provider.runtime}, which runs on any, or use --provider cpu"
            if provider.name == "openvino"
            else f"{plugin.package} does not run on the {what}{f' but on its {kinds}' if kinds else ''}; "
            "use --provider cpu"
        )
    return ""


def device_of(offered: Sequence[Any], provider: Provider) -> Any:
    """The device to use of those a plugin offers, None where the kind wanted is not among them."""
    fit = [device for device in offered if provider.device in ("", plugins.device_kind(device))]
    return fit[0] if fit else None


def to_be_tried(provider: Provider) -> bool:
    """False where the hardware or package is simply not there: the CPU is then the choice, not a fallback."""
    if provider.nvidia and nvidia.no_driver():
        return False
    return (
        provider.ort_name in plugins.built_in()
        or (bool(provider.plugin) and plugin_of(provider) is not None)
        or on_own_runtime(provider)
    )


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

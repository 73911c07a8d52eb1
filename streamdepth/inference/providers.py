"""Execution providers: which can run here and why another cannot, and those that come as plugin packages.

A plugin package is called ``onnxruntime-ep-NAME`` and has the path of a library, which registers with a running ONNX
Runtime; ONNX Runtime then lists the devices it offers. Any such package can be used by its name.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import sys
import threading
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ProviderError, UsageError, install_command, nearest
from streamdepth.inference import nvidia, openvino_runtime
from streamdepth.inference.ort import first_line
from streamdepth.models.selection import AUTO, CPU, PROVIDERS, Provider, find_provider

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

AUTO_ORDER = tuple(one.name for one in sorted(PROVIDERS, key=lambda one: one.auto) if one.auto)
ON_DEVICE = tuple(one.name for one in PROVIDERS if one.nvidia)
"""Providers whose inputs and outputs stay on an NVIDIA GPU between host and model."""
_DEVICES = ("cpu", "gpu", "npu")
_PLATFORMS = {"win32": "Windows", "darwin": "macOS"}
_PREFIX = "onnxruntime_ep_"
_REGISTERING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin package.

    Attributes:
        name: the name users type, ``openvino``.
        module, package: ``onnxruntime_ep_openvino``, ``onnxruntime-ep-openvino``.
    """

    name: str
    module: str
    package: str


def installed_plugins() -> tuple[Plugin, ...]:
    """All plugin packages that can be imported, sorted by name. Imports none of them."""
    modules = {name for folder in sys.path for name in _beginning(folder) if importlib.util.find_spec(name) is not None}
    return tuple(
        Plugin(module.removeprefix(_PREFIX).replace("_", "-"), module, module.replace("_", "-"))
        for module in sorted(modules)
    )


def _beginning(folder: str) -> Iterator[str]:
    """Names of possible plugin modules in a folder. ``pkgutil`` would look into every subfolder, which takes 20 ms."""
    with contextlib.suppress(OSError):
        for entry in Path(folder).iterdir():
            name = entry.name.partition(".")[0]
            if name.startswith(_PREFIX) and name.isidentifier():
                yield name


def find_plugin(name: str) -> Plugin | None:
    """The plugin of this name, or the only one whose name ends in it: ``tensorrt-rtx`` finds ``nv-tensorrt-rtx``."""
    there = installed_plugins()
    exact = [plugin for plugin in there if plugin.name == name]
    close = exact or [plugin for plugin in there if plugin.name.endswith(f"-{name}")]
    return close[0] if len(close) == 1 else None


def plugin_devices(plugin: Plugin) -> tuple[Any, ...]:
    """The devices (``OrtEpDevice``) a plugin offers on this machine, in its order; may be none. Thread-safe.

    Raises:
        ProviderError: the package or its library cannot be loaded, or is for another ONNX Runtime.
    """
    with _REGISTERING:
        names = _register(plugin)
    import onnxruntime as ort

    return tuple(device for device in ort.get_ep_devices() if device.ep_name in names)


@cache
def built_in() -> frozenset[str]:
    """ONNX Runtime's names of the providers it was built with.

    Its list also has the providers of registered plugins, so it is read once, before the first registration.
    """
    import onnxruntime as ort

    return frozenset(ort.get_available_providers())


def device_kind(device: Any) -> str:
    """``cpu``, ``gpu`` or ``npu``."""
    return str(device.device.type.name).lower()


@cache
def _register(plugin: Plugin) -> frozenset[str]:
    """Names of the providers in a plugin. A registration lasts as long as the process, as in ONNX Runtime itself."""
    import onnxruntime as ort

    built_in()
    try:
        module = importlib.import_module(plugin.module)
        path = str(module.get_library_path())
        openvino_runtime.on_brief_thread(lambda: ort.register_execution_provider_library(plugin.name, path))
        return frozenset(str(name) for name in module.get_ep_names())
    except Exception as exc:
        raise ProviderError(
            f"provider {plugin.name}: the package {plugin.package} cannot be loaded with onnxruntime "
            f"{ort.__version__} ({first_line(exc)}); pip install --upgrade {plugin.package}, or use --provider cpu"
        ) from exc


def provider_names() -> tuple[str, ...]:
    """Every name that ``open_session`` takes, ``auto`` first, plugins last; a plugin also as ``NAME:DEVICE``."""
    return (AUTO, *(p.name for p in all_providers()))


def all_providers() -> tuple[Provider, ...]:
    """The rows of the table, and the other installed plugins."""
    known = {p.plugin for p in PROVIDERS}
    others = (p for p in installed_plugins() if p.module not in known)
    return (*PROVIDERS, *(_of_plugin(one) for one in others))


def _of_plugin(plugin: Plugin) -> Provider:
    return Provider(plugin.name, "", package=plugin.package, plugin=plugin.module)


def provider_named(name: str) -> Provider:
    """The provider of a name, ``openvino`` or ``openvino:gpu``.

    Raises:
        UsageError: there is none, or it takes no device.
    """
    short, _, device = str(name).partition(":")
    chosen = find_provider(short)
    if chosen is None:
        plugin = find_plugin(short)
        chosen = None if plugin is None else _of_plugin(plugin)
    if chosen is None:
        names = provider_names()
        raise UsageError(f"unknown provider {name!r}{nearest(short, names)}; choose one of {', '.join(names)}")
    if device and (not chosen.plugin or device not in _DEVICES):
        raise UsageError(f"provider {name!r}: a plugin's device is {', '.join(_DEVICES)}; use --provider {short}")
    return replace(chosen, device=device) if device else chosen


def likely(provider: str = AUTO) -> str:
    """The provider that ``auto`` tries first here; another name unchanged. Loads only the GPU's driver."""
    if provider != AUTO:
        return provider
    there = built_in()
    for name in AUTO_ORDER:
        candidate = provider_named(name)
        if candidate.plugin and to_be_tried(candidate):
            if not why_not(candidate):
                return name
        elif candidate.ort_name in there and not (candidate.nvidia and nvidia.no_driver()):
            return name
    return CPU.name


def may_narrow(name: str) -> bool:
    """Whether a provider may compute a float32 model in a narrower type, such as bf16."""
    found = provider_named(name)
    return bool(found.plugin or found.platform)


def why_not(provider: Provider) -> str:
    """Why this provider cannot run on this machine, with a hint after a semicolon; empty where it can.

    Loads the provider's library as a session would, because ONNX Runtime also lists providers that it cannot load.
    """
    import onnxruntime as ort

    if on_own_runtime(provider):
        return ""
    if provider.plugin and (provider.ort_name not in built_in() or plugin_of(provider) is not None):
        return _why_not_plugin(provider)
    if provider.ort_name not in built_in():
        if provider.platform not in ("", sys.platform):
            return f"exists only on {_PLATFORMS[provider.platform]}; use --provider cpu"
        return (
            f"the installed onnxruntime was built without it; replace it by the package {provider.package}, or use "
            "--provider cpu"
        )
    if provider.nvidia:
        reason = nvidia.no_driver()
        if reason:
            return f"{reason}; install an NVIDIA driver, or use --provider cpu"
        nvidia.preload()
    if provider.library:
        reason = _cannot_load(Path(ort.__file__).parent / "capi", provider.library)
        if reason:
            libraries = f"the libraries that onnxruntime {ort.__version__} needs"
            extra = f"{install_command(provider.extra)} brings {libraries}"
            hint = extra if provider.extra else f"install {libraries}"
            return f"{reason}; {hint}, or use --provider cpu"
    return ""


def check_runs(provider: Provider) -> None:
    """Check that a provider can run on this machine.

    Raises:
        ProviderError: it cannot; says why and what to do.
    """
    reason = why_not(provider)
    if reason:
        raise ProviderError(f"provider {provider.name}: {reason}")


def runs_on_cores(name: str) -> bool:
    """Whether runs of this provider use the CPU's cores, so that two runs of one thread each may overlap."""
    return name == CPU.name or any(one.name == name and one.device == "cpu" for one in PROVIDERS)


def on_own_runtime(provider: Provider) -> bool:
    """Whether the provider's own runtime is used: ONNX Runtime has neither the provider nor a device of its plugin."""
    if not provider.runtime or provider.device not in ("", "cpu") or not openvino_runtime.installed():
        return False
    if provider.ort_name in built_in():
        return False
    plugin = plugin_of(provider)
    try:
        return plugin is None or device_of(plugin_devices(plugin), provider) is None
    except ProviderError:  # a plugin for another ONNX Runtime
        return True


def plugin_of(provider: Provider) -> Plugin | None:
    return next((p for p in installed_plugins() if p.module == provider.plugin), None)


def _why_not_plugin(provider: Provider) -> str:
    plugin = plugin_of(provider)
    if plugin is None:
        command = install_command(provider.extra) if provider.extra else f"pip install {provider.package}"
        return f"the package {provider.package} is not installed; {command}, or use --provider cpu"
    try:
        offered = plugin_devices(plugin)
    except ProviderError as exc:
        return exc.message.removeprefix(f"provider {plugin.name}: ")
    if device_of(offered, provider) is None:
        kinds = ", ".join(sorted({device_kind(device) for device in offered}))
        text = f"{plugin.package} does not run on the {provider.device or 'device'} of this machine"
        text += (f" but on its {kinds}" if kinds else "") + (f" ({provider.note})" if provider.note else "")
        hint = f"pip install {provider.runtime}, which runs on any and {provider.gain}, or " if provider.runtime else ""
        return f"{text}; {hint}use --provider cpu"
    return ""


def device_of(offered: Sequence[Any], provider: Provider) -> Any:
    """The first device of the provider's kind among those that a plugin offers, None where there is none."""
    fit = [device for device in offered if provider.device in ("", device_kind(device))]
    return fit[0] if fit else None


def to_be_tried(provider: Provider) -> bool:
    """False where hardware or package is absent: the CPU is then the first choice, not a fallback."""
    if provider.nvidia and nvidia.no_driver():
        return False
    return (
        provider.ort_name in built_in()
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
        return f"{path.name} cannot be loaded ({first_line(exc)})"
    return ""

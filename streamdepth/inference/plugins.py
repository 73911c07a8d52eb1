"""Execution providers that come as packages of their own and register with a running ONNX Runtime.

Such a package is called ``onnxruntime-ep-NAME`` and knows the path of its library; ONNX Runtime then lists the devices
it offers. A name is all that is needed to use one: nothing here knows a provider in particular.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "onnxruntime_ep_"
_REGISTERING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed plugin package.

    Attributes:
        name: what users type, ``openvino``.
        module, package: ``onnxruntime_ep_openvino``, ``onnxruntime-ep-openvino``.
    """

    name: str
    module: str
    package: str


def installed() -> tuple[Plugin, ...]:
    """All plugin packages that can be imported, by name. Imports none of them."""
    modules = {name for folder in sys.path for name in _beginning(folder) if importlib.util.find_spec(name) is not None}
    return tuple(
        Plugin(module.removeprefix(_PREFIX).replace("_", "-"), module, module.replace("_", "-"))
        for module in sorted(modules)
    )


def _beginning(folder: str) -> Iterator[str]:
    """Names a plugin's module in a folder could have. ``pkgutil`` looks into every folder there, which takes 20 ms."""
    with contextlib.suppress(OSError):
        for entry in Path(folder).iterdir():
            name = entry.name.partition(".")[0]
            if name.startswith(_PREFIX) and name.isidentifier():
                yield name


def find(name: str) -> Plugin | None:
    """The plugin of this name, or the only one that ends in it: ``tensorrt-rtx`` finds ``nv-tensorrt-rtx``."""
    there = installed()
    exact = [plugin for plugin in there if plugin.name == name]
    close = exact or [plugin for plugin in there if plugin.name.endswith(f"-{name}")]
    return close[0] if len(close) == 1 else None


def devices(plugin: Plugin) -> tuple[Any, ...]:
    """The devices (``OrtEpDevice``) the plugin offers on this machine, its own order; may be none. Thread-safe.

    Raises:
        ProviderError: the package or its library cannot be loaded, or is for another ONNX Runtime.
    """
    with _REGISTERING:
        names = _register(plugin)
    import onnxruntime as ort

    return tuple(device for device in ort.get_ep_devices() if device.ep_name in names)


@cache
def built_in() -> frozenset[str]:
    """Providers that ONNX Runtime was built with, by its names for them.

    Its own list also holds the providers of registered plugins. It is therefore read once, before the first
    registration.
    """
    import onnxruntime as ort

    return frozenset(ort.get_available_providers())


def device_kind(device: Any) -> str:
    """``cpu``, ``gpu`` or ``npu``."""
    return str(device.device.type.name).lower()


@cache
def _register(plugin: Plugin) -> frozenset[str]:
    """Names of the providers in the plugin. Registering is for the life of the process, as in ONNX Runtime itself."""
    import onnxruntime as ort

    built_in()
    try:
        module = importlib.import_module(plugin.module)
        ort.register_execution_provider_library(plugin.name, str(module.get_library_path()))
        return frozenset(str(name) for name in module.get_ep_names())
    except Exception as exc:
        text = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
        raise ProviderError(
            f"provider {plugin.name}: the package {plugin.package} cannot be loaded with onnxruntime "
            f"{ort.__version__} ({text}); pip install --upgrade {plugin.package}, or use --provider cpu"
        ) from exc

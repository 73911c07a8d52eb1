"""Verdicts of :mod:`streamdepth.inference.agreement`, kept in the cache: each costs sessions.

Under a key of all that could change it; what cannot be read or written is asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from typing import TYPE_CHECKING

from streamdepth.core.host import cache_root
from streamdepth.inference.agreement import FAILS
from streamdepth.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.inference.providers import Provider
    from streamdepth.models.spec import ModelSpec


def on_processor(spec: ModelSpec, provider: Provider) -> str:
    """Key of a verdict on a provider that runs a model on this processor.

    Its files are known by place, size and time of change: to hash them takes as long as to open a session (0.4 s for
    100 MB).
    """
    import onnxruntime as ort
    from llvmlite import binding  # type: ignore[import-untyped]  # numba, too, keeps compiled kernels by these two

    files = [_file(path) for path in (spec.path, *spec.external_data)]
    model = (files, spec.dtype, spec.preprocessing, spec.image_input, spec.image_layout, spec.depth_output)
    packages = [f"{name} {_version(name)}" for name in (provider.package, provider.runtime) if name]
    versions = (__version__, str(ort.__version__), *packages)
    processor = (str(binding.get_host_cpu_name()), binding.get_host_cpu_features().flatten())
    return repr((model, spec.other_inputs, provider.name, provider.device, versions, processor))


def known(key: str) -> str | None:
    """What is wrong, empty = nothing; None where that has to be found out."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(_path(key).read_text(encoding="utf-8"))["wrong"])
    return None


def keep(key: str, wrong: str) -> None:
    """A failure to run is not kept: memory may have been short."""
    if wrong.startswith(FAILS):
        return
    with contextlib.suppress(OSError):
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"wrong": wrong}), encoding="utf-8")


def _path(key: str) -> Path:
    return cache_root() / "agreement" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _file(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0  # whoever opens it says what is wrong
    return str(path.resolve()), found.st_size, found.st_mtime_ns


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""

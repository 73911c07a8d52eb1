"""Video into depth, live or offline. Names are imported on first use: the import itself loads nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamdepth.version import __version__

if TYPE_CHECKING:
    from streamdepth.errors import StreamDepthError
    from streamdepth.frame import DepthMap, DepthRange, Frame, PictureInfo, Result, Sense, StreamInfo
    from streamdepth.look import Look, LookControl, Upsampling, View

_HOME = {
    "DepthMap": "frame",
    "DepthRange": "frame",
    "Frame": "frame",
    "Look": "look",
    "LookControl": "look",
    "PictureInfo": "frame",
    "Result": "frame",
    "Sense": "frame",
    "StreamDepthError": "errors",
    "StreamInfo": "frame",
    "Upsampling": "look",
    "View": "look",
}

__all__ = [
    "DepthMap",
    "DepthRange",
    "Frame",
    "Look",
    "LookControl",
    "PictureInfo",
    "Result",
    "Sense",
    "StreamDepthError",
    "StreamInfo",
    "Upsampling",
    "View",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

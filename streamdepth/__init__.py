"""Video into depth, live or offline. Names are imported on first use: the import itself loads nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamdepth.version import __version__

if TYPE_CHECKING:
    from streamdepth.colorize.palettes import palette
    from streamdepth.core.contracts import BaseSink, BaseSource, Sink, Source
    from streamdepth.core.errors import StopPipeline, StreamDepthError
    from streamdepth.core.frame import DepthMap, DepthRange, Frame, ImageInfo, Result, Sense, StreamInfo
    from streamdepth.core.look import Look, LookControl, Upsampling, View
    from streamdepth.core.queues import Policy
    from streamdepth.geometry.intrinsics import Intrinsics
    from streamdepth.geometry.readers import read_intrinsics
    from streamdepth.image.estimator import DepthEstimator, Estimate
    from streamdepth.models.spec import ModelSpec, Preprocessing
    from streamdepth.pipeline import Pipeline, RunStats, Snapshot, stream
    from streamdepth.sinks.callback import NullSink
    from streamdepth.sinks.depth.reader import DepthReader, read_depth
    from streamdepth.sinks.depth.sink import DepthFolderSink, DepthVideoSink
    from streamdepth.sinks.images import ImagesSink
    from streamdepth.sinks.rtsp.publish import RtspPublishSink
    from streamdepth.sinks.rtsp.server import RtspServerSink
    from streamdepth.sinks.select import data_sink_for, sink_for
    from streamdepth.sinks.video import VideoSink
    from streamdepth.sinks.window.sink import WindowSink
    from streamdepth.sources.cameras import list_cameras
    from streamdepth.sources.file import FileSource
    from streamdepth.sources.images import ImagesSource
    from streamdepth.sources.live.source import LiveSource
    from streamdepth.sources.pattern import PatternSource
    from streamdepth.sources.select import expand, source_for
    from streamdepth.sources.webcam import WebcamSource

_HOME = {
    "BaseSink": "core.contracts",
    "BaseSource": "core.contracts",
    "DepthEstimator": "image.estimator",
    "DepthFolderSink": "sinks.depth.sink",
    "DepthMap": "core.frame",
    "DepthRange": "core.frame",
    "DepthReader": "sinks.depth.reader",
    "DepthVideoSink": "sinks.depth.sink",
    "Estimate": "image.estimator",
    "FileSource": "sources.file",
    "Frame": "core.frame",
    "ImagesSink": "sinks.images",
    "ImagesSource": "sources.images",
    "Intrinsics": "geometry.intrinsics",
    "LiveSource": "sources.live.source",
    "Look": "core.look",
    "LookControl": "core.look",
    "ModelSpec": "models.spec",
    "NullSink": "sinks.callback",
    "PatternSource": "sources.pattern",
    "ImageInfo": "core.frame",
    "Pipeline": "pipeline",
    "Policy": "core.queues",
    "Preprocessing": "models.spec",
    "Result": "core.frame",
    "RtspPublishSink": "sinks.rtsp.publish",
    "RtspServerSink": "sinks.rtsp.server",
    "RunStats": "pipeline",
    "Sense": "core.frame",
    "Sink": "core.contracts",
    "Snapshot": "pipeline",
    "Source": "core.contracts",
    "StopPipeline": "core.errors",
    "StreamDepthError": "core.errors",
    "StreamInfo": "core.frame",
    "Upsampling": "core.look",
    "VideoSink": "sinks.video",
    "View": "core.look",
    "WebcamSource": "sources.webcam",
    "WindowSink": "sinks.window.sink",
    "data_sink_for": "sinks.select",
    "expand": "sources.select",
    "list_cameras": "sources.cameras",
    "palette": "colorize.palettes",
    "read_depth": "sinks.depth.reader",
    "read_intrinsics": "geometry.readers",
    "sink_for": "sinks.select",
    "source_for": "sources.select",
    "stream": "pipeline",
}

__all__ = [  # noqa: RUF022 - the keys of _HOME, spelled out for type checkers
    "BaseSink",
    "BaseSource",
    "DepthEstimator",
    "DepthFolderSink",
    "DepthMap",
    "DepthRange",
    "DepthReader",
    "DepthVideoSink",
    "Estimate",
    "FileSource",
    "Frame",
    "ImagesSink",
    "ImagesSource",
    "Intrinsics",
    "LiveSource",
    "Look",
    "LookControl",
    "ModelSpec",
    "NullSink",
    "PatternSource",
    "ImageInfo",
    "Pipeline",
    "Policy",
    "Preprocessing",
    "Result",
    "RtspPublishSink",
    "RtspServerSink",
    "RunStats",
    "Sense",
    "Sink",
    "Snapshot",
    "Source",
    "StopPipeline",
    "StreamDepthError",
    "StreamInfo",
    "Upsampling",
    "VideoSink",
    "View",
    "WebcamSource",
    "WindowSink",
    "data_sink_for",
    "expand",
    "list_cameras",
    "palette",
    "read_depth",
    "read_intrinsics",
    "sink_for",
    "source_for",
    "stream",
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

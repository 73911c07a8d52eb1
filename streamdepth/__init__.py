"""Video into depth, live or offline. Names are imported on first use: the import itself loads nothing heavy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from streamdepth.version import __version__

if TYPE_CHECKING:
    from streamdepth.colorize.palettes import palette
    from streamdepth.errors import StopPipeline, StreamDepthError
    from streamdepth.estimator import DepthEstimator, Estimate
    from streamdepth.frame import DepthMap, DepthRange, Frame, PictureInfo, Result, Sense, StreamInfo
    from streamdepth.look import Look, LookControl, Upsampling, View
    from streamdepth.models.spec import ModelSpec, Preprocessing
    from streamdepth.pipeline import Pipeline, RunStats, Snapshot, stream
    from streamdepth.queues import Policy
    from streamdepth.sinks.base import BaseSink
    from streamdepth.sinks.depth import DepthFolderSink, DepthVideoSink
    from streamdepth.sinks.depth_reader import DepthReader, read_depth
    from streamdepth.sinks.images import ImagesSink
    from streamdepth.sinks.null import NullSink
    from streamdepth.sinks.rtsp_publish import RtspPublishSink
    from streamdepth.sinks.rtsp_server.sink import RtspServerSink
    from streamdepth.sinks.select import data_sink_for, sink_for
    from streamdepth.sinks.video import VideoSink
    from streamdepth.sinks.window import WindowSink
    from streamdepth.sources.base import BaseSource
    from streamdepth.sources.cameras import list_cameras
    from streamdepth.sources.file import FileSource
    from streamdepth.sources.images import ImagesSource
    from streamdepth.sources.live import LiveSource
    from streamdepth.sources.pattern import PatternSource
    from streamdepth.sources.select import expand, source_for
    from streamdepth.sources.webcam import WebcamSource
    from streamdepth.stages import Sink, Source

_HOME = {
    "BaseSink": "sinks.base",
    "BaseSource": "sources.base",
    "DepthEstimator": "estimator",
    "DepthFolderSink": "sinks.depth",
    "DepthMap": "frame",
    "DepthRange": "frame",
    "DepthReader": "sinks.depth_reader",
    "DepthVideoSink": "sinks.depth",
    "Estimate": "estimator",
    "FileSource": "sources.file",
    "Frame": "frame",
    "ImagesSink": "sinks.images",
    "ImagesSource": "sources.images",
    "LiveSource": "sources.live",
    "Look": "look",
    "LookControl": "look",
    "ModelSpec": "models.spec",
    "NullSink": "sinks.null",
    "PatternSource": "sources.pattern",
    "PictureInfo": "frame",
    "Pipeline": "pipeline",
    "Policy": "queues",
    "Preprocessing": "models.spec",
    "Result": "frame",
    "RtspPublishSink": "sinks.rtsp_publish",
    "RtspServerSink": "sinks.rtsp_server.sink",
    "RunStats": "pipeline",
    "Sense": "frame",
    "Sink": "stages",
    "Snapshot": "pipeline",
    "Source": "stages",
    "StopPipeline": "errors",
    "StreamDepthError": "errors",
    "StreamInfo": "frame",
    "Upsampling": "look",
    "VideoSink": "sinks.video",
    "View": "look",
    "WebcamSource": "sources.webcam",
    "WindowSink": "sinks.window",
    "data_sink_for": "sinks.select",
    "expand": "sources.select",
    "list_cameras": "sources.cameras",
    "palette": "colorize.palettes",
    "read_depth": "sinks.depth_reader",
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
    "LiveSource",
    "Look",
    "LookControl",
    "ModelSpec",
    "NullSink",
    "PatternSource",
    "PictureInfo",
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

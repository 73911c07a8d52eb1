"""Public names and their modules: what type checkers read, and what ``__init__.py`` imports on first use."""

from streamdepth.colorize.palettes import palette as palette
from streamdepth.core.contracts import BaseSink as BaseSink
from streamdepth.core.contracts import BaseSource as BaseSource
from streamdepth.core.contracts import Sink as Sink
from streamdepth.core.contracts import Source as Source
from streamdepth.core.errors import (
    DataFormatError as DataFormatError,
)
from streamdepth.core.errors import (
    DeadlineError as DeadlineError,
)
from streamdepth.core.errors import (
    DisplayError as DisplayError,
)
from streamdepth.core.errors import (
    InferenceError as InferenceError,
)
from streamdepth.core.errors import (
    MissingDependencyError as MissingDependencyError,
)
from streamdepth.core.errors import (
    ModelError as ModelError,
)
from streamdepth.core.errors import (
    ModelNotFoundError as ModelNotFoundError,
)
from streamdepth.core.errors import (
    OutputExistsError as OutputExistsError,
)
from streamdepth.core.errors import (
    ProviderError as ProviderError,
)
from streamdepth.core.errors import (
    SinkError as SinkError,
)
from streamdepth.core.errors import (
    SourceError as SourceError,
)
from streamdepth.core.errors import (
    SourceNotFoundError as SourceNotFoundError,
)
from streamdepth.core.errors import (
    StageError as StageError,
)
from streamdepth.core.errors import (
    StopPipeline as StopPipeline,
)
from streamdepth.core.errors import (
    StreamDepthError as StreamDepthError,
)
from streamdepth.core.errors import (
    UsageError as UsageError,
)
from streamdepth.core.frame import (
    DepthMap as DepthMap,
)
from streamdepth.core.frame import (
    DepthRange as DepthRange,
)
from streamdepth.core.frame import (
    Frame as Frame,
)
from streamdepth.core.frame import (
    ImageInfo as ImageInfo,
)
from streamdepth.core.frame import (
    Result as Result,
)
from streamdepth.core.frame import (
    Sense as Sense,
)
from streamdepth.core.frame import (
    StreamInfo as StreamInfo,
)
from streamdepth.core.look import Look as Look
from streamdepth.core.look import LookControl as LookControl
from streamdepth.core.look import Nearness as Nearness
from streamdepth.core.look import Upsampling as Upsampling
from streamdepth.core.look import View as View
from streamdepth.core.queues import Policy as Policy
from streamdepth.depth.alignment import Alignment as Alignment
from streamdepth.depth.alignment import Anchor as Anchor
from streamdepth.depth.alignment import align as align
from streamdepth.geometry import Intrinsics as Intrinsics
from streamdepth.geometry.readers import read_intrinsics as read_intrinsics
from streamdepth.image.estimator import DepthEstimator as DepthEstimator
from streamdepth.image.estimator import Estimate as Estimate
from streamdepth.inference.model import DepthModel as DepthModel
from streamdepth.models.spec import ModelSpec as ModelSpec
from streamdepth.models.spec import Preprocessing as Preprocessing
from streamdepth.pipeline import CameraGroup as CameraGroup
from streamdepth.pipeline import CameraStats as CameraStats
from streamdepth.pipeline import Pipeline as Pipeline
from streamdepth.pipeline import RunStats as RunStats
from streamdepth.pipeline import Snapshot as Snapshot
from streamdepth.pipeline import stream as stream
from streamdepth.sinks.consumers import NullSink as NullSink
from streamdepth.sinks.depth.reader import DepthReader as DepthReader
from streamdepth.sinks.depth.reader import read_depth as read_depth
from streamdepth.sinks.depth.sink import DepthFolderSink as DepthFolderSink
from streamdepth.sinks.depth.sink import DepthVideoSink as DepthVideoSink
from streamdepth.sinks.images import ImagesSink as ImagesSink
from streamdepth.sinks.rtsp.publish import RtspPublishSink as RtspPublishSink
from streamdepth.sinks.rtsp.server import RtspServerSink as RtspServerSink
from streamdepth.sinks.select import data_sink_for as data_sink_for
from streamdepth.sinks.select import sink_for as sink_for
from streamdepth.sinks.video import VideoSink as VideoSink
from streamdepth.sinks.window.sink import WindowSink as WindowSink
from streamdepth.sources.cameras import list_cameras as list_cameras
from streamdepth.sources.file import FileSource as FileSource
from streamdepth.sources.images import ImagesSource as ImagesSource
from streamdepth.sources.live.source import LiveSource as LiveSource
from streamdepth.sources.pattern import PatternSource as PatternSource
from streamdepth.sources.select import expand as expand
from streamdepth.sources.select import source_for as source_for
from streamdepth.sources.webcam import WebcamSource as WebcamSource
from streamdepth.version import __version__ as __version__

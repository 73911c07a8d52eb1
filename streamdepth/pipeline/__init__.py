"""Owns all threads, queues, policies, shutdown and statistics of a run."""

from streamdepth.pipeline.camera import CameraStats
from streamdepth.pipeline.cameras import CameraGroup
from streamdepth.pipeline.pipeline import Pipeline
from streamdepth.pipeline.stats import RunStats, SinkStats, Snapshot
from streamdepth.pipeline.stream import stream

__all__ = ["CameraGroup", "CameraStats", "Pipeline", "RunStats", "SinkStats", "Snapshot", "stream"]

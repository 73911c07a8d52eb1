"""Owns all threads, queues, policies, shutdown and statistics of a run."""

from streamdepth.pipeline.pipeline import Pipeline
from streamdepth.pipeline.stats import RunStats, SinkStats, Snapshot
from streamdepth.pipeline.stream import stream

__all__ = ["Pipeline", "RunStats", "SinkStats", "Snapshot", "stream"]

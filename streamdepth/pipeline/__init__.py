"""The one owner of threads, queues, policies, shutdown and counters."""

from streamdepth.pipeline.pipeline import Pipeline
from streamdepth.pipeline.stats import RunStats, SinkStats, Snapshot
from streamdepth.pipeline.stream import stream

__all__ = ["Pipeline", "RunStats", "SinkStats", "Snapshot", "stream"]

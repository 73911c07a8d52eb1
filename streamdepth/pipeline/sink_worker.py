"""One sink of a run: its queue, its counters, its loop."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from streamdepth.core.errors import StopPipeline
from streamdepth.core.queues import BoundedQueue, Ended, Policy
from streamdepth.pipeline.stats import SinkStats, Timer

if TYPE_CHECKING:
    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo

_QUEUE_FRAMES = 4
_LIVE_QUEUE_FRAMES = 1
IDLE_SECONDS = 0.02


class SinkWorker:
    """Feeds one sink from a bounded queue. ``offer`` runs on the colour thread, ``pump`` on the thread of the sink.

    Attributes:
        written_ns: monotonic time of the last result that the sink took, 0 before the first.
    """

    def __init__(self, sink: Sink, clock: Clock, latency: Timer) -> None:
        self.sink = sink
        self.timer = Timer()
        self.written_ns = 0
        live = sink.live
        self.queue: BoundedQueue[Result] = BoundedQueue(
            _LIVE_QUEUE_FRAMES if live else _QUEUE_FRAMES, Policy.LATEST if live else Policy.EVERY
        )
        self._clock = clock
        self._latency = latency
        self._lock = threading.Lock()
        self._offered = 0
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._closed_by_sink = False
        self._late = False
        self._pending_open: tuple[StreamInfo, ImageInfo | None] | None = None

    def expect_late_open(self) -> None:
        """The source opens during the run; the sink then opens on its own thread."""
        self._late = True

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """Open the sink, now or (after :meth:`expect_late_open`) on its own thread."""
        if self._late:
            self._pending_open = (stream, image)
        else:
            self.sink.open(stream, image)

    def offer(self, result: Result) -> None:
        replaced = None if self._closed_by_sink else self.queue.put(result)
        with self._lock:
            self._offered += 1
            self._dropped["policy"] += replaced is not None

    def pump(self) -> bool:
        """Pass the next result to the sink, or call ``idle``; False after the last one, when the sink was flushed."""
        try:
            result = self.queue.get(IDLE_SECONDS)
        except Ended:
            self._open_pending()
            if not self._late:
                self.sink.flush()
            return False
        self._open_pending()
        try:
            self._process(result)
        except StopPipeline:
            # This queue has no consumer any more: a blocked offer must return, and later ones must not block.
            self._closed_by_sink = True
            self.queue.drain()
            raise
        return True

    def _open_pending(self) -> None:
        pending, self._pending_open = self._pending_open, None
        if pending is not None:
            self.sink.open(*pending)
            self._late = False

    def _process(self, result: Result | None) -> None:
        if result is None:
            if not self._late:
                self.sink.idle()
            return
        started_ns = self._clock.monotonic_ns()
        self.sink.process(result)
        ended_ns = self._clock.monotonic_ns()
        self.timer.add(ended_ns - started_ns)
        self._latency.add(ended_ns - result.frame.captured_ns)
        self.written_ns = ended_ns
        with self._lock:
            self._written += 1

    def run(self) -> None:
        """The loop of the sink thread."""
        try:
            while self.pump():
                pass
        finally:
            self.sink.close()

    def finalize(self, cause: str) -> SinkStats:
        """The statistics after the run. Results neither written nor replaced count as dropped by ``cause``.

        If the sink ended the run itself, the cause is ``"closed"``.
        """
        with self._lock:
            lost = self._offered - self._written - sum(self._dropped.values())
            dropped = Counter(self._dropped)
            dropped["closed" if self._closed_by_sink else cause] += lost
        return SinkStats(
            self.sink.name,
            self._written,
            {name: count for name, count in dropped.items() if count},
            {name: count for name, count in self.sink.counts.items() if count},
        )

    @property
    def written(self) -> int:
        return self._written

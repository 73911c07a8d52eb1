"""The part shared by all sources: batches frames, runs the model, returns depth to each source in order."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from streamdepth.core import limits
from streamdepth.core.errors import InferenceError
from streamdepth.core.queues import AbortableCondition, Aborted, BoundedQueue, Ended, Policy
from streamdepth.pipeline.batching import Batcher, MultiSourceQueue, max_batch_wait_ns
from streamdepth.pipeline.keyframes import Estimated
from streamdepth.pipeline.stats import Timer
from streamdepth.pipeline.windows import Window, WindowBatcher, WindowJoiner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap
    from streamdepth.inference.model import Runner
    from streamdepth.inference.slots import Slot
    from streamdepth.pipeline.batching import Arrival
    from streamdepth.pipeline.source_worker import SourceWorker
    from streamdepth.pipeline.threads import ThreadGroup

T = TypeVar("T")

_QUEUE_FRAMES = 4
_BATCHES_AHEAD = 2
_UNDELIVERED_PER_WORKER = 2
"""Batches per worker: one in the model, and one that waits for an earlier batch of another worker."""


def staleness_ns(seconds: float | None) -> int | None:
    """Raises ``UsageError``: out of range."""
    if seconds is None:
        return None
    limits.STALENESS_SECONDS.check("max-staleness", seconds)
    return round(seconds * 1e9)


class ModelWorker:
    """``prepare`` is the loop of one thread, ``infer`` of one thread per engine worker. Other methods: any thread.

    Args:
        source_workers: of all sources; empty for a group, to which ``add`` and ``remove`` add and remove sources.
        max_staleness_ns: age of a live frame at which its batch waits for no other source; None = one interval of the
            fastest source.

    Attributes:
        frame_queue: queue that sources put their frames into.
        blocking: True if every source uses policy ``every``: throughput matters, not latency.
        timers: milliseconds per frame of each stage.
    """

    def __init__(
        self,
        source_workers: Sequence[SourceWorker],
        *,
        batch: int,
        clock: Clock,
        max_staleness_ns: int | None = None,
    ) -> None:
        self.frame_queue = MultiSourceQueue(
            (),
            max(_QUEUE_FRAMES, batch),
            latest_capacity=-(-batch // len(source_workers)) if source_workers else 1,
            keep_open=not source_workers,
        )
        self.blocking = bool(source_workers) and all(one.policy is Policy.EVERY for one in source_workers)
        self.timers = {"prepare": Timer(), "infer": Timer()}
        self._max_staleness_ns = max_staleness_ns
        self._source_workers: dict[int, SourceWorker] = {}
        self._batches: BoundedQueue[tuple[Slot, Window]] = BoundedQueue(_BATCHES_AHEAD if self.blocking else 1)
        self._reorder_buffer = ReorderBuffer()
        self._joiner: WindowJoiner | None = None
        self._aborted = threading.Event()
        self._clock = clock
        self._several = len(source_workers) != 1
        for source_worker in source_workers:
            self.add(source_worker)

    def add(self, source_worker: SourceWorker) -> None:
        """Serve a source, whose number must be new."""
        number = source_worker.number
        self._source_workers = {**self._source_workers, number: source_worker}
        source_worker.depths.on_get = partial(self.frame_queue.read, number)
        # A stage that blocks must not block the model for other live sources; files in parallel fill more batches.
        limited = self._several and not self.blocking
        self.frame_queue.add(
            number,
            source_worker.policy,
            max_unread=source_worker.depths.capacity if limited else None,
            on_end=source_worker.depths.end,
        )

    def remove(self, number: int) -> None:
        """Serve a source no longer; depth of its frames that are in the model is discarded. Idempotent."""
        self.frame_queue.remove(number)
        self._source_workers = {key: one for key, one in self._source_workers.items() if key != number}

    def add_threads(self, thread_group: ThreadGroup, engine: Runner) -> None:
        thread_group.add(partial(self.prepare, engine), stage="prepare")
        for number in range(engine.workers):
            thread_group.add(partial(self.infer, engine), stage="infer", source=str(number + 1) if number else "")

    def prepare(self, engine: Runner) -> None:
        spec = engine.spec
        batcher = Batcher(
            self.frame_queue,
            engine.batch,
            engine.network_size,
            max_staleness_ns=self._max_staleness_ns,
            clock=self._clock,
        )
        windows = None
        if spec.window:
            windows = WindowBatcher(self.frame_queue, spec.window, engine.network_size, self._is_restart)
            self._joiner = WindowJoiner()
        try:
            while True:
                if not self.blocking:
                    self._batches.wait_for_consumer()  # A newer frame may arrive until the model is free.
                if windows is not None:
                    size, window = windows.next()
                else:
                    # Sources may open during the run.
                    batcher.interval_ns = max_batch_wait_ns(
                        one.info.rate
                        for one in self._source_workers.values()
                        if one.policy is Policy.LATEST and one.info is not None
                    )
                    size, arrivals = batcher.next()
                    window = Window(arrivals)
                started_ns = self._clock.monotonic_ns()
                slot = engine.acquire(size)
                for row, arrival in enumerate(window.arrivals):
                    slot.write(row, arrival.frame.image)
                if spec.states:  # one frame in a batch
                    first = replace(window.arrivals[0], cut=self._is_restart(window.arrivals[0]))
                    window = Window([first])
                    slot.source, slot.restart = first.source, bool(first.cut)
                self.timers["prepare"].add((self._clock.monotonic_ns() - started_ns) // len(window.arrivals))
                self._batches.put((slot, window))
                if not self.blocking:
                    for arrival in window.arrivals:
                        if (source_worker := self._source_workers.get(arrival.source)) is not None:
                            source_worker.is_in_model(arrival.frame)
        except Ended:
            self._batches.end()

    def _is_restart(self, arrival: Arrival) -> bool:
        source_worker = self._source_workers.get(arrival.source)
        return source_worker is None or source_worker.is_restart(arrival.frame)  # None: the source was removed

    def infer(self, engine: Runner) -> None:
        """Run batches in parallel; depth is delivered in capture order."""
        buffer = self._reorder_buffer
        while True:
            position, item = buffer.take(self._batches.get)
            if item is None:
                break
            slot, window = item
            arrivals = window.arrivals
            started_ns = self._clock.monotonic_ns()
            try:
                depths = engine.run(slot, len(arrivals))
            except InferenceError:
                if self._aborted.is_set():  # The abort interrupted this run; it is not an error.
                    raise Aborted from None
                raise
            self.timers["infer"].add((self._clock.monotonic_ns() - started_ns) // len(arrivals))
            deliver = partial(self._deliver, window, depths)
            buffer.deliver(position, deliver, max_undelivered=_UNDELIVERED_PER_WORKER * engine.workers)
            del item, slot, depths, deliver  # The ring reuses a slot when its last reference is gone.
        buffer.finish(position, self._end)

    def _deliver(self, window: Window, depths: list[DepthMap]) -> None:
        pairs: Iterable[tuple[Arrival, DepthMap]] = zip(window.arrivals, depths, strict=True)
        if self._joiner is not None:
            pairs = self._joiner.join(window, depths)
        for arrival, depth in pairs:
            source_worker = self._source_workers.get(arrival.source)
            if source_worker is None:
                continue  # The source was removed.
            try:
                source_worker.depths.put(Estimated(arrival.frame, depth, arrival.cut))
            except Aborted:
                if self._aborted.is_set():
                    raise
                continue  # Only this source was aborted.
            self.frame_queue.delivered(arrival.source)

    def _end(self) -> None:
        for source_worker in self._source_workers.values():
            source_worker.depths.end()

    def queued(self) -> dict[str, int]:
        """Number of waiting frames and batches, by queue."""
        return {"frame_queue": len(self.frame_queue), "batches": len(self._batches)}

    def abort(self) -> None:
        """Abort every wait. ``Engine.interrupt`` ends a model run in progress."""
        self._aborted.set()
        self.frame_queue.abort()
        self._batches.abort()
        self._reorder_buffer.abort()


class ReorderBuffer:
    """Numbers the items that parallel workers take, and delivers their results in that order. Thread-safe."""

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self._changed = AbortableCondition()
        self._taken = 0
        self._next = 0
        self._undelivered: dict[int, Callable[[], None]] = {}
        self._delivering = False

    def take(self, get: Callable[[], T | None]) -> tuple[int, T | None]:
        """The position and the next item of ``get``; the item is None after ``get`` raised ``Ended``.

        Raises:
            Aborted: ``get`` was aborted.
        """
        with self._taking:
            try:
                item = get()
            except Ended:
                item = None
            position = self._taken
            self._taken += 1
            return position, item

    def deliver(self, position: int, call: Callable[[], None], *, max_undelivered: int) -> None:
        """Make ``call`` run after the calls of all earlier positions.

        It runs on this thread, or later on the thread that delivers the previous position; this method then returns
        immediately, so that a worker does not wait for a slower one.

        Args:
            max_undelivered: blocks while this many positions or more are taken and not delivered.

        Raises:
            Aborted: it was aborted first.
        """
        with self._changed:
            self._changed.wait_for(lambda: position - self._next < max_undelivered)
            self._undelivered[position] = call
            if self._delivering:
                return
            self._delivering = True
        while (due := self._due()) is not None:
            due()
            self._done()

    def finish(self, position: int, end: Callable[[], None]) -> None:
        """Call ``end`` on this thread after all earlier positions were delivered.

        Raises:
            Aborted: it was aborted first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._next == position)
        end()
        self._done()

    def _due(self) -> Callable[[], None] | None:
        with self._changed:
            call = self._undelivered.pop(self._next, None)
            self._delivering = call is not None
            return call

    def _done(self) -> None:
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Abort all waits. Idempotent."""
        self._changed.abort()

"""What all sources of a run share: their frames to batches, batches through the model, depth back to each source."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from streamdepth.core.errors import InferenceError
from streamdepth.core.queues import Aborted, BoundedQueue, Ended, Policy
from streamdepth.pipeline.batching import Batcher, MultiSourceQueue, max_batch_wait_ns
from streamdepth.pipeline.stats import Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap
    from streamdepth.inference.runner import Runner
    from streamdepth.inference.slots import Slot
    from streamdepth.pipeline.batching import Arrival
    from streamdepth.pipeline.source_worker import SourceWorker

T = TypeVar("T")

_QUEUE_FRAMES = 4
_BATCHES_AHEAD = 2
_HELD_BY_WORKER = 2
"""ReorderBuffer each worker may have: one it works on, one that waits for a slower neighbour's."""


class ModelWorker:
    """``prepare`` is the loop of one thread, ``infer`` of as many as the engine has workers; the rest is for any.

    Attributes:
        frame_queue: where sources put their frames.
        patient: True where nobody waits for a frame: no source drops any.
        timers: by stage, of each frame.
    """

    def __init__(self, source_workers: Sequence[SourceWorker], *, batch: int, clock: Clock) -> None:
        policies = [source_worker.policy for source_worker in source_workers]
        self.frame_queue = MultiSourceQueue(
            policies, max(_QUEUE_FRAMES, batch), latest_capacity=-(-batch // len(policies))
        )
        self.patient = all(policy is Policy.EVERY for policy in policies)
        self.timers = {"prepare": Timer(), "infer": Timer()}
        self._source_workers = source_workers
        self._batches: BoundedQueue[tuple[Slot, list[Arrival]]] = BoundedQueue(_BATCHES_AHEAD if self.patient else 1)
        self._reorder_buffer = ReorderBuffer()
        self._aborted = threading.Event()
        self._clock = clock

    def prepare(self, engine: Runner) -> None:
        live = [source_worker for source_worker in self._source_workers if source_worker.policy is Policy.LATEST]
        wait_ns = max_batch_wait_ns(source_worker.info.rate for source_worker in live if source_worker.info is not None)
        batcher = Batcher(
            self.frame_queue, engine.batch, engine.network_size, max_batch_wait_ns=wait_ns, clock=self._clock
        )
        try:
            while True:
                if not self.patient:
                    self._batches.wait_for_taker()  # until then a newer frame may come
                size, arrivals = batcher.next()
                started_ns = self._clock.monotonic_ns()
                slot = engine.acquire(size)
                for row, arrival in enumerate(arrivals):
                    slot.write(row, arrival.frame.image)
                self.timers["prepare"].add((self._clock.monotonic_ns() - started_ns) // len(arrivals))
                self._batches.put((slot, arrivals))
        except Ended:
            self._batches.end()

    def infer(self, engine: Runner) -> None:
        """Batches are run side by side and handed on in the order they came."""
        turns = self._reorder_buffer
        while True:
            turn, item = turns.take(self._batches.get)
            if item is None:
                break
            slot, arrivals = item
            started_ns = self._clock.monotonic_ns()
            try:
                depths = engine.run(slot, len(arrivals))
            except InferenceError:
                if self._aborted.is_set():  # the abort ended it, and is no error of its own
                    raise Aborted from None
                raise
            self.timers["infer"].add((self._clock.monotonic_ns() - started_ns) // len(arrivals))
            turns.hand_on(turn, partial(self._give, arrivals, depths), most_held=_HELD_BY_WORKER * engine.workers)
            del item, slot, depths  # the ring lends a slot out again once nobody holds it
        turns.finish(turn, self._end)

    def _give(self, arrivals: list[Arrival], depths: list[DepthMap]) -> None:
        for arrival, depth in zip(arrivals, depths, strict=True):
            self._source_workers[arrival.source].depths.put((arrival.frame, depth))

    def _end(self) -> None:
        for source_worker in self._source_workers:
            source_worker.depths.end()

    def queued(self) -> dict[str, int]:
        """Frames and batches that wait, by queue."""
        return {"frame_queue": len(self.frame_queue), "batches": len(self._batches)}

    def abort(self) -> None:
        """End every wait in here. A run in progress is the engine's to interrupt."""
        self._aborted.set()
        self.frame_queue.abort()
        self._batches.abort()
        self._reorder_buffer.abort()


class ReorderBuffer:
    """Numbers what workers take and lets them hand on in that order. Thread-safe."""

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0
        self._next = 0
        self._held: dict[int, Callable[[], None]] = {}
        self._handing = False
        self._aborted = False

    def take(self, get: Callable[[], T | None]) -> tuple[int, T | None]:
        """The next item of ``get`` and its turn; None instead of an item once ``get`` raises ``Ended``.

        Raises:
            Aborted: ``get`` was aborted.
        """
        with self._taking:
            try:
                item = get()
            except Ended:
                item = None
            turn = self._taken
            self._taken += 1
            return turn, item

    def hand_on(self, turn: int, give: Callable[[], None], *, most_held: int) -> None:
        """Have ``give`` called once everybody with an earlier turn has handed on: by this thread, or by the one whose
        turn comes before. Who is early leaves it behind and works on, instead of standing still beside a slow run.

        Args:
            most_held: so many turns may be taken and not handed on; this waits while there are more.

        Raises:
            Aborted: it was aborted before there was room.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or turn - self._next < most_held)
            if self._aborted:
                raise Aborted
            self._held[turn] = give
            if self._handing:
                return
            self._handing = True
        while (next_one := self._due()) is not None:
            next_one()
            self._done()

    def finish(self, turn: int, end: Callable[[], None]) -> None:
        """Call ``end`` on this thread once everybody with an earlier turn has handed on.

        Raises:
            Aborted: it was aborted meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._next == turn)
            if self._aborted:
                raise Aborted
        end()
        self._done()

    def _due(self) -> Callable[[], None] | None:
        with self._changed:
            give = self._held.pop(self._next, None)
            self._handing = give is not None
            return give

    def _done(self) -> None:
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """End all waits. Idempotent."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

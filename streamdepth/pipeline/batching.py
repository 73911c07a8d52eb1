"""Groups frames of one or more sources into batches of one network input size, and chooses the size of a batch."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import av

from streamdepth.core.clock import SystemClock
from streamdepth.core.queues import AbortableCondition, Aborted, Ended, Policy
from streamdepth.media.scene import pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from fractions import Fraction

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import Frame
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.model import DepthModel

_SILENT_INTERVALS = 2
"""The batcher no longer waits for a source that gave no frame for this many frame intervals."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame and the number of its source.

    Attributes:
        cut: the frame has no history, as the first of a shot; None if not determined.
    """

    source: int
    frame: Frame
    cut: bool | None = None


@dataclass(slots=True)
class _Waiting:
    """Frames of one source.

    Attributes:
        frames: position in the order of service, and the frame.
        in_model: frames that were taken and whose depth is not delivered yet.
        unread: frames that were taken and whose depth no later stage has read yet.
        max_unread: with this many unread frames, no more are taken; None = unlimited.
        on_end: called once when the source has ended and the depth of all its frames is delivered.
    """

    policy: Policy
    capacity: int
    max_unread: int | None = None
    on_end: Callable[[], None] | None = None
    frames: deque[tuple[int, Frame]] = field(default_factory=deque)
    open: bool = True
    in_model: int = 0
    unread: int = 0

    @property
    def ready(self) -> bool:
        return bool(self.frames) and (self.max_unread is None or self.unread < self.max_unread)


class MultiSourceQueue:
    """One bounded queue per source with one consumer, which takes frames in the order of their arrival. Thread-safe.

    Each source has its own capacity and policy: when full, ``EVERY`` blocks the source and ``LATEST`` replaces its
    oldest frame; the newer frame takes its position, so that a fast source is served as often as a slow one. A source
    whose depth is not read, because one of its sinks blocks, is passed over and delays no other.

    Args:
        policies: of the sources 0, 1, ...; ``add`` adds more.
        capacity: frames per source.
        latest_capacity: frames per ``LATEST`` source; None = ``capacity``. Each frame of capacity adds latency.
        keep_open: do not end when all sources have ended, because others may be added.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        capacity: int,
        *,
        latest_capacity: int | None = None,
        keep_open: bool = False,
    ) -> None:
        self._capacity = capacity
        self._latest_capacity = capacity if latest_capacity is None else latest_capacity
        least = min(self._capacity, self._latest_capacity)
        if least < 1:
            raise ValueError(f"capacity is at least 1 frame per source, not {least}")
        self._keep_open = keep_open
        self._sources: dict[int, _Waiting] = {}
        self._changed = AbortableCondition()
        self._arrivals = 0
        for number, policy in enumerate(policies):
            self.add(number, policy)

    def add(
        self,
        source: int,
        policy: Policy,
        *,
        max_unread: int | None = None,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """Add a source.

        Args:
            max_unread: pass the source over while the depth of this many of its frames is not read (:meth:`read`).
            on_end: called when the source has ended and the depth of all its frames is delivered.
        """
        with self._changed:
            capacity = self._latest_capacity if policy is Policy.LATEST else self._capacity
            self._sources[source] = _Waiting(policy, capacity, max_unread, on_end)

    def remove(self, source: int) -> None:
        """Discard a source and its frames; a blocked ``put`` of it raises ``Aborted``. Idempotent."""
        with self._changed:
            self._sources.pop(source, None)
            self._changed.notify_all()

    def put(self, source: int, frame: Frame) -> Frame | None:
        """Add a frame; returns the frame it replaced, which the caller must count.

        Raises:
            Aborted: the queue was aborted, or the source removed, before there was room.
        """
        with self._changed:
            waiting = self._sources.get(source)
            if waiting is None:
                raise Aborted
            frames, replaced = waiting.frames, None
            position = self._arrivals
            self._arrivals += 1
            if len(frames) >= waiting.capacity and waiting.policy is Policy.LATEST:
                first, replaced = frames.popleft()
                positions = [first, *(one for one, _ in frames)]
                kept = [one for _, one in frames]
                frames.clear()
                frames.extend(zip(positions, [*kept, frame], strict=True))
            else:
                self._changed.wait_for(
                    lambda: len(frames) < waiting.capacity or self._sources.get(source) is not waiting
                )
                if self._sources.get(source) is not waiting:
                    raise Aborted
                frames.append((position, frame))
            self._changed.notify_all()
            return replaced

    def take(self, timeout_seconds: float | None = None) -> Arrival | None:
        """The next frame; None if none arrived within ``timeout_seconds``.

        Raises:
            Ended: all sources have ended and are empty. Aborted: the queue was aborted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._next() is not None or self._all_ended(), timeout_seconds)
            source = self._next()
            if source is None:
                if self._all_ended():
                    raise Ended
                return None
            waiting = self._sources[source]
            frame = waiting.frames.popleft()[1]
            waiting.in_model += 1
            waiting.unread += 1
            self._changed.notify_all()
            return Arrival(source, frame)

    def delivered(self, source: int) -> None:
        """The depth of a frame was passed to the stages of its source."""
        with self._changed:
            waiting = self._sources.get(source)
            if waiting is not None:
                waiting.in_model -= 1
                self._end_if_done(waiting)

    def read(self, source: int) -> None:
        """A later stage of the source has read the depth of a frame."""
        with self._changed:
            waiting = self._sources.get(source)
            if waiting is not None:
                waiting.unread -= 1
                self._changed.notify_all()

    def end(self, source: int) -> None:
        """No more frames of this source follow."""
        with self._changed:
            waiting = self._sources.get(source)
            if waiting is not None:
                waiting.open = False
                self._end_if_done(waiting)
            self._changed.notify_all()

    def close(self) -> None:
        """No more sources are added."""
        with self._changed:
            self._keep_open = False
            self._changed.notify_all()

    def abort(self) -> None:
        self._changed.abort()

    @property
    def blocking(self) -> bool:
        """True if no source is added and every source that has not ended uses ``EVERY``."""
        with self._changed:
            return not self._keep_open and all(
                waiting.policy is Policy.EVERY for waiting in self._sources.values() if waiting.open
            )

    def __len__(self) -> int:
        with self._changed:
            return sum(len(waiting.frames) for waiting in self._sources.values())

    def _next(self) -> int | None:
        ready = [source for source, waiting in self._sources.items() if waiting.ready]
        return min(ready, key=lambda source: self._sources[source].frames[0][0]) if ready else None

    def _all_ended(self) -> bool:
        return not self._keep_open and not any(one.open or one.frames for one in self._sources.values())

    @staticmethod
    def _end_if_done(waiting: _Waiting) -> None:
        if not (waiting.open or waiting.frames or waiting.in_model) and waiting.on_end is not None:
            waiting.on_end()


class Batcher:
    """Groups frames of one network size. Used by one thread.

    With ``EVERY`` sources only, batches are filled. With a ``LATEST`` source, a batch contains what has arrived. It
    waits for more only until its oldest frame is ``max_batch_wait_ns`` old, and only for sources that are not in the
    batch yet and gave a frame recently: the next frame of a source already in it is a whole interval away.

    Args:
        max_batch_wait_ns: see :func:`max_batch_wait_ns`; 0 = never wait. The attribute ``interval_ns`` changes it.
        max_staleness_ns: upper bound of the wait; None = only ``max_batch_wait_ns``.
        clock: the clock that stamps the frames.
    """

    def __init__(
        self,
        frame_queue: MultiSourceQueue,
        batch: int,
        network_size: Callable[[int, int], tuple[int, int]],
        *,
        max_batch_wait_ns: int = 0,
        max_staleness_ns: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._max_staleness_ns = max_staleness_ns
        self._frame_queue = frame_queue
        self._batch = batch
        self._network_size = network_size
        self.interval_ns = max_batch_wait_ns
        self._clock = clock or SystemClock()
        self._held: Arrival | None = None
        self._seen_ns: dict[int, int] = {}

    def next(self) -> tuple[tuple[int, int], list[Arrival]]:
        """Network size (width, height) and 1 to ``batch`` frames of it.

        Raises:
            Ended: all sources have ended. Aborted: the frame_queue was aborted.
        """
        first = self._held or self._frame_queue.take()
        self._held = None
        assert first is not None  # noqa: S101 - take() waits
        size = self._size(first)
        arrivals = [first]
        self._seen_ns[first.source] = first.frame.captured_ns
        try:
            while len(arrivals) < self._batch:
                arrival = self._frame_queue.take(self._wait_seconds(arrivals))
                if arrival is None:
                    break
                self._seen_ns[arrival.source] = arrival.frame.captured_ns
                if self._size(arrival) != size:
                    self._held = arrival
                    break
                arrivals.append(arrival)
        except Ended:
            pass
        return size, arrivals

    def _wait_seconds(self, arrivals: Sequence[Arrival]) -> float | None:
        """How long to wait for one more frame; None = no limit."""
        if self._frame_queue.blocking:
            return None
        now_ns = self._clock.monotonic_ns()
        self._seen_ns = {
            source: seen_ns
            for source, seen_ns in self._seen_ns.items()
            if now_ns - seen_ns <= _SILENT_INTERVALS * self.interval_ns
        }
        if not self._seen_ns.keys() - {arrival.source for arrival in arrivals}:
            return 0.0
        wait_ns = self.interval_ns if self._max_staleness_ns is None else min(self.interval_ns, self._max_staleness_ns)
        oldest_ns = min(arrival.frame.captured_ns for arrival in arrivals)
        return max(0.0, (oldest_ns + wait_ns - now_ns) / 1e9)

    def _size(self, arrival: Arrival) -> tuple[int, int]:
        return self._network_size(arrival.frame.width_px, arrival.frame.height_px)


def max_batch_wait_ns(rates: Iterable[Fraction | None]) -> int:
    """Maximum age of a live frame whose batch waits for other sources: one interval of the fastest source.

    Every source of that rate delivers a frame within one interval, and the next frame of each source is not delayed.

    Args:
        rates: frames per second of the ``LATEST`` sources, None if unknown.
    Returns:
        Nanoseconds; 0 if no rate is known.
    """
    known = [rate for rate in rates if rate]
    return round(1e9 / max(known)) if known else 0


CANDIDATES = (1, 2, 4, 8, 16, 32)
_RUNS = 5
WORTH = 1.05
"""A larger batch must be faster per frame by this factor: it costs memory and latency."""
_PATIENT_SECONDS = 1.0
_LIVE_SECONDS = 0.1
"""A longer batch is noticeable in a live picture; a batch of one is never refused."""


@dataclass(frozen=True, slots=True)
class BatchChoice:
    """The chosen batch, and the measured milliseconds per frame of each batch tried."""

    batch: int
    frame_ms: dict[int, float]


def best_batch(
    model: DepthModel,
    *,
    width_px: int = 640,
    height_px: int = 480,
    live_sources: int = 0,
    most_seconds: float | None = None,
    clock: Clock | None = None,
) -> BatchChoice:
    """Run the model on the built-in image with growing batches until a larger one brings no gain.

    Args:
        width_px, height_px: size of the expected images: the network's size may depend on it.
        live_sources: number of sources with policy ``latest``; 0 = none: only throughput counts. A batch larger than
            the number of live sources would wait for a second frame of one of them.
        most_seconds: longest time of a batch above 1. None = 1 s, and 0.1 s with live sources.
        clock: measures the runs.
    Returns:
        The smallest batch within 5 % of the fastest that is not too slow. A graph of fixed batch has one choice.
    Raises:
        StreamDepthError: the model cannot run.
    """
    clock = clock or SystemClock()
    if most_seconds is None:
        most_seconds = _LIVE_SECONDS if live_sources else _PATIENT_SECONDS
    most = live_sources or CANDIDATES[-1]
    image = av.VideoFrame.from_ndarray(pattern(width_px, height_px), format="rgb24")
    measured: dict[int, float] = {}
    best = 0
    # with three cameras, a batch of three is tried too
    for batch in sorted({*(batch for batch in CANDIDATES if batch <= most), min(most, CANDIDATES[-1])}):
        engine = model.trial_engine(batch)
        try:
            if engine.batch != batch or (engine.rows_per_run == 1 and batch > 1):
                return BatchChoice(best or engine.batch, measured)
            seconds = _seconds_a_batch(engine, image, clock)
        finally:
            engine.close()
        measured[batch] = round(seconds / batch * 1e3, 4)
        if best and (seconds > most_seconds or measured[best] < measured[batch] * WORTH):
            break
        best = batch
        if seconds > most_seconds:
            break  # a larger one takes longer still
    return BatchChoice(best, measured)


def _seconds_a_batch(engine: Engine, image: av.VideoFrame, clock: Clock) -> float:
    slot = engine.acquire(engine.network_size(image.width, image.height))
    for row in range(engine.batch):
        slot.write(row, image)
    engine.run(slot, engine.batch)  # the first run sizes the session's memory
    times: list[int] = []
    for _ in range(_RUNS):
        started_ns = clock.monotonic_ns()
        engine.run(slot, engine.batch)
        times.append(clock.monotonic_ns() - started_ns)
    return sorted(times)[len(times) // 2] / 1e9

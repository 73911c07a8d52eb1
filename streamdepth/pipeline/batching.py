"""Groups frames of one or more sources into batches of one network input size."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamdepth.core.clock import SystemClock
from streamdepth.core.queues import AbortableCondition, Ended, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from fractions import Fraction

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import Frame


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


class MultiSourceQueue:
    """One bounded queue per source with one consumer, which takes the oldest arrival first. Thread-safe.

    Each source has its own capacity and policy: when full, ``EVERY`` blocks the source and ``LATEST`` drops its oldest
    frame. A fast source cannot displace frames of another.

    Args:
        capacity: frames per source.
        latest_capacity: frames per ``LATEST`` source; None = ``capacity``. Each frame of capacity adds latency.
    """

    def __init__(self, policies: Sequence[Policy], capacity: int, *, latest_capacity: int | None = None) -> None:
        latest_capacity = capacity if latest_capacity is None else latest_capacity
        if min(capacity, latest_capacity) < 1:
            raise ValueError(f"capacity is at least 1 frame per source, not {min(capacity, latest_capacity)}")
        self._policies = tuple(policies)
        self._capacities = tuple(latest_capacity if one is Policy.LATEST else capacity for one in policies)
        self._sources: tuple[deque[tuple[int, Frame]], ...] = tuple(deque() for _ in policies)
        self._open = [True] * len(self._policies)
        self._changed = AbortableCondition()
        self._arrivals = 0

    def put(self, source: int, frame: Frame) -> Frame | None:
        """Add a frame; returns the frame it replaced, which the caller must count.

        Raises:
            Aborted: the queue was aborted before there was room.
        """
        with self._changed:
            frames, capacity = self._sources[source], self._capacities[source]
            replaced = None
            if len(frames) >= capacity and self._policies[source] is Policy.LATEST:
                replaced = frames.popleft()[1]
            self._changed.wait_for(lambda: len(frames) < capacity)
            frames.append((self._arrivals, frame))
            self._arrivals += 1
            self._changed.notify_all()
            return replaced

    def take(self, timeout_seconds: float | None = None) -> Arrival | None:
        """The oldest frame of all sources; None if none arrived within ``timeout_seconds``.

        Raises:
            Ended: all sources have ended and are empty. Aborted: the queue was aborted.
        """
        with self._changed:
            self._changed.wait_for(lambda: any(self._sources) or not any(self._open), timeout_seconds)
            filled = [source for source, frames in enumerate(self._sources) if frames]
            if not filled:
                if not any(self._open):
                    raise Ended
                return None
            source = min(filled, key=lambda source: self._sources[source][0][0])
            frame = self._sources[source].popleft()[1]
            self._changed.notify_all()
            return Arrival(source, frame)

    def end(self, source: int) -> None:
        """No more frames of this source follow."""
        with self._changed:
            self._open[source] = False
            self._changed.notify_all()

    def abort(self) -> None:
        self._changed.abort()

    @property
    def blocking(self) -> bool:
        """True if every source that has not ended uses ``EVERY``."""
        with self._changed:
            return all(
                policy is Policy.EVERY for policy, is_open in zip(self._policies, self._open, strict=True) if is_open
            )

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._sources)


class Batcher:
    """Groups frames of one network size. Used by one thread.

    With ``EVERY`` sources only, batches are filled. With a ``LATEST`` source, a batch contains what has arrived. It
    waits for more only until its oldest frame is ``max_batch_wait_ns`` old, and only for sources that are not in the
    batch yet and gave a frame recently: the next frame of a source already in it is a whole interval away.

    Args:
        max_batch_wait_ns: see :func:`max_batch_wait_ns`; 0 = never wait. ``max_wait_ns`` changes it.
        clock: the clock that stamps the frames.
    """

    def __init__(
        self,
        frame_queue: MultiSourceQueue,
        batch: int,
        network_size: Callable[[int, int], tuple[int, int]],
        *,
        max_batch_wait_ns: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._frame_queue = frame_queue
        self._batch = batch
        self._network_size = network_size
        self.max_wait_ns = max_batch_wait_ns
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
        recent = {
            source
            for source, seen_ns in self._seen_ns.items()
            if now_ns - seen_ns <= _SILENT_INTERVALS * self.max_wait_ns
        }
        if not recent - {arrival.source for arrival in arrivals}:
            return 0.0
        oldest_ns = min(arrival.frame.captured_ns for arrival in arrivals)
        return max(0.0, (oldest_ns + self.max_wait_ns - now_ns) / 1e9)

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

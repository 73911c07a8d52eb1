"""Frames of one or many sources become batches of one network size."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamdepth.core.clock import SystemClock
from streamdepth.core.queues import Aborted, Ended, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from fractions import Fraction

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import Frame


_LATELY = 2
"""Intervals after which a silent source is no longer waited for."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame and the number of the source (source) it came in on."""

    source: int
    frame: Frame


class MultiSourceQueue:
    """A bounded queue for each source, emptied by one reader, oldest arrival first. Thread-safe.

    Each source has its own policy: a full ``EVERY`` source makes its source wait, a full ``LATEST`` source gives up its
    oldest frame. No source can crowd out another.

    Args:
        capacity: frames of one source.
        latest_capacity: of a ``LATEST`` one, ``capacity`` if not given. Each frame beyond the one that is needed next
            is a frame that grows old here.
    """

    def __init__(self, policies: Sequence[Policy], capacity: int, *, latest_capacity: int | None = None) -> None:
        latest_capacity = capacity if latest_capacity is None else latest_capacity
        if min(capacity, latest_capacity) < 1:
            raise ValueError(f"a frame_queue holds at least 1 frame a source, not {min(capacity, latest_capacity)}")
        self._policies = tuple(policies)
        self._capacities = tuple(latest_capacity if one is Policy.LATEST else capacity for one in policies)
        self._sources: tuple[deque[tuple[int, Frame]], ...] = tuple(deque() for _ in policies)
        self._open = [True] * len(self._policies)
        self._changed = threading.Condition()
        self._arrivals = 0
        self._aborted = False

    def put(self, source: int, frame: Frame) -> Frame | None:
        """Add a frame; returns the one it replaced.

        Raises:
            Aborted: the frame_queue was aborted before there was room.
        """
        with self._changed:
            frames, capacity = self._sources[source], self._capacities[source]
            replaced = None
            if len(frames) >= capacity and self._policies[source] is Policy.LATEST:
                replaced = frames.popleft()[1]
            self._changed.wait_for(lambda: self._aborted or len(frames) < capacity)
            if self._aborted:
                raise Aborted
            frames.append((self._arrivals, frame))
            self._arrivals += 1
            self._changed.notify_all()
            return replaced

    def take(self, timeout_seconds: float | None = None) -> Arrival | None:
        """The frame that came first of all sources; None where ``timeout_seconds`` passed without one.

        Raises:
            Ended: all sources have ended and are empty. Aborted: the frame_queue was aborted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or any(self._sources) or not any(self._open), timeout_seconds)
            if self._aborted:
                raise Aborted
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
        """No more frames will come on this source."""
        with self._changed:
            self._open[source] = False
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    @property
    def patient(self) -> bool:
        """True where every open source would rather wait for a full batch than lose time."""
        with self._changed:
            return all(
                policy is Policy.EVERY for policy, is_open in zip(self._policies, self._open, strict=True) if is_open
            )

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._sources)


class Batcher:
    """Groups arrivals of one network size. Owned by one thread.

    With ``EVERY`` sources only, batches are filled. With a ``LATEST`` source, a batch is what has arrived; more is
    waited for only until its oldest frame is ``max_batch_wait_ns`` old, and only for sources not in it yet that gave a
    frame lately: a second frame of one camera would come a whole interval later, a dead one's never.

    Args:
        max_batch_wait_ns: see :func:`max_batch_wait_ns`; 0 = never wait.
        clock: the one that frames are stamped with.
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
        self._company_ns = max_batch_wait_ns
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
                arrival = self._frame_queue.take(self._patience_seconds(arrivals))
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

    def _patience_seconds(self, arrivals: Sequence[Arrival]) -> float | None:
        """How long to wait for one frame more; None = for as long as it takes."""
        if self._frame_queue.patient:
            return None
        now_ns = self._clock.monotonic_ns()
        lively = {source for source, seen_ns in self._seen_ns.items() if now_ns - seen_ns <= _LATELY * self._company_ns}
        if not lively - {arrival.source for arrival in arrivals}:
            return 0.0
        oldest_ns = min(arrival.frame.captured_ns for arrival in arrivals)
        return max(0.0, (oldest_ns + self._company_ns - now_ns) / 1e9)

    def _size(self, arrival: Arrival) -> tuple[int, int]:
        return self._network_size(arrival.frame.width_px, arrival.frame.height_px)


def max_batch_wait_ns(rates: Iterable[Fraction | None]) -> int:
    """How old a frame of a live source may get while its batch waits for others: one interval of the fastest source.

    Within it every source that keeps up with that one has delivered. It leaves one of the two intervals that an image's
    age may exceed the model's time by, and no source's next frame is kept waiting by its last one.

    Args:
        rates: frames per second of the ``LATEST`` sources, None where unknown; 0 is returned where none is known.
    """
    known = [rate for rate in rates if rate]
    return round(1e9 / max(known)) if known else 0

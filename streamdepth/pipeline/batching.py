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
"""Intervals after which a silent lane is no longer waited for."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frame and the number of the lane (source) it came in on."""

    lane: int
    frame: Frame


class Inbox:
    """A bounded queue for each source, emptied by one reader, oldest arrival first. Thread-safe.

    Each lane has its own policy: a full ``EVERY`` lane makes its source wait, a full ``LATEST`` lane gives up its
    oldest frame. No source can crowd out another.

    Args:
        capacity: frames of one lane.
        latest_capacity: of a ``LATEST`` one, ``capacity`` if not given. Each frame beyond the one that is needed next
            is a frame that grows old here.
    """

    def __init__(self, policies: Sequence[Policy], capacity: int, *, latest_capacity: int | None = None) -> None:
        latest_capacity = capacity if latest_capacity is None else latest_capacity
        if min(capacity, latest_capacity) < 1:
            raise ValueError(f"an inbox holds at least 1 frame a source, not {min(capacity, latest_capacity)}")
        self._policies = tuple(policies)
        self._capacities = tuple(latest_capacity if one is Policy.LATEST else capacity for one in policies)
        self._lanes: tuple[deque[tuple[int, Frame]], ...] = tuple(deque() for _ in policies)
        self._open = [True] * len(self._policies)
        self._changed = threading.Condition()
        self._arrivals = 0
        self._aborted = False

    def put(self, lane: int, frame: Frame) -> Frame | None:
        """Add a frame; returns the one it replaced.

        Raises:
            Aborted: the inbox was aborted before there was room.
        """
        with self._changed:
            frames, capacity = self._lanes[lane], self._capacities[lane]
            replaced = None
            if len(frames) >= capacity and self._policies[lane] is Policy.LATEST:
                replaced = frames.popleft()[1]
            self._changed.wait_for(lambda: self._aborted or len(frames) < capacity)
            if self._aborted:
                raise Aborted
            frames.append((self._arrivals, frame))
            self._arrivals += 1
            self._changed.notify_all()
            return replaced

    def take(self, timeout_seconds: float | None = None) -> Arrival | None:
        """The frame that came first of all lanes; None where ``timeout_seconds`` passed without one.

        Raises:
            Ended: all lanes have ended and are empty. Aborted: the inbox was aborted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or any(self._lanes) or not any(self._open), timeout_seconds)
            if self._aborted:
                raise Aborted
            filled = [lane for lane, frames in enumerate(self._lanes) if frames]
            if not filled:
                if not any(self._open):
                    raise Ended
                return None
            lane = min(filled, key=lambda lane: self._lanes[lane][0][0])
            frame = self._lanes[lane].popleft()[1]
            self._changed.notify_all()
            return Arrival(lane, frame)

    def end(self, lane: int) -> None:
        """No more frames will come on this lane."""
        with self._changed:
            self._open[lane] = False
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    @property
    def patient(self) -> bool:
        """True where every open lane would rather wait for a full batch than lose time."""
        with self._changed:
            return all(
                policy is Policy.EVERY for policy, is_open in zip(self._policies, self._open, strict=True) if is_open
            )

    def __len__(self) -> int:
        return sum(len(frames) for frames in self._lanes)


class Batcher:
    """Groups arrivals of one network size. Owned by one thread.

    A patient inbox (all ``EVERY``) fills its batches. With a ``LATEST`` lane in it a batch is what has arrived, and
    more is waited for only until its oldest frame is ``company_ns`` old, and only for lanes that are not in it yet and
    gave a frame lately: a second frame of one camera would come a whole interval later, a dead one's never.

    Args:
        company_ns: see :func:`company_ns`; 0 = never wait.
        clock: the one that frames are stamped with.
    """

    def __init__(
        self,
        inbox: Inbox,
        batch: int,
        network_size: Callable[[int, int], tuple[int, int]],
        *,
        company_ns: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._inbox = inbox
        self._batch = batch
        self._network_size = network_size
        self._company_ns = company_ns
        self._clock = clock or SystemClock()
        self._held: Arrival | None = None
        self._seen_ns: dict[int, int] = {}

    def next(self) -> tuple[tuple[int, int], list[Arrival]]:
        """Network size (width, height) and 1 to ``batch`` frames of it.

        Raises:
            Ended: all sources have ended. Aborted: the inbox was aborted.
        """
        first = self._held or self._inbox.take()
        self._held = None
        assert first is not None  # noqa: S101 - take() waits
        size = self._size(first)
        arrivals = [first]
        self._seen_ns[first.lane] = first.frame.captured_ns
        try:
            while len(arrivals) < self._batch:
                arrival = self._inbox.take(self._patience_seconds(arrivals))
                if arrival is None:
                    break
                self._seen_ns[arrival.lane] = arrival.frame.captured_ns
                if self._size(arrival) != size:
                    self._held = arrival
                    break
                arrivals.append(arrival)
        except Ended:
            pass
        return size, arrivals

    def _patience_seconds(self, arrivals: Sequence[Arrival]) -> float | None:
        """How long to wait for one frame more; None = for as long as it takes."""
        if self._inbox.patient:
            return None
        now_ns = self._clock.monotonic_ns()
        lively = {lane for lane, seen_ns in self._seen_ns.items() if now_ns - seen_ns <= _LATELY * self._company_ns}
        if not lively - {arrival.lane for arrival in arrivals}:
            return 0.0
        oldest_ns = min(arrival.frame.captured_ns for arrival in arrivals)
        return max(0.0, (oldest_ns + self._company_ns - now_ns) / 1e9)

    def _size(self, arrival: Arrival) -> tuple[int, int]:
        return self._network_size(arrival.frame.width_px, arrival.frame.height_px)


def company_ns(rates: Iterable[Fraction | None]) -> int:
    """How old a frame of a live lane may get while its batch waits for the other lanes: one interval of the fastest.

    Within it every lane that keeps up with that one has delivered. It leaves one of the two intervals that a picture's
    age may exceed the model's time by, and no lane's next frame is kept waiting by its last one.

    Args:
        rates: frames per second of the ``LATEST`` lanes, None where unknown; 0 is returned where none is known.
    """
    known = [rate for rate in rates if rate]
    return round(1e9 / max(known)) if known else 0

"""Blocking library calls that the caller can abandon, and the waits between attempts.

Another thread cannot cancel a read of FFmpeg or OpenCV: PyAV sets the deadline of a call before it starts, and
``VideoCapture.read`` has none. On an interrupt, the thread of the call is therefore abandoned; it is a daemon and
cleans up when the call returns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Generic, TypeVar

from streamdepth.core.queues import InterruptibleCondition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

T = TypeVar("T")

_GUESS_SECONDS = 0.3
_GUESS_ADDRESSES = 1024


class InterruptedCall(Exception):  # noqa: N818 - a request that was granted, not an error
    """The call was abandoned."""


class _Job(Generic[T]):
    """State shared by a thread and its caller. Every field is guarded by ``changed``."""

    def __init__(self) -> None:
        self.changed = InterruptibleCondition()
        self.items: deque[T] = deque()
        self.error: BaseException | None = None
        self.done = False
        self.abandoned = False

    def abandon(self) -> None:
        with self.changed:
            self.abandoned = True
            self.changed.notify_all()


class AbandonableCalls:
    """Runs calls and iterators on daemon threads named ``name``. Thread-safe; an interrupt is permanent."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._jobs: set[_Job[object]] = set()
        self._interrupted = False

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    def interrupt(self) -> None:
        """Make every waiting ``call`` raise and every ``iterate`` end, at once."""
        with self._lock:
            self._interrupted = True
            jobs = list(self._jobs)
        for job in jobs:
            job.abandon()

    def call(
        self, function: Callable[[], T], *, dispose: Callable[[T], object], timeout_seconds: float | None = None
    ) -> T:
        """Call ``function()`` on its own thread.

        Args:
            dispose: called with a result that arrives after the caller has left.
        Raises:
            InterruptedCall: ``interrupt`` was called before the result was available.
            TimeoutError: no result within ``timeout_seconds``.
        """
        job: _Job[T] = _Job()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:
                with job.changed:
                    job.error, job.done = error, True
                    job.changed.notify_all()
                return
            with job.changed:
                late = job.abandoned
                if not late:
                    job.items.append(result)
                    job.done = True
                    job.changed.notify_all()
            if late:
                dispose(result)

        self._start(job, work)
        try:
            with job.changed:
                in_time = job.changed.wait_for(lambda: job.done or job.abandoned, timeout_seconds)
                if job.items:
                    return job.items.popleft()
                if job.error is not None:
                    raise job.error
                job.abandoned = True
                if not in_time:
                    raise TimeoutError(f"no answer within {timeout_seconds:g} s")
                raise InterruptedCall
        finally:
            # After Ctrl-C the caller leaves, too.
            job.abandon()
            self._end(job)

    def iterate(
        self,
        items: Iterator[T],
        *,
        depth: int,
        finished: Callable[[], object],
        overtaken: Callable[[T], object] | None = None,
        timeout_seconds: float | None = None,
        first_seconds: float | None = None,
    ) -> Iterator[T]:
        """The items of ``items``, read at most ``depth`` ahead; ends on ``interrupt``.

        Args:
            finished: called exactly once when reading has ended, on the reading thread (or at once after an earlier
                interrupt): the place to close what ``items`` reads from.
            overtaken: if given, reading never waits: it is called with the oldest item not yet taken, which is dropped.
            first_seconds: limit of the first item, None = ``timeout_seconds``.
        Raises:
            TimeoutError: no item for ``timeout_seconds``.
        """
        job: _Job[T] = _Job()

        def work() -> None:
            error: BaseException | None = None
            try:
                for item in items:
                    with job.changed:
                        if overtaken is None:
                            job.changed.wait_for(lambda: len(job.items) < depth or job.abandoned)
                        if job.abandoned:
                            break
                        if overtaken is not None and len(job.items) >= depth:
                            overtaken(job.items.popleft())
                        job.items.append(item)
                        job.changed.notify_all()
            except BaseException as caught:
                error = caught
            finally:
                finished()
                with job.changed:
                    job.error, job.done = error, True
                    job.changed.notify_all()

        if not self._start(job, work):
            finished()
        limit = first_seconds or timeout_seconds
        try:
            while True:
                with job.changed:
                    in_time = job.changed.wait_for(lambda: job.items or job.done or job.abandoned, limit)
                    if job.abandoned:
                        return
                    if not in_time:
                        raise TimeoutError(f"no data for {limit:g} s")
                    if not job.items:
                        if job.error is not None:
                            raise job.error
                        return
                    item = job.items.popleft()
                    job.changed.notify_all()
                limit = timeout_seconds
                yield item
        finally:
            job.abandon()
            self._end(job)

    def _start(self, job: _Job[T], work: Callable[[], None]) -> bool:
        with self._lock:
            if self._interrupted:
                job.abandoned = True
            self._jobs.add(job)  # type: ignore[arg-type]
        if job.abandoned:
            return False
        threading.Thread(target=work, name=self._name, daemon=True).start()
        return True

    def _end(self, job: _Job[T]) -> None:
        with self._lock:
            self._jobs.discard(job)


class Backoff:
    """Exponential back-off with jitter: ``initial * factor**n``, at most ``longest``, shortened by up to ``jitter``.

    Jitter prevents many cameras behind one switch from being connected to in the same millisecond. Not thread-safe.

    Args:
        random: source of jitter.
        jitter: 0..1, the largest part by which a wait is shortened.

    Attributes:
        longest_seconds: no wait is longer.
    """

    def __init__(
        self,
        random: Random,
        *,
        initial_seconds: float = 0.25,
        longest_seconds: float = 8.0,
        factor: float = 2.0,
        jitter: float = 0.4,
    ) -> None:
        if not 0 < initial_seconds <= longest_seconds or factor < 1 or not 0 <= jitter <= 1:
            raise ValueError(
                "a back-off needs 0 < initial <= longest, factor >= 1 and jitter in 0..1, not "
                f"{initial_seconds}, {longest_seconds}, {factor}, {jitter}"
            )
        self._random = random
        self._initial_seconds = initial_seconds
        self.longest_seconds = longest_seconds
        self._factor = factor
        self._jitter = jitter
        self._wait_seconds = initial_seconds

    def next_seconds(self) -> float:
        """The wait before the next attempt; each call lengthens the following one."""
        wait = self._wait_seconds
        self._wait_seconds = min(wait * self._factor, self.longest_seconds)
        return wait * (1.0 - self._jitter * self._random.random())

    def reset(self) -> None:
        """An attempt succeeded."""
        self._wait_seconds = self._initial_seconds


class GuessDelays:
    """Delays after wrong passwords: one answer per 0.3 s for each address, however many connections it has.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[str, float] = OrderedDict()

    def next_seconds(self, address: str, now_seconds: float) -> float:
        """The delay before this answer; each call delays the following answer to the address."""
        at = max(self._next.pop(address, now_seconds), now_seconds) + _GUESS_SECONDS
        self._next[address] = at
        while len(self._next) > _GUESS_ADDRESSES:
            self._next.popitem(last=False)
        return at - now_seconds


def connected_again(times: int) -> str:
    """A note on ``times`` reconnections, 1 or more."""
    return "connected again once" if times == 1 else f"connected again {times} times"

"""Blocking library calls on a thread of their own, so that whoever waits for them can walk away.

FFmpeg's and OpenCV's reads hold no Python-visible handle that another thread could cancel: PyAV fixes the deadline of a
call before it starts, and ``VideoCapture.read`` has none. The thread that made the call is therefore left behind on an
interrupt; it is a daemon, takes nothing with it, and cleans up when the call comes back.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from streamdepth.core.queues import InterruptibleCondition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class InterruptedCall(Exception):  # noqa: N818 - a request that was granted, not an error
    """The call was walked away from."""


class _Job(Generic[T]):
    """What one thread and its caller share. Every field is guarded by ``changed``."""

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
    """Runs calls and iterators on daemon threads named ``name``. Thread-safe; once interrupted it stays so."""

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
        """``function()`` from a thread of its own.

        Args:
            dispose: called with the result where it arrives after the caller has left.
        Raises:
            InterruptedCall: ``interrupt`` was called before the result was there.
            TimeoutError: nor was it after ``timeout_seconds``.
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
            # Ctrl-C makes the caller leave, too.
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
        """The items of ``items``, read at most ``depth`` ahead; ends quietly on ``interrupt``.

        Args:
            finished: called exactly once when reading is over, on the thread that reads (or at once where it was
                interrupted before it began): the place to give back what ``items`` reads from.
            overtaken: where given, reading never waits: the oldest item not yet taken is handed to it and left out.
            first_seconds: limit of the first item, None = ``timeout_seconds``.
        Raises:
            TimeoutError: no item came for ``timeout_seconds``.
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
                        raise TimeoutError(f"nothing came for {limit:g} s")
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

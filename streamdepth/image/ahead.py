"""Work done ahead on other threads, its results in the order of what they are made of."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor

T = TypeVar("T")
R = TypeVar("R")


def in_order(pool: Executor, work: Callable[[T], R], values: Iterable[T], *, ahead: int) -> Iterator[R]:
    """``map(work, values)`` on a pool, at most ``ahead`` results before the one that is taken.

    ``values`` is advanced on the thread that takes results. An error of it, or of work, is raised after the results of
    all values before.
    """
    waiting: deque[Future[R]] = deque()
    for future in _submitted(pool, work, values):
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _submitted(pool: Executor, work: Callable[[T], R], values: Iterable[T]) -> Iterator[Future[R]]:
    """The work on each value; an error of ``values`` stands for the value that did not come."""
    try:
        for value in values:
            yield pool.submit(work, value)
    except Exception as error:  # raised again where its result is taken
        failed: Future[R] = Future()
        failed.set_exception(error)
        yield failed

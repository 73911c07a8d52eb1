"""Bounded queues with a named overflow policy. Every wait can be aborted."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_SLICE_SECONDS = 0.5


class Policy(StrEnum):
    """What happens to frames that arrive faster than they are processed."""

    EVERY = "every"
    """Block; no frame is dropped. Default for files."""
    LATEST = "latest"
    """Keep the newest frame; each replaced frame is counted as dropped. Default for live sources."""


class Aborted(Exception):  # noqa: N818 - control flow between threads
    """A wait was aborted because the pipeline stops immediately."""


class Ended(Exception):  # noqa: N818 - control flow between threads
    """The queue is empty and no more items follow."""


class InterruptibleCondition(threading.Condition):
    """A condition variable whose waits wake twice a second: on Windows, Ctrl-C does not end a wait of the main thread.

    Use ``wait_for``, or ``wait`` in a loop.
    """

    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(_SLICE_SECONDS if timeout is None else min(timeout, _SLICE_SECONDS))


class AbortableCondition(InterruptibleCondition):
    """A condition variable whose waits raise ``Aborted`` after ``abort``."""

    def __init__(self) -> None:
        super().__init__()
        self._aborted = False

    def wait_for(self, predicate: Callable[[], object], timeout: float | None = None) -> Any:
        """As ``threading.Condition.wait_for``.

        Raises:
            Aborted: ``abort`` was called before or during the wait.
        """
        met = super().wait_for(lambda: self._aborted or predicate(), timeout)
        if self._aborted:
            raise Aborted
        return met

    def abort(self) -> None:
        """Make all waits raise, now and later. Idempotent."""
        with self:
            self._aborted = True
            self.notify_all()


class BoundedQueue(Generic[T]):
    """First in, first out. Thread-safe.

    ``put`` on a full queue blocks (``EVERY``) or replaces the oldest item (``LATEST``). After ``end`` no more items
    follow: ``get`` returns what is left and then raises ``Ended``. ``abort`` makes every wait raise ``Aborted``.

    Attributes:
        on_get: called after each item that ``get`` returns, on its thread and without a lock.
    """

    def __init__(self, capacity: int, policy: Policy = Policy.EVERY) -> None:
        if capacity < 1:
            raise ValueError(f"a queue holds at least 1 item, not {capacity}")
        self.capacity = capacity
        self.policy = policy
        self.on_get: Callable[[], object] = lambda: None
        self._items: deque[T] = deque()
        self._changed = AbortableCondition()
        self._ended = False
        self._consumers = 0

    def put(self, item: T) -> T | None:
        """Add an item; returns the item it replaced, which the caller must count.

        Raises:
            Aborted: the queue was aborted before there was room.
        """
        with self._changed:
            replaced = None
            if self.policy is Policy.LATEST and len(self._items) >= self.capacity:
                replaced = self._items.popleft()
            self._changed.wait_for(lambda: len(self._items) < self.capacity)
            self._items.append(item)
            self._changed.notify_all()
            return replaced

    def wait_for_consumer(self) -> None:
        """Block until a consumer waits for an item. For the only producer.

        Raises:
            Aborted: the queue was aborted first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._consumers > len(self._items))

    def get(self, timeout_seconds: float | None = None) -> T | None:
        """Remove and return the oldest item; None if none arrived within ``timeout_seconds``.

        Raises:
            Ended: nothing is left and no more items follow.
            Aborted: the queue was aborted.
        """
        with self._changed:
            waits = not self._items
            if waits:
                self._consumers += 1
                self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: self._items or self._ended, timeout_seconds)
            finally:
                self._consumers -= waits
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
            elif self._ended:
                raise Ended
            else:
                return None
        self.on_get()
        return item

    def take(self) -> T:
        """``get`` without a timeout."""
        item = self.get()
        assert item is not None  # noqa: S101 - get() without timeout
        return item

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        self._changed.abort()

    def drain(self) -> list[T]:
        """Remove and return all items, also after an abort, so that they can be counted."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return items

    def __len__(self) -> int:
        return len(self._items)

"""Bounded queues with a named overflow policy, whose waits can always be ended from outside."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Policy(StrEnum):
    """What happens to frames that come faster than they can be worked on."""

    EVERY = "every"
    """Wait: lose nothing. Default for files."""
    LATEST = "latest"
    """The newest frame wins, each one it replaces is counted. Default for live sources."""


class Aborted(Exception):  # noqa: N818 - control flow between our own threads
    """A wait was ended because the pipeline stops at once."""


class Ended(Exception):  # noqa: N818 - control flow between our own threads
    """The queue is empty and nothing will be put any more."""


class BoundedQueue(Generic[T]):
    """First in, first out. Thread-safe; one lock, one condition.

    ``put`` on a full queue waits (``EVERY``) or replaces the oldest item (``LATEST``). ``end`` says that no more will
    come: ``get`` then empties the queue and raises ``Ended``. ``abort`` makes every wait raise ``Aborted``.
    """

    def __init__(self, capacity: int, policy: Policy = Policy.EVERY) -> None:
        if capacity < 1:
            raise ValueError(f"a queue holds at least 1 item, not {capacity}")
        self.capacity = capacity
        self.policy = policy
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._aborted = False
        self._takers = 0

    def put(self, item: T) -> T | None:
        """Add an item; returns the one it replaced, which the caller accounts for.

        Raises:
            Aborted: the queue was aborted before there was room.
        """
        with self._changed:
            replaced = None
            if self.policy is Policy.LATEST and len(self._items) >= self.capacity:
                replaced = self._items.popleft()
            while len(self._items) >= self.capacity and not self._aborted:
                self._changed.wait()
            if self._aborted:
                raise Aborted
            self._items.append(item)
            self._changed.notify_all()
            return replaced

    def wait_for_taker(self) -> None:
        """Wait until somebody waits for an item that is not there. For the one thread that puts.

        Raises:
            Aborted: the queue was aborted before.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._takers > len(self._items) or self._aborted)
            if self._aborted:
                raise Aborted

    def get(self, timeout_seconds: float | None = None) -> T | None:
        """Take the oldest item; None where ``timeout_seconds`` passed without one.

        Raises:
            Ended: nothing is left and nothing will come.
            Aborted: the queue was aborted.
        """
        with self._changed:
            if not self._items:
                self._takers += 1
                self._changed.notify_all()
                try:
                    self._changed.wait_for(lambda: self._items or self._ended or self._aborted, timeout_seconds)
                finally:
                    self._takers -= 1
            if self._aborted:
                raise Aborted
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._ended:
                raise Ended
            return None

    def take(self) -> T:
        """``get`` that waits for as long as it takes."""
        item = self.get()
        assert item is not None  # noqa: S101 - get() without timeout
        return item

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def drain(self) -> list[T]:
        """Take everything at once, also after an abort: what is left over must be counted."""
        with self._changed:
            items = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return items

    def __len__(self) -> int:
        return len(self._items)

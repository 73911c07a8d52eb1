"""Work done side by side, handed on in the order it came."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from streamdepth.queues import Aborted, Ended

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Turns:
    """Numbers what workers take and lets them hand on in that order. Thread-safe."""

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0
        self._next = 0
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

    def wait(self, turn: int) -> None:
        """Return once everybody with an earlier turn is ``done``.

        Raises:
            Aborted: it was aborted meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._next == turn)
            if self._aborted:
                raise Aborted

    def done(self) -> None:
        """The turn waited for is over."""
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """End all waits. Idempotent."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

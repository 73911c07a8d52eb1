"""Work done side by side, handed on in the order it came."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from streamdepth.core.queues import Aborted, Ended

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class ReorderBuffer:
    """Numbers what workers take and lets them hand on in that order. Thread-safe."""

    def __init__(self) -> None:
        self._taking = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0
        self._next = 0
        self._held: dict[int, Callable[[], None]] = {}
        self._handing = False
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

    def hand_on(self, turn: int, give: Callable[[], None], *, most_held: int) -> None:
        """Have ``give`` called once everybody with an earlier turn has handed on: by this thread, or by the one whose
        turn comes before. Who is early leaves it behind and works on, instead of standing still beside a slow run.

        Args:
            most_held: so many turns may be taken and not handed on; this waits while there are more.

        Raises:
            Aborted: it was aborted before there was room.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or turn - self._next < most_held)
            if self._aborted:
                raise Aborted
            self._held[turn] = give
            if self._handing:
                return
            self._handing = True
        while (next_one := self._due()) is not None:
            next_one()
            self._done()

    def finish(self, turn: int, end: Callable[[], None]) -> None:
        """Call ``end`` on this thread once everybody with an earlier turn has handed on.

        Raises:
            Aborted: it was aborted meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._aborted or self._next == turn)
            if self._aborted:
                raise Aborted
        end()
        self._done()

    def _due(self) -> Callable[[], None] | None:
        with self._changed:
            give = self._held.pop(self._next, None)
            self._handing = give is not None
            return give

    def _done(self) -> None:
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """End all waits. Idempotent."""
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

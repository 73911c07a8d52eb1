"""Waiting times: before the next connection attempt, and before the answer to a wrong password."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_GUESS_SECONDS = 0.3
_GUESS_ADDRESSES = 1024


class Backoff:
    """Exponential back-off with jitter: ``initial * factor**n``, at most ``longest``, shortened by up to ``jitter``.

    Jitter prevents many cameras behind one switch from being connected to in the same millisecond. Not thread-safe.

    Args:
        random: source of jitter.
        jitter: 0..1, the largest part by which a wait is shortened.
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
        self._longest_seconds = longest_seconds
        self._factor = factor
        self._jitter = jitter
        self._wait_seconds = initial_seconds

    def next_seconds(self) -> float:
        """The wait before the next attempt; each call lengthens the following one."""
        wait = self._wait_seconds
        self._wait_seconds = min(wait * self._factor, self._longest_seconds)
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

"""How long to wait before the next connection attempt, and how to tell of those made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random


class Backoff:
    """Exponential waits with jitter: ``initial * factor**n``, at most ``longest``, each shortened by up to ``jitter``.

    Jitter keeps a hundred cameras behind one switch from coming back in the same millisecond. Not thread-safe.

    Args:
        random: source of jitter, injected so that tests are exact.
        jitter: 0..1, the largest part taken off a wait.
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
        """The wait before the next attempt; each call makes the following one longer."""
        wait = self._wait_seconds
        self._wait_seconds = min(wait * self._factor, self._longest_seconds)
        return wait * (1.0 - self._jitter * self._random.random())

    def reset(self) -> None:
        """An attempt succeeded."""
        self._wait_seconds = self._initial_seconds


def connected_again(times: int) -> str:
    """A note for people on ``times`` reconnections, 1 or more."""
    return "connected again once" if times == 1 else f"connected again {times} times"

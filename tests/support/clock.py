"""Time that a test controls."""

from __future__ import annotations


class ManualClock:
    """A monotonic clock that moves by ``step_seconds`` at every reading, and by ``advance``.

    Attributes:
        now_ns: the time of the last reading.
    """

    def __init__(self, *, step_seconds: float = 0.0, now_ns: int = 1_000_000_000) -> None:
        self.now_ns = now_ns
        self._step_ns = round(step_seconds * 1e9)

    def monotonic_ns(self) -> int:
        self.now_ns += self._step_ns
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

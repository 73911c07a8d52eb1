"""Monotonic time. Passed in wherever time is read, so that tests need no sleeps."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic nanoseconds. Thread-safe."""

    def monotonic_ns(self) -> int: ...


class SystemClock:
    """The monotonic clock of the system."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

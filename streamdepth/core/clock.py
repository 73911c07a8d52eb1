"""Monotonic time, injected wherever time is read, so that tests do not sleep."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic nanoseconds. Thread-safe."""

    def monotonic_ns(self) -> int: ...


class SystemClock:
    """The machine's monotonic clock."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

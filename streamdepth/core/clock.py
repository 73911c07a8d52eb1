"""Monotonic time. Passed in wherever time is read, so that tests need no sleeps."""

from __future__ import annotations

import sys
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic nanoseconds. Thread-safe."""

    def monotonic_ns(self) -> int: ...


class SystemClock:
    """The monotonic clock of the system. On Windows the performance counter: the other one has steps of 15.6 ms there
    with Python 3.11 and 3.12."""

    def __init__(self, system: str = sys.platform) -> None:
        self._read = time.perf_counter_ns if system == "win32" else time.monotonic_ns

    def monotonic_ns(self) -> int:
        return self._read()

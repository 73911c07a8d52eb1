"""Monotonic time. Passed in wherever time is read, so that tests need no sleeps."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fractions import Fraction


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


class MediaClock:
    """Time corrections of a file source, for a sink that copies other streams of the same file. Thread-safe.

    A source that repairs jumps of the clock adds the shift of each jump, and reports the end of its file.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shifts: list[Fraction] = []
        self._ended = self._limited = False

    def add_shift(self, seconds: Fraction) -> None:
        """From the next jump of the clock on, ``seconds`` are added to the time stamps of the file."""
        with self._lock:
            self._shifts.append(seconds)

    def end(self) -> None:
        """The source was read to its own end, not to that of a limit or of the run."""
        with self._lock:
            self._ended = True

    def limit(self) -> None:
        """The source was read to the end of its limits."""
        with self._lock:
            self._limited = True

    @property
    def finished(self) -> bool:
        """False if the source failed or was stopped before its end."""
        with self._lock:
            return self._ended or self._limited

    @property
    def ended(self) -> bool:
        with self._lock:
            return self._ended

    def shift(self, jump: int) -> Fraction | None:
        """Seconds to add after the given number of jumps, from 1; None if the source has not reached it."""
        with self._lock:
            return self._shifts[jump - 1] if jump <= len(self._shifts) else None

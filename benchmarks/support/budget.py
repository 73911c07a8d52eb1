"""The time limit of a benchmark, and the settings skipped to meet it."""

from __future__ import annotations

import time


class Budget:
    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self.skipped: list[str] = []

    def skip(self, line: str) -> None:
        print(f"skipped: {line}", flush=True)
        self.skipped.append(line)

    def left_seconds(self) -> float:
        return self._ends - time.monotonic()


def numbers(text: str) -> list[int]:
    """Parse ``"1,2,4"``."""
    return [int(part) for part in text.split(",")]

"""Timers of a run."""

from __future__ import annotations

import tracemalloc

from streamdepth.pipeline.stats import Timer


def test_a_timer_holds_the_newest_durations_in_128_kilobytes() -> None:
    timer = Timer()
    tracemalloc.start()
    try:
        for number in range(40_000):
            timer.add(5_000_000_000 + number)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 180_000
    newest = (2 * 40_000 - 16_384 - 1) / 2  # between the first and the last that are kept
    assert timer.summary_ms((50,)) == {"median": round((5_000_000_000 + newest) / 1e6, 3)}

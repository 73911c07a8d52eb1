"""Side-by-side timing: every method runs once per round, so that other load affects all of them equally."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def as_installed() -> dict[str, str]:
    """The environment of a measured command. Python may store compiled modules, as installers do: compiling them in
    each run takes 0.3 s."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one method over all rounds."""

    median_ms: float
    fastest_ms: float
    rounds: int


def side_by_side(
    methods: Mapping[str, Callable[[], object]], *, rounds: int = 31, seconds: float = 4.0
) -> dict[str, Timing]:
    """Run each method once per round after one warm-up run. The order is shuffled in each round, because a method that
    uses much memory leaves cold caches to the next one.

    Args:
        rounds: how many rounds at most.
        seconds: no further round starts after this time, but at least five rounds run.
    """
    for run in methods.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in methods}
    order = random.Random(1)
    begin = time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - begin > seconds:
            break
        for name in order.sample(sorted(methods), len(methods)):
            run = methods[name]
            start = time.perf_counter_ns()
            run()
            taken[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: Timing(statistics.median(times), min(times), len(times)) for name, times in taken.items()}


def machine() -> str:
    """One line about the machine: processor, cores, load, Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{model}, {os.cpu_count()} cores{load}, Python {platform.python_version()}"

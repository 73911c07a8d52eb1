"""A whole run against its stages measured alone, and the use of the cores during the run."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.bench.measure import measure_stages, measure_whole, read_clip
from streamdepth.core.host import cores
from streamdepth.sources.select import source_for

if TYPE_CHECKING:
    from streamdepth.core.look import Look
    from streamdepth.image.estimator import DepthEstimator

_INEVITABLE = ("decode", "model", "encode")


def print_stages(clip: Path, estimator: DepthEstimator, most_frames: int, look: Look) -> float:
    """Print CPU milliseconds per frame in the steady state, without start-up; return the run's fps by its bound."""
    images = read_clip(source_for(str(clip)), most_frames)
    engine = estimator.engine(workers=2)  # as in a run of a file
    try:
        stages = measure_stages(images, engine, look)
    finally:
        engine.close()
    source = source_for(str(clip), max_frames=most_frames)
    began, used_before, idle_before = time.monotonic(), time.process_time(), _idle_seconds()
    whole = measure_whole(source, estimator, look, stages, cores=cores())
    available = (time.monotonic() - began) * cores()
    used = (time.process_time() - used_before) / available
    print("\n| stage | CPU ms / frame, alone |\n|---|---|")
    for stage in stages:
        print(f"| {stage.name}{' *' if stage.name in _INEVITABLE else ''} | {stage.cpu_ms:.1f} |")
    print(f"| elsewhere, beyond these | {whole.elsewhere_cpu_ms:.1f} |")
    print(f"| **whole run** | **{whole.cpu_ms:.1f}** |\n")
    inevitable = sum(stage.cpu_ms for stage in stages if stage.name in _INEVITABLE)
    print(
        f"{whole.fps:.1f} fps of the {whole.bound_fps:.1f} allowed by the stages marked *: {whole.efficiency:.2f}. "
        f"By CPU time {inevitable / whole.cpu_ms:.2f}."
    )
    if idle_before is not None:
        idle = ((_idle_seconds() or 0.0) - idle_before) / available
        print(
            f"Of the cores the run used {used:.0%}, other processes {max(0.0, 1 - used - idle):.0%}; idle {idle:.0%}."
        )
    return whole.efficiency


def _idle_seconds() -> float | None:
    """Idle time of all cores since the machine started; None if the system does not report it."""
    counters = Path("/proc/stat")
    if not counters.exists():
        return None
    fields = counters.read_text().split("\n", 1)[0].split()[1:]
    return (int(fields[3]) + int(fields[4])) / os.sysconf("SC_CLK_TCK")

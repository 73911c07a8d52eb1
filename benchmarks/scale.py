"""Time per stage and segment of a clip, for several numbers of workers, and a simulation of more workers.

``python benchmarks/scale.py CLIP [--workers 1 2 4] [--segment 2] [--long LONG_CLIP] [--json OUT]``. CPU times are those
of the worker processes; on a busy machine they are more reliable than the time of the clock.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.frame import Sense
from streamdepth.core.host import cores
from streamdepth.depth.motion import Candidate
from streamdepth.depth.range import RangeSpec
from streamdepth.jobs import ClipSettings, VideoOutput
from streamdepth.jobs.clip import ClipRun
from streamdepth.jobs.engines import LocalEngine
from streamdepth.jobs.passes import RangePass
from streamdepth.jobs.segment import FrameStatistics, SegmentStatistics, StoredMeasurement, clip_source, plan_clip
from streamdepth.pipeline.stats import RunStats
from streamdepth.sinks.join import join_video

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.jobs import TaskResult

SIMULATED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SEGMENT_FRAMES = 250


class Recorder:
    """Keeps the results of all tasks."""

    def __init__(self) -> None:
        self.results: list[TaskResult] = []

    def note(self, message: str) -> None:
        print(message)

    def planned(self, frames: int, done: int) -> None:
        pass

    def finished(self, result: TaskResult) -> None:
        self.results.append(result)


def measure(path: Path, workers: int, segment_seconds: float) -> dict[str, float]:
    """Seconds of the clock and of the CPU for one run with ``workers`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ClipSettings(
            source=str(path),
            source_id=path.name,
            videos=(VideoOutput(path=f"{folder}/out.mkv", codec="libx264"),),
            segment_seconds=segment_seconds,
        )
        started = time.perf_counter()
        segments = len(plan_clip(settings).segments)
        planned = time.perf_counter() - started
        recorder = Recorder()
        engine = LocalEngine(workers)
        started, started_cpu = time.perf_counter(), time.process_time()
        try:
            stats = ClipRun(settings).run(engine, recorder)
            seconds, driver_cpu = time.perf_counter() - started, time.process_time() - started_cpu
        finally:
            engine.close()
    # The first task of each stage of a worker loads the model or compiles the kernels.
    first = {(one.worker, one.stage): one for one in reversed(recorder.results)}
    warm = [one for one in recorder.results if one not in first.values()] or recorder.results
    row = {
        "workers": workers,
        "segments": segments,
        "frames": stats.processed,
        "seconds": seconds,
        "plan_seconds": planned,
        "driver_cpu_seconds": driver_cpu,
        "startup_cpu_seconds": statistics.median(
            one.cpu_seconds for (_, stage), one in first.items() if stage == "depth"
        ),
    }
    for stage in ("depth", "color"):
        times = [one for one in warm if one.stage == stage]
        frames = sum(one.frames for one in times)
        if frames:
            row[f"{stage}_cpu_ms_per_frame"] = 1000 * sum(one.cpu_seconds for one in times) / frames
            row[f"{stage}_ms_per_frame"] = 1000 * sum(one.seconds for one in times) / frames
    return row


def measure_serial(path: Path) -> float:
    """CPU seconds per frame of what one process does: plan, ranges, join."""
    settings = ClipSettings(source=str(path), source_id=path.name)
    started = time.process_time()
    plan = plan_clip(settings)
    source = clip_source(settings)
    info = source.open()
    times = sorted(stamp.pts * info.time_base for stamp in source.packets() if stamp.pts is not None)
    source.close()
    with tempfile.TemporaryDirectory() as folder:
        join_video([path], Path(folder) / "joined.mkv", info, times)
    random = np.random.default_rng(0)
    measured = StoredMeasurement(random.random(600, np.float32), 0.0, 1.0, False, (0.01, 0.99))
    frames = tuple(FrameStatistics(pts, measured, Candidate(pts % 100 == 99)) for pts in range(_SEGMENT_FRAMES))
    shape, propagated = (192, 352), (False,) * _SEGMENT_FRAMES
    content = SegmentStatistics(frames, Sense.RELATIVE_INVERSE, shape, propagated, None, RunStats()).to_bytes()
    ranges = RangePass(RangeSpec.parse("shot"), info.time_base)
    count = max(1, plan.frames // _SEGMENT_FRAMES)
    for number in range(count):
        ranges.add(SegmentStatistics.from_bytes(content), last=number == count - 1)
    return (time.process_time() - started) / plan.frames


def simulate(segments: int, depth: float, color: float, serial: float, startup: float, workers: int) -> float:
    """Seconds of a run: every worker starts, takes segments as it gets free, depth of all before the colours; then the
    serial part (plan, ranges, join)."""
    free = [startup] * workers
    heapq.heapify(free)
    for stage in (depth, color):
        for _ in range(segments):
            heapq.heappush(free, heapq.heappop(free) + stage)
        free = [max(free)] * workers
    return max(free) + serial


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--segment", type=float, default=2.0)
    parser.add_argument("--long", type=Path, help="a clip of some minutes, to measure plan and join with")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--film-hours", type=float, default=2.0)
    given = parser.parse_args(arguments)
    rows = [measure(given.clip, workers, given.segment) for workers in given.workers]
    print(f"{cores()} cores, {given.clip.name}")
    for row in rows:
        print(json.dumps({name: round(value, 3) for name, value in row.items()}))
    base = rows[0]
    frames = given.film_hours * 3600 * 25
    segments = max(1, round(frames / _SEGMENT_FRAMES))
    depth = base["depth_cpu_ms_per_frame"] / 1000 * _SEGMENT_FRAMES
    color = base["color_cpu_ms_per_frame"] / 1000 * _SEGMENT_FRAMES
    per_frame = measure_serial(given.long or given.clip)
    print(f"plan, ranges and join: {1e6 * per_frame:.0f} us of CPU per frame")
    serial = per_frame * frames
    print(f"\nsimulated: {given.film_hours:g} h at 25 fps, {segments} segments of 10 s, one core per worker")
    alone = simulate(segments, depth, color, serial, base["startup_cpu_seconds"], 1)
    for workers in SIMULATED:
        seconds = simulate(segments, depth, color, serial, base["startup_cpu_seconds"], workers)
        share = alone / seconds / workers
        print(f"| {workers} | {seconds / 60:.1f} min | {alone / seconds:.1f} | {100 * share:.0f} % |")
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

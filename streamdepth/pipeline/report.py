"""Merges the counters and timers of all source workers into the statistics of a run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from streamdepth.core.errors import StageError
from streamdepth.pipeline.stats import RunStats, Snapshot, Timer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamdepth.inference.model import Runner
    from streamdepth.pipeline.source_worker import SourceWorker

UNACCOUNTED = "unaccounted"
"""Cause of frames that are missing after a run without an error; any is a bug."""


def run_stats(
    source_workers: Sequence[SourceWorker], shared: Mapping[str, Timer], engine: Runner, *, seconds: float, lost_to: str
) -> RunStats:
    """The final statistics. Frames still in the pipeline count as dropped by ``lost_to``."""
    sinks = tuple(stats for source_worker in source_workers for stats in source_worker.finalize(lost_to))
    captured, processed, dropped = _totals(source_workers)
    timers = dict(shared)
    for name in ("capture", "range", "colorize"):
        timers[name] = Timer.merged(source_worker.timers[name] for source_worker in source_workers)
    propagations = [one.propagation for one in source_workers if one.propagation is not None]
    timers["propagate"] = Timer.merged(propagation.timer for propagation in propagations)
    stabilizations = [one.stabilization for one in source_workers if one.stabilization is not None]
    timers["stabilize"] = Timer.merged(stabilization.timer for stabilization in stabilizations)
    for source_worker in source_workers:
        for sink_worker in source_worker.sink_workers:
            timers[f"sink {sink_worker.sink.name}"] = sink_worker.timer
    counts = [source_worker.counters.read() for source_worker in source_workers]
    return RunStats(
        captured=captured,
        processed=processed,
        written=_written(source_workers),
        propagated=sum(propagation.propagated for propagation in propagations),
        dropped=dropped,
        depth_flat=sum(count.depth_flat for count in counts),
        depth_non_finite=sum(count.depth_non_finite for count in counts),
        seconds=seconds,
        fps=processed / seconds if seconds > 0 else 0.0,
        stages_ms={name: summary for name, timer in timers.items() if (summary := timer.summary_ms())},
        latency_ms=Timer.merged(source_worker.latency for source_worker in source_workers).summary_ms((50, 95, 99)),
        sinks=sinks,
        model=engine.spec.name,
        dtype=engine.spec.dtype,
        provider=engine.provider,
        batch=engine.batch,
        range=", ".join(dict.fromkeys(str(source_worker.range_spec) for source_worker in source_workers)),
        stabilize=", ".join(dict.fromkeys(stabilization.name for stabilization in stabilizations)) or "off",
        notes=(*opening_notes(source_workers, engine), *_closing_notes(source_workers)),
    )


def opening_notes(source_workers: Sequence[SourceWorker], engine: Runner) -> tuple[str, ...]:
    """Notes known before the first frame: assumptions, conversions and fallbacks."""
    notes = [*engine.spec.notes, engine.note]
    for source_worker in source_workers:
        notes += source_worker.opening_notes
    return tuple(dict.fromkeys(note for note in notes if note))


def _closing_notes(source_workers: Sequence[SourceWorker]) -> list[str]:
    notes = []
    for source_worker in source_workers:
        own = (*source_worker.source.notes, source_worker.anchoring.note if source_worker.anchoring else "")
        notes += [f"{source_worker.source.id}: {note}" for note in own if note]
    sinks = [sink_worker.sink for source_worker in source_workers for sink_worker in source_worker.sink_workers]
    return notes + [f"{sink.name}: {sink.note}" for sink in sinks if sink.note]


def audit(stats: RunStats) -> None:
    """Check that every frame is counted exactly once, in the run and in each sink.

    Raises:
        StageError: the counts do not add up.
    """
    dropped = {"run": stats.dropped, **{sink.name: sink.dropped for sink in stats.sinks}}
    wrong = [f"{name} {count}" for name, causes in dropped.items() if (count := causes.get(UNACCOUNTED))]
    if wrong or stats.captured != stats.processed + sum(stats.dropped.values()):
        raise StageError(
            f"frames unaccounted for ({', '.join(wrong)}): captured {stats.captured}, processed {stats.processed}, "
            f"dropped {stats.dropped}; please report this bug"
        )


def snapshot(
    source_workers: Sequence[SourceWorker], queues: Mapping[str, int], *, seconds: float, stopping: bool
) -> Snapshot:
    captured, processed, dropped = _totals(source_workers)
    expected = [one.info.frame_count if one.info else None for one in source_workers]
    known = [count for count in expected if count is not None]
    return Snapshot(
        captured=captured,
        processed=processed,
        written=_written(source_workers),
        dropped=dropped,
        expected=sum(known) if len(known) == len(expected) else None,
        seconds=seconds,
        queues={
            **queues,
            "depths": sum(len(one.depths) for one in source_workers),
            "propagate": sum(len(one.propagation) for one in source_workers if one.propagation is not None),
            "stabilize": sum(len(one.stabilization) for one in source_workers if one.stabilization is not None),
            "spool": sum(len(one.shot_spool) for one in source_workers if one.shot_spool is not None),
            "sinks": sum(len(sink.queue) for one in source_workers for sink in one.sink_workers),
        },
        stopping=stopping,
    )


def _totals(source_workers: Sequence[SourceWorker]) -> tuple[int, int, dict[str, int]]:
    captured = processed = 0
    dropped: Counter[str] = Counter()
    for source_worker in source_workers:
        counts = source_worker.counters.read()
        captured += counts.captured
        processed += counts.processed
        dropped.update(counts.dropped)
    return captured, processed, {cause: count for cause, count in sorted(dropped.items()) if count}


def _written(source_workers: Sequence[SourceWorker]) -> int:
    """Frames written by the sink that wrote most, summed over the sources."""
    return sum(max((sink.written for sink in one.sink_workers), default=0) for one in source_workers)

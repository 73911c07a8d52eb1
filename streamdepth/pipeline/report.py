"""Reading the books of a run: all lanes' counters and timers as one value."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from streamdepth.core.errors import StageError
from streamdepth.pipeline.stats import RunStats, Snapshot, Timer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamdepth.inference.runner import Runner
    from streamdepth.pipeline.source_worker import Lane

UNACCOUNTED = "unaccounted"
"""Cause of what an orderly run lost without saying so: there must be none."""


def run_stats(
    lanes: Sequence[Lane], shared: Mapping[str, Timer], engine: Runner, *, seconds: float, lost_to: str
) -> RunStats:
    """Close the books. Frames still on their way are dropped with cause ``lost_to``."""
    sinks = tuple(stats for lane in lanes for stats in lane.settle(lost_to))
    captured, processed, dropped = _totals(lanes)
    timers = dict(shared)
    for name in ("capture", "range", "colorize"):
        timers[name] = Timer.merged(lane.timers[name] for lane in lanes)
    carryings = [lane.carrying for lane in lanes if lane.carrying is not None]
    timers["carry"] = Timer.merged(carrying.timer for carrying in carryings)
    for lane in lanes:
        for outlet in lane.outlets:
            timers[f"sink {outlet.sink.name}"] = outlet.timer
    odd = [lane.tally.read()[3:] for lane in lanes]
    return RunStats(
        captured=captured,
        processed=processed,
        written=_written(lanes),
        carried=sum(carrying.carried for carrying in carryings),
        dropped=dropped,
        depth_flat=sum(flat for flat, _ in odd),
        depth_non_finite=sum(non_finite for _, non_finite in odd),
        seconds=seconds,
        fps=processed / seconds if seconds > 0 else 0.0,
        stages_ms={name: summary for name, timer in timers.items() if (summary := timer.summary_ms())},
        latency_ms=Timer.merged(lane.latency for lane in lanes).summary_ms((50, 95, 99)),
        sinks=sinks,
        model=engine.spec.name,
        dtype=engine.spec.dtype,
        provider=engine.provider,
        batch=engine.batch,
        range=", ".join(dict.fromkeys(str(lane.range_spec) for lane in lanes)),
        notes=(*opening_notes(lanes, engine), *_closing_notes(lanes)),
    )


def opening_notes(lanes: Sequence[Lane], engine: Runner) -> tuple[str, ...]:
    """What is worth saying before the first frame: what was assumed, converted or fallen back to."""
    notes = [*engine.spec.notes, engine.note]
    for lane in lanes:
        notes += lane.opening_notes
    return tuple(dict.fromkeys(note for note in notes if note))


def _closing_notes(lanes: Sequence[Lane]) -> list[str]:
    notes = [f"{lane.source.id}: {note}" for lane in lanes for note in lane.source.notes]
    sinks = [outlet.sink for lane in lanes for outlet in lane.outlets]
    return notes + [f"{sink.name}: {sink.note}" for sink in sinks if sink.note]


def audit(stats: RunStats) -> None:
    """After an orderly end every frame must be accounted for, in the run's books and in each sink's.

    Raises:
        StageError: one is not.
    """
    books = {"run": stats.dropped, **{sink.name: sink.dropped for sink in stats.sinks}}
    wrong = [f"{name} {count}" for name, book in books.items() if (count := book.get(UNACCOUNTED))]
    if wrong or stats.captured != stats.processed + sum(stats.dropped.values()):
        raise StageError(
            f"frames unaccounted for ({', '.join(wrong)}): captured {stats.captured}, processed {stats.processed}, "
            f"dropped {stats.dropped}; this is a bug of streamdepth"
        )


def snapshot(lanes: Sequence[Lane], queues: Mapping[str, int], *, seconds: float, stopping: bool) -> Snapshot:
    captured, processed, dropped = _totals(lanes)
    expected = [lane.info.frame_count if lane.info else None for lane in lanes]
    known = [count for count in expected if count is not None]
    return Snapshot(
        captured=captured,
        processed=processed,
        written=_written(lanes),
        dropped=dropped,
        expected=sum(known) if len(known) == len(expected) else None,
        seconds=seconds,
        queues={
            **queues,
            "depths": sum(len(lane.depths) for lane in lanes),
            "carry": sum(len(lane.carrying) for lane in lanes if lane.carrying is not None),
            "spool": sum(len(lane.ledger) for lane in lanes if lane.ledger is not None),
            "sinks": sum(len(outlet.queue) for lane in lanes for outlet in lane.outlets),
        },
        stopping=stopping,
    )


def _totals(lanes: Sequence[Lane]) -> tuple[int, int, dict[str, int]]:
    captured = processed = 0
    dropped: Counter[str] = Counter()
    for lane in lanes:
        book = lane.tally.read()
        captured += book[0]
        processed += book[1]
        dropped.update(book[2])
    return captured, processed, {cause: count for cause, count in sorted(dropped.items()) if count}


def _written(lanes: Sequence[Lane]) -> int:
    """Frames taken by the busiest sink of each lane, summed."""
    return sum(max((outlet.written for outlet in lane.outlets), default=0) for lane in lanes)

"""Counters and timers of a run, in bounded memory. Every frame is counted, every stage is timed."""

from __future__ import annotations

import threading
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SAMPLES = 16_384
"""Newest durations stored per stage: nine minutes at 30 fps, 128 kB. As Python's integers they would take 640 kB."""


class Timer:
    """Durations of one stage, in nanoseconds. Thread-safe: if two threads add at once, one duration may be lost."""

    def __init__(self) -> None:
        self._samples_ns = array("q")
        self._oldest = 0

    def add(self, duration_ns: int) -> None:
        if len(self._samples_ns) < _SAMPLES:
            self._samples_ns.append(duration_ns)
        else:
            self._samples_ns[self._oldest] = duration_ns
            self._oldest = (self._oldest + 1) % _SAMPLES

    @classmethod
    def merged(cls, timers: Iterable[Timer]) -> Timer:
        """A new timer with the durations of all ``timers``."""
        merged = cls()
        for timer in timers:
            merged._samples_ns.extend(timer._samples_ns)
        return merged

    def summary_ms(self, percentiles: Iterable[int] = (50, 95)) -> dict[str, float]:
        """``{"median": ..., "p95": ...}`` in milliseconds; empty if nothing was timed."""
        samples = sorted(self._samples_ns)
        if not samples:
            return {}
        names = {50: "median"}
        return {names.get(p, f"p{p}"): round(_percentile(samples, p) / 1e6, 3) for p in percentiles}


def _percentile(ordered: Sequence[int], percent: int) -> float:
    """The percentile of sorted values, interpolated linearly as by numpy, whose first call takes 20 ms."""
    place, part = divmod((len(ordered) - 1) * percent, 100)
    low, high = ordered[place], ordered[min(place + 1, len(ordered) - 1)]
    return low + (high - low) * part / 100


class SourceCounts(NamedTuple):
    """Counters of one source; see :class:`RunStats`."""

    captured: int
    processed: int
    dropped: dict[str, int]
    depth_flat: int
    depth_non_finite: int


class SourceCounters:
    """Counts the frames of one source. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._captured = 0
        self._processed = 0
        self._dropped: Counter[str] = Counter()
        self._flat = 0
        self._non_finite = 0

    def captured(self, count: int = 1) -> None:
        with self._lock:
            self._captured += count

    def processed(self) -> None:
        with self._lock:
            self._processed += 1

    def dropped(self, cause: str, count: int = 1) -> None:
        if count:
            with self._lock:
                self._dropped[cause] += count

    def depth(self, *, flat: bool, non_finite: bool) -> None:
        with self._lock:
            self._flat += flat
            self._non_finite += non_finite

    def read(self) -> SourceCounts:
        with self._lock:
            return SourceCounts(self._captured, self._processed, dict(self._dropped), self._flat, self._non_finite)


@dataclass(frozen=True, slots=True)
class SinkStats:
    """Statistics of one sink: ``written + sum(dropped) == processed`` of the run.

    Attributes:
        counts: other events reported by the sink, by name (``"resized"``, ``"reconnects"``, ...).
    """

    name: str
    written: int
    dropped: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunStats:
    """Statistics of a run: ``processed + sum(dropped) == captured``.

    Attributes:
        captured: frames of all sources, including those dropped by a source.
        processed: frames whose depth was passed to every sink.
        written: frames written by the sink of each source that wrote most.
        propagated: frames with depth propagated from other frames (``model_every``).
        dropped: dropped frames by cause: ``"policy"`` (replaced by a newer one), ``"stopped"`` (the run ended first),
            ``"error"``, or a cause of the source.
        depth_flat, depth_non_finite: frames whose depth has no contrast, or NaN or infinite values.
        seconds: from start to end of the run.
        fps: processed / seconds.
        stages_ms: milliseconds per frame of each stage: median and p95.
        latency_ms: from capture to sink: median, p95, p99.
        sinks: statistics of each sink.
        stabilize: ``"off"``, ``"causal"`` (from past frames) or ``"two-sided"`` (from past and later frames).
    """

    captured: int = 0
    processed: int = 0
    written: int = 0
    propagated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    depth_flat: int = 0
    depth_non_finite: int = 0
    seconds: float = 0.0
    fps: float = 0.0
    stages_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    sinks: tuple[SinkStats, ...] = ()
    model: str = ""
    dtype: str = ""
    provider: str = ""
    batch: int = 0
    range: str = ""
    stabilize: str = "off"
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As written by ``--stats``, for ``json.dumps``."""
        values = asdict(self)
        lists = {"sinks": list(values["sinks"]), "notes": list(self.notes)}
        return {**values, "seconds": round(self.seconds, 4), "fps": round(self.fps, 3), **lists}


def combined(runs: Sequence[RunStats]) -> RunStats:
    """Consecutive runs as one: counts and seconds are added, times are the maximum."""
    if len(runs) == 1:
        return runs[0]
    dropped: Counter[str] = Counter()
    for run in runs:
        dropped.update(run.dropped)
    seconds, processed = sum(run.seconds for run in runs), sum(run.processed for run in runs)
    last = runs[-1] if runs else RunStats()
    return replace(
        last,
        captured=sum(run.captured for run in runs),
        processed=processed,
        written=sum(run.written for run in runs),
        propagated=sum(run.propagated for run in runs),
        dropped=dict(dropped),
        depth_flat=sum(run.depth_flat for run in runs),
        depth_non_finite=sum(run.depth_non_finite for run in runs),
        seconds=seconds,
        fps=processed / seconds if seconds > 0 else 0.0,
        stages_ms=_worst(run.stages_ms for run in runs),
        latency_ms=_worst({"": run.latency_ms} for run in runs).get("", {}),
        sinks=tuple(sink for run in runs for sink in run.sinks),
        range=", ".join(dict.fromkeys(run.range for run in runs if run.range)),
        stabilize=", ".join(dict.fromkeys(run.stabilize for run in runs)),
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
    )


def _worst(tables: Iterable[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    worst: dict[str, dict[str, float]] = {}
    for table in tables:
        for name, row in table.items():
            merged = worst.setdefault(name, {})
            for key, value in row.items():
                merged[key] = max(value, merged.get(key, value))
    return worst


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment, for progress bars and pages.

    Attributes:
        expected: estimated total number of frames, None if unknown.
        queues: number of items in each queue.
        stopping: the run was asked to end and is finishing the captured frames.
    """

    captured: int
    processed: int
    written: int
    dropped: Mapping[str, int]
    expected: int | None
    seconds: float
    queues: Mapping[str, int]
    stopping: bool = False

    @property
    def dropped_total(self) -> int:
        return sum(self.dropped.values())

    @property
    def estimated(self) -> int:
        """Frames with depth: processed, or waiting for the end of their shot."""
        return self.processed + self.queues.get("spool", 0)

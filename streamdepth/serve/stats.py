"""What a page shows of a run in numbers: samples twice a second, one minute of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamdepth.core.clock import Clock
    from streamdepth.pipeline.stats import Snapshot
    from streamdepth.serve.feed import LiveFeed

SAMPLE_SECONDS = 0.5
_KEPT = 120
_RATE_SAMPLES = 4
"""Rates are over two seconds: half a second of 10 frames a second reads as 8 or 12."""


class Watched(Protocol):
    """A run whose books can be read at any time: a :class:`~streamdepth.pipeline.Pipeline`."""

    def snapshot(self) -> Snapshot: ...


@runtime_checkable
class Reporting(Protocol):
    """A source that says how its connection is, as :class:`~streamdepth.sources.live.source.LiveSource` does."""

    @property
    def status(self) -> Mapping[str, str | int]: ...


class StatsSampler:
    """Samples the books of whatever runs. ``sample`` on one thread; ``watch`` and the rest from any."""

    def __init__(self, feed: LiveFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._run: Watched | None = None
        self._earlier: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=_RATE_SAMPLES)
        self._history: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self.books: Snapshot | None = None

    def watch(self, run: Watched | None) -> None:
        """Whose books to read from now on."""
        self._run = run

    @property
    def history(self) -> list[dict[str, Any]]:
        return list(self._history)

    def sample(self, viewers: Mapping[str, int]) -> dict[str, Any]:
        """Read the books."""
        now_ns = self._clock.monotonic_ns()
        run = self._run
        books = self.books = run.snapshot() if run is not None else None
        totals = (
            books.captured if books else 0,
            books.processed if books else 0,
            books.dropped_total if books else 0,
            self._feed.count,
        )
        if self._earlier and any(now < then for now, then in zip(totals, self._earlier[-1][1], strict=True)):
            self._earlier.clear()  # another run starts its books at nothing
        then_ns, earlier = self._earlier[0] if self._earlier else (now_ns, totals)
        elapsed = max((now_ns - then_ns) / 1e9, 1e-3)
        rates = [(now - then) / elapsed for now, then in zip(totals, earlier, strict=True)]
        self._earlier.append((now_ns, totals))
        latencies = self._feed.take_latencies_ms()
        median, p95 = np.percentile(latencies, (50, 95)) if latencies else (None, None)
        sample = {
            "t": round((now_ns - self._started_ns) / 1e9, 2),
            "fps_in": round(rates[0], 2),
            "fps": round(rates[1], 2),
            "drops": round(rates[2], 2),
            "fps_shown": round(rates[3], 2),
            "latency_ms": None if median is None else round(float(median), 1),
            "latency_p95_ms": None if p95 is None else round(float(p95), 1),
            "captured": totals[0],
            "processed": totals[1],
            "dropped": dict(books.dropped) if books else {},
            "expected": books.expected if books else None,
            "view_dropped": self._feed.dropped,
            "queues": dict(books.queues) if books else {},
            "viewers": dict(viewers),
        }
        self._history.append(sample)
        return sample


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Exposition:
    """Collects metric families and writes them."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(
        self, name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float | int | None]]
    ) -> None:
        """One family; samples without a value are left out, a family without samples too."""
        rows = [
            f"streamdepth_{name}{_labels(labels)} {_number(value)}" for labels, value in samples if value is not None
        ]
        if rows:
            self._lines += [f"# HELP streamdepth_{name} {_escape(text)}", f"# TYPE streamdepth_{name} {kind}", *rows]

    def one(self, name: str, kind: str, text: str, value: float | int | None) -> None:
        """A family of one sample without labels."""
        self.add(name, kind, text, [({}, value)])

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"


def exposition(
    sample: Mapping[str, Any],
    *,
    source: str,
    status: Mapping[str, str | int],
    stills: Mapping[int, int],
    jobs: Mapping[str, int],
    version: str,
) -> str:
    """All there is to say.

    Args:
        sample: the board's newest; see :class:`streamdepth.serve.stats.StatsSampler`.
        source: its redacted name, empty where none runs.
        status: of the source, where it reports one.
        stills: answers of ``/v1/depth`` by HTTP status.
        jobs: video jobs by state.
    """
    out = Exposition()
    out.add("info", "gauge", "Version, always 1.", [({"version": version}, 1)])
    if source:
        named = {"source": source}
        out.add("frames_captured_total", "counter", "Frames the source gave.", [(named, sample.get("captured"))])
        out.add("frames_processed_total", "counter", "Frames with depth.", [(named, sample.get("processed"))])
        dropped: Mapping[str, int] = sample.get("dropped", {})
        out.add(
            "frames_dropped_total",
            "counter",
            "Frames lost, by cause.",
            [({**named, "cause": cause}, count) for cause, count in dropped.items()],
        )
        out.add("frames_per_second", "gauge", "Frames with depth a second.", [(named, sample.get("fps"))])
        seconds = [(quantile, sample.get(key)) for quantile, key in (("0.5", "latency_ms"), ("0.95", "latency_p95_ms"))]
        out.add(
            "latency_seconds",
            "gauge",
            "From capture to the page's server, of the last half second.",
            [({**named, "quantile": q}, None if ms is None else ms / 1000) for q, ms in seconds],
        )
        queues: Mapping[str, int] = sample.get("queues", {})
        out.add("queue_items", "gauge", "Items waiting.", [({"queue": name}, count) for name, count in queues.items()])
        state = status.get("state")
        if state is not None:
            out.add("source_state", "gauge", "What the source is doing, 1.", [({**named, "state": str(state)}, 1)])
        counters = {key: value for key, value in status.items() if isinstance(value, int)}
        out.add(
            "source_events_total",
            "counter",
            "What happened to the connection.",
            [({**named, "event": key}, value) for key, value in counters.items()],
        )
    viewers: Mapping[str, int] = sample.get("viewers", {})
    out.add("viewers", "gauge", "Viewers of the page.", [({"kind": kind}, count) for kind, count in viewers.items()])
    unseen: Mapping[str, int] = sample.get("view_dropped", {})
    out.add(
        "view_dropped_total",
        "counter",
        "Images a viewer did not see, by cause.",
        [({"cause": cause}, count) for cause, count in unseen.items()],
    )
    out.add(
        "stills_total",
        "counter",
        "Answers of /v1/depth, by status.",
        [({"status": str(status_code)}, count) for status_code, count in sorted(stills.items())],
    )
    out.add("jobs", "gauge", "Video jobs, by state.", [({"state": state}, count) for state, count in jobs.items()])
    return str(out)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in labels.items())
    return "{" + inside + "}"


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.9g}"

"""What a page shows of a run in numbers: samples twice a second, one minute of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

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

"""One source on the page: its look, its range mode, the frame shown now, and its statistics; ``/metrics``."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from streamdepth.core.errors import SinkError
from streamdepth.core.look import Look, LookControl, View
from streamdepth.serve.feed import LiveFeed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.frame import StreamInfo
    from streamdepth.depth.range import RangeSwitch
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.pipeline.stats import Snapshot

SAMPLE_SECONDS = 0.5
METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HISTORY = 120
_RATE_SAMPLES = 4
"""Rates are averaged over two seconds: in half a second, 10 frames per second would show as 8 or 12."""


class Run(Protocol):
    """A run whose state can be read at any time: a :class:`~streamdepth.pipeline.Pipeline`."""

    def snapshot(self, source_id: str | None = None) -> Snapshot: ...

    @property
    def sinks(self) -> tuple[Sink, ...]: ...


class StatsSampler:
    """Samples the statistics of a run. ``sample`` on one thread; the rest from any."""

    def __init__(self, feed: LiveFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._started_ns = clock.monotonic_ns()
        self._run: Run | None = None
        self._source_id: str | None = None
        self._earlier: deque[tuple[int, tuple[int, ...]]] = deque(maxlen=_RATE_SAMPLES)
        self._history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)

    def watch(self, run: Run | None, source_id: str | None = None) -> None:
        """Sample this run from now on, or one source of it."""
        self._run, self._source_id = run, source_id

    @property
    def history(self) -> list[dict[str, Any]]:
        """The samples of the last minute."""
        return list(self._history)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks of the run."""
        run = self._run
        return run.sinks if run is not None else ()

    def sample(self, viewers: Mapping[str, int]) -> dict[str, Any]:
        """Take one sample."""
        now_ns = self._clock.monotonic_ns()
        run = self._run
        stats = run.snapshot(self._source_id) if run is not None else None
        totals = (
            stats.captured if stats else 0,
            stats.processed if stats else 0,
            stats.dropped_total if stats else 0,
            self._feed.count,
        )
        if self._earlier and any(now < then for now, then in zip(totals, self._earlier[-1][1], strict=True)):
            self._earlier.clear()  # counters of another run start at zero
        then_ns, earlier = self._earlier[0] if self._earlier else (now_ns, totals)
        elapsed = max((now_ns - then_ns) / 1e9, 1e-3)
        rates = [(now - then) / elapsed for now, then in zip(totals, earlier, strict=True)]
        self._earlier.append((now_ns, totals))
        latencies = self._feed.take_latencies_ms()
        median, p95 = np.percentile(latencies, (50, 95)) if latencies else (None, None)
        latest = self._feed.latest
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
            "dropped": dict(stats.dropped) if stats else {},
            "expected": stats.expected if stats else None,
            "view_dropped": self._feed.dropped,
            "queues": dict(stats.queues) if stats else {},
            "viewers": dict(viewers),
            "range": None if latest is None else [latest.range.lo, latest.range.hi],
        }
        self._history.append(sample)
        return sample


class Metrics:
    """Builds the families of ``/metrics``. A family without samples is left out.

    Args:
        version: of the package.
        views: newest sample and source status of each view, by source; the source is None where no run feeds the view.
        sinks: all sinks of the runs.
        images: number of ``/v1/depth`` answers by HTTP status.
        jobs: number of video jobs by state.
    """

    def __init__(
        self,
        *,
        version: str,
        views: Sequence[tuple[str | None, Mapping[str, Any], Mapping[str, str | int]]],
        sinks: Iterable[Sink],
        images: Mapping[int, int],
        jobs: Mapping[str, int],
    ) -> None:
        self._version = version
        self._views = views
        self._sinks = tuple(dict.fromkeys(sinks))
        self._images = images
        self._jobs = jobs

    def text(self) -> bytes:
        """The Prometheus text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        families = (*self._server(), *self._runs(), *self._outputs())
        yield from (family for family in families if family.samples)

    def _server(self) -> Iterator[Metric]:
        yield _gauge("info", "Version, always 1.", ("version",), [((self._version,), 1)])
        viewers = {(kind,): n for _, sample, _ in self._views for kind, n in sample.get("viewers", {}).items()}
        yield _gauge("viewers", "Viewers of the page.", ("kind",), viewers.items())
        unseen: dict[tuple[str, ...], int] = {}
        for _, sample, _ in self._views:
            for cause, count in sample.get("view_dropped", {}).items():
                unseen[(cause,)] = unseen.get((cause,), 0) + count
        yield _counter("view_dropped", "Frames that a viewer did not see, by cause.", ("cause",), unseen.items())
        images = [((str(status),), count) for status, count in sorted(self._images.items())]
        yield _counter("stills", "Answers of /v1/depth, by status.", ("status",), images)
        yield _gauge("jobs", "Video jobs, by state.", ("state",), [((k,), n) for k, n in self._jobs.items()])

    def _runs(self) -> Iterator[Metric]:
        live = [(source, sample, status) for source, sample, status in self._views if source is not None]
        for key, text in (("captured", "Frames the source gave."), ("processed", "Frames with depth.")):
            rows = [((source,), sample.get(key)) for source, sample, _ in live]
            yield _counter(f"frames_{key}", text, ("source",), rows)
        dropped = [((s, cause), n) for s, sample, _ in live for cause, n in sample.get("dropped", {}).items()]
        yield _counter("frames_dropped", "Frames dropped, by cause.", ("source", "cause"), dropped)
        rates = [((source,), sample.get("fps")) for source, sample, _ in live]
        yield _gauge("frames_per_second", "Frames with depth per second.", ("source",), rates)
        latencies = [
            ((source, quantile), None if sample.get(key) is None else sample[key] / 1000)
            for source, sample, _ in live
            for quantile, key in (("0.5", "latency_ms"), ("0.95", "latency_p95_ms"))
        ]
        text = "From capture to the page's server, over the last half second."
        yield _gauge("latency_seconds", text, ("source", "quantile"), latencies)
        queues = {(queue,): n for _, sample, _ in live for queue, n in sample.get("queues", {}).items()}
        yield _gauge("queue_items", "Items waiting.", ("queue",), queues.items())
        states = [((source, str(status["state"])), 1) for source, _, status in live if "state" in status]
        yield _gauge("source_state", "State of the source's connection, always 1.", ("source", "state"), states)
        events = [((s, key), n) for s, _, status in live for key, n in status.items() if isinstance(n, int)]
        yield _counter("source_events", "Events of the source's connection.", ("source", "event"), events)

    def _outputs(self) -> Iterator[Metric]:
        counts = [((s.name, event), n) for s in self._sinks for event, n in getattr(s, "counts", {}).items()]
        yield _counter("sink_events", "Counters of a sink.", ("sink", "event"), counts)
        status = [(s.name, getattr(s, "status", {})) for s in self._sinks]
        states = [((name, str(found["state"])), 1) for name, found in status if "state" in found]
        yield _gauge("sink_state", "State of a network sink, always 1.", ("sink", "state"), states)
        viewers = [((name,), found["viewers"]) for name, found in status if "viewers" in found]
        yield _gauge("sink_viewers", "Viewers of a served stream.", ("sink",), viewers)


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Any) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"streamdepth_{name}", text, labels=labels), rows)


def _counter(name: str, text: str, labels: tuple[str, ...], rows: Any) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return _filled(CounterMetricFamily(f"streamdepth_{name}", text, labels=labels), rows)


def _filled(family: Any, rows: Iterable[tuple[tuple[str, ...], float | int | None]]) -> Metric:
    for labels, value in dict(rows).items():  # one sample for sinks of the same name
        if value is not None:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]


@runtime_checkable
class HasStatus(Protocol):
    """A source or sink with a connection, such as :class:`~streamdepth.sources.live.source.LiveSource`."""

    @property
    def status(self) -> Mapping[str, str | int]: ...


class LiveView:
    """The live view of one source. Any thread.

    Args:
        name: how clients select the view; empty until the source is known.
        control: the look; None = frame and depth side by side.
        range_switch: the range mode that clients may change; None = they cannot.
        stabilize_switch: turns stabilization on and off; None = clients cannot.

    Attributes:
        feed: the frames to show.
        sampler: statistics of the run that feeds the view.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "",
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
        stabilize_switch: StabilizeSwitch | None = None,
    ) -> None:
        self.control = control or LookControl(Look(view=View.SIDE))
        self.range_switch = range_switch
        self.stabilize_switch = stabilize_switch
        self.feed = LiveFeed(clock)
        self.sampler = StatsSampler(self.feed, clock)
        self._name = name
        self._lock = threading.Lock()
        self._stream: StreamInfo | None = None
        self._source: Source | None = None
        self._painting = threading.Lock()
        self._colorizer: Colorizer | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def stream(self) -> StreamInfo | None:
        """The stream that is shown; None while no run feeds the view."""
        return self._stream

    @property
    def source_status(self) -> Mapping[str, str | int]:
        """State and counters of the source's connection; empty if it has none."""
        source = self._source
        return source.status if isinstance(source, HasStatus) else {}

    def attach(self, source: Source | None) -> None:
        """Show the connection state of a source that has not opened yet."""
        self._source = source

    def begin(self, stream: StreamInfo, source: Source | None = None) -> None:
        """A run starts to feed the view.

        Raises:
            SinkError: another run feeds it.
        """
        from streamdepth.colorize.colorizer import Colorizer

        with self._lock:
            if self._stream is not None:
                raise SinkError(f"the page already shows {self._stream.source_id}; use another port for the second run")
            self._stream, self._source = stream, source
            self._name = self._name or stream.source_id
        with self._painting:
            self._colorizer = Colorizer(stream)

    def end(self) -> None:
        """The run has ended; its last frame stays visible. Idempotent."""
        with self._lock:
            self._stream = self._source = None
        self.sampler.watch(None)

    def repaint(self) -> None:
        """Apply the current look to the frame that stays visible while paused or after the run."""
        shown = self.feed.latest
        if shown is None or not (self.feed.paused or self._stream is None):
            return
        fixed = self.range_switch.spec.fixed if self.range_switch is not None else None
        depth_range = fixed or shown.range
        with self._painting:
            if self._colorizer is None:
                return
            image = self._colorizer.render(shown.frame, shown.depth, depth_range, self.control.look)
        self.feed.repaint(shown, image, depth_range)

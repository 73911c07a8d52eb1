"""``/metrics`` in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        sample: the board's newest; see :class:`streamdepth.serve.stats_sampler.StatsSampler`.
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

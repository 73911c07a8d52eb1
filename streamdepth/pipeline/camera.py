"""One camera of a group: the stages of its source, their threads and its state."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from streamdepth.core.errors import UsageError, one_line
from streamdepth.pipeline.report import run_stats
from streamdepth.pipeline.threads import ThreadGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.queues import Policy
    from streamdepth.depth.alignment import Anchor
    from streamdepth.depth.range import RangeSpec, RangeSwitch
    from streamdepth.inference.model import Runner
    from streamdepth.pipeline.arguments import SinkMaker, SourceMaker
    from streamdepth.pipeline.source_worker import SourceWorker
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.pipeline.stats import RunStats, Timer

_MAX_NAME = 64


class CameraOptions(TypedDict, total=False):
    """Options of one camera, as of :class:`~streamdepth.pipeline.Pipeline`."""

    policy: Policy | str | None
    range: RangeSpec | RangeSwitch | str | None
    """``ema | frame | fixed:LO,HI``; None = ``ema``."""
    model_every: int
    stabilize: bool | StabilizeSwitch
    anchors: Sequence[Anchor]
    color_threads: int


@dataclass(frozen=True, slots=True)
class CameraStats:
    """The state of one camera.

    Attributes:
        source: display name of its source, credentials redacted.
        state: ``connecting``, ``live``, ``waiting`` (between two attempts to connect), ``ended`` or ``failed``.
        error: of the last failure, empty if there was none.
        reconnects: connections after an outage.
        captured, processed, dropped: as of :class:`~streamdepth.pipeline.RunStats`.
        seconds: since the camera was added.
        latency_ms: from capture to sink: median, p95, p99.
        age_ms: time since the newest depth was written, None before the first.
    """

    name: str
    source: str
    state: str
    error: str
    reconnects: int
    captured: int
    processed: int
    dropped: Mapping[str, int]
    seconds: float
    latency_ms: Mapping[str, float]
    age_ms: float | None


class Camera:
    """A running camera: the stages of its source and their threads. It fails and ends alone."""

    def __init__(
        self,
        name: str,
        worker: SourceWorker,
        given: tuple[Source | str | SourceMaker, Sequence[Sink] | SinkMaker],
        options: CameraOptions,
        *,
        on_done: Callable[[Camera], None],
        on_status: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.name = name
        self.worker = worker
        self.given = given
        self.options = options
        self.started_ns = clock.monotonic_ns()
        self.final: RunStats | None = None
        self.threads = ThreadGroup(on_error=self._on_error, on_stop=worker.abort, on_done=self._on_done)
        self._clock = clock
        self._on_camera_done = on_done
        self._on_status = on_status
        self._lock = threading.Lock()
        self._finished = False

    @property
    def error(self) -> BaseException | None:
        return self.threads.error or self.worker.failure

    def _on_error(self) -> None:
        self.worker.abort()
        self._on_status(f"{self.name}: {one_line(str(self.threads.error))}; the other cameras continue")

    def _on_done(self) -> None:
        with self._lock:
            if not self.threads.done or self._finished:
                return
            self._finished = True
        self._on_camera_done(self)

    def finalize(self, timers: Mapping[str, Timer], engine: Runner) -> None:
        """Compute the final statistics, once."""
        if self.final is None:
            seconds = (self._clock.monotonic_ns() - self.started_ns) / 1e9
            cause = "stopped" if self.error is None else "error"
            self.final = run_stats([self.worker], timers, engine, seconds=seconds, lost_to=cause)

    def stats(self) -> CameraStats:
        """The state now."""
        worker, counts = self.worker, self.worker.counters.read()
        status = getattr(worker.source, "status", {})
        error = self.error
        state = str(status.get("state", "live" if worker.info is not None else "connecting"))
        if self.final is not None:
            state = "ended" if error is None else "failed"
        written_ns = max((one.written_ns for one in worker.sink_workers), default=0)
        return CameraStats(
            name=self.name,
            source=worker.source.id,
            state={"idle": "connecting", "closed": "ended"}.get(state, state),
            error=one_line(str(error)) if error is not None else str(status.get("last_error", "")),
            reconnects=int(status.get("reconnects", 0)),
            captured=counts.captured,
            processed=counts.processed,
            dropped={cause: count for cause, count in counts.dropped.items() if count},
            seconds=round((self._clock.monotonic_ns() - self.started_ns) / 1e9, 3),
            latency_ms=worker.latency.summary_ms((50, 95, 99)),
            age_ms=round((self._clock.monotonic_ns() - written_ns) / 1e6, 1) if written_ns else None,
        )


def check_name(name: str) -> None:
    if not (0 < len(name) <= _MAX_NAME and name.isprintable() and name == name.strip() and "/" not in name):
        raise UsageError(f"{name[:_MAX_NAME]!r}: a camera's name has 1 to {_MAX_NAME} printable characters without /")

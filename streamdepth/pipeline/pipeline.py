"""capture -> batch -> infer -> colorize -> sink, threaded, for one or more sources."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from streamdepth.core import limits
from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import SourceError, UsageError
from streamdepth.core.queues import Policy
from streamdepth.depth.range import range_for
from streamdepth.depth.shots import FRAME_CACHE_BYTES
from streamdepth.pipeline.arguments import (
    StageOptions,
    check_function,
    check_run,
    to_policy,
    to_range,
    to_sinks,
    to_sources,
)
from streamdepth.pipeline.model_worker import ModelWorker, staleness_ns
from streamdepth.pipeline.report import UNACCOUNTED, audit, opening_notes, run_stats, snapshot
from streamdepth.pipeline.source_worker import SourceWorker
from streamdepth.pipeline.stats import RunStats, Snapshot
from streamdepth.pipeline.threads import IDLE_SECONDS, ThreadGroup, close_all, signals_deferred
from streamdepth.pipeline.windows import check_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.frame import DepthMap, Frame
    from streamdepth.depth.alignment import Anchor
    from streamdepth.depth.odometry import KnownMotion
    from streamdepth.depth.range import RangeSpec, RangeSwitch
    from streamdepth.inference.model import EngineSource, Runner
    from streamdepth.pipeline.arguments import SinkMaker
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.pipeline.threads import SinkWorker

    FrameCallback = Callable[[Frame, DepthMap], None]

_WORKERS = 2


class Pipeline:
    """Reads sources, runs a depth model and writes to sinks.

    Args:
        sources: :class:`~streamdepth.core.contracts.Source` objects, or strings as on the command line.
        model: a DepthModel or DepthEstimator; None uses the built-in one.
        sinks: outputs; with several sources, a function that returns the sinks for a source.
        callback: called with every frame and its depth, in order for each source; may raise ``StopPipeline``.
        policy: ``every`` or ``latest``; None = default of each source (files ``every``, live ``latest``).
        range: ``shot | ema | frame | fixed:LO,HI``; None = ``shot`` if the source can be read twice and a
            lasting sink takes images, else ``ema``, which does not wait for the end of a shot. A :class:`RangeSwitch`
            can be changed during the run.
        batch: frames per model run.
        max_staleness_seconds: age of a live frame at which its batch waits for no other source; None = one frame
            interval of the fastest source.
        model_every: run the model on every Nth frame, 1 to 16. Depth of the frames between is propagated along the
            optical flow (:mod:`streamdepth.depth.propagation`), from both sides under ``every``, from the past under
            ``latest``. Under ``every``, about ``model_every * (3 * batch + 1)`` decoded frames wait in memory.
        anchors: points of known distance (:mod:`streamdepth.depth.alignment`), or the known motion of the camera
            (:mod:`streamdepth.depth.odometry`), that make a relative model metric.
        stabilize: filter depth over time along the optical flow (:mod:`streamdepth.depth.stabilize`): under ``latest``
            from past frames, without delay; under ``every`` from past and later frames, with up to 24 decoded frames in
            memory. Requires the same memory and time for any length of video. A
            :class:`~streamdepth.pipeline.stabilization.StabilizeSwitch` can be changed during the run.
        color_threads: threads that share the rows of each image.
        frame_cache_bytes: disk space for decoded images, so that ``shot`` decodes fewer of them a second time.
        deadline_seconds: how long the end of a run may make no progress before the blocking threads are abandoned
            and reported.
        on_status: called with a line of text when one of several live sources ends with an error. Any thread.
        clock: monotonic time.

    Several live sources are independent: each opens on its own thread, and one that fails ends alone. ``run`` raises
    its error when all have ended.

    Use it once: ``with Pipeline(...) as p: stats = p.run()``. Call ``run`` and the context manager on one thread;
    ``stop``, ``abort`` and ``snapshot`` on any.
    """

    def __init__(
        self,
        sources: Sequence[Source | str],
        model: EngineSource | None = None,
        sinks: Sequence[Sink] | SinkMaker = (),
        *,
        callback: FrameCallback | None = None,
        policy: Policy | str | None = None,
        range: RangeSpec | RangeSwitch | str | None = None,  # noqa: A002 - the option's name everywhere else
        batch: int = 1,
        max_staleness_seconds: float | None = None,
        model_every: int = 1,
        anchors: Sequence[Anchor] | KnownMotion = (),
        stabilize: bool | StabilizeSwitch = False,
        color_threads: int = 1,
        frame_cache_bytes: int = FRAME_CACHE_BYTES,
        deadline_seconds: float = 10.0,
        on_status: Callable[[str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_run(model=model, batch=batch, deadline_seconds=deadline_seconds, on_status=on_status, clock=clock)
        limits.FRAME_CACHE_BYTES.check("frame_cache_bytes", frame_cache_bytes)
        check_function("callback", callback)
        opened = to_sources(sources)
        if len(opened) > 1 and not callable(sinks) and sinks:
            raise UsageError("several sources cannot share sinks; pass a function that returns the sinks for a source")
        self._clock = clock or SystemClock()
        self._deadline_seconds = deadline_seconds
        self._frame_cache_bytes = frame_cache_bytes // len(opened)
        self._batch = batch
        self._options = StageOptions(model_every, anchors, stabilize, color_threads)
        self._on_status = on_status or (lambda _: None)
        self._engines = model
        self._range = to_range(range)
        self._policy = policy
        self._source_workers = [
            self._source_worker(number, source, sinks, callback) for number, source in enumerate(opened)
        ]
        self._model = ModelWorker(
            self._source_workers, batch=batch, clock=self._clock, max_staleness_ns=staleness_ns(max_staleness_seconds)
        )
        self._woken = threading.Event()
        self._aborted = threading.Event()
        self._stopped = threading.Event()
        self._thread_group = ThreadGroup(on_error=self.abort, on_stop=self._on_stop, on_done=self._woken.set)
        self._engine: Runner | None = None
        self._opened = False
        self._closed = False
        self._started_ns = 0
        self._stats = RunStats()

    def _source_worker(
        self, number: int, source: Source, sinks: Sequence[Sink] | SinkMaker, callback: FrameCallback | None
    ) -> SourceWorker:
        own_sinks = to_sinks(sinks, source)
        if callback is not None:
            from streamdepth.sinks.consumers import CallbackSink

            own_sinks.append(CallbackSink(callback))
        policy = to_policy(self._policy, Policy.LATEST if source.live else Policy.EVERY)
        return SourceWorker(
            number,
            source,
            own_sinks,
            policy=policy,
            range_spec=range_for(source, own_sinks, policy, self._range),
            batch=self._batch,
            options=self._options,
            frame_cache_bytes=self._frame_cache_bytes,
            model_remembers=self._engines is not None and bool(self._engines.spec.video_only),
            on_status=self._on_status,
            clock=self._clock,
        )

    @property
    def _sink_workers(self) -> list[SinkWorker]:
        return [sink_worker for source_worker in self._source_workers for sink_worker in source_worker.sink_workers]

    # Life cycle -------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Open sources, model and sinks, in this order, so that a bad input creates no output. Idempotent.

        Raises:
            StreamDepthError: one cannot be opened; those opened before are closed again.
        """
        if self._opened:
            return
        self._opened = True
        try:
            if self._engines is None:
                from streamdepth.inference.model import DepthModel

                self._engines = DepthModel()
            check_windows(self._engines.spec, blocking=self._model.blocking, model_every=self._options.model_every)
            # Two parallel runs have more throughput than one on all cores, but each takes longer.
            if self._model.blocking:
                self._engine = self._engines.engine(self._batch, workers=_WORKERS)
            else:
                self._engine = self._engines.live_engine(self._batch)
            for source_worker in self._source_workers:
                if len(self._source_workers) > 1 and source_worker.source.live:
                    source_worker.expect_late_open()
                else:
                    source_worker.open()
        except BaseException:
            self.close()
            raise

    def run(self) -> RunStats:
        """Run until the sources end, ``stop`` is called, or a stage fails; then close everything.

        Ctrl-C on the main thread acts as ``stop``, and KeyboardInterrupt is raised after all outputs are closed; a
        second Ctrl-C aborts.

        Raises:
            UsageError: the pipeline is closed, as it is after a run.
            StreamDepthError: the first error of any stage, with stage and source. ``stats`` stays readable.
        """
        if self._closed:
            raise UsageError("this pipeline is closed, and a pipeline runs only once; create a new one")
        self.open()
        self._add_threads()
        self._started_ns = self._clock.monotonic_ns()
        pumped = [sink_worker for sink_worker in self._sink_workers if sink_worker.sink.on_caller_thread]
        interrupt: KeyboardInterrupt | None = None
        try:
            with signals_deferred():  # An interrupt during Thread.start leaves it undefined whether the thread runs.
                self._thread_group.start()
            self._watch(pumped)
        except KeyboardInterrupt as pressed:
            interrupt = pressed
            self._finish(pumped)
        finally:
            if not self._thread_group.done:
                self.abort()
            self._thread_group.join(self._deadline_seconds, self._clock)
            self._finalize()
            self.close()
        if self._thread_group.error is not None:
            raise self._thread_group.error
        if interrupt is not None:
            raise interrupt
        audit(self._stats)
        self._raise_failures()
        return self._stats

    def _raise_failures(self) -> None:
        failures = [one.failure for one in self._source_workers if one.failure is not None]
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise SourceError(
                f"{len(failures)} of {len(self._source_workers)} sources failed; the first: {failures[0]}"
            )

    def _add_threads(self) -> None:
        thread_group = self._thread_group
        for source_worker in self._source_workers:
            name = source_worker.source.id if len(self._source_workers) > 1 else ""
            source_worker.add_threads(thread_group, self._model.frame_queue, name)
        self._model.add_threads(thread_group, self._running_engine)

    @property
    def _running_engine(self) -> Runner:
        assert self._engine is not None  # noqa: S101 - created in open()
        return self._engine

    # The caller's thread ------------------------------------------------------------------------------------------

    def _watch(self, pumped: list[SinkWorker]) -> None:
        """Pump the sinks that run on the caller's thread and wait for the others; abort an end without progress.

        Removes sinks that have ended from ``pumped``.
        """
        progress, since_ns = self._progress(), self._clock.monotonic_ns()
        while not self._thread_group.done or (pumped and not self._aborted.is_set()):
            for sink_worker in tuple(pumped):
                if not self._thread_group.guard(sink_worker.pump, "sink", sink_worker.sink.name):
                    pumped.remove(sink_worker)
            if not pumped and not self._thread_group.done:
                self._woken.wait(IDLE_SECONDS if self._stopped.is_set() else 0.5)
                self._woken.clear()
            now_ns, done = self._clock.monotonic_ns(), self._progress()
            if done != progress or not self._stopped.is_set():
                progress, since_ns = done, now_ns
            elif now_ns - since_ns > self._deadline_seconds * 1e9:
                self.abort()
                break
            if self._aborted.is_set():
                break

    def _finish(self, pumped: list[SinkWorker]) -> None:
        """Finish the captured frames after a first Ctrl-C; a second one aborts."""
        try:
            self._on_stop()
            self._watch(pumped)
        except KeyboardInterrupt:
            self.abort()

    def _progress(self) -> tuple[int, ...]:
        """Counters of which at least one changes while the run makes progress."""
        now = self.snapshot()
        written = sum(sink_worker.written for sink_worker in self._sink_workers)
        return (
            now.captured,
            now.processed,
            written,
            sum(source_worker.reread for source_worker in self._source_workers),
            *now.queues.values(),
        )

    # Ending -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Capture no more frames; captured frames are processed and written. Any thread, any time."""
        self._stopped.set()
        for source_worker in self._source_workers:
            source_worker.stop()
        self._woken.set()

    def abort(self) -> None:
        """End immediately: frames in the pipeline are dropped and counted; outputs stay readable. Any thread."""
        self._stopped.set()
        self._aborted.set()
        self._model.abort()
        for source_worker in self._source_workers:
            source_worker.abort()
        if self._engine is not None:
            self._engine.interrupt()
        self._woken.set()

    def _on_stop(self) -> None:
        # If only a window was closed, nothing remains to be finished; a file needs all captured frames.
        if any(source_worker.lasting for source_worker in self._source_workers):
            self.stop()
        else:
            self.abort()

    def close(self) -> None:
        """Close everything. Idempotent; ``run`` and the context call it."""
        if self._closed:
            return
        self._closed = True
        closers: list[Callable[[], None]] = [source_worker.close for source_worker in self._source_workers]
        if self._engine is not None:
            closers.append(self._engine.close)
        error = close_all(closers)
        if error is not None and self._thread_group.error is None:
            raise error

    # Statistics -------------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> RunStats:
        """Statistics of the run; final after ``run`` has returned or raised."""
        return self._stats

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages known after ``open``: assumptions, conversions and fallbacks."""
        return opening_notes(self._source_workers, self._engine) if self._engine is not None else ()

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """All sinks of all sources."""
        return tuple(sink_worker.sink for sink_worker in self._sink_workers)

    def snapshot(self, source_id: str | None = None) -> Snapshot:
        """The current state of the run, or of one of its sources. Any thread."""
        seconds = (self._clock.monotonic_ns() - self._started_ns) / 1e9 if self._started_ns else 0.0
        workers = [one for one in self._source_workers if source_id in (None, one.source.id)]
        return snapshot(workers, self._model.queued(), seconds=seconds, stopping=self._stopped.is_set())

    def _finalize(self) -> None:
        seconds = (self._clock.monotonic_ns() - self._started_ns) / 1e9
        lost_to = (
            "error" if self._thread_group.error is not None else "stopped" if self._aborted.is_set() else UNACCOUNTED
        )
        self._stats = run_stats(
            self._source_workers, self._model.timers, self._running_engine, seconds=seconds, lost_to=lost_to
        )

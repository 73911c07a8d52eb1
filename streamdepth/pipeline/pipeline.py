"""capture -> batch -> infer -> colorize -> sink, threaded, for one or many sources."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Self

from streamdepth.core import limits
from streamdepth.core.clock import SystemClock
from streamdepth.core.contracts import Source
from streamdepth.core.errors import UsageError
from streamdepth.core.queues import Policy
from streamdepth.depth.range import RangeMode, RangeSpec, RangeSwitch
from streamdepth.depth.shots import KEPT_BYTES
from streamdepth.pipeline.model_worker import ModelWorker
from streamdepth.pipeline.report import UNACCOUNTED, audit, opening_notes, run_stats, snapshot
from streamdepth.pipeline.sink_worker import IDLE_SECONDS
from streamdepth.pipeline.source_worker import SourceWorker
from streamdepth.pipeline.stats import RunStats, Snapshot
from streamdepth.pipeline.thread_group import ThreadGroup, held_back

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import DepthMap, Frame
    from streamdepth.inference.model import EngineSource
    from streamdepth.inference.runner import Runner
    from streamdepth.pipeline.sink_worker import SinkWorker

    FrameCallback = Callable[[Frame, DepthMap], None]
    SinkMaker = Callable[[Source], Sequence[Sink]]

_WORKERS = 2


class Pipeline:
    """Runs sources through a depth model into sinks.

    Args:
        sources: what to read: :class:`~streamdepth.core.contracts.Source` objects, or texts as the command line takes
            them.
        model: a DepthModel or DepthEstimator; None takes the built-in one.
        sinks: what to write to; with several sources a function that makes the sinks of each.
        callback: called with every frame and its depth, in order per source; may raise ``StopPipeline``.
        policy: ``every`` or ``latest``; None = each source's own default (files ``every``, live ``latest``).
        range: ``shot | ema | frame | fixed:LO,HI``; None = ``shot`` where the source can be read twice and something
            lasting is written, else ``ema``, which shows its first image at once. A :class:`RangeSwitch` may change
            while the run goes on.
        batch: frames per model run.
        model_every: run the model on every Nth frame, 1 to 16; depth of those between is propagated along the motion of
            the image (:mod:`streamdepth.depth.propagation`), from both sides under ``every``, from behind under
            ``latest``. Under ``every`` about ``model_every * (3 * batch + 1)`` decoded frames then wait in memory.
        color_threads: that share the rows of each image.
        kept_bytes: memory for decoded images, so that ``shot`` reads fewer of them a second time.
        deadline_seconds: how long an end may take without any progress before what blocks it is named and left behind.
        clock: monotonic time.

    Use it once: ``with Pipeline(...) as p: stats = p.run()``. ``run`` and the context belong to one thread; ``stop``,
    ``abort`` and ``snapshot`` may be called from any.
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
        model_every: int = 1,
        color_threads: int = 1,
        kept_bytes: int = KEPT_BYTES,
        deadline_seconds: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if not sources:
            raise UsageError("a pipeline needs at least one source")
        limits.BATCH.check("batch", batch)
        if kept_bytes < 0:
            raise UsageError(f"kept_bytes is at least 0, not {kept_bytes}")
        if len(sources) > 1 and not callable(sinks) and sinks:
            raise UsageError("several sources need sinks of their own: give a function that makes a source's sinks")
        self._clock = clock or SystemClock()
        self._deadline_seconds = deadline_seconds
        self._kept_bytes = kept_bytes // len(sources)
        self._batch = batch
        limits.MODEL_EVERY.check("model_every", model_every)
        self._model_every = model_every
        self._color_threads = color_threads
        self._engines = model
        self._range = RangeSpec.parse(range) if isinstance(range, str) else range
        try:
            self._policy = None if policy is None else Policy(policy)
        except ValueError:
            raise UsageError(f"policy {policy!r} is neither every nor latest") from None
        self._source_workers = [
            self._source_worker(number, made_source(source), sinks, callback) for number, source in enumerate(sources)
        ]
        self._model = ModelWorker(self._source_workers, batch=batch, clock=self._clock)
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
        mine = list(sinks(source) if callable(sinks) else sinks)
        if callback is not None:
            from streamdepth.sinks.callback import CallbackSink

            mine.append(CallbackSink(callback))
        policy = self._policy or (Policy.LATEST if source.live else Policy.EVERY)
        return SourceWorker(
            number,
            source,
            mine,
            policy=policy,
            range_spec=self._range_for(source, mine, policy),
            batch=self._batch,
            model_every=self._model_every,
            color_threads=self._color_threads,
            kept_bytes=self._kept_bytes,
            clock=self._clock,
        )

    def _range_for(self, source: Source, sinks: Sequence[Sink], policy: Policy) -> RangeSpec | RangeSwitch:
        twice = policy is Policy.EVERY and not source.live
        if self._range is not None:
            if self._range.mode is RangeMode.SHOT and not twice:
                raise UsageError(
                    f"--range shot reads {source.id} twice, which needs a file and --policy every; use --range ema"
                )
            return self._range
        colored = [sink for sink in sinks if sink.control is not None]
        if not colored:
            return RangeSpec(RangeMode.FRAME)  # nobody looks at colours: spend nothing on them
        if twice and any(sink.lasting for sink in colored) and source.again() is not None:
            return RangeSpec(RangeMode.SHOT)
        return RangeSpec(RangeMode.EMA)

    # Life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Open sources, model and sinks, in this order, so that a bad input leaves no output behind. Idempotent.

        Raises:
            StreamDepthError: what cannot be opened; everything opened before it is closed again.
        """
        if self._opened:
            return
        self._opened = True
        try:
            for source_worker in self._source_workers:
                source_worker.load_ahead()
            if self._engines is None:
                from streamdepth.inference.model import DepthModel

                self._engines = DepthModel()
            # Two runs at once cost less than one over all cores, but each takes longer: only where nobody waits for it.
            if self._model.patient:
                self._engine = self._engines.engine(self._batch, workers=_WORKERS)
            else:
                self._engine = self._engines.live_engine(self._batch)
            for source_worker in self._source_workers:
                source_worker.open()
        except BaseException:
            self.close()
            raise

    def run(self) -> RunStats:
        """Work until the sources end, ``stop`` is called, or something fails; then close everything.

        Ctrl-C on the main thread ends the run as ``stop`` does, and is raised again once all outputs are closed; a
        second one aborts.

        Raises:
            UsageError: it is closed, as it is after a run.
            StreamDepthError: the first error of any stage, naming stage and source. Statistics stay readable.
        """
        if self._closed:
            raise UsageError("a pipeline runs once, and this one is closed; make a new one")
        self.open()
        self._staff()
        self._started_ns = self._clock.monotonic_ns()
        serving = [
            sink_worker
            for source_worker in self._source_workers
            for sink_worker in source_worker.sink_workers
            if sink_worker.sink.on_caller_thread
        ]
        interrupt: KeyboardInterrupt | None = None
        try:
            with held_back():  # interrupted while it starts, a thread may be there or not
                self._thread_group.start()
            self._watch(serving)
        except KeyboardInterrupt as pressed:
            interrupt = pressed
            self._finish(serving)
        finally:
            if not self._thread_group.done:
                self.abort()
            self._thread_group.join(self._deadline_seconds, self._clock)
            self._settle()
            self.close()
        if self._thread_group.error is not None:
            raise self._thread_group.error
        if interrupt is not None:
            raise interrupt
        audit(self._stats)
        return self._stats

    def _staff(self) -> None:
        thread_group = self._thread_group
        for source_worker in self._source_workers:
            name = source_worker.source.id if len(self._source_workers) > 1 else ""
            thread_group.add(partial(source_worker.capture, self._model.frame_queue), stage="capture", source=name)
            if source_worker.propagation is not None:
                thread_group.add(source_worker.propagation.run, stage="propagate", source=name)
            if source_worker.range_spec.mode is RangeMode.SHOT:
                thread_group.add(source_worker.spool, stage="range", source=name)
                thread_group.add(source_worker.color_shots, stage="colorize", source=name)
            else:
                thread_group.add(source_worker.color, stage="colorize", source=name)
            for sink_worker in source_worker.sink_workers:
                if not sink_worker.sink.on_caller_thread:
                    thread_group.add(sink_worker.run, stage="sink", source=sink_worker.sink.name)
        engine = self._running_engine
        thread_group.add(partial(self._model.prepare, engine), stage="prepare")
        for number in range(engine.workers):
            thread_group.add(
                partial(self._model.infer, engine), stage="infer", source=str(number + 1) if number else ""
            )

    @property
    def _running_engine(self) -> Runner:
        assert self._engine is not None  # noqa: S101 - made in open()
        return self._engine

    # The caller's thread ------------------------------------------------------------------------------------------

    def _watch(self, serving: list[SinkWorker]) -> None:
        """Serve the sinks that need the caller's thread and wait for the others; watch over an end without progress.

        A sink that has ended is taken out of ``serving``.
        """
        progress, since_ns = self._progress(), self._clock.monotonic_ns()
        while not self._thread_group.done or (serving and not self._aborted.is_set()):
            for sink_worker in tuple(serving):
                if not self._thread_group.guard(sink_worker.pump, "sink", sink_worker.sink.name):
                    serving.remove(sink_worker)
            if not serving and not self._thread_group.done:
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

    def _finish(self, serving: list[SinkWorker]) -> None:
        """Bring what was taken to its end after a first Ctrl-C; a second one aborts."""
        try:
            self._on_stop()
            self._watch(serving)
        except KeyboardInterrupt:
            self.abort()

    def _progress(self) -> tuple[int, ...]:
        """Counts of which one changes while anything moves: in ``shot`` long before an image is written."""
        now = self.snapshot()
        written = sum(
            sink_worker.written for source_worker in self._source_workers for sink_worker in source_worker.sink_workers
        )
        return (
            now.captured,
            now.processed,
            written,
            sum(source_worker.reread for source_worker in self._source_workers),
            *now.queues.values(),
        )

    # Ending -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take no more frames; what was taken is finished and written. Any thread, any time."""
        self._stopped.set()
        for source_worker in self._source_workers:
            source_worker.stop()
        self._woken.set()

    def abort(self) -> None:
        """End at once: frames on their way are dropped and counted; outputs are closed readable. Any thread."""
        self._stopped.set()
        self._aborted.set()
        self._model.abort()
        for source_worker in self._source_workers:
            source_worker.abort()
        if self._engine is not None:
            self._engine.interrupt()
        self._woken.set()

    def _on_stop(self) -> None:
        # A closed window leaves nothing to finish; a file beside it wants all that was read.
        if any(source_worker.lasting for source_worker in self._source_workers):
            self.stop()
        else:
            self.abort()

    def close(self) -> None:
        """Close everything. Idempotent; ``run`` and the context call it."""
        if self._closed:
            return
        self._closed = True
        first: Exception | None = None
        closers: list[Callable[[], None]] = [source_worker.close for source_worker in self._source_workers]
        if self._engine is not None:
            closers.append(self._engine.close)
        for close in closers:
            try:
                close()
            except Exception as error:  # the rest must be closed too
                first = first or error
        if first is not None and self._thread_group.error is None:
            raise first

    # Books --------------------------------------------------------------------------------------------------------

    @property
    def stats(self) -> RunStats:
        """The books of the last run; final once ``run`` has returned or raised."""
        return self._stats

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for people, known once it is open: what was assumed, converted or fallen back to."""
        return opening_notes(self._source_workers, self._engine) if self._engine is not None else ()

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """All sinks of all sources."""
        return tuple(
            sink_worker.sink for source_worker in self._source_workers for sink_worker in source_worker.sink_workers
        )

    def snapshot(self) -> Snapshot:
        """Where the run stands. Any thread."""
        seconds = (self._clock.monotonic_ns() - self._started_ns) / 1e9 if self._started_ns else 0.0
        return snapshot(self._source_workers, self._model.queued(), seconds=seconds, stopping=self._stopped.is_set())

    def _settle(self) -> None:
        seconds = (self._clock.monotonic_ns() - self._started_ns) / 1e9
        lost_to = (
            "error" if self._thread_group.error is not None else "stopped" if self._aborted.is_set() else UNACCOUNTED
        )
        self._stats = run_stats(
            self._source_workers, self._model.timers, self._running_engine, seconds=seconds, lost_to=lost_to
        )


def made_source(source: Source | str) -> Source:
    """A source as it is, or the one a text names on the command line."""
    if isinstance(source, str):
        from streamdepth.sources.select import source_for

        return source_for(source)
    if not isinstance(source, Source):
        raise UsageError(f"{source!r} is no source; give what a command line takes as text, or a Source")
    return source

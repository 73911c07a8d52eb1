"""The threads of one run: named, joined with a deadline, the first error is kept; and the loop of a sink's thread."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from streamdepth.core.errors import DeadlineError, StageError, StopPipeline, StreamDepthError
from streamdepth.core.queues import Aborted, BoundedQueue, Ended, Policy
from streamdepth.pipeline.stats import SinkStats, Timer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo

T = TypeVar("T")

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class ThreadGroup:
    """Runs stage loops, one thread each.

    The first loop that raises ends the run: ``on_error`` is called once, on its thread. A loop that raises
    ``StopPipeline`` requests a normal end through ``on_stop``. Other loops then end with ``Aborted``. ``on_done`` is
    called whenever a loop has ended.
    """

    def __init__(
        self, *, on_error: Callable[[], None], on_stop: Callable[[], None], on_done: Callable[[], None]
    ) -> None:
        self._on_error = on_error
        self._on_stop = on_stop
        self._on_done = on_done
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._running = 0

    @property
    def error(self) -> BaseException | None:
        return self._error

    @property
    def done(self) -> bool:
        """True if every loop has ended."""
        return self._running == 0

    def add(self, loop: Callable[[], None], *, stage: str, source: str = "") -> None:
        """Create a thread named after its stage and source. ``start`` starts all threads."""
        name = f"streamdepth-{stage}" + (f"-{source}" if source else "")
        # Daemon threads: a read that never returns must not keep the process alive.
        self._threads.append(
            threading.Thread(target=self._run, args=(loop, stage, source), name=name[:60], daemon=True)
        )
        self._running += 1

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def guard(self, work: Callable[[], T], stage: str, source: str) -> T | None:
        """Call ``work`` on the current thread with the error handling of the group; None if it raised.

        KeyboardInterrupt is raised again: only the main thread receives it, and ``Pipeline.run`` handles it.
        """
        try:
            return work()
        except KeyboardInterrupt:
            raise
        except Aborted:
            pass
        except StopPipeline:
            self._on_stop()
        except BaseException as error:
            self.fail(error, stage, source)
        return None

    def _run(self, loop: Callable[[], None], stage: str, source: str) -> None:
        try:
            self.guard(loop, stage, source)
        finally:
            with self._lock:
                self._running -= 1
            self._on_done()

    def fail(self, error: BaseException, stage: str, source: str) -> None:
        """Record the error with its stage and source if it is the first, and end the run."""
        named = _named(error, stage, source)
        with self._lock:
            first = self._error is None
            if first:
                self._error = named
        if first:
            self._on_error()

    def join(self, deadline_seconds: float, clock: Clock) -> None:
        """Wait for all threads. A thread that still runs after the deadline is an error, unless one is recorded."""
        ends_ns = clock.monotonic_ns() + int(deadline_seconds * 1e9)
        for thread in self._threads:
            if thread.ident is None:
                continue
            thread.join(max(0.0, (ends_ns - clock.monotonic_ns()) / 1e9))
        stuck = [thread.name.removeprefix("streamdepth-") for thread in self._threads if thread.is_alive()]
        if stuck and self._error is None:
            self._error = DeadlineError(
                f"{', '.join(stuck)} did not end within {deadline_seconds:g} s and was abandoned; its output may be "
                "incomplete"
            )


def _named(error: BaseException, stage: str, source: str) -> BaseException:
    if isinstance(error, StreamDepthError):
        error.stage = error.stage or stage
        error.source = error.source or source
        return error
    if not isinstance(error, Exception):
        return error
    named = StageError(f"{type(error).__name__}: {error}", stage=stage, source=source)
    named.__cause__ = error
    return named


def close_all(closers: Iterable[Callable[[], None]]) -> Exception | None:
    """Call every function, also after one has raised; returns the first error."""
    first: Exception | None = None
    for close in closers:
        try:
            close()
        except Exception as error:
            first = first or error
    return first


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer SIGINT, SIGTERM and SIGHUP received in the block until after it.

    No effect outside the main thread, which alone runs handlers, and for handlers not set by Python.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda *signaled: received.append(signaled))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for which, frame in received:
        handlers[signal.Signals(which)](which, frame)


_QUEUE_FRAMES = 4
_LIVE_QUEUE_FRAMES = 1
IDLE_SECONDS = 0.02


class SinkWorker:
    """Feeds one sink from a bounded queue. ``offer`` runs on the colour thread, ``pump`` on the thread of the sink.

    Attributes:
        written_ns: monotonic time of the last result that the sink took, 0 before the first.
    """

    def __init__(self, sink: Sink, clock: Clock, latency: Timer) -> None:
        self.sink = sink
        self.timer = Timer()
        self.written_ns = 0
        live = sink.live
        self.queue: BoundedQueue[Result] = BoundedQueue(
            _LIVE_QUEUE_FRAMES if live else _QUEUE_FRAMES, Policy.LATEST if live else Policy.EVERY
        )
        self._clock = clock
        self._latency = latency
        self._lock = threading.Lock()
        self._offered = 0
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._closed_by_sink = False
        self._late = False
        self._pending_open: tuple[StreamInfo, ImageInfo | None] | None = None

    def expect_late_open(self) -> None:
        """The source opens during the run; the sink then opens on its own thread."""
        self._late = True

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """Open the sink, now or (after :meth:`expect_late_open`) on its own thread."""
        if self._late:
            self._pending_open = (stream, image)
        else:
            self.sink.open(stream, image)

    def offer(self, result: Result) -> None:
        replaced = None if self._closed_by_sink else self.queue.put(result)
        with self._lock:
            self._offered += 1
            self._dropped["policy"] += replaced is not None

    def pump(self) -> bool:
        """Pass the next result to the sink, or call ``idle``; False after the last one, when the sink was flushed."""
        try:
            result = self.queue.get(IDLE_SECONDS)
        except Ended:
            self._open_pending()
            if not self._late:
                self.sink.flush()
            return False
        self._open_pending()
        try:
            self._process(result)
        except StopPipeline:
            # This queue has no consumer any more: a blocked offer must return, and later ones must not block.
            self._closed_by_sink = True
            self.queue.drain()
            raise
        return True

    def _open_pending(self) -> None:
        pending, self._pending_open = self._pending_open, None
        if pending is not None:
            self.sink.open(*pending)
            self._late = False

    def _process(self, result: Result | None) -> None:
        if result is None:
            if not self._late:
                self.sink.idle()
            return
        started_ns = self._clock.monotonic_ns()
        self.sink.process(result)
        ended_ns = self._clock.monotonic_ns()
        self.timer.add(ended_ns - started_ns)
        self._latency.add(ended_ns - result.frame.captured_ns)
        self.written_ns = ended_ns
        with self._lock:
            self._written += 1

    def run(self) -> None:
        """The loop of the sink thread."""
        try:
            while self.pump():
                pass
        finally:
            self.sink.close()

    def finalize(self, cause: str) -> SinkStats:
        """The statistics after the run. Results neither written nor replaced count as dropped by ``cause``.

        If the sink ended the run itself, the cause is ``"closed"``.
        """
        with self._lock:
            lost = self._offered - self._written - sum(self._dropped.values())
            dropped = Counter(self._dropped)
            dropped["closed" if self._closed_by_sink else cause] += lost
        return SinkStats(
            self.sink.name,
            self._written,
            {name: count for name, count in dropped.items() if count},
            {name: count for name, count in self.sink.counts.items() if count},
        )

    @property
    def written(self) -> int:
        return self._written

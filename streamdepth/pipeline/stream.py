"""Frames and their depth, by iteration or on request."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from streamdepth.core.clock import SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import UsageError
from streamdepth.core.queues import Aborted, BoundedQueue, Ended, Policy
from streamdepth.pipeline.arguments import to_policy, to_source
from streamdepth.pipeline.pipeline import Pipeline
from streamdepth.sinks.depth.sink import known_values, resized

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import DepthMap, Frame, Result
    from streamdepth.depth.alignment import Anchor
    from streamdepth.depth.odometry import KnownMotion
    from streamdepth.inference.model import EngineSource

_AHEAD = 2


class _IteratorSink(BaseSink):
    """Passes results to the iterating thread; under ``latest`` a full queue drops its oldest result."""

    def __init__(self, policy: Policy, size: Literal["source", "model"]) -> None:
        super().__init__("iterator")
        if size not in ("source", "model"):
            raise UsageError(f"size of depth must be 'source' or 'model', not {size!r}")
        self._size = size
        self.queue: BoundedQueue[tuple[Frame, DepthMap]] = BoundedQueue(_AHEAD, policy)

    @property
    def live(self) -> bool:
        return self.queue.policy is Policy.LATEST

    def process(self, result: Result) -> None:
        frame, depth = result.frame, result.depth
        if self._size == "source":
            values = resized(known_values(depth), (frame.width_px, frame.height_px))
            depth = replace(depth, values=values, valid=None)
        self.queue.put((frame, depth))

    def interrupt(self) -> None:
        self.queue.abort()


class DepthStream(Iterator["tuple[Frame, DepthMap]"]):
    """Results of a running pipeline; made by :func:`stream`.

    ``for frame, depth in results`` waits for each result; :meth:`latest` does not wait. Use either. The pipeline starts
    with the first call and ends with the last result, with ``close``, at the end of a ``with`` block, or when the
    object is no longer referenced. One thread uses it; ``close`` may be called on any.
    """

    def __init__(
        self, pipeline: Pipeline, sink: _IteratorSink, clock: Clock, wall_clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._pipeline, self._sink, self._clock = pipeline, sink, clock
        self._wall_minus_monotonic_ns = wall_clock_ns() - clock.monotonic_ns()
        self._failure: list[BaseException] = []
        self._worker: threading.Thread | None = None
        self._closed = False

    def __next__(self) -> tuple[Frame, DepthMap]:
        if not self._closed:
            try:
                self._start()
                return self._sink.queue.take()
            except (Ended, Aborted):
                self._end()
            except BaseException:
                self.close()
                raise
        raise StopIteration

    def latest(self) -> tuple[Frame, DepthMap] | None:
        """The newest result since the last call, without waiting; None without a new one. Older ones are discarded.

        Raises:
            StreamDepthError: the first error of any stage, when no result is left.
        """
        if self._closed:
            return None
        self._start()
        ended = self._worker is not None and not self._worker.is_alive()
        results = self._sink.queue.drain()
        if not results and ended:
            self._end()
        return results[-1] if results else None

    @property
    def ended(self) -> bool:
        """True when no more results follow."""
        return self._closed

    def age_seconds(self, frame: Frame) -> float:
        """Time since the source handed the frame over: the age of its depth."""
        return (self._clock.monotonic_ns() - frame.captured_ns) / 1e9

    def captured_wall_ns(self, frame: Frame) -> int:
        """Capture time as nanoseconds of Unix time; ``frame.captured_ns`` is that on the monotonic clock."""
        return frame.captured_ns + self._wall_minus_monotonic_ns

    def close(self) -> None:
        """End the pipeline. Idempotent."""
        self._closed = True
        self._pipeline.abort()
        worker = self._worker
        if worker is None:
            self._pipeline.close()
        elif worker is not threading.current_thread():
            while worker.is_alive():
                worker.join(0.5)  # short: on Windows, Ctrl-C does not end a wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            self.close()

    def _start(self) -> None:
        if self._worker is not None:
            return
        self._pipeline.open()
        # The thread must not refer to self, so that an abandoned stream is collected and ends.
        pipeline, queue, failure = self._pipeline, self._sink.queue, self._failure

        def work() -> None:
            try:
                pipeline.run()
            except BaseException as error:  # raised on the iterating thread
                failure.append(error)
            finally:
                queue.end()

        self._worker = threading.Thread(target=work, name="streamdepth-stream", daemon=True)
        self._worker.start()

    def _end(self) -> None:
        self.close()
        if self._failure:
            raise self._failure[0]


def stream(
    source: Source | str,
    model: EngineSource | None = None,
    *,
    policy: Policy | str | None = None,
    batch: int = 1,
    model_every: int = 1,
    anchors: Sequence[Anchor] | KnownMotion = (),
    stabilize: bool = False,
    size: Literal["source", "model"] = "model",
    clock: Clock | None = None,
) -> DepthStream:
    """``for frame, depth in stream("clip.mp4")``: depth of every frame, decoded and computed ahead on other threads.

    A control loop calls ``latest`` of the returned object instead, and ``age_seconds`` for the age of a result.

    Args:
        source: as for :class:`Pipeline`.
        model: a DepthModel or DepthEstimator; None uses the built-in one.
        policy: ``every`` or ``latest``; None = default of the source.
        batch: frames per model run.
        model_every: as in :class:`Pipeline`; frames without a model run have ``DepthMap.propagated``.
        anchors: as in :class:`Pipeline`; the depth is then in metres.
        stabilize: as in :class:`Pipeline`.
        size: of the depth: ``"model"``, or ``"source"`` = that of the frame, bilinear, NaN where there is no depth.
        clock: monotonic time; that of the source.

    Yields:
        The frame and its depth, in model units. Both stay valid while referenced. Leaving the loop
        early ends the pipeline.

    Raises:
        StreamDepthError: the first error of any stage, after the frames before it were yielded.
    """
    opened = to_source(source)
    chosen = to_policy(policy, Policy.LATEST if opened.live else Policy.EVERY)
    sink = _IteratorSink(chosen, size)
    pipeline = Pipeline(
        [opened],
        model,
        [sink],
        policy=chosen,
        batch=batch,
        model_every=model_every,
        anchors=anchors,
        stabilize=stabilize,
        clock=clock,
    )
    return DepthStream(pipeline, sink, clock or SystemClock())

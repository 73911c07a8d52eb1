"""Iteration over frames and their depth."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSink
from streamdepth.core.queues import Aborted, BoundedQueue, Ended, Policy
from streamdepth.pipeline.pipeline import Pipeline, to_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import DepthMap, Frame, Result
    from streamdepth.depth.anchors import Anchor
    from streamdepth.inference.model import EngineSource

_AHEAD = 2


class _IteratorSink(BaseSink):
    """Passes results to the iterating thread; under ``latest`` a full queue drops its oldest result."""

    def __init__(self, policy: Policy) -> None:
        super().__init__("iterator")
        self.queue: BoundedQueue[tuple[Frame, DepthMap]] = BoundedQueue(_AHEAD, policy)

    @property
    def live(self) -> bool:
        return self.queue.policy is Policy.LATEST

    def process(self, result: Result) -> None:
        self.queue.put((result.frame, result.depth))

    def interrupt(self) -> None:
        self.queue.abort()


def stream(
    source: Source | str,
    model: EngineSource | None = None,
    *,
    policy: Policy | str | None = None,
    batch: int = 1,
    model_every: int = 1,
    anchors: Sequence[Anchor] = (),
    stabilize: bool = False,
) -> Iterator[tuple[Frame, DepthMap]]:
    """``for frame, depth in stream("clip.mp4")``: depth of every frame, decoded and computed ahead on other threads.

    Args:
        source: as for :class:`Pipeline`.
        model: a DepthModel or DepthEstimator; None uses the built-in one.
        policy: ``every`` or ``latest``; None = default of the source.
        batch: frames per model run.
        model_every: as in :class:`Pipeline`; frames without a model run have ``DepthMap.propagated``.
        anchors: as in :class:`Pipeline`; the depth is then in metres.
        stabilize: as in :class:`Pipeline`.

    Yields:
        The frame and its depth at model resolution, in model units. Both stay valid while referenced. Leaving the loop
        early ends the pipeline.

    Raises:
        StreamDepthError: the first error of any stage, after the frames before it were yielded.
    """
    opened = to_source(source)
    chosen = Policy(policy) if policy is not None else (Policy.LATEST if opened.live else Policy.EVERY)
    sink = _IteratorSink(chosen)
    pipeline = Pipeline(
        [opened],
        model,
        [sink],
        policy=chosen,
        batch=batch,
        model_every=model_every,
        anchors=anchors,
        stabilize=stabilize,
    )
    pipeline.open()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            pipeline.run()
        except BaseException as error:  # raised on the iterating thread below
            failure.append(error)
        finally:
            sink.queue.end()

    worker = threading.Thread(target=work, name="streamdepth-stream", daemon=True)
    worker.start()
    try:
        while True:
            try:
                item = sink.queue.take()
            except (Ended, Aborted):
                break
            yield item
    finally:
        pipeline.abort()
        while worker.is_alive():
            worker.join(0.5)  # short: on Windows, Ctrl-C does not end a wait
    if failure:
        raise failure[0]

"""Iteration over frames and their depth, for code that wants to pull."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSink
from streamdepth.core.queues import Aborted, BoundedQueue, Ended, Policy
from streamdepth.pipeline.pipeline import Pipeline, made_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import DepthMap, Frame, Result
    from streamdepth.inference.model import EngineSource

_AHEAD = 2


class _Handoff(BaseSink):
    """Hands results to the iterating thread; under ``latest`` the newest wins here too."""

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
) -> Iterator[tuple[Frame, DepthMap]]:
    """``for frame, depth in stream("clip.mp4")``: depth of every frame, decoded and inferred ahead on other threads.

    Args:
        source: as for :class:`Pipeline`.
        model: a DepthModel or DepthEstimator; None takes the built-in one.
        policy: ``every`` or ``latest``; None = the source's own default.
        batch: frames per model run.
        model_every: run the model on every Nth frame only, as in :class:`Pipeline`; others are ``DepthMap.propagated``.

    Yields:
        The frame, and its depth at model resolution in the model's own units; both stay valid as long as they are
        kept. Leaving the loop early ends the pipeline.

    Raises:
        StreamDepthError: the first error of any stage, after the frames that came before it.
    """
    opened = made_source(source)
    chosen = Policy(policy) if policy is not None else (Policy.LATEST if opened.live else Policy.EVERY)
    handoff = _Handoff(chosen)
    pipeline = Pipeline([opened], model, [handoff], policy=chosen, batch=batch, model_every=model_every)
    pipeline.open()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            pipeline.run()
        except BaseException as error:  # handed to the iterating thread below
            failure.append(error)
        finally:
            handoff.queue.end()

    worker = threading.Thread(target=work, name="streamdepth-stream", daemon=True)
    worker.start()
    try:
        while True:
            try:
                item = handoff.queue.take()
            except (Ended, Aborted):
                break
            yield item
    finally:
        pipeline.abort()
        worker.join()
    if failure:
        raise failure[0]

"""Choice of the batch: throughput measured against the time of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import av

from streamdepth.core.clock import SystemClock
from streamdepth.media.scene import pattern

if TYPE_CHECKING:
    from streamdepth.core.clock import Clock
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.model import DepthModel

CANDIDATES = (1, 2, 4, 8, 16, 32)
_RUNS = 5
_WORTH = 1.05
"""A larger batch must be faster per frame by this factor: it costs memory and latency."""
_PATIENT_SECONDS = 1.0
_LIVE_SECONDS = 0.1
"""A longer batch is noticeable in a live picture; a batch of one is never refused."""


@dataclass(frozen=True, slots=True)
class BatchChoice:
    """The chosen batch, and the measured milliseconds per frame of each batch tried."""

    batch: int
    frame_ms: dict[int, float]


def best_batch(
    model: DepthModel,
    *,
    width_px: int = 640,
    height_px: int = 480,
    live_sources: int = 0,
    most_seconds: float | None = None,
    clock: Clock | None = None,
) -> BatchChoice:
    """Run the model on the built-in image with growing batches until a larger one brings no gain.

    Args:
        width_px, height_px: size of the expected images: the network's size may depend on it.
        live_sources: number of sources with policy ``latest``; 0 = none: only throughput counts. A batch larger than
            the number of live sources would wait for a second frame of one of them.
        most_seconds: longest time of a batch above 1. None = 1 s, and 0.1 s with live sources.
        clock: measures the runs.
    Returns:
        The smallest batch within 5 % of the fastest that is not too slow. A graph of fixed batch has one choice.
    Raises:
        StreamDepthError: the model cannot run.
    """
    clock = clock or SystemClock()
    if most_seconds is None:
        most_seconds = _LIVE_SECONDS if live_sources else _PATIENT_SECONDS
    most = live_sources or CANDIDATES[-1]
    image = av.VideoFrame.from_ndarray(pattern(width_px, height_px), format="rgb24")
    measured: dict[int, float] = {}
    best = 0
    # with three cameras, a batch of three is tried too
    for batch in sorted({*(batch for batch in CANDIDATES if batch <= most), min(most, CANDIDATES[-1])}):
        engine = model.trial_engine(batch)
        try:
            if engine.batch != batch or (engine.rows_per_run == 1 and batch > 1):
                return BatchChoice(best or engine.batch, measured)
            seconds = _seconds_a_batch(engine, image, clock)
        finally:
            engine.close()
        measured[batch] = round(seconds / batch * 1e3, 4)
        if best and (seconds > most_seconds or measured[best] < measured[batch] * _WORTH):
            break
        best = batch
        if seconds > most_seconds:
            break  # a larger one takes longer still
    return BatchChoice(best, measured)


def _seconds_a_batch(engine: Engine, image: av.VideoFrame, clock: Clock) -> float:
    slot = engine.acquire(engine.network_size(image.width, image.height))
    for row in range(engine.batch):
        slot.write(row, image)
    engine.run(slot, engine.batch)  # the first run sizes the session's memory
    times: list[int] = []
    for _ in range(_RUNS):
        started_ns = clock.monotonic_ns()
        engine.run(slot, engine.batch)
        times.append(clock.monotonic_ns() - started_ns)
    return sorted(times)[len(times) // 2] / 1e9

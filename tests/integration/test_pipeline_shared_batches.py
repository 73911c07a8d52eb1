"""Several sources in one run: one engine, one batch, and every frame back to where it came from."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from streamdepth.pipeline import Pipeline
from tests.support.stages import FakeEngine, RecordingSink, ScriptedSource, fake_estimator, flat_image

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

    from streamdepth.core.contracts import Sink, Source


def shade(base: int) -> Callable[[int], av.VideoFrame]:
    return lambda index: flat_image(base + index)


@pytest.mark.parametrize("policy", ["every", "latest"])
def test_sources_share_one_engine_and_its_batches(policy: str) -> None:
    engine = FakeEngine(3)
    start = threading.Barrier(3)

    def together(_: int) -> None:
        start.wait(5)

    sources = [
        ScriptedSource(12, name=f"camera {n}", live=policy == "latest", image=shade(60 * n), before=together)
        for n in range(3)
    ]
    sinks: dict[str, RecordingSink] = {}

    def sink_of(source: Source) -> list[Sink]:
        sinks[source.id] = RecordingSink(source.id)
        return [sinks[source.id]]

    stats = Pipeline(sources, fake_estimator(engine), sink_of, policy=policy, batch=3, range="frame").run()
    assert stats.processed == sum(engine.batches) == sum(len(sink.results) for sink in sinks.values())
    assert stats.captured == stats.processed + sum(stats.dropped.values())
    assert any(count > 1 for count in engine.batches)
    for number, source in enumerate(sources):
        for result in sinks[source.id].results:
            assert result.frame.source_id == source.id
            assert result.depth.values.min() == pytest.approx(60 * number + result.frame.index, abs=1)
    if policy == "every":
        assert stats.processed == 36
        assert engine.batches.count(3) >= 11  # the last one may be short; the engine pads it

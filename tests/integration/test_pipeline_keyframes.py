"""``model_every``: which frames the model sees, and what becomes of the others."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.core.errors import InferenceError, UsageError
from streamdepth.pipeline import Pipeline, RunStats, stream
from tests.support.stages import (
    FakeEngine,
    RecordingSink,
    ScriptedSource,
    assert_true,
    balanced,
    fake_estimator,
    flat_image,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import av


def _propagated(sink: RecordingSink) -> list[int]:
    return [result.frame.index for result in sink.results if result.depth.propagated]


def _levels(sink: RecordingSink) -> list[float]:
    return [float(result.depth.values[0, 0]) for result in sink.results]


@pytest.mark.parametrize("mode", ["shot", "ema", "frame", "fixed:0,300"])
@pytest.mark.parametrize(("every", "batch", "workers"), [(2, 1, 1), (3, 2, 1), (4, 3, 2), (16, 1, 2)])
def test_every_frame_has_depth_and_the_model_sees_every_nth(
    mode: str, every: int, batch: int, workers: int, no_threads_left: Callable[[], bool]
) -> None:
    engine, sink = FakeEngine(batch, workers=workers), RecordingSink()
    with Pipeline(
        [ScriptedSource(41)], fake_estimator(engine), [sink], range=mode, batch=batch, model_every=every
    ) as run:
        stats = run.run()
    keys = range(0, 41, every)
    assert sink.indices == list(range(41))
    assert sum(engine.batches) == len(keys)
    assert _propagated(sink) == [index for index in range(41) if index not in keys]
    assert stats.propagated == 41 - len(keys)
    assert (stats.captured, stats.processed, stats.written, stats.dropped) == (41, 41, 41, {})
    assert "propagate" in stats.stages_ms
    assert no_threads_left()


def test_depth_between_two_key_frames_lies_between_theirs() -> None:
    sink = RecordingSink()
    Pipeline([ScriptedSource(11)], fake_estimator(), [sink], range="frame", model_every=5).run()
    levels = _levels(sink)
    assert [round(levels[key]) for key in (0, 5, 10)] == [0, 5, 10]
    assert levels == sorted(levels)
    assert len(set(levels)) == 11


def test_after_the_last_key_frame_depth_is_carried_on() -> None:
    sink = RecordingSink()
    Pipeline([ScriptedSource(8)], fake_estimator(), [sink], range="frame", model_every=5).run()
    assert [round(level) for level in _levels(sink)[5:]] == [5, 5, 5]


def test_one_frame_alone_goes_through_the_model() -> None:
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(1)], fake_estimator(), [sink], range="shot", model_every=16).run()
    assert (stats.processed, stats.propagated) == (1, 0)


def _dark_then_bright(index: int) -> av.VideoFrame:
    return flat_image(10 if index < 21 else 220)


@pytest.mark.parametrize("mode", ["shot", "ema"])
def test_a_shot_begins_with_a_key_frame_and_nothing_is_carried_across(mode: str) -> None:
    engine, sink = FakeEngine(), RecordingSink()
    Pipeline(
        [ScriptedSource(40, image=_dark_then_bright)], fake_estimator(engine), [sink], range=mode, model_every=8
    ).run()
    own = sorted(set(range(40)) - set(_propagated(sink)))
    assert own == [0, 8, 16, 21, 29, 37]
    assert [round(level) for level in _levels(sink)] == [10] * 21 + [220] * 19
    ranges = {(round(result.range.lo), round(result.range.hi)) for result in sink.results}
    assert ranges == {(10, 11), (220, 221)}


def test_images_of_another_size_begin_anew() -> None:
    engine, sink = FakeEngine(fixed_size=False), RecordingSink()
    source = ScriptedSource(10, image=lambda index: flat_image(index, 32 if index < 5 else 64))
    Pipeline([source], fake_estimator(engine), [sink], range="frame", model_every=4).run()
    assert sorted(set(range(10)) - set(_propagated(sink))) == [0, 4, 5, 9]
    assert sink.indices == list(range(10))


def test_several_sources_share_the_model() -> None:
    engine = FakeEngine(3)
    sinks = {name: RecordingSink(name) for name in ("one", "two")}
    sources = [ScriptedSource(count, name=name) for name, count in (("one", 20), ("two", 9))]
    stats = Pipeline(
        sources, fake_estimator(engine), lambda source: [sinks[source.id]], range="frame", batch=3, model_every=4
    ).run()
    assert sum(engine.batches) == 5 + 3
    assert (sinks["one"].indices, sinks["two"].indices) == (list(range(20)), list(range(9)))
    assert stats.propagated == 29 - 8


def test_latest_carries_the_newest_answer_on_while_the_model_works() -> None:
    """The model takes from frame 4 to frame 30 for its second answer: frames meanwhile have depth of the first."""
    given, shown = threading.Event(), [threading.Event() for _ in range(40)]

    def before_batch(number: int) -> None:
        if number == 1:
            assert given.wait(10)

    def before_frame(index: int) -> None:
        if 0 < index < 30:
            assert shown[index - 1].wait(10)
        elif index == 30:
            given.set()

    sink = RecordingSink(before=lambda result: shown[result.frame.index].set())
    source = ScriptedSource(40, live=True, before=before_frame)
    stats = Pipeline([source], fake_estimator(FakeEngine(before=before_batch)), [sink], model_every=4).run()
    assert balanced(stats)
    assert set(stats.dropped) <= {"policy"}
    assert sink.indices[:29] == list(range(29))
    assert _propagated(sink)[:28] == list(range(1, 29))
    assert [round(level) for level in _levels(sink)[:29]] == [0] * 29


def test_latest_shows_a_new_shot_with_depth_of_its_own_only() -> None:
    sink = RecordingSink()
    source = ScriptedSource(60, live=True, image=lambda index: flat_image(10 if index < 30 else 220))
    stats = Pipeline([source], fake_estimator(), [sink], model_every=6).run()
    assert balanced(stats)
    assert stats.processed + stats.dropped.get("policy", 0) == 60
    for result in sink.results:
        assert round(float(result.depth.values[0, 0])) == (10 if result.frame.index < 30 else 220)


def test_a_file_played_at_its_own_pace_is_carried_forward() -> None:
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(10)], fake_estimator(), [sink], policy="latest", model_every=3).run()
    assert balanced(stats)
    assert stats.processed + sum(stats.dropped.values()) == 10


@pytest.mark.parametrize("live", [False, True])
def test_an_error_of_the_model_ends_the_run(live: bool, no_threads_left: Callable[[], bool]) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise InferenceError("out of memory")

    source = ScriptedSource(400, live=live, repeatable=False)
    pipeline = Pipeline(
        [source], fake_estimator(FakeEngine(before=fail)), [RecordingSink()], range="ema", policy="every", model_every=3
    )
    with pytest.raises(InferenceError, match="out of memory"):
        pipeline.run()
    assert balanced(pipeline.stats)
    assert no_threads_left()


@pytest.mark.parametrize("policy", ["every", "latest"])
@pytest.mark.parametrize("end", ["stop", "abort"])
def test_it_ends_when_it_is_told_to(policy: str, end: str, no_threads_left: Callable[[], bool]) -> None:
    pipeline: Pipeline | None = None

    def at_third(result: Any) -> None:
        if result.frame.index >= 3:
            assert pipeline is not None
            getattr(pipeline, end)()

    source = ScriptedSource(100_000, live=policy == "latest", repeatable=False)
    sink = RecordingSink(before=at_third)
    pipeline = Pipeline([source], fake_estimator(), [sink], range="ema", policy=policy, model_every=4)
    stats = pipeline.run()
    assert balanced(stats)
    assert stats.captured < 100_000
    assert no_threads_left()


def test_a_sink_that_waits_holds_no_more_than_a_bounded_number_of_frames() -> None:
    release, stuck = threading.Event(), threading.Event()

    def wait(_: Any) -> None:
        stuck.set()
        assert_true(release.wait(10))

    source = ScriptedSource(500)
    pipeline = Pipeline(
        [source], fake_estimator(), [RecordingSink(before=wait)], range="frame", policy="every", model_every=4
    )
    done: list[RunStats] = []
    worker = threading.Thread(target=lambda: done.append(pipeline.run()))
    worker.start()
    assert stuck.wait(10)
    counts = {pipeline.snapshot().queues["propagate"] for _ in range(200)}
    release.set()
    worker.join(20)
    assert done[0].processed == 500
    assert max(counts) <= 4 * 4


def test_iteration_tells_carried_depth() -> None:
    marks = [depth.propagated for _, depth in stream(ScriptedSource(7), fake_estimator(), model_every=3)]
    assert marks == [False, True, True, False, True, True, False]


@pytest.mark.parametrize("every", [0, -1, 17])
def test_absurd_numbers_are_refused(every: int) -> None:
    with pytest.raises(UsageError, match=f"model_every must be 1 to 16, not {every}"):
        Pipeline([ScriptedSource(1)], fake_estimator(), model_every=every)


def test_without_it_nothing_is_carried() -> None:
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(6)], fake_estimator(), [sink], range="frame").run()
    assert (stats.propagated, _propagated(sink)) == (0, [])
    assert "propagate" not in stats.stages_ms
    assert np.isfinite(_levels(sink)).all()


def test_answers_that_come_after_the_last_frame_do_not_hold_up_the_end(no_threads_left: Callable[[], bool]) -> None:
    """All frames of a live source are given before the model has answered for its second key frame."""
    given = threading.Event()

    def before_batch(number: int) -> None:
        if number == 1:
            assert given.wait(10)

    source = ScriptedSource(60, live=True, before=lambda index: given.set() if index == 59 else None)
    engine = FakeEngine(2, before=before_batch)
    stats = Pipeline([source], fake_estimator(engine), [RecordingSink()], batch=2, model_every=2).run()
    assert balanced(stats)
    assert no_threads_left()

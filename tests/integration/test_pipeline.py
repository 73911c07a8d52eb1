"""The pipeline: order, statistics, policies, errors and ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.core.errors import SourceError, UsageError
from streamdepth.depth.range import RangeSpec
from streamdepth.pipeline import Pipeline, stream
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
    from collections.abc import Callable, Mapping


@pytest.mark.parametrize("mode", ["shot", "ema", "frame", "fixed:0,300"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_frame_arrives_once_and_in_order(mode: str, batch: int, no_threads_left: Callable[[], bool]) -> None:
    sink, other = RecordingSink(), RecordingSink("other")
    source = ScriptedSource(10)
    with Pipeline([source], fake_estimator(), [sink, other], range=mode, batch=batch) as pipeline:
        stats = pipeline.run()
    assert sink.indices == other.indices == list(range(10))
    assert [round(float(r.depth.values[0, 0])) for r in sink.results] == list(range(10))
    assert (stats.captured, stats.processed, stats.written, stats.dropped) == (10, 10, 10, {})
    assert sink.calls[:2] == ["open", "flush"]
    assert "close" in sink.calls
    assert source.closed >= 1
    assert stats.range == mode
    assert {"capture", "prepare", "infer", "sink recording"} <= stats.stages_ms.keys()
    assert set(stats.latency_ms) == {"median", "p95", "p99"}
    assert no_threads_left()


def test_a_pipeline_runs_once() -> None:
    pipeline = Pipeline([ScriptedSource(2)], fake_estimator(), range="frame")
    pipeline.run()
    with pytest.raises(UsageError, match="this pipeline is closed, and a pipeline runs only once; create a new one"):
        pipeline.run()


@pytest.mark.parametrize("value", [7, None, b"clip.mp4"])
def test_what_is_no_source_is_named(value: Any) -> None:
    with pytest.raises(UsageError, match=r"is not a source; pass a Source, or a string as on the command line"):
        next(iter(stream(value, fake_estimator())))
    with pytest.raises(UsageError, match="is not a source"):
        Pipeline([value], fake_estimator())


def test_batches_are_filled_and_the_last_is_short() -> None:
    engine = FakeEngine(4)
    Pipeline([ScriptedSource(10)], fake_estimator(engine), range="frame", batch=4).run()
    assert engine.batches == [4, 4, 2]


def test_images_of_other_sizes_start_a_batch_of_their_own() -> None:
    engine = FakeEngine(4, fixed_size=False)
    sink = RecordingSink()
    source = ScriptedSource(6, image=lambda index: flat_image(index, 32 if index < 3 else 64))
    Pipeline([source], fake_estimator(engine), [sink], range="frame", batch=4).run()
    assert engine.batches == [3, 3]
    assert sink.indices == list(range(6))


def test_latest_drops_and_counts_what_it_cannot_keep_up_with() -> None:
    """A live source gives 40 frames while the model is busy with the first."""
    begun, given = threading.Event(), threading.Event()

    def before_frame(index: int) -> None:
        if index == 1:
            assert begun.wait(5)
        elif index == 39:
            given.set()

    def before_batch(number: int) -> None:
        if number == 0:
            begun.set()
            assert given.wait(5)

    sink = RecordingSink()
    source = ScriptedSource(40, live=True, before=before_frame)
    stats = Pipeline([source], fake_estimator(FakeEngine(before=before_batch)), [sink]).run()
    # the first, one that was made ready meanwhile, and the newest, which the last may have come too late to replace
    assert 2 <= stats.processed <= 4
    assert stats.processed + stats.dropped["policy"] == stats.captured == 40
    assert sink.indices == sorted(set(sink.indices))
    assert (sink.indices[0], sink.indices[-1]) == (0, 39)


def test_latest_plays_a_file_at_its_own_pace() -> None:
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(10)], fake_estimator(), [sink], policy="latest").run()
    assert stats.seconds >= 9 / 25
    assert balanced(stats)


def test_a_live_sink_never_holds_the_others_up() -> None:
    release = threading.Event()
    slow = RecordingSink("slow", live=True, before=lambda _: assert_true(release.wait(10)))
    other = RecordingSink("other", before=lambda result: release.set() if result.frame.index == 19 else None)
    stats = Pipeline([ScriptedSource(20)], fake_estimator(), [slow, other], range="frame").run()
    sinks = {sink.name: sink for sink in stats.sinks}
    assert sinks["other"].written == 20
    assert sinks["slow"].dropped["policy"] == 20 - sinks["slow"].written > 0


def test_counters_of_a_sink_are_in_the_statistics() -> None:
    class Counting(RecordingSink):
        @property
        def counts(self) -> Mapping[str, int]:
            return {"resized": len(self.results), "late": 0}

    stats = Pipeline([ScriptedSource(4)], fake_estimator(), [Counting()], range="frame").run()
    assert stats.to_dict()["sinks"] == [{"name": "recording", "written": 4, "dropped": {}, "counts": {"resized": 4}}]


def test_frames_a_source_dropped_are_in_the_statistics() -> None:
    stats = Pipeline([ScriptedSource(5, dropped={"corrupt": 2})], fake_estimator(), range="frame").run()
    assert (stats.captured, stats.processed, stats.dropped) == (7, 5, {"corrupt": 2})


def test_several_sources_share_the_model_and_keep_their_own_sinks() -> None:
    sinks: dict[str, RecordingSink] = {}

    def make(source: Any) -> list[RecordingSink]:
        sinks[source.id] = RecordingSink(source.id)
        return [sinks[source.id]]

    engine = FakeEngine(4)
    sources = [ScriptedSource(10, name=name) for name in ("left", "right")]
    stats = Pipeline(sources, fake_estimator(engine), make, batch=4).run()
    assert {name: sink.indices for name, sink in sinks.items()} == {n: list(range(10)) for n in ("left", "right")}
    assert all({r.frame.source_id for r in sink.results} == {name} for name, sink in sinks.items())
    assert stats.processed == stats.written == 20
    assert sum(engine.batches) == 20


def test_a_shot_keeps_one_range_and_the_next_has_its_own() -> None:
    """40 dark frames, then 40 bright ones: a cut by the mean difference of their pixels."""
    source = ScriptedSource(80, image=lambda index: flat_image(20 if index < 40 else 200, 64, 48))
    sink = RecordingSink()
    Pipeline([source], fake_estimator(), [sink], range="shot").run()
    ranges = [(result.range.lo, result.range.hi) for result in sink.results]
    assert len(set(ranges[:40])) == len(set(ranges[40:])) == 1
    assert ranges[0][0] == pytest.approx(20, abs=0.1)
    assert ranges[79][0] == pytest.approx(200, abs=0.1)


@pytest.mark.parametrize(
    ("value", "flat", "non_finite"), [(1.0, 6, 0), (np.nan, 6, 6), (np.inf, 6, 6)], ids=["constant", "nan", "inf"]
)
@pytest.mark.parametrize("mode", ["shot", "ema", "frame"])
def test_depth_without_contrast_is_counted_and_passed_on(value: float, flat: int, non_finite: int, mode: str) -> None:
    engine = FakeEngine(depth=lambda level: np.full((4, 8), value, np.float32))  # noqa: ARG005
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(6)], fake_estimator(engine), [sink], range=mode).run()
    assert (stats.written, stats.depth_flat, stats.depth_non_finite) == (6, flat, non_finite)
    assert all(result.range.flat for result in sink.results)


class TestStream:
    def test_gives_every_frame_with_its_depth(self, no_threads_left: Callable[[], bool]) -> None:
        seen = [
            (frame.index, float(depth.values[0, 0])) for frame, depth in stream(ScriptedSource(8), fake_estimator())
        ]
        assert [index for index, _ in seen] == list(range(8))
        assert [near for _, near in seen] == pytest.approx(range(8), abs=1)
        assert no_threads_left()

    def test_leaving_early_ends_the_pipeline(self, no_threads_left: Callable[[], bool]) -> None:
        source = ScriptedSource(100_000)
        for frame, _ in stream(source, fake_estimator()):
            if frame.index == 3:
                break
        assert no_threads_left()
        assert source.closed

    def test_an_error_comes_after_the_frames_before_it(self, no_threads_left: Callable[[], bool]) -> None:
        def fail(index: int) -> None:
            if index == 4:
                raise SourceError("gone")

        seen = []
        with pytest.raises(SourceError, match="gone"):
            seen += [frame.index for frame, _ in stream(ScriptedSource(9, before=fail), fake_estimator())]
        assert no_threads_left()


class TestUse:
    def test_wrong_values_are_named(self) -> None:
        with pytest.raises(UsageError, match="at least one source"):
            Pipeline([])
        with pytest.raises(UsageError, match="policy is one of every, latest"):
            Pipeline([ScriptedSource()], policy="newest")
        with pytest.raises(UsageError, match="batch must be 1 to 256 frames, not"):
            Pipeline([ScriptedSource()], batch=0)
        with pytest.raises(UsageError, match="frame_cache_bytes must be 0 or more bytes"):
            Pipeline([ScriptedSource()], frame_cache_bytes=-1)
        with pytest.raises(UsageError, match="function"):
            Pipeline([ScriptedSource(), ScriptedSource()], sinks=[RecordingSink()])
        with pytest.raises(UsageError, match="twice"):
            Pipeline([ScriptedSource(live=True)], range="shot")
        with pytest.raises(UsageError, match="LO,HI"):
            Pipeline([ScriptedSource()], range="fixed:3,1")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"sources": "test:"}, r"sources is a list of sources, not 'test:'; pass \[SOURCE\]"),
            ({"sources": [b"test:"]}, "b'test:' is not a source; pass a Source"),
            ({"model": "built-in"}, r"model is a DepthModel or DepthEstimator, not 'built-in'; pass DepthEstimator"),
            ({"sinks": [print]}, r"print is not a sink .*; pass a function as callback="),
            ({"sinks": lambda frame, depth: None}, r"does not take one source .*; pass a function of .* as callback="),  # noqa: ARG005
            ({"sinks": lambda source: None}, r"sinks is a list of sinks, not None; pass \[SINK\]"),  # noqa: ARG005
            ({"sinks": "out.mp4"}, r"sinks is a list of sinks, not 'out.mp4'; pass \[SINK\]"),
            ({"sinks": ["out.mp4"]}, "'out.mp4' is not a sink .*; derive it from streamdepth.BaseSink"),
            ({"sinks": [RecordingSink]}, "RecordingSink is not a sink"),
            ({"callback": 3}, "callback is a function, not 3"),
            ({"on_status": "x"}, "on_status is a function, not 'x'"),
            ({"clock": 3}, "clock.monotonic_ns is a function, not 3"),
            ({"range": 3}, "range is one of shot, ema, frame, fixed:LO,HI .*, not '3'"),
            ({"batch": "2"}, "batch must be a whole number, 1 to 256 frames, not '2'"),
            ({"batch": 2.5}, "batch must be a whole number, 1 to 256 frames, not 2.5"),
            ({"model_every": None}, "model_every must be a whole number, 1 to 16, not None"),
            ({"max_staleness_seconds": "x"}, "max-staleness must be a number, 0 to 60 seconds, not 'x'"),
            ({"deadline_seconds": float("nan")}, "deadline_seconds must be more than 0"),
            ({"color_threads": 0}, "color_threads must be 1 to 64, not 0"),
            ({"stabilize": "on"}, "stabilize is True, False or a StabilizeSwitch, not 'on'"),
            ({"anchors": [(1, 2, 3)]}, "anchors is a list of Anchor, or a KnownMotion, not"),
        ],
    )
    def test_a_value_of_another_type_is_named_with_what_is_expected(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError, match=message) as raised:
            Pipeline(**{"sources": [ScriptedSource()], "model": fake_estimator(), **arguments})
        assert "\n" not in str(raised.value)

    def test_a_stream_checks_the_same(self) -> None:
        wrong: dict[str, Any] = {"policy": "x", "clock": 3, "model": 3, "batch": "x", "anchors": 3}
        for name, value in wrong.items():
            arguments: dict[str, Any] = {"model": fake_estimator(), name: value}
            with pytest.raises(UsageError, match=name):
                stream(ScriptedSource(), **arguments)

    def test_an_error_inside_a_sink_maker_stays_its_own(self) -> None:
        def make(source: Any) -> list[RecordingSink]:
            return [RecordingSink(source, nothing_like_this=True)]  # type: ignore[call-arg]

        with pytest.raises(TypeError, match="nothing_like_this"):
            Pipeline([ScriptedSource()], sinks=make)

    def test_default_ranges(self) -> None:
        from streamdepth.core.look import Look

        def chosen(source: ScriptedSource, *sinks: RecordingSink) -> str:
            return str(Pipeline([source], fake_estimator(), sinks)._source_workers[0].range_spec)

        look = Look()
        assert chosen(ScriptedSource(), RecordingSink(look=look)) == "shot"
        assert chosen(ScriptedSource(), RecordingSink(look=look, live=True)) == "ema"
        assert chosen(ScriptedSource(live=True), RecordingSink(look=look)) == "ema"
        assert chosen(ScriptedSource(repeatable=False), RecordingSink(look=look)) == "ema"
        assert chosen(ScriptedSource()) == "frame"
        assert RangeSpec.parse("fixed:1,2.5").fixed is not None

    def test_a_sink_that_cannot_open_leaves_nothing_open(self) -> None:
        class Refusing(RecordingSink):
            def open(self, *_: Any) -> None:
                raise SourceError("no")

        source, first = ScriptedSource(), RecordingSink()
        with pytest.raises(SourceError, match="no"):
            Pipeline([source], fake_estimator(), [first, Refusing()]).run()
        assert "close" in first.calls
        assert source.closed

    def test_snapshot_shows_the_state(self) -> None:
        snapshots = []
        pipeline: Pipeline
        sink = RecordingSink(before=lambda result: snapshots.append(pipeline.snapshot()))  # noqa: ARG005
        pipeline = Pipeline([ScriptedSource(5)], fake_estimator(), [sink])
        pipeline.run()
        assert snapshots[0].expected == 5
        assert not snapshots[0].stopping
        assert [s.written for s in snapshots] == [0, 1, 2, 3, 4]
        assert {"frame_queue", "batches", "depths", "propagate", "stabilize", "spool", "sinks"} == snapshots[
            0
        ].queues.keys()

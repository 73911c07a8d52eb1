"""The runner: order, books, policies, errors and ends."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.depth.range import RangeSpec
from streamdepth.errors import DeadlineError, SourceError, StageError, StopPipeline, UsageError
from streamdepth.pipeline import Pipeline, RunStats, stream
from streamdepth.pipeline.crew import Crew
from tests.support.stages import FakeEngine, RecordingSink, ScriptedSource, fake_estimator, flat_picture

if TYPE_CHECKING:
    from streamdepth.frame import Result


def balanced(stats: RunStats) -> bool:
    sinks = all(s.written + sum(s.dropped.values()) <= stats.processed for s in stats.sinks)
    return sinks and stats.captured == stats.processed + sum(stats.dropped.values())


def assert_true(value: bool) -> None:
    assert value


def no_threads_left() -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = [t for t in threading.enumerate() if t.name.startswith("streamdepth-") and t.is_alive()]
        if not left:
            return True
        left[0].join(0.05)
    return False


@pytest.mark.parametrize("mode", ["shot", "ema", "frame", "fixed:0,300"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_frame_arrives_once_and_in_order(mode: str, batch: int) -> None:
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


def test_batches_are_filled_and_the_last_is_short() -> None:
    engine = FakeEngine(4)
    Pipeline([ScriptedSource(10)], fake_estimator(engine), range="frame", batch=4).run()
    assert engine.batches == [4, 4, 2]


def test_pictures_of_other_sizes_start_a_batch_of_their_own() -> None:
    engine = FakeEngine(4, fixed_size=False)
    sink = RecordingSink()
    source = ScriptedSource(6, picture=lambda index: flat_picture(index, 32 if index < 3 else 64))
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
    books = {sink.name: sink for sink in stats.sinks}
    assert books["other"].written == 20
    assert books["slow"].dropped["policy"] == 20 - books["slow"].written > 0


def test_frames_a_source_left_out_are_in_the_books() -> None:
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
    """40 dark frames, then 40 bright ones: a cut that PySceneDetect finds."""
    source = ScriptedSource(80, picture=lambda index: flat_picture(20 if index < 40 else 200, 64, 48))
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


class TestErrors:
    """The first error wins, names its stage and source, and everything is closed."""

    def run(self, **parts: Any) -> BaseException:
        sink = parts.pop("sink", RecordingSink())
        source = parts.pop("source", ScriptedSource(50))
        pipeline = Pipeline([source], parts.pop("estimator", fake_estimator()), [sink], **parts)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each test looks at the kind itself
            pipeline.run()
        assert "close" in sink.calls
        assert source.closed
        assert balanced(pipeline.stats)
        assert no_threads_left()
        return caught.value

    def test_source(self) -> None:
        def fail(index: int) -> None:
            if index == 20:
                raise SourceError("cable pulled out")

        error = self.run(source=ScriptedSource(50, before=fail), range="frame")
        assert isinstance(error, SourceError)
        assert (error.stage, error.message) == ("capture", "cable pulled out")

    def test_model(self) -> None:
        def fail(number: int) -> None:
            if number == 7:
                raise RuntimeError("out of memory")

        error = self.run(estimator=fake_estimator(FakeEngine(before=fail)))
        assert isinstance(error, StageError)
        assert isinstance(error.__cause__, RuntimeError)
        assert str(error) == "infer: RuntimeError: out of memory"

    @pytest.mark.parametrize("on_caller_thread", [False, True])
    def test_sink(self, on_caller_thread: bool) -> None:
        def fail(result: Result) -> None:
            if result.frame.index == 5:
                raise OSError(28, "No space left on device")

        error = self.run(sink=RecordingSink("disk", before=fail, on_caller_thread=on_caller_thread), range="frame")
        assert isinstance(error.__cause__, OSError)
        assert str(error).startswith("sink of disk: ")

    def test_callback(self) -> None:
        def fail(frame: Any, depth: Any) -> None:  # noqa: ARG001
            if frame.index == 3:
                raise KeyError("mine")

        assert isinstance(self.run(callback=fail).__cause__, KeyError)

    def test_secrets_do_not_come_out(self) -> None:
        def fail(index: int) -> None:  # noqa: ARG001
            raise ValueError("cannot read rtsp://me:hunter2@cam/1")

        error = self.run(source=ScriptedSource(5, before=fail, name="rtsp://me:hunter2@cam/1"), range="frame")
        assert "hunter2" not in str(error)

    def test_the_second_pass_finding_other_frames(self) -> None:
        class Shrinking(ScriptedSource):
            def again(self) -> ScriptedSource:
                return ScriptedSource(3)

        error = self.run(source=Shrinking(10), range="shot", kept_bytes=0)
        assert isinstance(error, SourceError)
        assert "read again" in str(error)


class TestEnds:
    def test_stop_finishes_what_was_taken(self) -> None:
        sink = RecordingSink()
        pipeline: Pipeline

        def stop_at(index: int) -> None:
            if index == 30:
                pipeline.stop()

        pipeline = Pipeline([ScriptedSource(1000, before=stop_at)], fake_estimator(), [sink], range="shot")
        stats = pipeline.run()
        assert sink.indices == list(range(30))
        assert stats.captured == stats.written == 30

    @pytest.mark.parametrize("on_caller_thread", [False, True])
    def test_a_closed_window_ends_the_run_at_once(self, on_caller_thread: bool) -> None:
        def close(result: Result) -> None:
            if result.frame.index >= 5:
                raise StopPipeline

        sink = RecordingSink(live=True, before=close, on_caller_thread=on_caller_thread)
        stats = Pipeline([ScriptedSource(100_000)], fake_estimator(), [sink]).run()
        assert stats.captured < 100_000
        assert balanced(stats)
        assert no_threads_left()

    def test_a_closed_window_beside_a_file_lets_the_file_finish(self) -> None:
        def close(result: Result) -> None:
            if result.frame.index >= 5:
                raise StopPipeline

        window, file = RecordingSink("window", live=True, before=close), RecordingSink("file")
        stats = Pipeline([ScriptedSource(100_000)], fake_estimator(), [window, file], range="frame").run()
        assert file.indices == list(range(stats.captured))
        assert {sink.name: list(sink.dropped) for sink in stats.sinks}["window"][-1:] == ["closed"]

    def test_a_window_closed_between_pictures_ends_the_run(self) -> None:
        """The model has not given anything yet when the window is closed."""
        closed = threading.Event()

        class Closing(RecordingSink):
            lasting = False

            def idle(self) -> None:
                closed.set()
                raise StopPipeline

        engine = FakeEngine(before=lambda number: assert_true(closed.wait(5)))  # noqa: ARG005
        sink = Closing("window", on_caller_thread=True)
        stats = Pipeline([ScriptedSource(1000)], fake_estimator(engine), [sink]).run()
        assert stats.captured < 1000
        assert stats.seconds < 5
        assert no_threads_left()

    def test_caller_thread_sinks_run_on_the_callers_thread(self) -> None:
        sink = RecordingSink(on_caller_thread=True)
        Pipeline([ScriptedSource(5)], fake_estimator(), [sink]).run()
        assert sink.threads == {threading.current_thread().name}
        assert sink.indices == list(range(5))

    @pytest.mark.parametrize("where", ["source", "sink", "model"])
    def test_what_never_returns_is_named_after_the_deadline(self, where: str) -> None:
        hang = threading.Event()
        pipeline: Pipeline

        def block(_: object) -> None:
            pipeline.stop()
            hang.wait(30)

        source = ScriptedSource(10, before=block if where == "source" else None)
        sink = RecordingSink("stuck", before=block if where == "sink" else None)
        engine = FakeEngine(before=block if where == "model" else None)
        pipeline = Pipeline([source], fake_estimator(engine), [sink], range="frame", deadline_seconds=0.3)
        with pytest.raises(DeadlineError, match={"source": "capture", "sink": "sink", "model": "infer"}[where]):
            pipeline.run()
        hang.set()
        assert balanced(pipeline.stats)
        assert no_threads_left()

    def test_aborting_the_second_pass_is_no_error_of_the_source(self) -> None:
        """The abort comes while the second decoder is being waited for: it ends, and that is not news."""
        pipeline: Pipeline

        def abort_at(index: int) -> None:
            if index == 4:
                pipeline.abort()

        class TwicePassed(ScriptedSource):
            def again(self) -> ScriptedSource:
                return ScriptedSource(self.count, before=abort_at)

        sink = RecordingSink()
        pipeline = Pipeline([TwicePassed(20)], fake_estimator(), [sink], range="shot", kept_bytes=0)
        stats = pipeline.run()
        assert stats.dropped.keys() == {"stopped"}
        assert balanced(stats)

    def test_ctrl_c_finishes_and_is_raised_again(self) -> None:
        class Pressing(RecordingSink):
            def idle(self) -> None:
                raise KeyboardInterrupt

        resume = threading.Event()

        def pause(index: int) -> None:
            if index == 8:
                resume.wait(5)

        source = ScriptedSource(100, before=pause)
        window, file = Pressing("window", on_caller_thread=True), RecordingSink("file")
        source.on_interrupt = resume.set
        pipeline = Pipeline([source], fake_estimator(), [window, file], range="frame")
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        assert file.indices == list(range(8))
        assert "close" in file.calls
        assert pipeline.snapshot().stopping
        assert no_threads_left()

    @pytest.mark.parametrize("moment", ["starting", "watching"])
    def test_ctrl_c_at_any_moment_finishes_what_was_taken(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """While the threads start, and in the loop that watches over them, where no wait is."""
        taken = threading.Event()

        def press_later(index: int) -> None:
            if index == 8:
                taken.set()

        pressed: list[int] = []

        def press() -> None:
            if not pressed and taken.wait(5):
                pressed.append(1)
                signal.raise_signal(signal.SIGINT)

        source, sink = ScriptedSource(100_000, before=press_later), RecordingSink()
        pipeline = Pipeline([source], fake_estimator(), [sink], range="frame")
        kind, name = (Crew, "start") if moment == "starting" else (Pipeline, "_processed")
        original = getattr(kind, name)

        def interrupted(one: Any) -> Any:
            result = original(one)
            press()
            return result

        monkeypatch.setattr(kind, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        assert pressed
        assert not pipeline.stats.dropped
        assert len(sink.indices) == pipeline.stats.captured >= 8
        assert no_threads_left()

    def test_a_second_ctrl_c_aborts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def press(_: Pipeline) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(Pipeline, "_processed", press)
        pipeline = Pipeline([ScriptedSource(100_000)], fake_estimator(), [RecordingSink()], range="frame")
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        assert balanced(pipeline.stats)
        assert no_threads_left()


class TestStream:
    def test_gives_every_frame_with_its_depth(self) -> None:
        seen = [
            (frame.index, float(depth.values[0, 0])) for frame, depth in stream(ScriptedSource(8), fake_estimator())
        ]
        assert [index for index, _ in seen] == list(range(8))
        assert [near for _, near in seen] == pytest.approx(range(8), abs=1)
        assert no_threads_left()

    def test_leaving_early_ends_the_pipeline(self) -> None:
        source = ScriptedSource(100_000)
        for frame, _ in stream(source, fake_estimator()):
            if frame.index == 3:
                break
        assert no_threads_left()
        assert source.closed

    def test_an_error_comes_after_the_frames_before_it(self) -> None:
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
        with pytest.raises(UsageError, match="neither every nor latest"):
            Pipeline([ScriptedSource()], policy="newest")
        with pytest.raises(UsageError, match="batch is at least 1"):
            Pipeline([ScriptedSource()], batch=0)
        with pytest.raises(UsageError, match="kept_bytes is at least 0"):
            Pipeline([ScriptedSource()], kept_bytes=-1)
        with pytest.raises(UsageError, match="function"):
            Pipeline([ScriptedSource(), ScriptedSource()], sinks=[RecordingSink()])
        with pytest.raises(UsageError, match="twice"):
            Pipeline([ScriptedSource(live=True)], range="shot")
        with pytest.raises(UsageError, match="LO,HI"):
            Pipeline([ScriptedSource()], range="fixed:3,1")

    def test_default_ranges(self) -> None:
        from streamdepth.look import Look

        def chosen(source: ScriptedSource, *sinks: RecordingSink) -> str:
            return str(Pipeline([source], fake_estimator(), sinks)._lanes[0].range_spec)

        look = Look()
        assert chosen(ScriptedSource(), RecordingSink(look=look)) == "shot"
        assert chosen(ScriptedSource(), RecordingSink(look=look, live=True)) == "ema"
        assert chosen(ScriptedSource(live=True), RecordingSink(look=look)) == "ema"
        assert chosen(ScriptedSource(rereadable=False), RecordingSink(look=look)) == "ema"
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
        assert {"inbox", "batches", "depths", "spool", "sinks"} == snapshots[0].queues.keys()

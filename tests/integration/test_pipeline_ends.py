"""How a run ends: errors, stops, closed windows, what never returns, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.core.errors import DeadlineError, SourceError, StageError, StopPipeline
from streamdepth.pipeline import Pipeline
from streamdepth.pipeline.threads import _QUEUE_FRAMES, ThreadGroup
from tests.support.stages import (
    FakeEngine,
    RecordingSink,
    ScriptedSource,
    assert_true,
    balanced,
    fake_estimator,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamdepth.core.frame import Result


class TestErrors:
    """The first error wins, names its stage and source, and everything is closed."""

    @pytest.fixture(autouse=True)
    def all_threads_end(self, no_threads_left: Callable[[], bool]) -> Iterator[None]:
        yield
        assert no_threads_left()

    def run(self, **parts: Any) -> BaseException:
        sink = parts.pop("sink", RecordingSink())
        source = parts.pop("source", ScriptedSource(50))
        pipeline = Pipeline([source], parts.pop("estimator", fake_estimator()), [sink], **parts)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - each test looks at the kind itself
            pipeline.run()
        assert "close" in sink.calls
        assert source.closed
        assert balanced(pipeline.stats)
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

        error = self.run(callback=fail)
        assert isinstance(error.__cause__, KeyError)
        assert str(error) == "callback TestErrors.test_callback.fail: KeyError: 'mine'"

    def test_a_frame_that_one_of_two_sinks_has_is_counted(self) -> None:
        """The second sink fails while the colour thread waits for room in its queue; the first has that frame."""
        others, count = threading.Event(), 0

        def fail(frame: Any, depth: Any) -> None:  # noqa: ARG001
            assert others.wait(10)
            raise KeyError("mine")

        def see(result: Result) -> None:  # noqa: ARG001
            nonlocal count
            count += 1
            if count == 2 + _QUEUE_FRAMES:
                others.set()

        error = self.run(sink=RecordingSink(before=see), callback=fail)
        assert isinstance(error.__cause__, KeyError)

    def test_secrets_do_not_come_out(self) -> None:
        def fail(index: int) -> None:  # noqa: ARG001
            raise ValueError("cannot read rtsp://me:hunter2@cam/1")

        error = self.run(source=ScriptedSource(5, before=fail, name="rtsp://me:hunter2@cam/1"), range="frame")
        assert "hunter2" not in str(error)

    def test_the_second_pass_finding_other_frames(self) -> None:
        class Shrinking(ScriptedSource):
            def again(self) -> ScriptedSource:
                return ScriptedSource(3)

        error = self.run(source=Shrinking(10), range="shot", frame_cache_bytes=0)
        assert isinstance(error, SourceError)
        assert "in the second pass" in str(error)


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
    def test_a_closed_window_ends_the_run_at_once(
        self, on_caller_thread: bool, no_threads_left: Callable[[], bool]
    ) -> None:
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

    def test_a_window_closed_between_images_ends_the_run(self, no_threads_left: Callable[[], bool]) -> None:
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
    def test_what_never_returns_is_named_after_the_deadline(
        self, where: str, no_threads_left: Callable[[], bool]
    ) -> None:
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

    @pytest.mark.slow
    def test_an_end_that_moves_is_given_its_time(self) -> None:
        """Depth that fills a shot writes nothing until the shot ends; nor does a second reading that looks for it."""
        slow = threading.Event()
        pipeline: Pipeline

        def stop_and_dawdle(number: int) -> None:
            if number == 2:
                pipeline.stop()
            slow.wait(0.15)

        class TwiceSlow(ScriptedSource):
            def again(self) -> ScriptedSource:
                return ScriptedSource(self.count, before=lambda _: assert_true(not slow.wait(0.15)))

        sink = RecordingSink()
        engine = FakeEngine(before=stop_and_dawdle)
        pipeline = Pipeline(
            [TwiceSlow(1000)], fake_estimator(engine), [sink], range="shot", frame_cache_bytes=0, deadline_seconds=0.6
        )
        stats = pipeline.run()
        assert stats.captured > 6  # so many that the deadline passes
        assert sink.indices == list(range(stats.captured))
        assert not stats.dropped

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
        pipeline = Pipeline([TwicePassed(20)], fake_estimator(), [sink], range="shot", frame_cache_bytes=0)
        stats = pipeline.run()
        assert stats.dropped.keys() == {"stopped"}
        assert balanced(stats)

    def test_ctrl_c_finishes_and_is_raised_again(self, no_threads_left: Callable[[], bool]) -> None:
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
    def test_ctrl_c_at_any_moment_finishes_what_was_taken(
        self, moment: str, monkeypatch: pytest.MonkeyPatch, no_threads_left: Callable[[], bool]
    ) -> None:
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
        kind, name = (ThreadGroup, "start") if moment == "starting" else (Pipeline, "_progress")
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

    def test_a_second_ctrl_c_aborts(self, monkeypatch: pytest.MonkeyPatch, no_threads_left: Callable[[], bool]) -> None:
        def press(_: Pipeline) -> int:
            raise KeyboardInterrupt

        monkeypatch.setattr(Pipeline, "_progress", press)
        pipeline = Pipeline([ScriptedSource(100_000)], fake_estimator(), [RecordingSink()], range="frame")
        with pytest.raises(KeyboardInterrupt):
            pipeline.run()
        assert balanced(pipeline.stats)
        assert no_threads_left()

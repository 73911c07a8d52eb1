"""Several cameras in one run: each opens, fails and ends alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, SourceError
from streamdepth.pipeline import Pipeline
from tests.support.stages import ScriptedSource, fake_estimator

if TYPE_CHECKING:
    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo


class Collecting(BaseSink):
    """Counts results, and says on which thread it was opened."""

    def __init__(self, *, error: SinkError | None = None) -> None:
        super().__init__("collecting")
        self.error = error
        self.count = 0
        self.opened_on = ""
        self.flushed = False

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        del stream, image
        if self.error is not None:
            raise self.error
        self.opened_on = threading.current_thread().name

    def process(self, result: Result) -> None:
        del result
        self.count += 1

    def flush(self) -> None:
        self.flushed = True


class Dead(ScriptedSource):
    """A camera that cannot be opened, or only after ``release`` is set."""

    def __init__(self, name: str, release: threading.Event | None = None) -> None:
        super().__init__(5, name=name, live=True)
        self.release = release
        self._interrupted = threading.Event()

    def open(self) -> StreamInfo:
        if self.release is None:
            raise SourceError(f"{self.id}: connection refused; check the address")
        while not self.release.wait(0.01):
            if self._interrupted.is_set():
                raise SourceError(f"{self.id}: interrupted while connecting")
        return super().open()

    def interrupt(self) -> None:
        self._interrupted.set()
        super().interrupt()


def camera(name: str, count: int = 20) -> ScriptedSource:
    return ScriptedSource(count, name=name, live=True, before=lambda _: void(threading.Event().wait(0.005)))


def void(_: object) -> None:
    return None


def test_a_dead_camera_stops_no_other() -> None:
    said: list[str] = []
    sinks: dict[str, Collecting] = {}

    def make(source: Source) -> list[Collecting]:
        sinks[source.id] = Collecting()
        return [sinks[source.id]]

    sources = [camera("a"), Dead("dead"), camera("b")]
    pipeline = Pipeline(sources, fake_estimator(), make, on_status=said.append)
    with pytest.raises(SourceError, match="dead: connection refused"), pipeline:
        pipeline.run()
    stats = pipeline.stats
    assert stats.processed == sinks["a"].count + sinks["b"].count > 2
    assert stats.captured == stats.processed + sum(stats.dropped.values()) == 40
    assert sinks["a"].flushed
    assert sinks["a"].opened_on.startswith("streamdepth-sink")
    assert not sinks["dead"].opened_on
    assert not sinks["dead"].flushed
    assert said == ["dead: connection refused; check the address; the other sources go on"]


def test_a_camera_that_comes_late_joins() -> None:
    release = threading.Event()
    sinks: dict[str, Collecting] = {}

    def make(source: Source) -> list[Collecting]:
        sinks[source.id] = Collecting()
        return [sinks[source.id]]

    first = ScriptedSource(200, name="a", live=True, before=lambda index: release.set() if index == 50 else None)
    with Pipeline([first, Dead("late", release)], fake_estimator(), make) as pipeline:
        pipeline.run()
    assert sinks["a"].count
    assert sinks["late"].count


def test_all_dead_cameras_are_an_error() -> None:
    pipeline = Pipeline([Dead("a"), Dead("b")], fake_estimator(), lambda _: [Collecting()])
    with pytest.raises(SourceError, match="2 of 2 sources failed; the first: a: connection refused"), pipeline:
        pipeline.run()


def test_a_camera_that_is_waited_for_does_not_keep_the_run_from_ending() -> None:
    with Pipeline([camera("a", 5), Dead("late", threading.Event())], fake_estimator(), lambda _: [Collecting()]) as run:
        threading.Timer(0.3, run.stop).start()
        run.run()
    assert run.stats.captured == 5


def test_a_sink_that_cannot_open_ends_the_run() -> None:
    error = SinkError("collecting: no room; make some")
    pipeline = Pipeline([camera("a"), camera("b")], fake_estimator(), lambda _: [Collecting(error=error)])
    with pytest.raises(SinkError, match="no room"), pipeline:
        pipeline.run()


def test_a_single_camera_fails_at_once() -> None:
    pipeline = Pipeline([Dead("a")], fake_estimator(), [Collecting()])
    with pytest.raises(SourceError, match="connection refused"):
        pipeline.open()

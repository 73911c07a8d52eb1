"""Named cameras of one session: added, changed and removed while the others run."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.frame import Frame
from streamdepth.core.look import Look, View
from streamdepth.core.queues import Policy
from streamdepth.pipeline import CameraGroup
from streamdepth.pipeline.batching import MultiSourceQueue
from tests.integration.test_pipeline_cameras import Dead, camera
from tests.support.stages import TIME_BASE, RecordingSink, ScriptedSource, fake_estimator, flat_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.core.frame import Result


class Gate:
    """A sink's ``before``: counts results and blocks while it is closed."""

    def __init__(self, *, closed: bool = False) -> None:
        self.open = threading.Event()
        self.count = 0
        self._changed = threading.Condition()
        if not closed:
            self.open.set()

    def __call__(self, _: Result) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()
        self.open.wait(20)

    def reaches(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, 20)


@pytest.fixture
def group() -> Iterator[CameraGroup]:
    with CameraGroup(fake_estimator(), batch=4, deadline_seconds=3) as made:
        yield made


def endless(name: str) -> ScriptedSource:
    return camera(name, 10**6)


def test_cameras_come_and_go_while_others_run(group: CameraGroup) -> None:
    gates = {name: Gate() for name in "abc"}
    group.add("a", endless("a"), [RecordingSink(before=gates["a"])])
    assert gates["a"].reaches(3)
    group.add("b", endless("b"), [RecordingSink(before=gates["b"])])
    group.add("dead", lambda: Dead("dead"))
    assert gates["b"].reaches(3)
    stats = group.remove("b")
    assert stats.captured == stats.processed + sum(stats.dropped.values()) >= 3
    assert stats.written == stats.processed == gates["b"].count
    before = gates["a"].count
    assert gates["a"].reaches(before + 3)
    group.add("b", endless("b"), [RecordingSink(before=gates["c"])])
    assert gates["c"].reaches(2)
    found = group.stats()
    assert {name: one.state for name, one in found.items()} == {"a": "live", "dead": "failed", "b": "live"}
    assert "connection refused" in found["dead"].error
    assert found["a"].processed > 3
    assert found["a"].age_ms is not None
    assert group.active
    group.remove("dead")
    assert group.names == ("a", "b")


def test_an_output_that_blocks_delays_no_other_camera(group: CameraGroup) -> None:
    stuck, free = Gate(closed=True), Gate()
    group.add("stuck", endless("stuck"), [RecordingSink(before=stuck)])
    assert stuck.reaches(1)
    group.add("free", endless("free"), [RecordingSink(before=free)])
    assert free.reaches(100)
    assert stuck.count == 1
    stuck.open.set()
    assert stuck.reaches(10)


def test_an_output_that_fails_ends_its_camera_only() -> None:
    said: list[str] = []

    def fail(_: Result) -> None:
        raise SinkError("disk: no space; free some")

    with CameraGroup(fake_estimator(), on_status=said.append) as group:
        free = Gate()
        group.add("free", endless("free"), [RecordingSink(before=free)])
        group.add("full", endless("full"), [RecordingSink(before=fail)])
        assert free.reaches(50)
        with pytest.raises(SinkError, match="no space"):
            group.remove("full")
        assert group.stats()["free"].state == "live"
    assert len(said) == 1
    assert said[0].startswith("full: recording: disk: no space")
    assert said[0].endswith("the other cameras continue")


@pytest.mark.slow
def test_an_update_changes_look_and_range_in_place_and_restarts_for_the_rest(group: CameraGroup) -> None:
    gates = [Gate(), Gate()]
    sinks: list[RecordingSink] = []

    def make(_: Any) -> list[RecordingSink]:
        sinks.append(RecordingSink(look=Look(), before=gates[len(sinks)]))
        return [sinks[-1]]

    group.add("a", lambda: endless("a"), make)
    assert gates[0].reaches(1)
    group.update("a", look={"view": View.OVERLAY}, range="fixed:0,9")
    now = gates[0].count
    assert gates[0].reaches(now + 3)
    last = sinks[0].results[-1]
    assert (last.range.lo, last.range.hi) == (0, 9)
    assert sinks[0].control is not None
    assert sinks[0].control.look.view is View.OVERLAY
    assert len(sinks) == 1
    with pytest.raises(UsageError, match="fixed:LO,HI"):
        group.update("a", range="fixed:9,0")
    with pytest.raises(UsageError, match="a look has no 'bogus'; its fields are style, "):
        group.update("a", look={"bogus": 1})
    group.update("a", stabilize=True)
    assert gates[1].reaches(3)
    assert "close" in sinks[0].calls
    group.add("once", endless("once"), [RecordingSink()])
    with pytest.raises(UsageError, match="its source can be used once only"):
        group.update("once", stabilize=True)


def test_wrong_use_is_named(group: CameraGroup) -> None:
    group.add("door", endless("door"))
    wrong: Any = 3
    misspelled: Any = {"polici": "every"}
    for call, message in (
        (lambda: group.add("door", endless("x")), "door: a camera has this name"),
        (lambda: group.remove("dor"), r"there is no camera dor \(did you mean 'door'\?\)"),
        (lambda: group.add("a/b", endless("x")), "printable characters without /"),
        (lambda: group.add("w", endless("x"), [RecordingSink(on_caller_thread=True)]), "has no window"),
        (lambda: group.add("m", endless("x"), model_every=99), "model_every"),
        (lambda: group.add("f", endless("x"), wrong), "sinks is a list of sinks, not 3"),
        (lambda: group.add("p", endless("x"), policy="x"), "policy is one of every, latest, not 'x'"),
        (lambda: group.add("s", lambda: wrong), "3 is not a source"),
        (lambda: group.add("o", endless("x"), **misspelled), r"no option 'polici' \(did you mean 'policy'\?\)"),
        (lambda: CameraGroup(wrong), "model is a DepthModel or DepthEstimator, not 3"),
        (lambda: CameraGroup(batch=0), "batch"),
        (lambda: CameraGroup(max_staleness_seconds=-1), "max-staleness"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
    group.close()
    with pytest.raises(UsageError, match="closed"):
        group.add("late", endless("late"))


def test_a_failing_model_ends_all_cameras() -> None:
    estimator = fake_estimator()
    group = CameraGroup(estimator)
    with group:
        group.add("a", camera("a", 10**6), [RecordingSink()])
        group.open()
        engine: Any = group._engine
        engine.run = lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory"))
        ended = threading.Event()
        while group.active and not ended.wait(0.01):
            pass
        with pytest.raises(Exception, match="out of memory"):
            group.check()


def test_a_fast_camera_is_served_as_often_as_a_slow_one() -> None:
    """While the model is busy, frames of the fast one are replaced; the newest keeps the position of the replaced."""
    queue = MultiSourceQueue((), 4, latest_capacity=1, keep_open=True)
    for source in (0, 1, 2):
        queue.add(source, Policy.LATEST)

    def put(source: int, index: int) -> None:
        queue.put(source, Frame("s", index, index, TIME_BASE, 0, flat_image(0)))

    served = []
    put(0, 0)
    for turn in range(9):
        put(1, turn)
        put(2, turn)
        for index in range(5):
            put(0, 10 * turn + index)
        taken = queue.take(0)
        assert taken is not None
        served.append(taken.source)
    assert sorted(served) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_adding_and_removing_leaves_no_thread_behind(group: CameraGroup) -> None:
    """From several threads at once."""
    group.add("stays", endless("stays"), [RecordingSink(before=(gate := Gate()))])
    assert gate.reaches(1)
    before = threading.active_count()
    failures: list[BaseException] = []

    def churn(name: str) -> None:
        try:
            for _ in range(10):
                group.add(name, lambda: camera(name, 10**6), lambda _: [RecordingSink(look=Look())])
                group.update(name, range="frame")
                group.stats()
                group.remove(name)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(f"c{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert threading.active_count() <= before
    assert group.names == ("stays",)
    now = gate.count
    assert gate.reaches(now + 3)

"""Several runs of the model at once: order, errors and ends."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from streamdepth.core.errors import InferenceError, StreamDepthError
from streamdepth.core.host import cores
from streamdepth.core.queues import Aborted, BoundedQueue
from streamdepth.inference.engine import Engine
from streamdepth.models.resolve import resolve
from streamdepth.pipeline import Pipeline
from streamdepth.pipeline.model_worker import ReorderBuffer
from tests.support.stages import FakeEngine, RecordingSink, ScriptedSource, fake_estimator

if TYPE_CHECKING:
    from collections.abc import Callable


class Staggered:
    """Lets no odd run begin its work before the even one after it has: every second run overtakes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = 0
        self.overtook = 0
        self._second = threading.Event()

    def __call__(self, _: int) -> None:
        with self._lock:
            self._started += 1
            first = self._started == 1
            if self._started == 2:
                self._second.set()
        if first:
            assert self._second.wait(5)
            self.overtook += 1


def test_frames_keep_their_order_when_a_later_run_is_faster() -> None:
    stagger = Staggered()
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(20)], fake_estimator(FakeEngine(before=stagger, workers=2)), [sink]).run()
    assert stagger.overtook == 1
    assert [result.frame.index for result in sink.results] == list(range(20))
    assert stats.processed == 20


def test_a_worker_goes_on_while_an_earlier_run_is_slow() -> None:
    lock, third = threading.Lock(), threading.Event()
    started = 0

    def first_waits_for_the_third(_: int) -> None:
        nonlocal started
        with lock:
            started += 1
            mine = started
        if mine == 3:
            third.set()
        if mine == 1:
            assert third.wait(5)

    sink = RecordingSink()
    engine = FakeEngine(before=first_waits_for_the_third, workers=2)
    Pipeline([ScriptedSource(20)], fake_estimator(engine), [sink]).run()
    assert [result.frame.index for result in sink.results] == list(range(20))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_every_frame_arrives_whatever_the_number_of_workers(count: int) -> None:
    for workers in (1, 2, 3):
        sink = RecordingSink()
        engine = FakeEngine(workers=workers)
        stats = Pipeline([ScriptedSource(count)], fake_estimator(engine), [sink], range="frame").run()
        assert [result.frame.index for result in sink.results] == list(range(count))
        assert stats.processed == count


def test_an_error_of_one_worker_ends_the_others() -> None:
    started = threading.Event()
    failing = threading.Lock()

    def fail_once(_: int) -> None:
        if failing.acquire(blocking=False):
            assert started.wait(5)
            raise InferenceError("the model broke")
        started.set()

    with pytest.raises(StreamDepthError, match="the model broke"):
        Pipeline([ScriptedSource(30)], fake_estimator(FakeEngine(before=fail_once, workers=2))).run()


def test_a_turn_that_never_comes_can_be_aborted() -> None:
    buffer = ReorderBuffer()
    queue: BoundedQueue[int] = BoundedQueue(4)
    queue.put(7)
    queue.end()
    assert buffer.take(queue.get) == (0, 7)
    assert buffer.take(queue.get) == (1, None)
    ended: list[BaseException] = []

    def wait(position: int) -> Callable[[], None]:
        def run() -> None:
            try:
                buffer.finish(position, lambda: None)
            except Aborted as error:
                ended.append(error)

        return run

    waiting = threading.Thread(target=wait(1))
    waiting.start()
    buffer.abort()
    waiting.join(5)
    assert not waiting.is_alive()
    assert len(ended) == 1


def test_an_engine_shares_its_threads_out_among_workers() -> None:
    spec = resolve("built-in")
    with_two, one = Engine(spec, provider="cpu", workers=2), Engine(spec, provider="cpu", workers=2, threads=1)
    assert with_two.workers == min(2, cores())
    assert with_two.session.get_session_options().intra_op_num_threads == -(-cores() // with_two.workers)
    assert (one.workers, one.session.get_session_options().intra_op_num_threads) == (1, 1)
    two_of_two = Engine(spec, provider="cpu", workers=2, threads=2)  # the cores it may use, not those of each run
    assert (two_of_two.workers, two_of_two.session.get_session_options().intra_op_num_threads) == (2, 1)
    for engine in (with_two, one, two_of_two):
        engine.close()


def test_two_runs_at_once_give_what_one_after_the_other_gives() -> None:
    import numpy as np

    from streamdepth.inference.preprocess import image_of
    from streamdepth.media.scene import pattern

    engine = Engine(resolve("built-in"), provider="cpu", workers=2)
    images = [image_of(pattern(256, 192, variant)) for variant in range(8)]
    size = engine.network_size(256, 192)

    def depth(image: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        slot = engine.acquire(size)
        slot.write(0, image)  # type: ignore[arg-type]
        return engine.run(slot, 1)[0].values

    wanted = [depth(image) for image in images]
    got: dict[int, np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}

    def some(numbers: range) -> None:
        for number in numbers:
            got[number] = depth(images[number])

    threads = [threading.Thread(target=some, args=(range(start, 8, 2),)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(np.array_equal(got[number], wanted[number]) for number in range(8))
    engine.close()

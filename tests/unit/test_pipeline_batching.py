"""MultiSourceQueue and batcher: fairness, policies, batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest

from streamdepth.core.frame import Frame
from streamdepth.core.queues import Aborted, Ended, Policy
from streamdepth.pipeline.batching import Batcher, MultiSourceQueue, max_batch_wait_ns
from tests.support.clock import ManualClock
from tests.support.stages import TIME_BASE, flat_image

IMAGES = {32: flat_image(0, 32), 64: flat_image(0, 64)}


def frame(index: int, width: int = 32) -> Frame:
    return Frame("s", index, index, TIME_BASE, 0, IMAGES[width])


def same_size(width_px: int, height_px: int) -> tuple[int, int]:
    return width_px, height_px


def test_lanes_take_turns_by_arrival() -> None:
    frame_queue = MultiSourceQueue([Policy.EVERY, Policy.EVERY], 4)
    for source, index in [(0, 0), (1, 0), (1, 1), (0, 1)]:
        frame_queue.put(source, frame(index))
    arrivals = [frame_queue.take(), frame_queue.take(), frame_queue.take(), frame_queue.take()]
    assert [(a.source, a.frame.index) for a in arrivals if a] == [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert frame_queue.take(0) is None


def test_a_full_latest_lane_gives_up_its_oldest_and_leaves_others_alone() -> None:
    frame_queue = MultiSourceQueue([Policy.LATEST, Policy.EVERY], 2)
    frame_queue.put(1, frame(100))
    replaced = [frame_queue.put(0, frame(index)) for index in range(4)]
    assert [f.index if f else None for f in replaced] == [None, None, 0, 1]
    assert len(frame_queue) == 3


def test_a_latest_lane_can_be_kept_shorter_than_the_others() -> None:
    frame_queue = MultiSourceQueue([Policy.LATEST, Policy.EVERY], 3, latest_capacity=1)
    replaced = [frame_queue.put(0, frame(index)) for index in range(3)]
    assert [f.index if f else None for f in replaced] == [None, 0, 1]
    for index in range(3):
        assert frame_queue.put(1, frame(index)) is None
    assert len(frame_queue) == 4
    with pytest.raises(ValueError, match="at least 1"):
        MultiSourceQueue([Policy.LATEST], 3, latest_capacity=0)


def test_it_ends_when_all_lanes_have() -> None:
    frame_queue = MultiSourceQueue([Policy.EVERY, Policy.EVERY], 2)
    frame_queue.put(0, frame(0))
    frame_queue.end(0)
    frame_queue.end(1)
    assert frame_queue.take() is not None
    with pytest.raises(Ended):
        frame_queue.take()


def test_a_full_lane_waits_until_aborted() -> None:
    frame_queue = MultiSourceQueue([Policy.EVERY], 1)
    frame_queue.put(0, frame(0))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(frame_queue.put, 0, frame(1))
        frame_queue.abort()
        with pytest.raises(Aborted):
            waiting.result(5)
    with pytest.raises(Aborted):
        frame_queue.take()


def test_batches_hold_one_size_and_lose_nothing() -> None:
    frame_queue = MultiSourceQueue([Policy.EVERY], 16)
    widths = [32, 32, 32, 64, 32, 64, 64, 64, 64, 64]
    for index, width in enumerate(widths):
        frame_queue.put(0, frame(index, width))
    frame_queue.end(0)
    batcher = Batcher(frame_queue, 4, same_size)
    batches = []
    while True:
        try:
            size, arrivals = batcher.next()
        except Ended:
            break
        assert all((a.frame.width_px, a.frame.height_px) == size for a in arrivals)
        batches.append([a.frame.index for a in arrivals])
    assert batches == [[0, 1, 2], [3], [4], [5, 6, 7, 8], [9]]


def test_a_live_lane_never_waits_for_a_full_batch() -> None:
    frame_queue = MultiSourceQueue([Policy.LATEST, Policy.EVERY], 4)
    frame_queue.put(0, frame(0))
    assert [len(Batcher(frame_queue, 8, same_size).next()[1])] == [1]


COMPANY_NS = max_batch_wait_ns([Fraction(10), Fraction(25), None])


def taken(index: int, at_ns: int) -> Frame:
    return Frame("s", index, index, TIME_BASE, at_ns, IMAGES[32])


def seen_before(frame_queue: MultiSourceQueue, batcher: Batcher, sources: int) -> None:
    """One batch with a frame of every source, so that the batcher knows them all."""
    for source in range(sources):
        frame_queue.put(source, taken(0, 0))
    assert len(batcher.next()[1]) == sources


def test_live_lanes_wait_for_each_other_up_to_one_interval_of_the_fastest() -> None:
    assert COMPANY_NS == 40_000_000
    assert max_batch_wait_ns([None, None]) == max_batch_wait_ns([]) == 0
    frame_queue, clock = MultiSourceQueue([Policy.LATEST, Policy.LATEST], 4), ManualClock(now_ns=0)
    batcher = Batcher(frame_queue, 8, same_size, max_batch_wait_ns=10**10, clock=clock)
    seen_before(frame_queue, batcher, 2)
    frame_queue.put(0, taken(1, 0))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batcher.next)
        frame_queue.put(1, taken(1, 0))
        # ten seconds of patience, and it is over as soon as both are there
        assert [arrival.source for arrival in waiting.result(5)[1]] == [0, 1]


def test_a_frame_past_its_deadline_goes_alone() -> None:
    frame_queue, clock = MultiSourceQueue([Policy.LATEST, Policy.LATEST], 4), ManualClock(now_ns=0)
    batcher = Batcher(frame_queue, 8, same_size, max_batch_wait_ns=COMPANY_NS, clock=clock)
    seen_before(frame_queue, batcher, 2)
    frame_queue.put(0, taken(1, 0))
    clock.now_ns = COMPANY_NS
    assert len(batcher.next()[1]) == 1


def test_the_deadline_is_of_the_oldest_frame_and_ends_the_wait() -> None:
    frame_queue, clock = MultiSourceQueue([Policy.LATEST, Policy.LATEST], 4), ManualClock(now_ns=0)
    batcher = Batcher(frame_queue, 8, same_size, max_batch_wait_ns=COMPANY_NS, clock=clock)
    seen_before(frame_queue, batcher, 2)
    clock.now_ns = COMPANY_NS - 1000
    frame_queue.put(0, taken(1, 0))
    assert len(batcher.next()[1]) == 1  # a microsecond of patience was left


def test_nobody_waits_for_a_second_frame_of_the_same_camera_nor_for_a_dead_one() -> None:
    frame_queue, clock = MultiSourceQueue([Policy.LATEST, Policy.LATEST], 4), ManualClock(now_ns=0)
    alone = Batcher(frame_queue, 8, same_size, max_batch_wait_ns=10**12, clock=clock)
    frame_queue.put(0, taken(0, 0))
    assert len(alone.next()[1]) == 1  # the other has never been seen
    batcher = Batcher(frame_queue, 8, same_size, max_batch_wait_ns=10**12, clock=clock)
    seen_before(frame_queue, batcher, 2)
    clock.now_ns = 3 * 10**12
    frame_queue.put(0, taken(1, clock.now_ns))
    assert len(batcher.next()[1]) == 1  # the other was last seen three intervals ago


def test_an_inbox_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MultiSourceQueue([Policy.EVERY], 0)


def test_max_staleness_bounds_the_wait_for_other_sources() -> None:
    """A frame that is older goes alone, although the interval of the sources is longer; both sources stay known."""
    frame_queue, clock = MultiSourceQueue([Policy.LATEST, Policy.LATEST], 4), ManualClock(now_ns=0)
    batcher = Batcher(frame_queue, 8, same_size, max_batch_wait_ns=10**10, max_staleness_ns=20_000_000, clock=clock)
    seen_before(frame_queue, batcher, 2)
    frame_queue.put(0, taken(1, 0))
    clock.now_ns = 20_000_000
    assert [arrival.source for arrival in batcher.next()[1]] == [0]
    frame_queue.put(0, taken(2, clock.now_ns))
    frame_queue.put(1, taken(2, clock.now_ns))
    assert [arrival.source for arrival in batcher.next()[1]] == [0, 1]

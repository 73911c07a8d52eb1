"""Inbox and batcher: fairness, policies, batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from streamdepth.batching import Batcher, Inbox
from streamdepth.frame import Frame
from streamdepth.queues import Aborted, Ended, Policy
from tests.support.stages import TIME_BASE, flat_picture

PICTURES = {32: flat_picture(0, 32), 64: flat_picture(0, 64)}


def frame(index: int, width: int = 32) -> Frame:
    return Frame("s", index, index, TIME_BASE, 0, PICTURES[width])


def same_size(width_px: int, height_px: int) -> tuple[int, int]:
    return width_px, height_px


def test_lanes_take_turns_by_arrival() -> None:
    inbox = Inbox([Policy.EVERY, Policy.EVERY], 4)
    for lane, index in [(0, 0), (1, 0), (1, 1), (0, 1)]:
        inbox.put(lane, frame(index))
    arrivals = [inbox.take(), inbox.take(), inbox.take(), inbox.take()]
    assert [(a.lane, a.frame.index) for a in arrivals if a] == [(0, 0), (1, 0), (1, 1), (0, 1)]
    assert inbox.take(wait=False) is None


def test_a_full_latest_lane_gives_up_its_oldest_and_leaves_others_alone() -> None:
    inbox = Inbox([Policy.LATEST, Policy.EVERY], 2)
    inbox.put(1, frame(100))
    replaced = [inbox.put(0, frame(index)) for index in range(4)]
    assert [f.index if f else None for f in replaced] == [None, None, 0, 1]
    assert len(inbox) == 3


def test_it_ends_when_all_lanes_have() -> None:
    inbox = Inbox([Policy.EVERY, Policy.EVERY], 2)
    inbox.put(0, frame(0))
    inbox.end(0)
    inbox.end(1)
    assert inbox.take() is not None
    with pytest.raises(Ended):
        inbox.take()


def test_a_full_lane_waits_until_aborted() -> None:
    inbox = Inbox([Policy.EVERY], 1)
    inbox.put(0, frame(0))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(inbox.put, 0, frame(1))
        inbox.abort()
        with pytest.raises(Aborted):
            waiting.result(5)
    with pytest.raises(Aborted):
        inbox.take()


def test_batches_hold_one_size_and_lose_nothing() -> None:
    inbox = Inbox([Policy.EVERY], 16)
    widths = [32, 32, 32, 64, 32, 64, 64, 64, 64, 64]
    for index, width in enumerate(widths):
        inbox.put(0, frame(index, width))
    inbox.end(0)
    batcher = Batcher(inbox, 4, same_size)
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
    inbox = Inbox([Policy.LATEST, Policy.EVERY], 4)
    inbox.put(0, frame(0))
    assert [len(Batcher(inbox, 8, same_size).next()[1])] == [1]


def test_an_inbox_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Inbox([Policy.EVERY], 0)

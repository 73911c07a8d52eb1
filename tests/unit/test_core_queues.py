"""Bounded queues: order, policies, and waits that end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamdepth.core.queues import Aborted, BoundedQueue, Ended, Policy


def test_items_come_out_in_order_then_it_ends() -> None:
    queue: BoundedQueue[int] = BoundedQueue(4)
    for item in range(3):
        assert queue.put(item) is None
    queue.end()
    assert [queue.get(), queue.get(), queue.get()] == [0, 1, 2]
    with pytest.raises(Ended):
        queue.get()


def test_latest_replaces_the_oldest_and_hands_it_back() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2, Policy.LATEST)
    assert [queue.put(item) for item in range(5)] == [None, None, 0, 1, 2]
    assert queue.drain() == [3, 4]


def test_every_waits_for_room() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(queue.put, 2)
        assert queue.get(5) == 1
        assert waiting.result(5) is None
    assert queue.get() == 2


def test_somebody_who_wants_an_item_can_be_waited_for() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(queue.wait_for_consumer)
        assert not waiting.done()
        taking = pool.submit(queue.get, 5)
        waiting.result(5)
        queue.put(1)
        assert taking.result(5) == 1
        queue.put(2)
        waiting = pool.submit(queue.wait_for_consumer)
        assert queue.get(5) == 2  # who finds one does not wait for it
        assert not waiting.done()
        queue.abort()
        with pytest.raises(Aborted):
            waiting.result(5)


def test_get_with_timeout_gives_none() -> None:
    assert BoundedQueue[int](1).get(0.0) is None


@pytest.mark.parametrize("full", [True, False])
def test_abort_ends_every_wait(full: bool) -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    if full:
        queue.put(0)
    entered = threading.Event()

    def wait() -> None:
        entered.set()
        if full:
            queue.put(1)
        else:
            queue.get()

    with ThreadPoolExecutor(2) as pool:
        waits = [pool.submit(wait) for _ in range(2)]
        assert entered.wait(5)
        queue.abort()
        for future in waits:
            with pytest.raises(Aborted):
                future.result(5)


def test_a_queue_needs_room() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BoundedQueue[int](0)

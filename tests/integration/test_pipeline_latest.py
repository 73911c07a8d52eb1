"""The newest result on request, as a control loop asks for it."""

from __future__ import annotations

import gc
import threading

import pytest

import streamdepth as sd
from streamdepth.core.errors import SourceError, UsageError
from streamdepth.pipeline import stream
from tests.support.clock import ManualClock
from tests.support.rtsp import wait_until
from tests.support.stages import ScriptedSource, fake_estimator


def test_the_newest_result_and_none_until_the_next() -> None:
    go = threading.Event()

    def hold(index: int) -> None:
        if index >= 4:
            go.wait(10)

    source = ScriptedSource(6, live=True, before=hold)
    got: list[int] = []
    with stream(source, fake_estimator()) as results:

        def newest_is(index: int) -> bool:
            found = results.latest()
            if found is not None:
                got.append(found[0].index)
            return bool(got) and got[-1] == index

        assert wait_until(lambda: newest_is(3))
        assert results.latest() is None
        assert not results.ended
        go.set()
        assert wait_until(lambda: newest_is(5))
        assert wait_until(lambda: results.latest() is None and results.ended)
    assert got == sorted(set(got))
    assert source.closed


def test_age_and_wall_time() -> None:
    clock = ManualClock()
    results = stream(ScriptedSource(1, clock=clock), fake_estimator(), clock=clock)
    ((frame, _),) = list(results)
    before = results.age_seconds(frame)
    clock.advance(2.5)
    assert results.age_seconds(frame) - before == pytest.approx(2.5)
    clock.advance(-2.5)
    assert results.captured_wall_ns(frame) > 1_700_000_000 * 10**9


def test_an_error_is_raised_after_the_results_before_it() -> None:
    def fail(index: int) -> None:
        if index == 2:
            raise SourceError("cable cut")

    results = stream(ScriptedSource(5, before=fail), fake_estimator(), policy="every")
    got: list[int] = []

    def step() -> bool:
        found = results.latest()
        got.extend([found[0].index] if found else [])
        return False

    with pytest.raises(SourceError, match="cable cut"):
        wait_until(step, 10)
    assert got == sorted(got)
    assert results.latest() is None


def test_a_stream_that_is_never_started_or_dropped_leaves_no_thread() -> None:
    untouched = ScriptedSource(5)
    stream(untouched, fake_estimator()).close()
    assert untouched.opened == 0
    source = ScriptedSource(100_000)
    results = stream(source, fake_estimator())
    next(results)
    del results
    gc.collect()
    assert source.closed
    assert not [one for one in threading.enumerate() if one.name == "streamdepth-stream"]


def test_it_is_an_iterator_of_pairs() -> None:
    for frame, depth in sd.stream(ScriptedSource(3), fake_estimator()):
        assert depth.values.ndim == 2
        assert frame.index < 3


def test_depth_at_the_size_of_the_frame() -> None:
    pairs = [list(sd.stream(ScriptedSource(2), fake_estimator(), size=size)) for size in ("model", "source")]
    for (_, small), (frame, large) in zip(*pairs, strict=True):
        assert (large.width_px, large.height_px) == (frame.width_px, frame.height_px)
        assert large.sense == small.sense
        assert large.values.min() >= small.values.min()
        assert large.values.max() <= small.values.max()
    with pytest.raises(UsageError, match="'source' or 'model', not 'frame'"):
        sd.stream(ScriptedSource(1), fake_estimator(), size="frame")  # type: ignore[arg-type]

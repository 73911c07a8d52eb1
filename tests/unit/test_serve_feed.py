"""Depth at a point of the newest frame."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdepth.core.clock import SystemClock
from streamdepth.core.frame import DepthMap, DepthRange, Frame, Result, Sense
from streamdepth.serve.feed import LiveFeed, probe
from tests.support.stages import flat_image


@settings(max_examples=60)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_point_reads_the_pixel_it_is_in(x: float, y: float) -> None:
    values = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    feed = LiveFeed(SystemClock())
    frame = Frame("s", 0, 0, Fraction(1, 25), 0, flat_image(0))
    feed.put(Result(frame, DepthMap(values, Sense.METRIC_M), DepthRange(1, 12), flat_image(0)))
    shown = feed.latest
    assert shown is not None
    column, row = min(int(np.floor(x * 4)), 3), min(int(np.floor(y * 3)), 2)
    found = probe(shown, x, y)
    assert found.value is not None
    assert found.value == values[row, column]
    assert found.nearness == pytest.approx((1 / found.value - 1 / 12) / (1 - 1 / 12), abs=1e-6)
    assert probe(shown, x, y, inverse=False).nearness == pytest.approx((12 - found.value) / 11, abs=1e-6)


def test_where_the_model_has_no_depth_there_is_none() -> None:
    feed = LiveFeed(SystemClock())
    frame = Frame("s", 0, 0, Fraction(1, 25), 0, flat_image(0))
    values = np.array([[np.nan, 2.0]], np.float32)
    feed.put(Result(frame, DepthMap(values, Sense.METRIC_M), DepthRange(0, 2), flat_image(0)))
    assert feed.latest is not None
    assert probe(feed.latest, 0.2, 0.5).value is None
    assert probe(feed.latest, 0.8, 0.5).value == 2.0

"""Which batch is chosen, from times that a test makes up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from streamdepth.pipeline.batching import best_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.inference.model import DepthModel


class Timed:
    """A model whose batches take what they are told to, on a clock of its own."""

    def __init__(self, seconds: Mapping[int, float], fixed: int = 0) -> None:
        self.seconds, self.fixed = seconds, fixed
        self.now_ns = 0
        self.tried: list[int] = []
        self.open = 0

    def monotonic_ns(self) -> int:
        return self.now_ns

    def trial_engine(self, batch: int = 1) -> Any:
        self.tried.append(batch)
        self.open += 1
        own = self.fixed or batch

        def run(_: object, count: int) -> None:
            self.now_ns += int(self.seconds[count] * 1e9)

        def close() -> None:
            self.open -= 1

        slot = SimpleNamespace(write=lambda *_: None)
        return SimpleNamespace(
            batch=own, rows_per_run=own, network_size=lambda *_: (8, 4), acquire=lambda _: slot, run=run, close=close
        )

    def best(self, **options: Any) -> int:
        return best_batch(cast("DepthModel", self), clock=self, **options).batch


def gpu(batch: int) -> float:
    """A millisecond to start, a quarter for each image."""
    return 1e-3 + 0.25e-3 * batch


@pytest.mark.parametrize(
    ("seconds", "options", "wanted"),
    [
        ({n: gpu(n) for n in range(1, 33)}, {}, 32),
        ({n: 0.01 * n for n in range(1, 33)}, {}, 1),  # nothing gained
        ({n: 0.08 + 0.02 * n for n in range(1, 33)}, {"live_sources": 8}, 1),  # 120 ms for two is felt
        ({n: 0.08 + 0.02 * n for n in range(1, 33)}, {}, 32),
        ({n: 0.4 + 0.2 * n for n in range(1, 33)}, {}, 2),  # 1.2 s for four
        ({n: gpu(n) for n in range(1, 33)}, {"live_sources": 1}, 1),  # its second frame is an interval away
        ({n: gpu(n) for n in range(1, 33)}, {"live_sources": 3}, 3),
        ({n: gpu(n) for n in range(1, 33)}, {"live_sources": 50}, 32),
        ({n: 2.0 + n for n in range(1, 33)}, {}, 1),
    ],
)
def test_throughput_is_weighed_against_the_wait(
    seconds: dict[int, float], options: dict[str, Any], wanted: int
) -> None:
    timed = Timed(seconds)
    assert timed.best(**options) == wanted
    assert timed.open == 0


def test_a_slow_model_is_not_tried_with_more() -> None:
    timed = Timed({1: 3.0})
    assert timed.best() == 1
    assert timed.tried == [1]


def test_a_graph_of_fixed_batch_leaves_no_choice() -> None:
    assert Timed({4: 0.1}, fixed=4).best() == 4

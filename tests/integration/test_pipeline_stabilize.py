"""``stabilize``: the stage in a run, its bookkeeping, and what files and statistics say of it."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

import streamdepth as sd
from streamdepth.cli import main
from streamdepth.depth.motion import OpticalFlow
from streamdepth.depth.stabilize import CausalStabilizer
from streamdepth.pipeline import Pipeline, stream
from streamdepth.pipeline.stabilization import StabilizeSwitch
from streamdepth.sources.pattern import PatternSource
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
    from pathlib import Path

    from streamdepth.core.frame import DepthMap, Frame


@pytest.fixture(scope="module")
def estimator() -> sd.DepthEstimator:
    return sd.DepthEstimator(provider="cpu")


@pytest.mark.parametrize("mode", ["shot", "ema", "frame", "fixed:0,300"])
@pytest.mark.parametrize(("every", "batch"), [(1, 1), (1, 4), (3, 2)])
def test_every_frame_arrives_once_and_in_order(
    mode: str, every: int, batch: int, no_threads_left: Callable[[], bool]
) -> None:
    sink = RecordingSink()
    with Pipeline(
        [ScriptedSource(61)], fake_estimator(), [sink], range=mode, batch=batch, model_every=every, stabilize=True
    ) as run:
        stats = run.run()
    assert sink.indices == list(range(61))
    assert all(result.depth.stabilized for result in sink.results)
    assert all(result.depth.propagated == (result.frame.index % every != 0) for result in sink.results)
    assert (stats.captured, stats.processed, stats.written, stats.dropped) == (61, 61, 61, {})
    assert stats.stabilize == "two-sided"
    assert "stabilize" in stats.stages_ms
    assert no_threads_left()


def test_without_it_nothing_is_marked() -> None:
    sink = RecordingSink()
    stats = Pipeline([ScriptedSource(5)], fake_estimator(), [sink], range="frame").run()
    assert not any(result.depth.stabilized for result in sink.results)
    assert stats.to_dict()["stabilize"] == "off"
    assert "stabilize" not in stats.stages_ms


@pytest.mark.parametrize("every", [1, 3])
def test_live_frames_are_not_delayed(every: int) -> None:
    """Each frame reaches the sink before the next one is captured."""
    arrived = [threading.Event() for _ in range(12)]
    sink = RecordingSink(before=lambda result: arrived[result.frame.index].set())
    source = ScriptedSource(12, live=True, before=lambda index: assert_true(index == 0 or arrived[index - 1].wait(20)))
    stats = Pipeline([source], fake_estimator(), [sink], range="ema", model_every=every, stabilize=True).run()
    assert balanced(stats)
    assert sink.indices == list(range(12))
    assert stats.stabilize == "causal"


@pytest.mark.slow
def test_results_depend_on_neither_batch_nor_threads(estimator: sd.DepthEstimator) -> None:
    runs = []
    for batch in (1, 4):
        source = PatternSource(width_px=320, height_px=180, frames=45)
        frames = stream(source, estimator, policy="every", batch=batch, stabilize=True)
        runs.append([depth.values for _, depth in frames])
    assert len(runs[0]) == 45
    for one, other in zip(*runs, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.slow
def test_flicker_of_a_real_model_is_reduced(estimator: sd.DepthEstimator) -> None:
    def depths(*, stabilize: bool) -> list[np.ndarray]:
        source = PatternSource(width_px=320, height_px=180, frames=40)
        return [depth.values for _, depth in stream(source, estimator, stabilize=stabilize)]

    def second_difference(values: list[np.ndarray]) -> float:
        return float(np.mean([np.abs(a - 2 * b + c).mean() for a, b, c in zip(values, values[1:], values[2:])]))  # noqa: B905

    plain, filtered = depths(stabilize=False), depths(stabilize=True)
    assert second_difference(filtered) < 0.8 * second_difference(plain)


def test_an_abort_ends_a_run_whose_frames_wait_for_their_block(no_threads_left: Callable[[], bool]) -> None:
    pipeline: Pipeline
    source = ScriptedSource(1000, before=lambda index: pipeline.abort() if index == 15 else None)
    pipeline = Pipeline([source], fake_estimator(), [RecordingSink()], range="frame", stabilize=True)
    stats = pipeline.run()
    assert balanced(stats)
    assert stats.dropped["stopped"] > 0
    assert no_threads_left()


def test_an_error_behind_the_stage_ends_the_run(no_threads_left: Callable[[], bool]) -> None:
    sink = RecordingSink(before=lambda result: assert_true(result.frame.index < 3))
    pipeline = Pipeline([ScriptedSource(100)], fake_estimator(FakeEngine(2)), [sink], batch=2, stabilize=True)
    with pytest.raises(sd.StreamDepthError, match="AssertionError"):
        pipeline.run()
    assert no_threads_left()


@pytest.mark.parametrize("data", ["d.mkv", "d/", "d/%03d.npy"])
@pytest.mark.parametrize("where", ["command line", "file"])
def test_statistics_and_depth_files_say_that_it_ran(clip: Path, tmp_path: Path, data: str, where: str) -> None:
    stats, config = tmp_path / "stats.json", tmp_path / "options.yaml"
    config.write_text("stabilize: on\n")
    given = ["--stabilize", "on"] if where == "command line" else ["--config", str(config)]
    assert main(["run", str(clip), "--data", f"{tmp_path}/{data}", "--stats", str(stats), *given]) == 0
    content = json.loads(stats.read_text())
    assert (content["written"], content["stabilize"]) == (12, "two-sided")
    assert len(content["stages_ms"]["stabilize"]) == 2
    with sd.read_depth(tmp_path / data.partition("/")[0]) as reader:
        assert reader.metadata.stabilized
        assert len(list(reader)) == 12


@pytest.mark.parametrize(("live", "kind"), [(False, "two-sided"), (True, "causal")])
def test_a_switch_turns_it_on_and_off_during_a_run(live: bool, kind: str, no_threads_left: Callable[[], bool]) -> None:
    """Every frame arrives once and in order; a filter that starts gives what one gives that starts with the clip."""
    switch, arrived = StabilizeSwitch(), [threading.Event() for _ in range(24)]

    def before(index: int) -> None:
        if index in (6, 18):
            assert index == 18 or arrived[5].wait(20)
            assert not live or arrived[index - 1].wait(20)
            switch.set(index == 6)
        elif live and index:
            assert arrived[index - 1].wait(20)

    sink = RecordingSink(before=lambda result: arrived[result.frame.index].set())
    source = ScriptedSource(24, live=live, image=_textured, before=before)
    mode = "ema" if live else "frame"
    stats = Pipeline([source], fake_estimator(), [sink], range=mode, stabilize=switch).run()
    assert balanced(stats)
    assert sink.indices == list(range(24))
    assert stats.stabilize == kind
    marked = [result.depth.stabilized for result in sink.results]
    if live:
        assert marked == [False] * 6 + [True] * 12 + [False] * 6
    assert not any(marked[:6])
    assert any(marked[6:18])
    assert no_threads_left()


def test_a_wrong_value_is_refused(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(clip), "-o", f"{tmp_path}/o.mp4", "--stabilize", "maybe"]) == 2
    assert "off" in capsys.readouterr().err


@pytest.mark.parametrize(("every", "saved"), [(2, 10), (4, 5)])
def test_a_flow_between_neighbours_is_computed_once(every: int, saved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With key frames, propagation has computed some of the flows that the filter needs."""
    pairs: list[tuple[bytes, bytes]] = []
    calc = OpticalFlow.calc

    def counted(self: OpticalFlow, small: Any, target: Any, initial: Any = None) -> Any:
        pairs.append((small.tobytes(), target.tobytes()))
        return calc(self, small, target, initial)

    monkeypatch.setattr(OpticalFlow, "calc", counted)

    def run(*, stabilize: bool, every: int = 1) -> tuple[int, list[Any]]:
        pairs.clear()
        sink = RecordingSink()
        source = ScriptedSource(11, image=_textured)
        Pipeline([source], fake_estimator(), [sink], range="frame", model_every=every, stabilize=stabilize).run()
        assert len(set(pairs)) == len(pairs)
        return len(pairs), [result.depth.values.copy() for result in sink.results]

    both, _ = run(stabilize=True, every=every)
    assert both == run(stabilize=True)[0] + run(stabilize=False, every=every)[0] - saved


@pytest.mark.parametrize(("every", "shared"), [(1, 22), (3, 1)])
def test_live_flow_is_computed_while_the_model_runs(every: int, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every frame in the model, it waits for the flow of its frame; propagation shares at least the
    first flow to a key frame."""
    arrived = [threading.Event() for _ in range(12)]
    flows, calc = threading.Semaphore(0), OpticalFlow.calc
    computed: dict[str, int] = {}

    def counted(self: OpticalFlow, small: Any, target: Any, initial: Any = None) -> Any:
        found = calc(self, small, target, initial)
        name = threading.current_thread().name
        computed[name] = computed.get(name, 0) + 1
        flows.release()
        return found

    def model(number: int) -> None:
        for _ in range(2 if number and every == 1 else 0):
            assert flows.acquire(timeout=20)

    given, append = [], CausalStabilizer.append

    def recorded(self: Any, item: Any, small: Any, depth: DepthMap, seconds: float, **more: Any) -> Any:
        given.append((small, replace(depth, values=depth.values.copy()), seconds))
        return append(self, item, small, depth, seconds, **more)

    monkeypatch.setattr(OpticalFlow, "calc", counted)
    monkeypatch.setattr(CausalStabilizer, "append", recorded)
    sink = RecordingSink(before=lambda result: arrived[result.frame.index].set())
    source = ScriptedSource(
        12, live=True, image=_textured, before=lambda index: assert_true(index == 0 or arrived[index - 1].wait(20))
    )
    engine = fake_estimator(FakeEngine(before=model))
    Pipeline([source], engine, [sink], range="ema", model_every=every, stabilize=True).run()
    assert sum(count for name, count in computed.items() if "stabilize" in name) <= 22 - shared
    again: CausalStabilizer[int] = CausalStabilizer(source.open().rate)
    for (small, depth, seconds), result in zip(given, sink.results, strict=True):
        [(_, expected)] = append(again, 0, small, depth, seconds, cut=False)
        np.testing.assert_array_equal(result.depth.values, expected.values)


class _Reconnecting(ScriptedSource):
    def frames(self) -> Iterator[Frame]:
        for frame in super().frames():
            yield replace(frame, connection=int(frame.index >= 6))


def test_a_new_connection_restarts_the_filter() -> None:
    def depths(source: ScriptedSource) -> list[Any]:
        sink = RecordingSink()
        Pipeline([source], fake_estimator(), [sink], range="frame", stabilize=True).run()
        return [result.depth.values.copy() for result in sink.results]

    alone = depths(ScriptedSource(6, image=lambda index: _textured(index + 6)))
    np.testing.assert_array_equal(depths(_Reconnecting(12, image=_textured))[6:], alone)


def _textured(index: int) -> av.VideoFrame:
    y, x = np.mgrid[:144, :256]
    rgb = 128 + 60 * np.stack([np.sin((x + 2 * index) / (5 + c)) + np.cos(y / 7) for c in range(3)], -1)
    return av.VideoFrame.from_ndarray(rgb.astype(np.uint8), format="rgb24")

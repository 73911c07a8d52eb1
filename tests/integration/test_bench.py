from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.bench import BenchReport, ModelRun, StageCost, bench, compare, load_report
from streamdepth.bench.measure import busy_note, correlation, summary
from streamdepth.bench.run import recommend, synthetic_clip
from streamdepth.cli import main
from streamdepth.core.errors import StreamDepthError, UsageError
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow  # the report that most of them share takes ten seconds


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import av

    path = tmp_path_factory.mktemp("bench") / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(8):
            image = np.full((48, 64, 3), 20 * number, np.uint8)
            image[:, : 8 * number] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_depth_model(tmp_path_factory.mktemp("bench") / "m.onnx", batch=1, height=48, width=64)


@pytest.fixture(scope="module")
def report(clip: Path, model: Path) -> BenchReport:
    return bench(str(clip), model, batches=(1, 2), frames=6, seconds=0.01, providers=("cpu", "coreml"))


def test_a_report_holds_every_setting_and_stage(report: BenchReport) -> None:
    assert [run.key for run in report.runs] == [
        "cpu fp32 64x48 batch 1",
        "cpu fp32 64x48 batch 2",
        "coreml fp32 - batch 1",
    ]
    assert report.recommended is not None
    assert report.recommended.options == "--provider cpu --dtype fp32 --size 64x48 --batch 1"
    assert [stage.name for stage in report.stages] == ["decode", "prepare", "model", "colorize", "encode"]
    assert all(stage.wall_ms > 0 for stage in report.stages)
    assert report.whole is not None
    assert report.whole.frames == 6


def test_a_run_with_propagated_depth_is_measured_too(report: BenchReport) -> None:
    assert report.whole is not None
    assert report.propagating is not None
    assert (report.whole.model_every, report.propagating.model_every) == (1, 4)
    assert report.propagating.frames == report.whole.frames
    assert report.propagating.fps > 0


def test_a_setting_that_does_not_run_says_why(report: BenchReport) -> None:
    fixed, coreml = report.runs[1], report.runs[2]
    assert fixed.frame_ms is None
    assert "1 images at once" in fixed.note
    assert coreml.frame_ms is None
    assert "use --provider cpu" in coreml.note


def test_a_report_survives_json(report: BenchReport, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report.to_dict()))
    assert load_report(path) == report


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', '{"format": 1, "machine": 3}'])
def test_what_is_no_report_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="not a report of bench --json"):
        load_report(path)
    with pytest.raises(UsageError, match="no such file"):
        load_report(tmp_path / "none.json")


def test_two_reports_are_compared_by_what_both_measured(report: BenchReport) -> None:
    assert report.whole is not None
    faster = dataclasses.replace(report.whole, fps=2 * report.whole.fps)
    now = dataclasses.replace(report, whole=faster, stages=(StageCost("decode", 1.0, report.stages[0].cpu_ms),))
    found = {c.name: c for c in compare(report, now)}
    assert found["whole run"].outcome == "faster"
    assert found["whole run"].ratio == pytest.approx(2)
    assert found["stage decode (CPU)"].outcome == "same"
    assert "stage encode (CPU)" not in found
    assert {c.outcome for c in compare(now, report) if c.name == "whole run"} == {"slower"}


def run(batch: int, frame_ms: float | None, **more: Any) -> ModelRun:
    given: dict[str, Any] = {"provider": "cpu", "dtype": "fp32", "size": "1x1", **more}
    wait = None if frame_ms is None else frame_ms * batch
    return ModelRun(batch=batch, frame_ms=frame_ms, batch_ms=given.pop("batch_ms", wait), **given)


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        ([run(1, 10), run(2, 9.9)], 0),  # not worth a larger batch
        ([run(1, 10), run(2, 8)], 1),
        ([run(1, 400), run(4, 300)], 0),  # would wait 1.2 s
        ([run(1, 10), run(1, 5, provider="fast", correlation=0.9)], 0),  # wrong
        ([run(1, 10), run(1, 5, provider="fast", correlation=0.9999)], 1),
        ([run(1, None), run(1, 5, dtype="q8")], 1),
        ([run(1, 10), run(1, 5, size="half")], 0),  # a smaller size is not the same result
        ([run(1, 2000)], 0),
    ],
)
def test_the_setting_that_pays_is_recommended(runs: list[ModelRun], wanted: int) -> None:
    assert recommend(runs) is runs[wanted]


def test_nothing_that_runs_is_nothing_to_recommend() -> None:
    assert recommend([run(1, None)]) is None


def test_a_whole_run_is_held_against_its_parts() -> None:
    stages = tuple(StageCost(name, 0, cost) for name, cost in (("decode", 2), ("model", 10), ("encode", 8), ("x", 1)))
    whole = summary(2.0, 3.0, 100, stages, 2)
    assert (whole.fps, whole.cpu_ms, whole.bound_fps) == (50.0, 30.0, 100.0)
    assert (whole.efficiency, whole.idle, whole.elsewhere_cpu_ms) == (0.5, 0.25, 9.0)


def test_a_run_with_fewer_runs_of_the_model_is_held_against_as_many() -> None:
    stages = (StageCost("decode", 2, 2), StageCost("prepare", 4, 4), StageCost("model", 8, 8))
    whole = summary(1.0, 1.0, 100, stages, 2, 4)
    assert (whole.model_every, whole.bound_fps, whole.elsewhere_cpu_ms) == (4, 500.0, 5.0)


def test_correlation_of_flat_or_unlike_maps_is_none() -> None:
    ramp = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert correlation(ramp, 2 * ramp + 1) == 1.0
    assert correlation(ramp, np.zeros_like(ramp)) is None
    assert correlation(ramp, ramp.T) is None


@pytest.mark.parametrize("wrong", [{"batches": (0,)}, {"dtypes": ()}, {"frames": 0}, {"seconds": 0}])
def test_nothing_to_measure_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        bench("clip.mkv", **wrong)


def test_a_model_that_runs_nowhere_is_an_error(clip: Path) -> None:
    with pytest.raises(StreamDepthError, match=r"no setting runs here: .*coreml"):
        bench(str(clip), providers=("coreml",), frames=2)


def test_a_clip_is_made_where_none_is_given(tmp_path: Path) -> None:
    import av

    with av.open(str(synthetic_clip(tmp_path / "made.mkv", 2))) as container:
        assert [(f.width, f.height) for f in container.decode(video=0)] == [(1280, 720)] * 2


@pytest.mark.slow
def test_the_command_prints_tables_json_and_comparisons(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["bench", str(clip), "--provider", "cpu", "--batch", "1", "--max-frames", "3", "--seconds", "0.01"]
    assert main([*common, "--json"]) == 0
    saved = tmp_path / "before.json"
    saved.write_text(capsys.readouterr().out)
    assert main([*common, "--compare", str(saved)]) == 0
    printed = capsys.readouterr().out
    assert "recommended: --provider cpu" in printed
    assert "fps with --model-every 4" in printed
    assert "whole run" in printed
    assert "provider\tdtype\tsize\tbatch\tms / frame" in printed
    assert f"compared with {saved}" in printed
    assert main([*common, "--json", "--compare", str(saved)]) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert {row["name"] for row in compared} >= {"whole run", "stage encode (CPU)"}


@pytest.mark.parametrize(("cpu_seconds", "noted"), [(0.4, False), (0.31, True), (0.0, True)])
def test_a_busy_machine_is_noted(cpu_seconds: float, noted: bool) -> None:
    """The stopwatch of a machine with two cores on which the process gets a part of the CPU time."""
    readings = iter([(0.0, 0.0), (0.2, cpu_seconds)])
    note = busy_note(2, lambda: next(readings), seconds=0.0)
    assert bool(note) == noted
    if noted:
        assert note == f"the machine is busy: {cpu_seconds / 0.4:.0%} of the CPU time was available; repeat when idle"

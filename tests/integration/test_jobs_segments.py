"""Segments of a clip: exact frames, ranges as in one run, parts that join, equal for any number of workers."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

import streamdepth as sd
from streamdepth.cli import main
from streamdepth.core.errors import SinkError, StageError
from streamdepth.depth.alignment import Anchor
from streamdepth.jobs import (
    ClipSettings,
    DepthOutput,
    DepthTask,
    LookSettings,
    TaskResult,
    VideoOutput,
    WorkFile,
)
from streamdepth.jobs.clip import ClipRun
from streamdepth.jobs.engines import InlineEngine, LocalEngine
from streamdepth.jobs.segment import SegmentStatistics, clip_source, plan_clip
from streamdepth.jobs.worker import Worker
from streamdepth.pipeline import Pipeline
from streamdepth.sinks.join import check_times, join_video
from streamdepth.sinks.select import data_sink_for, sink_for
from tests.support.media import decode_rgb, read_index, write_clip
from tests.support.models import write_depth_model
from tests.support.segments import pixels, settings_for, write_shots_clip

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_depth_model(tmp_path_factory.mktemp("model") / "model.onnx", height=56, width=56)


@pytest.fixture(scope="module")
def shots_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shots_clip(tmp_path_factory.mktemp("shots") / "clip.mp4")


class Notes:
    """Keeps the progress of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.results: list[TaskResult] = []
        self.frames = (0, 0)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def planned(self, frames: int, done: int) -> None:
        self.frames = (frames, done)

    def finished(self, result: TaskResult) -> None:
        self.results.append(result)


def decoded(path: Path) -> list[tuple[Fraction, str]]:
    """Time and pixels of every frame of a video."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert video.time_base is not None
        return [
            (frame.pts * video.time_base, pixels(frame)) for frame in container.decode(video) if frame.pts is not None
        ]


def depth_of(path: Path) -> list[tuple[int, bytes]]:
    with sd.read_depth(path) as reader:
        return [(frame.pts, frame.values.tobytes()) for frame in reader]


class TestWorkers:
    @pytest.mark.slow
    def test_any_number_of_workers_gives_the_same_files(self, shots_clip: Path, model: Path, tmp_path: Path) -> None:
        """1, 2 and 4 workers, propagated, stabilized and metric.

        MP4 byte for byte, MKV in its pixels and times, depth data in its values.
        """
        outputs = {}
        for workers in (1, 2, 4):
            folder = tmp_path / str(workers)
            points = ((0.777, 0.777, 2.0), (0.0625, 0.955, 6.0))
            anchors = tuple(Anchor(*point, fraction=True) for point in points)
            more: dict[str, Any] = {"stabilize": True, "model_every": 3, "anchors": anchors, "range": "shot"}
            settings = _outputs_in(folder, shots_clip, model, codec="libx264", **more)
            engine = LocalEngine(workers) if workers > 1 else InlineEngine()
            progress = Notes()
            try:
                stats = ClipRun(settings).run(engine, progress)
            finally:
                engine.close()
            assert stats.processed == stats.written == 96
            assert stats.stabilize == "two-sided"
            assert 40 < stats.propagated < 70
            assert {result.worker for result in progress.results} <= {f"worker {one + 1}" for one in range(workers)}
            outputs[workers] = (
                hashlib.sha256((folder / "out.mp4").read_bytes()).hexdigest(),
                decoded(folder / "out.mkv"),
                depth_of(folder / "depth.mkv"),
            )
            assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == []
        assert outputs[1] == outputs[2] == outputs[4]

    @pytest.mark.slow
    def test_lossless_outputs_equal_those_of_a_run_without_segments(
        self, shots_clip: Path, model: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "segments"
        settings = _outputs_in(folder, shots_clip, model, codec="ffv1")
        settings = settings.model_copy(update={"videos": settings.videos[1:]})
        engine = InlineEngine()
        ClipRun(settings).run(engine, Notes())
        engine.close()
        whole = tmp_path / "whole"
        estimator = sd.DepthEstimator(model, provider="cpu")
        sinks = [
            sink_for(str(whole / "out.mkv"), look=settings.look.look, codec="ffv1"),
            data_sink_for(str(whole / "depth.mkv")),
        ]
        Pipeline([clip_source(settings)], estimator, sinks).run()
        assert decoded(folder / "out.mkv") == decoded(whole / "out.mkv")
        assert depth_of(folder / "depth.mkv") == depth_of(whole / "depth.mkv")
        assert _sound(folder / "out.mkv") == _sound(whole / "out.mkv")

    @pytest.mark.slow
    def test_frames_keep_order_times_rate_and_sound(self, shots_clip: Path, model: Path, tmp_path: Path) -> None:
        settings = _outputs_in(tmp_path, shots_clip, model, codec="libx264", view="side")
        engine = InlineEngine()
        ClipRun(settings).run(engine, Notes())
        engine.close()
        for name in ("out.mp4", "out.mkv"):
            frames = decode_rgb(tmp_path / name)
            assert [read_index(frame[:, :160]) for frame in frames] == list(range(96))
            assert [seconds for seconds, _ in decoded(tmp_path / name)] == [Fraction(index, 25) for index in range(96)]
            with av.open(str(tmp_path / name)) as container:
                assert container.streams.video[0].average_rate == 25
            primed = _sound(shots_clip)  # Matroska has no edit list for the first packet, before time 0
            assert _sound(tmp_path / name) == (primed if name == "out.mp4" else primed[1:])

    @pytest.mark.slow
    def test_a_killed_worker_ends_the_run_and_resume_continues(
        self, shots_clip: Path, model: Path, tmp_path: Path
    ) -> None:
        settings = _outputs_in(tmp_path, shots_clip, model, codec="libx264")
        engine = LocalEngine(2)
        progress = Notes()

        def kill(worker: str, frames: int) -> None:
            if len(progress.results) >= 2 and frames > 0:
                next(process for process in engine._processes.values() if process.name == worker).kill()

        engine._on_frames = kill
        with pytest.raises(StageError, match=r"worker \d was killed by signal 9; --resume continues"):
            ClipRun(settings).run(engine, progress)
        engine.close()
        assert not (tmp_path / "out.mp4").exists()
        again, rest = Notes(), InlineEngine()
        ClipRun(settings, resume=True).run(rest, again)
        rest.close()
        assert again.frames[1] > 0
        assert any("resumed" in note for note in again.notes)
        assert len(decoded(tmp_path / "out.mp4")) == 96


def _outputs_in(folder: Path, clip: Path, model: Path, *, codec: str, view: str = "depth", **more: Any) -> ClipSettings:
    folder.mkdir(exist_ok=True)
    return settings_for(
        clip,
        model,
        **more,
        look=LookSettings(view=view),
        videos=(
            VideoOutput(path=str(folder / "out.mp4"), codec=codec),
            VideoOutput(path=str(folder / "out.mkv"), codec=codec),
        ),
        depths=(DepthOutput(path=str(folder / "depth.mkv")),),
    )


def _sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


class Stop(Exception):  # noqa: N818 - stands for the end of the process
    pass


class StopAfterOne(Notes):
    """Stops the run after its first finished task."""

    def finished(self, result: TaskResult) -> None:
        super().finished(result)
        raise Stop


class TestStabilized:
    def test_stopped_after_each_task_and_resumed_equals_a_run_without_segments(
        self, model: Path, tmp_path: Path
    ) -> None:
        """Depth is filtered across segments of 10 frames, in shots of 34 and 16 frames, and then metric."""
        clip = write_clip(tmp_path / "clip.mp4", frames=50, width=96, height=64, draw=_drifting)
        anchors = (Anchor(10, 10, 2.0), Anchor(85, 55, 6.0))
        more: dict[str, Any] = {"stabilize": True, "anchors": anchors, "segment_seconds": 0.3, "range": "shot"}
        settings = _outputs_in(tmp_path / "segments", clip, model, codec="ffv1", **more)
        settings = settings.model_copy(update={"videos": settings.videos[1:]})
        assert len(plan_clip(settings).segments) == 5
        stops = 0
        while True:
            engine, progress = InlineEngine(), StopAfterOne()
            try:
                stats = ClipRun(settings, resume=True).run(engine, progress)
                break
            except Stop:
                stops += 1
                work = [path.name for path in (tmp_path / "segments" / ".out.mkv.segments").iterdir()]
                assert not [name for name in work if name.startswith("tmp-")]
                assert sum(name.startswith("depth-") for name in work) <= 4
            finally:
                engine.close()
        assert stops == 10
        assert (stats.processed, stats.stabilize) == (50, "two-sided")
        found = {}
        for stabilize in (False, True):
            whole = tmp_path / f"whole{stabilize}"
            sinks = [
                sink_for(str(whole / "out.mkv"), look=settings.look.look, codec="ffv1"),
                data_sink_for(str(whole / "depth.mkv")),
            ]
            estimator = sd.DepthEstimator(model, provider="cpu")
            Pipeline([clip_source(settings)], estimator, sinks, anchors=anchors, stabilize=stabilize).run()
            found[stabilize] = depth_of(whole / "depth.mkv")
        assert depth_of(tmp_path / "segments" / "depth.mkv") == found[True] != found[False]
        assert decoded(tmp_path / "segments" / "out.mkv") == decoded(tmp_path / "wholeTrue" / "out.mkv")
        with sd.read_depth(tmp_path / "segments" / "depth.mkv") as reader:
            assert reader.metadata.stabilized

    def test_no_depth_is_propagated_across_a_cut_after_the_start_of_a_segment(
        self, model: Path, tmp_path: Path
    ) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=50, width=96, height=64, draw=_drifting)
        settings = settings_for(clip, model, segment_seconds=0.3, model_every=4)
        segment = next(one for one in plan_clip(settings).segments if one.first_frame + one.frames > 34)
        assert 0 < 34 - segment.first_frame < 15
        worker = Worker()
        worker.run(DepthTask(settings, str(tmp_path), segment))
        worker.close()
        statistics = SegmentStatistics.from_bytes((tmp_path / WorkFile.STATISTICS.of(segment)).read_bytes())
        propagated = statistics.propagated[34 - segment.first_frame :]
        assert propagated[:2] == (False, True)


def _drifting(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A textured scene that moves and flickers, in two shots."""
    y, x = np.mgrid[:height, :width]
    wave = np.stack([np.sin((x + index) / (3 + c)) + np.cos(y / 5) for c in range(3)], -1)
    rgb = (128 + 5 * (index % 3) + 50 * wave).astype(np.uint8)
    if index >= 34:
        rgb = 255 - rgb // 4
    rgb[:24, :24], rgb[-24:, -24:] = 220 + index % 4, 20
    return rgb


class TestPlainRun:
    """``streamdepth run`` with 1 and 2 workers against the same run without segments."""

    @pytest.mark.slow
    def test_the_alignment_to_anchors_is_that_of_each_shot(self, shots_clip: Path, model: Path, tmp_path: Path) -> None:
        """Three shots; range ``ema`` needs every percentile of the metres."""
        found = []
        for number, more in enumerate(([], ["--workers", "2", "--segment", "0.5"])):
            data, events = tmp_path / f"{number}.mkv", tmp_path / f"{number}.jsonl"
            arguments = ["run", str(shots_clip), "-o", str(tmp_path / f"out{number}.mkv"), "--codec", "ffv1"]
            options = ["--data", str(data), "-m", str(model), "--provider", "cpu", "-q", "--range", "ema"]
            options += ["--anchor", "0.777,0.777=2", "--anchor", "0.0625,0.955=6", "--events", str(events)]
            assert main([*arguments, *options, *more]) == 0
            with sd.read_depth(data) as reader:
                said = reader.metadata
            found.append((decoded(tmp_path / f"out{number}.mkv"), depth_of(data), said, events.read_text()))
        assert found[0][2].sense is sd.Sense.METRIC_M
        errors = [json.loads(line)["error"] for line in found[0][3].splitlines()]
        assert len(set(errors)) > 2
        assert found[1] == found[0]

    @pytest.mark.slow
    def test_segments_give_what_a_plain_run_gives(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=24, width=64, height=48, options={"preset": "veryfast"})
        calibration = tmp_path / "transforms.json"
        size = {"w": 128, "h": 96}
        calibration.write_text(json.dumps({"fl_x": 100.0, "fl_y": 101.0, "cx": 60.0, "cy": 50.0, **size}))
        found = []
        for number, more in enumerate(([], ["--resume", "--segment", "0.3"], ["--workers", "2", "--segment", "0.3"])):
            out = tmp_path / str(number)
            data = out / "depth.mkv"
            arguments = ["run", str(clip), "-o", str(out / "out.mkv"), "--codec", "ffv1", "--data", str(data)]
            options = ["-m", str(model), "--provider", "cpu", "--intrinsics", str(calibration), "-q"]
            options += ["--zone", "left=0,0,20,30", "--zone", "all=0,0,64,48", "--events-rate", "7"]
            options += ["--events", "-" if number == 1 else str(out / "events.jsonl")]
            assert main([*arguments, *options, *more]) == 0
            with sd.read_depth(data) as reader:
                said = reader.metadata
            assert said.intrinsics is not None
            assert (said.intrinsics.fx, said.intrinsics.fy) == (50.0, 50.5)
            printed = capsys.readouterr().out
            events = (printed if number == 1 else (out / "events.jsonl").read_text()).splitlines()
            found.append((decoded(out / "out.mkv"), depth_of(data), said, events))
        assert [json.loads(line)["zone"] for line in found[0][3]] == ["left", "all"] * 7
        assert found[1] == found[0]
        assert found[2] == found[0]


class TestJoin:
    def test_a_part_with_a_missing_frame_is_refused(self, shots_clip: Path, tmp_path: Path) -> None:
        info = clip_source(settings_for(shots_clip)).open()
        times = [Fraction(index, 25) for index in range(97)]
        with pytest.raises(SinkError, match="contains 96 frames instead of 97"):
            join_video([shots_clip], tmp_path / "out.mp4", info, times)

    def test_a_frame_at_another_time_is_refused(self, shots_clip: Path) -> None:
        times = [Fraction(index, 25) for index in range(96)]
        check_times(shots_clip, times)
        times[5] += Fraction(1, 50)
        with pytest.raises(SinkError, match=r"a frame is at 0\.200000 s instead of 0\.220000 s"):
            check_times(shots_clip, times)

    def test_parts_of_other_settings_are_refused(self, shots_clip: Path, tmp_path: Path) -> None:
        other = write_clip(tmp_path / "other.mp4", frames=10, width=96, options={"preset": "veryfast"})
        info = clip_source(settings_for(shots_clip)).open()
        with pytest.raises(SinkError, match="other settings than the first part"):
            join_video([shots_clip, other], tmp_path / "out.mp4", info, [Fraction(0)])

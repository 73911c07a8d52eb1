"""The plan of a clip in segments, and the ranges of their frames."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

import streamdepth as sd
from streamdepth.depth.range import RangeSpec
from streamdepth.jobs import (
    ClipSettings,
    DepthTask,
    WorkFile,
)
from streamdepth.jobs.passes import RangePass
from streamdepth.jobs.segment import SegmentSource, SegmentStatistics, clip_source, plan_clip
from streamdepth.jobs.worker import Worker
from streamdepth.pipeline import Pipeline
from tests.support.media import draw_index, write_clip
from tests.support.models import write_depth_model
from tests.support.segments import pixels, settings_for, write_shots_clip
from tests.support.stages import RecordingSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_depth_model(tmp_path_factory.mktemp("model") / "model.onnx", height=56, width=56)


@pytest.fixture(scope="module")
def shots_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shots_clip(tmp_path_factory.mktemp("shots") / "clip.mp4")


CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"preset": "veryfast"}},
    "h264-open.mkv": {"options": {"preset": "veryfast", "x264-params": "open-gop=1"}},
    "hevc-open.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:bframes=3"}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "h264.ts": {"options": {"preset": "veryfast"}},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "uneven.mp4": {
        "pts": [index * 3600 + index % 3 * 700 for index in range(60)],
        "time_base": Fraction(1, 90_000),
        "options": {"preset": "veryfast"},
    },
}


class TestPlan:
    @pytest.mark.parametrize("name", CLIPS)
    def test_segments_have_exactly_the_frames_of_the_clip(self, name: str, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / name, frames=60, draw=draw_index, **CLIPS[name])
        settings = settings_for(clip)
        plan = plan_clip(settings)
        assert len(plan.segments) > 2
        assert plan.frames == 60
        whole = clip_source(settings)
        whole.open()
        expected = [(frame.index, frame.pts, pixels(frame.image)) for frame in whole.frames()]
        assert list(_frames_of(settings)) == expected

    @pytest.mark.parametrize(
        "limits",
        [
            {"start_seconds": 0.5},
            {"duration_seconds": 1.3},
            {"max_frames": 37},
            {"start_seconds": 0.9, "max_frames": 20},
        ],
    )
    def test_limits_apply_to_the_clip(self, limits: dict[str, Any], tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=60, draw=draw_index, options={"preset": "veryfast"})
        settings = settings_for(clip, segment_seconds=0.3, **limits)
        whole = clip_source(settings)
        whole.open()
        expected = [(frame.index, frame.pts, pixels(frame.image)) for frame in whole.frames()]
        assert list(_frames_of(settings)) == expected
        assert len(plan_clip(settings).segments) > 1

    def test_an_intra_refresh_is_no_place_to_start(self, tmp_path: Path) -> None:
        options = {"preset": "veryfast", "x264-params": "intra-refresh=1"}
        clip = write_clip(tmp_path / "clip.mkv", frames=60, draw=draw_index, options=options)
        assert len(plan_clip(settings_for(clip)).segments) == 1

    @pytest.mark.parametrize(
        ("name", "more", "note"),
        [
            ("clip.avi", {"codec": "mpeg4", "options": {"bf": "2"}}, "its packets have no time stamps"),
            ("clip.gif", {"codec": "gif", "pix_fmt": "rgb8"}, ""),
        ],
    )
    def test_what_cannot_be_divided_is_one_segment(
        self, name: str, more: dict[str, Any], note: str, tmp_path: Path
    ) -> None:
        clip = write_clip(tmp_path / name, frames=30, **more)
        plan = plan_clip(settings_for(clip))
        assert len(plan.segments) == 1
        assert note in plan.note
        assert len(list(_frames_of(settings_for(clip)))) == 30


def _frames_of(settings: ClipSettings) -> Iterator[tuple[int, int, str]]:
    for segment in plan_clip(settings).segments:
        source = SegmentSource(settings, segment)
        source.open()
        yield from ((frame.index, frame.pts, pixels(frame.image)) for frame in source.frames())
        source.close()


class TestRanges:
    @pytest.mark.parametrize("mode", ["shot", "ema", "frame", "fixed:1,9"])
    def test_every_frame_has_the_range_of_a_whole_run(
        self, mode: str, shots_clip: Path, model: Path, tmp_path: Path
    ) -> None:
        settings = settings_for(shots_clip, model)
        sink = RecordingSink()
        estimator = sd.DepthEstimator(model, provider="cpu")
        Pipeline([clip_source(settings)], estimator, [sink], range=mode).run()
        expected = [(result.range.lo, result.range.hi) for result in sink.results]
        plan = plan_clip(settings)
        worker = Worker()
        found: list[tuple[float, float]] = []
        ranges = RangePass(RangeSpec.parse(mode), Fraction(1, 12800))
        for segment in plan.segments:
            worker.run(DepthTask(settings, str(tmp_path), segment))
            statistics = SegmentStatistics.from_bytes((tmp_path / WorkFile.STATISTICS.of(segment)).read_bytes())
            for known in ranges.add(statistics, last=segment is plan.segments[-1]):
                found += [(one.lo, one.hi) for one in known.ranges]
        worker.close()
        assert found == expected
        assert len(set(expected)) == {"shot": 3, "fixed:1,9": 1}.get(mode, len(set(expected)))

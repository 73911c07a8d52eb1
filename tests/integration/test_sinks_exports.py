"""Exports for other programs: iw3, video diffusion, LeRobot."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import cv2
import numpy as np
import pytest
import yaml

import streamdepth as sd
from streamdepth.cli.main import main
from streamdepth.core.errors import DataFormatError, OutputExistsError, UsageError
from streamdepth.core.frame import DepthRange, Result
from streamdepth.sinks.robotics.exports import Iw3Sink, VaceSink, control_frames, control_size
from streamdepth.sinks.robotics.lerobot import quantized
from tests.support import need
from tests.support.cli import one_line
from tests.support.media import write_clip
from tests.support.sinks import info_of, paint, result, run_sink, stream_info

if TYPE_CHECKING:
    from pathlib import Path


def results(count: int) -> list[Result]:
    """Relative inverse depth: a ramp from left to right whose top rises with time, so frames differ in range."""
    made = []
    for index in range(count):
        values = np.tile(np.linspace(0, 1 + index, 16, dtype=np.float32), (12, 1))
        whole = result(paint(64, 48, index), index, index=index)
        depth = sd.DepthMap(values, sd.Sense.RELATIVE_INVERSE)
        made.append(Result(whole.frame, depth, DepthRange(0, 1)))
    return made


class TestIw3:
    @pytest.mark.slow
    def test_folder(self, tmp_path: Path) -> None:
        """Every property that the importer of iw3 reads; the audio as FFmpeg decodes it."""
        clip = write_clip(tmp_path / "clip.mp4", frames=10, width=64, height=48, audio=True)
        output = tmp_path / "out" / "iw3_export.yml"
        assert main(["run", str(clip), "-o", str(output), "--provider", "cpu"]) == 0
        said = yaml.safe_load(output.read_text())
        assert {name: said[name] for name in ("type", "fps", "rgb_dir", "depth_dir", "audio_file", "mapper")} == {
            "type": "video",
            "fps": 25.0,
            "rgb_dir": "rgb",
            "depth_dir": "depth",
            "audio_file": "audio.m4a",
            "mapper": "none",
        }
        assert said["user_data"]["metres"].startswith("absent")
        names = [f"{index:06d}.png" for index in range(10)]
        for folder, dtype, shape in (("rgb", np.uint8, (48, 64, 3)), ("depth", np.uint16, (48, 64))):
            assert sorted(path.name for path in (output.parent / folder).iterdir()) == names
            image = cv2.imread(str(output.parent / folder / names[0]), cv2.IMREAD_UNCHANGED)
            assert image is not None
            assert image.dtype == dtype
            assert image.shape == shape
        with av.open(str(output.parent / "audio.m4a")) as audio, av.open(str(clip)) as source:
            assert [stream.type for stream in audio.streams] == ["audio"]
            assert audio.streams[0].codec_context.name == "aac"
            heard, wanted = (
                np.concatenate([one.to_ndarray()[0] for one in opened.decode(opened.streams.audio[0])])
                for opened in (audio, source)
            )
            shortest = min(len(heard), len(wanted))
            assert shortest > 16_000 * 0.3
            np.testing.assert_allclose(heard[:shortest], wanted[:shortest], atol=1e-6)

    def test_one_range_and_near_is_large(self, tmp_path: Path) -> None:
        output = tmp_path / "iw3_export.yml"
        run_sink(Iw3Sink(output, model="m"), stream_info(), results(5))
        codes = [cv2.imread(str(tmp_path / "depth" / f"{n:06d}.png"), cv2.IMREAD_UNCHANGED) for n in range(5)]
        nearest = [float(image[24, -1]) / 65535 for image in codes if image is not None]
        np.testing.assert_allclose(nearest, np.array([1, 2, 3, 4, 5]) / 5, atol=0.08)
        said = yaml.safe_load(output.read_text())
        assert "audio_file" not in said
        assert said["fps"] == 25

    def test_frames_that_are_not_evenly_timed(self, tmp_path: Path) -> None:
        given = [
            replace(one, frame=replace(one.frame, pts=pts)) for one, pts in zip(results(3), (0, 1, 10), strict=True)
        ]
        run_sink(Iw3Sink(tmp_path / "iw3_export.yml"), stream_info(), given)
        assert yaml.safe_load((tmp_path / "iw3_export.yml").read_text())["fps"] == 5  # two steps in 0.4 s

    def test_wrong_use(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"the only \.yml output is that of iw3; name it .*iw3_export\.yml"):
            sd.sink_for(str(tmp_path / "out.yml"))
        (tmp_path / "x").touch()
        with pytest.raises(OutputExistsError):
            run_sink(Iw3Sink(tmp_path / "iw3_export.yml"), stream_info(), [])


class TestVace:
    @pytest.mark.slow
    def test_video(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        clip = write_clip(tmp_path / "clip.mp4", frames=24, width=160, height=90)
        output = tmp_path / "control.mp4"
        assert main(["run", str(clip), "-o", str(output), "--for", "vace", "--provider", "cpu", "-q"]) == 0
        with av.open(str(output)) as video:
            stream = video.streams.video[0]
            assert stream.average_rate == 16
            assert (stream.width, stream.height) == (832, 464)
            frames = list(video.decode(stream))
            assert [stream.type for stream in video.streams] == ["video"]
        assert len(frames) == 13  # 24 frames at 25 fps are 15 at 16 fps; 13 = 4 * 3 + 1
        assert [Fraction(frame.pts or 0) * Fraction(frame.time_base or 0) for frame in frames] == [
            Fraction(n, 16) for n in range(13)
        ]
        assert main(["run", str(clip), "--data", f"{tmp_path}/d.mkv", "--for", "vace", "-q"]) == 2
        assert "no video file is written; add -o OUT.mkv, or omit --for" in one_line(capsys)

    def test_near_is_white_in_one_range(self, tmp_path: Path) -> None:
        output = tmp_path / "control.mkv"
        run_sink(VaceSink(output), stream_info(), results(26))
        with av.open(str(output)) as video:
            grays = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert len(grays) == 17
        right = [int(gray[gray.shape[0] // 2, -4, 0]) for gray in grays]
        assert right[0] < 30
        assert right[-1] > 235
        assert all(later >= earlier - 3 for earlier, later in itertools.pairwise(right))
        assert int(grays[-1][:, 2].max()) < 30
        assert max(int(np.ptp(gray.astype(int), axis=2).max()) for gray in grays) <= 2  # gray

    @pytest.mark.parametrize(
        ("size", "control"), [((1280, 720), (832, 464)), ((720, 1280), (464, 832)), ((640, 480), (640, 480))]
    )
    def test_size(self, size: tuple[int, int], control: tuple[int, int]) -> None:
        assert control_size(*size) == control

    @pytest.mark.parametrize("count", [1, 2, 7, 100])
    def test_frames(self, count: int) -> None:
        times = [Fraction(n, 30) for n in range(count)]
        chosen = control_frames(times)
        assert len(chosen) % 4 == 1
        assert all(abs(times[one] - Fraction(n, 16)) <= Fraction(1, 60) for n, one in enumerate(chosen))

    def test_live_sources_have_no_end(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="needs the end of the clip for its range"):
            run_sink(VaceSink(tmp_path / "c.mp4"), stream_info(live=True), [])
        assert list(tmp_path.iterdir()) == []


def test_an_interrupted_export_is_not_complete(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", frames=5, width=64, height=48)
    sink = Iw3Sink(tmp_path / "out" / "iw3_export.yml")
    sink.open(info_of(clip), None)
    for one in results(3):
        sink.process(one)
    sink.interrupt()
    sink.flush()
    sink.close()
    assert not (tmp_path / "out" / "iw3_export.yml").exists()


class TestLeRobot:
    """The data set as its own reader decodes it: parquet by pyarrow, video by FFmpeg, the inverse of the quantization
    as its documentation states it. The package lerobot cannot be installed beside this one."""

    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        need.module("pyarrow", "the extra lerobot")

    def written(self, folder: Path, count: int = 6, **options: Any) -> dict[str, Any]:
        given = []
        for index in range(count):
            values = np.tile(np.geomspace(0.2, 9, 32, dtype=np.float32), (24, 1)) + 0.05 * index
            values[0, 0] = np.nan
            whole = result(paint(64, 48, index), index, index=index)
            error = (float("nan"), 0.125, 0.1)[min(index, 2)]
            depth = sd.DepthMap(values, sd.Sense.METRIC_M, anchor_error=error)
            given.append(Result(whole.frame, depth, DepthRange(0, 1)))
        path = folder / "meta" / "info.json"
        run_sink(sd.data_sink_for(str(path), **options), stream_info(), given)
        return cast("dict[str, Any]", json.loads(path.read_text()))

    def test_depth_comes_back(self, tmp_path: Path) -> None:
        info = self.written(tmp_path)
        said = info["features"]["observation.images.camera_depth"]
        assert (said["dtype"], said["shape"]) == ("video", [48, 64, 1])
        about = said["info"]
        assert about["is_depth_map"] is True
        assert (about["depth_unit"], about["video.codec"], about["video.pix_fmt"]) == ("m", "hevc", "gray12le")
        assert about["streamdepth.metres"] == "anchored, relative error 0.125"
        path = tmp_path / info["video_path"].format(
            video_key="observation.images.camera_depth", chunk_index=0, file_index=0
        )
        with av.open(str(path)) as video:
            stream = video.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("hevc", "gray12le")
            assert stream.average_rate == info["fps"] == 25
            frames = [(float(one.time or 0), one.to_ndarray(format="gray12le")) for one in video.decode(stream)]
        assert [time for time, _ in frames] == pytest.approx([number / 25 for number in range(6)])
        lo, hi, shift = about["video.depth_min"], about["video.depth_max"], about["video.shift"]
        assert (lo, hi, shift, about["video.use_log"]) == (0.01, 10.0, 3.5, True)
        for index, (_, codes) in enumerate(frames):
            metres = np.exp(np.log(lo + shift) + codes / 4095 * (np.log(hi + shift) - np.log(lo + shift))) - shift
            true = np.geomspace(0.2, 9, 32) + 0.05 * index
            # The model's 32 columns at the frame's 64: every 4th pixel pair straddles a value.
            inside = (metres[24, 0:64:2] + metres[24, 1:64:2]) / 2
            np.testing.assert_allclose(inside[2:-2], true[2:-2], rtol=0.02)
            assert metres[0, 0] == pytest.approx(0.01, abs=0.002)

    @pytest.mark.parametrize("numbers", [(0, 1, 2, 3), (0, 1, 5, 6)])
    @pytest.mark.parametrize("hole", [True, False])
    def test_what_the_format_cannot_hold_is_noted(self, tmp_path: Path, numbers: tuple[int, ...], hole: bool) -> None:
        sink = sd.data_sink_for(str(tmp_path / "meta" / "info.json"))
        given = []
        for number in numbers:
            values = np.full((24, 32), 2, np.float32)
            values[0, 0] = np.nan if hole and number == 1 else 2
            whole = result(paint(64, 48, number), number, index=number)
            given.append(Result(whole.frame, sd.DepthMap(values, sd.Sense.METRIC_M), DepthRange(0, 1)))
        run_sink(sink, stream_info(), given)
        missing = "1 of 4 frames have pixels without depth; they are stored as 0.01 m"
        uneven = "times are those of 25 fps, because the format requires a fixed rate; the frames differ from them by "
        assert (missing in sink.note) == hole
        assert (uneven + "up to 0.12 s" in sink.note) == (numbers[2] == 5)
        assert bool(sink.note) == (hole or numbers[2] == 5)

    def test_depth_beyond_the_range_is_noted(self, tmp_path: Path) -> None:
        sink = sd.data_sink_for(str(tmp_path / "meta" / "info.json"))
        whole = result(paint(64, 48, 0), 0, index=0)
        depth = sd.DepthMap(np.full((24, 32), 12, np.float32), sd.Sense.METRIC_M)
        run_sink(sink, stream_info(), [Result(whole.frame, depth, DepthRange(0, 1))])
        assert sink.note.startswith("1 of 1 frames have depth beyond 10 m, stored as 10 m; set the largest depth")

    def test_codes(self) -> None:
        metres = np.array([0.01, 10.0, 1.0, np.nan, 99, 0], np.float32)
        one = round(4095 * (np.log(4.5) - np.log(3.51)) / (np.log(13.5) - np.log(3.51)))
        assert quantized(metres, 10.0).tolist() == [0, 4095, one, 0, 4095, 0]

    def test_tables(self, tmp_path: Path) -> None:
        import pyarrow.parquet as pq

        info = self.written(tmp_path, lerobot_max=20.0)
        assert info["codebase_version"] == "v3.0"
        assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (1, 6, 1)
        data = pq.read_table(tmp_path / info["data_path"].format(chunk_index=0, file_index=0))
        assert {name: str(data.schema.field(name).type) for name in data.column_names} == {
            name: one["dtype"].replace("float32", "float")
            for name, one in info["features"].items()
            if "images" not in name
        }
        assert data["timestamp"].to_pylist() == pytest.approx([number / 25 for number in range(6)])
        assert data["index"].to_pylist() == list(range(6))
        episode = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[0]
        assert (episode["length"], episode["dataset_from_index"], episode["dataset_to_index"]) == (6, 0, 6)
        for key in ("camera", "camera_depth"):
            ends = [episode[f"videos/observation.images.{key}/{end}_timestamp"] for end in ("from", "to")]
            assert ends == pytest.approx([0, 0.24])
        tasks = pq.read_table(tmp_path / "meta/tasks.parquet")
        assert tasks.to_pylist() == [{"task_index": 0, "task": "depth"}]
        stats = json.loads((tmp_path / "meta/stats.json").read_text())
        assert np.shape(stats["observation.images.camera"]["mean"]) == (3, 1, 1)
        assert stats["observation.images.camera_depth"]["max"][0][0][0] == pytest.approx(9.25, abs=0.5)
        assert info["features"]["observation.images.camera_depth"]["info"]["video.depth_max"] == 20.0

    def test_wrong_use(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"name it FOLDER/meta/info\.json"):
            sd.data_sink_for(str(tmp_path / "out.json"))
        with pytest.raises(DataFormatError, match="holds metres, but the model's depth is relative_inverse"):
            run_sink(sd.data_sink_for(str(tmp_path / "meta" / "info.json")), stream_info(), results(1))
        assert not list(tmp_path.iterdir())  # the next attempt finds an empty folder

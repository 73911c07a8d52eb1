"""Exports that have one range per clip: the folder of iw3, control video for video diffusion."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest
import yaml

import streamdepth as sd
from streamdepth.cli.main import main
from streamdepth.core.errors import OutputExistsError, UsageError
from streamdepth.core.frame import DepthRange, Result
from streamdepth.sinks.robotics.exports import Iw3Sink, VaceSink, control_frames, control_size
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
        assert "audio_file" not in yaml.safe_load(output.read_text())

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
        with pytest.raises(UsageError, match="one range for the clip needs its end"):
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

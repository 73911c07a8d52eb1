"""`streamdepth run` in segments: what is resumed, skipped, started over and refused; shards."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest

from streamdepth.cli import main
from streamdepth.config.commands import RunConfig, check_used
from streamdepth.config.settings import ServeConfig
from streamdepth.core.errors import UsageError
from streamdepth.jobs import worker
from streamdepth.jobs.journal import folder_at
from tests.support.cli import one_line
from tests.support.media import write_clip
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.jobs.journal import WorkFolder

pytestmark = pytest.mark.usefixtures("on_cpu")


OPTIONS = "--resume, --workers and --engine ray"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_depth_model(tmp_path / "model.onnx", height=28, width=28)


@pytest.fixture
def arguments(clip: Path, model: Path, tmp_path: Path) -> list[str]:
    """A run of one clip of 12 frames, in two segments."""
    out = tmp_path / "out.mkv"
    return ["run", str(clip), "-o", str(out), "-m", str(model), "--provider", "cpu", "--resume", "--segment", "0.2"]


class TestResume:
    @pytest.mark.slow
    def test_statistics_count_every_frame(self, arguments: list[str], tmp_path: Path) -> None:
        stats = tmp_path / "stats.json"
        assert main([*arguments, "--stats", str(stats)]) == 0
        content = json.loads(stats.read_text())
        assert content["captured"] == content["processed"] == content["written"] == 12
        assert (content["range"], content["error"], content["dropped"]) == ("shot", None, {})
        assert content["sinks"] == [{"name": str(tmp_path / "out.mkv"), "written": 12, "dropped": {}, "counts": {}}]

    def test_a_finished_clip_is_skipped(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 0
        before = (tmp_path / "out.mkv").stat()
        capsys.readouterr()
        assert main(arguments) == 0
        assert "clip.mp4: already finished, skipped" in capsys.readouterr().err
        assert (tmp_path / "out.mkv").stat().st_mtime_ns == before.st_mtime_ns
        assert [path.name for path in tmp_path.glob(".out*")] == [".out.mkv.journal.json"]

    def test_other_settings_do_not_replace_a_finished_clip(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 0
        capsys.readouterr()
        assert main([*arguments, "-q", "--style", "viridis", "--crf", "30"]) == 1
        said = one_line(capsys)
        assert "out.mkv: was finished with other settings (--style, the outputs); --overwrite replaces it" in said
        assert main([*arguments, "--style", "viridis", "-y"]) == 0
        assert "clip.mp4: starting over, because these changed: --style" in capsys.readouterr().err

    def test_a_changed_clip_starts_over(
        self, arguments: list[str], clip: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 0
        write_clip(clip, frames=14, width=64, height=48)
        capsys.readouterr()
        assert main([*arguments, "-y"]) == 0
        said = capsys.readouterr().err
        assert "starting over, because these changed: the clip" in said

    def test_an_output_of_another_program_is_kept(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "out.mkv").write_bytes(b"precious")
        assert main([*arguments, "-q"]) == 1
        assert "already exists; --overwrite replaces it" in one_line(capsys)
        assert (tmp_path / "out.mkv").read_bytes() == b"precious"

    def test_an_output_removed_after_the_run_is_written_again(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 0
        (tmp_path / "out.mkv").unlink()
        capsys.readouterr()
        assert main(arguments) == 0
        assert "an output was removed; starting over" in capsys.readouterr().err
        assert (tmp_path / "out.mkv").exists()

    def test_of_a_folder_finished_clips_are_skipped_and_bad_ones_reported(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "clips"
        folder.mkdir()
        for name in "ab":
            write_clip(folder / f"{name}.mp4", frames=6, width=64, height=48)
        (folder / "c.mp4").write_bytes(b"not a video" * 100)
        outputs = ["-o", f"{tmp_path}/out/{{name}}.mp4", "-m", str(model), "--provider", "cpu", "--resume"]
        assert main(["run", str(folder / "a.mp4"), str(folder / "b.mp4"), *outputs]) == 0
        capsys.readouterr()
        assert main(["run", str(folder), *outputs]) == 1
        said = capsys.readouterr().err
        assert said.count("already finished, skipped") == 2
        assert "1 of 3 clips failed: c.mp4" in said

    @pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
    def test_of_two_runs_at_once_the_second_is_refused(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with folder_at(str(tmp_path)).locked(".out.mkv.lock") as free:
            assert free
            assert main([*arguments, "-q"]) == 1
            assert "out.mkv: another process is writing it; choose another output" in one_line(capsys)
        assert main(arguments) == 0
        assert [path.name for path in tmp_path.glob(".out*")] == [".out.mkv.journal.json"]

    def test_notes_are_those_of_a_run_without_segments(self, tmp_path: Path) -> None:
        clip = write_clip(tmp_path / "clip.mkv", frames=6, width=64, height=48, codec="ffv1", pix_fmt="yuv444p12le")
        arguments = ["run", str(clip), "-o", str(tmp_path / "out.mp4"), "--stats", str(tmp_path / "s.json"), "-y"]
        notes = []
        for more in ([], ["--resume"]):
            assert main([*arguments, *more]) == 0
            notes.append(json.loads((tmp_path / "s.json").read_text())["notes"])
        assert notes[0] == notes[1]
        assert any(note.startswith("clip.mkv: yuv444p12le frames are coloured with") for note in notes[0])
        assert any(note.startswith(f"{tmp_path}/out.mp4: 10-bit 4:4:4 H.264") for note in notes[0])

    def test_notes_of_the_model_are_printed_once(
        self, arguments: list[str], model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(model.parent)
        assert main([model.name if argument == str(model) else argument for argument in arguments]) == 0
        assert capsys.readouterr().err.count("preprocessing unknown") == 1

    def test_a_folder_that_cannot_be_written_is_named(
        self, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def refuse(path: Path, _: bytes) -> int:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(type(Path()), "write_bytes", refuse)
        assert main([*arguments, "-q"]) == 1
        assert ".out.mkv.journal.json: cannot be written (Read-only file system); choose another" in one_line(capsys)

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    @pytest.mark.parametrize("full", ["depth-00000.f32", "small-00000.npys"])
    def test_a_full_disk_is_named(
        self, full: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = worker._written

        @contextlib.contextmanager
        def filled(folder: WorkFolder, name: str) -> Iterator[BinaryIO]:
            with Path("/dev/full").open("wb", buffering=0) if name == full else written(folder, name) as file:
                yield file

        monkeypatch.setattr(worker, "_written", filled)
        assert main([*arguments, "-q", "--stabilize", "on"]) == 1
        assert "no space left on the device; what was written is kept; free some space" in one_line(capsys)


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (
                ["--serve", "rtsp://127.0.0.1:8554/x"],
                f"--serve: not possible with {OPTIONS}; omit one of them",
            ),
            (
                ["--batch", "auto"],
                f"--batch auto: not possible with {OPTIONS}; omit one of them",
            ),
            (
                ["--policy", "latest"],
                f"--policy latest: not possible with {OPTIONS}; omit one of them",
            ),
            (
                ["-o", "frames/"],
                f"frames/: {OPTIONS} write video files; use a name such as out.mkv, or omit them",
            ),
            (
                ["--data", "d/"],
                f"d/: {OPTIONS} write depth data as .mkv; use e.g. depth.mkv, or omit them",
            ),
        ],
    )
    def test_what_segments_cannot_do_is_refused_before_anything_is_written(
        self, more: list[str], says: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*arguments, *more]) == 2
        assert one_line(capsys) == f"streamdepth: {says}\n"
        assert list(tmp_path.glob("*out*")) == []

    def test_only_video_files_have_segments(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "test:", "--max-frames", "5", "-o", str(tmp_path / "o.mp4"), "--workers", "2"]) == 2
        assert f"test:: {OPTIONS} take video files; omit them for other sources" in one_line(capsys)

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ("--segment=5", "segment 5: the clip is not divided; add --resume or --workers N, or omit --segment"),
            ("--gop=3", "gop 3: nothing is streamed; add -o rtsp:// or --serve rtsp://, or omit --gop"),
            ("--max-clients=3", "max-clients 3: nothing is served; add --serve rtsp://, or omit --max-clients"),
            ("--events-rate=2", "events-rate 2: no events are written; add --zone or --events FILE, or omit"),
            ("--timeout=5", "timeout 5: no source or output is a network stream; omit --timeout"),
            ("--retries=2", "retries 2: no source or output is a network stream; omit --retries"),
            ("--latency=normal", "latency normal: no source or output is a network stream; omit --latency"),
            ("--transport=udp", "transport udp: no source is an RTSP stream; omit --transport"),
            ("--image-rate=5", "image-rate 5: no source is an image or a folder of images; omit --image-rate"),
            ("--crf=20 --bitrate=99", "bitrate 99: no stream, and no video file without --crf is written; omit --crf"),
        ],
    )
    def test_an_option_without_effect_is_refused(
        self, option: str, says: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["run", str(clip), "-o", str(tmp_path / "o.mp4"), *option.split()]) == 2
        assert one_line(capsys).startswith(f"streamdepth: {says}")

    def test_options_of_the_network_apply_to_served_streams_too(self) -> None:
        served = {"sources": ["test:"], "serve": ["rtsp://127.0.0.1:8554/x"], "latency": "normal"}
        check_used(RunConfig.load(served, command="run"))
        check_used(ServeConfig.load({"source": "rtsp://127.0.0.1:9/x", "transport": "udp"}, command="serve"))
        with pytest.raises(UsageError, match="transport udp: no source is an RTSP stream; omit --transport"):
            check_used(ServeConfig.load({"source": "test:", "transport": "udp"}, command="serve"))

    def test_a_camera_without_effect_is_noted(
        self, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["run", str(clip), "-o", str(tmp_path / "o.mp4"), "--fov", "60", "--max-frames", "1"]) == 0
        assert "--fov has no effect: the model gives no metres" in capsys.readouterr().err

    @pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2"])
    def test_a_wrong_shard_is_named(self, shard: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "test:", "-o", "null:", f"--shard={shard}"]) == 2
        assert f"shard must be I/N with I from 0 to N - 1, e.g. 0/4, not {shard!r}" in one_line(capsys)


class TestShards:
    def test_shards_divide_the_clips_of_a_folder(self, model: Path, tmp_path: Path) -> None:
        """Every one of five clips is processed by exactly one of three shards."""
        folder = tmp_path / "clips"
        folder.mkdir()
        for name in "abcde":
            write_clip(folder / f"{name}.mp4", frames=2, width=64, height=48)
        found = []
        for shard in range(3):
            out = tmp_path / f"out{shard}"
            arguments = ["run", str(folder), "-o", f"{out}/{{name}}.mkv", "-m", str(model), "--provider", "cpu"]
            assert main([*arguments, "--shard", f"{shard}/3"]) == 0
            found.append(sorted(path.stem for path in out.iterdir()))
        assert found == [["a", "d"], ["b", "e"], ["c"]]

    def test_a_shard_without_clips_is_no_error(
        self, clip: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["run", str(clip), "-o", f"{tmp_path}/{{name}}.mkv", "-m", str(model), "--shard", "3/4"]
        assert main(arguments) == 0
        assert one_line(capsys) == "streamdepth: shard 3/4: no clips\n"

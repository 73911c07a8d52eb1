"""The command line as people use it: outputs, one line per error, exit codes, interruption."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

import streamdepth as sd
from streamdepth import doctor
from streamdepth.cli import main
from streamdepth.colorize.colorizer import Colorizer
from streamdepth.errors import SinkError
from streamdepth.pipeline import Pipeline
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.file import FileSource
from streamdepth.sources.live import LiveSource
from streamdepth.sources.pattern import PatternSource
from tests.support.media import read_pts, write_clip
from tests.support.models import write_depth_model
from tests.support.stages import shared

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.frame import Frame

PYTHON = [sys.executable, "-m", "streamdepth"]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_clip(path, frames=12, width=64, height=48)
    return path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("streamdepth: ")
    assert text.count("\n") == 1
    return text


class TestRun:
    def test_a_clip_becomes_depth_with_the_same_times(
        self, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, stats = tmp_path / "out.mp4", tmp_path / "stats.json"
        assert main(["run", str(clip), "-o", str(out), "--stats", str(stats)]) == 0
        assert read_pts(out) == read_pts(clip)
        content = json.loads(stats.read_text())
        assert content["captured"] == content["processed"] == content["written"] == 12
        assert content["dropped"] == {}
        assert (content["model"], content["provider"], content["batch"]) == ("built-in", "cpu", 1)
        assert (content["range"], content["error"]) == ("shot", None)
        assert {"median", "p95"} == content["stages_ms"]["infer"].keys()
        assert {"median", "p95", "p99"} == content["latency_ms"].keys()
        printed = capsys.readouterr()
        assert printed.out == printed.err == ""

    def test_several_outputs_at_once(self, clip: Path, tmp_path: Path) -> None:
        outputs = ["-o", f"{tmp_path}/a.mkv", "-o", f"{tmp_path}/b/", "--data", f"{tmp_path}/d.mkv", "-o", "null:"]
        assert main(["run", str(clip), *outputs, "--view", "side", "--max-frames", "5"]) == 0
        with av.open(str(tmp_path / "a.mkv")) as container:
            assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 48)
        assert len(list((tmp_path / "b").glob("*.png"))) == 5
        depths = list(sd.read_depth(tmp_path / "d.mkv"))
        assert len(depths) == 5
        assert depths[0].values.shape == (48, 64)

    def test_a_name_without_suffix_is_told_to_be_a_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["run", "test:?size=64x48", "--max-frames", "1", "--range", "ema", "--overwrite", "-o"]
        assert main([*arguments, f"{tmp_path}/out"]) == 0
        assert f"{tmp_path}/out has no suffix: its pictures go into a folder" in one_line(capsys)
        assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".png"]
        assert main([*arguments, "null:"]) == 0
        assert capsys.readouterr().err == ""

    def test_several_clips_each_get_their_own_output(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            write_clip(tmp_path / f"{name}.mp4", frames=4, width=32, height=32)
        stats = tmp_path / "s.json"
        arguments = ["run", str(tmp_path / "*.mp4"), "-o", str(tmp_path / "out-{name}.mkv"), "--stats", str(stats)]
        assert main(arguments) == 0
        assert {path.name for path in tmp_path.glob("*.mkv")} == {"out-one.mkv", "out-two.mkv"}
        content = json.loads(stats.read_text())
        assert content["written"] == 8
        assert [run["source"] for run in content["runs"]] == ["one.mp4", "two.mp4"]

    def test_a_configuration_file_and_options_over_it(self, clip: Path, tmp_path: Path) -> None:
        config = tmp_path / "run.yaml"
        config.write_text(f"sources: {clip}\noutput: {tmp_path}/out.mkv\nmax-frames: 3\nrange: frame\n")
        stats = tmp_path / "s.json"
        assert main(["run", "--config", str(config), "--max-frames", "2", "--stats", str(stats)]) == 0
        content = json.loads(stats.read_text())
        assert (content["written"], content["range"]) == (2, "frame")

    @pytest.mark.parametrize("policy", ["every", "latest"])
    def test_both_policies(self, clip: Path, tmp_path: Path, policy: str) -> None:
        stats = tmp_path / "s.json"
        assert main(["run", str(clip), "-o", "null:", "--policy", policy, "--stats", str(stats)]) == 0
        content = json.loads(stats.read_text())
        assert content["captured"] == content["processed"] + sum(content["dropped"].values()) == 12

    @pytest.mark.parametrize("wanted", ["auto", "cuda"])
    def test_hardware_that_is_not_there_costs_a_note(
        self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
    ) -> None:
        monkeypatch.setattr("streamdepth.hardware.cannot_decode", lambda kind: f"no {kind} to decode")
        monkeypatch.setattr("streamdepth.hardware.cannot_encode", lambda name, *_: f"no {name}")
        out, stats = tmp_path / "out.mp4", tmp_path / "s.json"
        assert main(["run", str(clip), "-o", str(out), "--hwaccel", wanted, "--stats", str(stats)]) == 0
        assert read_pts(out) == read_pts(clip)
        notes = [note for note in json.loads(stats.read_text())["notes"] if "software" in note]
        assert notes == (
            ["decoding in software: no cuda to decode", f"{out}: encoding in software: no h264_nvenc"]
            if wanted == "cuda"
            else []
        )

    def test_the_plan_reaches_decoders_encoders_and_colour(
        self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: dict[str, set[object]] = {}

        def spy(name: str, kind: type, option: str) -> None:
            made = kind.__init__  # type: ignore[misc]  # to be wrapped, not called

            def note(self: object, *given: object, **options: object) -> None:
                asked.setdefault(name, set()).add(options[option])
                made(self, *given, **options)

            monkeypatch.setattr(kind, "__init__", note)

        spy("decoder", FileSource, "threads")
        spy("encoder", VideoSink, "threads")
        spy("color", Colorizer, "threads")
        config = tmp_path / "run.yaml"
        config.write_text("decoder-threads: 2\nencoder-threads: 3\ncolor-threads: 4\n")
        assert main(["run", str(clip), "-o", str(tmp_path / "out.mp4"), "--config", str(config)]) == 0
        assert asked == {"decoder": {2}, "encoder": {3}, "color": {4}}

    def test_batch_auto_measures(self, clip: Path, tmp_path: Path) -> None:
        stats = tmp_path / "s.json"
        assert main(["run", str(clip), "-o", "null:", "--batch", "auto", "--stats", str(stats)]) == 0
        assert json.loads(stats.read_text())["batch"] >= 1

    def test_a_third_party_model_of_metres(self, clip: Path, tmp_path: Path) -> None:
        """FastDepth: metres, far = large, RGB in 0..1 without mean and deviation."""
        model = shared("models/fastdepth/fastdepth.onnx")
        if not model.exists():
            pytest.skip("the shared third-party model is not here")
        data = tmp_path / "d.mkv"
        options = ["--model", str(model), "--sense", "metric_m", "--normalize", "none"]
        assert main(["run", str(clip), *options, "-o", "null:", "--data", str(data)]) == 0
        reader = sd.read_depth(data)
        assert reader.metadata.sense is sd.Sense.METRIC_M
        depth = np.stack([frame.values for frame in reader])
        assert 0.1 < np.median(depth) < 20

    def test_normalize_changes_what_the_network_sees(self, clip: Path, tmp_path: Path) -> None:
        model = tmp_path / "m.onnx"
        write_depth_model(model)
        depths = []
        for kind in ("none", "imagenet"):
            data = tmp_path / f"{kind}.mkv"
            assert main(["run", str(clip), "--model", str(model), "--normalize", kind, "--data", str(data)]) == 0
            depths.append(next(iter(sd.read_depth(data))).values)
        plain, normalized = depths
        assert not np.allclose(plain, normalized, equal_nan=True)


class TestWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["run"], 2, "no source given"),
            (["run", "test:"], 2, "add -o OUT"),
            (["run", "nothing-here.mp4", "-o", "x.mp4"], 1, "nothing-here.mp4: no such file"),
            (["run", "test:", "-o", "out.mp5"], 2, "did you mean '.mp4'"),
            (["run", "test:", "-o", "out.mp4", "--batch", "0"], 2, "batch is 1 to 256"),
            (["run", "test:", "-o", "out.mp4", "--btach", "2"], 2, "--batch"),
            (["run", "test:", "-o", "out.mp4", "--style", "virdis"], 2, "viridis"),
            (["run", "test:", "-o", "out.mp4", "--range", "shots"], 2, "shot, ema, frame"),
            (["run", "test:", "-o", "out.mp4", "--model", "none.onnx"], 1, "none.onnx"),
            (["run", "test:", "-o", "out.mp4", "--provider", "quantum"], 2, "quantum"),
            (["run", "test:", "-o", "out.mp4", "--dtype", "fp12"], 2, "fp12"),
            (["run", "test:", "-o", "out.mp4", "--size", "big"], 2, "WxH"),
            (["run", "test:", "-o", "out.mp4", "--config", "none.yaml"], 2, "none.yaml"),
            (["run", "test:", "test:", "-o", "out.mp4"], 2, "{name}"),
            (["run", "test:", "-o", "a.mp4", "-o", "a.mp4"], 2, "named twice"),
            (["run", "test:", "rtsp://127.0.0.1:9/x", "-o", "{name}.mp4"], 2, "run them apart"),
            (["run", "test:", "-o", "b{foo}.mp4"], 2, "there is no {foo}; pictures take {picture}"),
            (["run", "test:", "-o", "out%06d.mp4"], 2, "a video is one file"),
            (["run", "test:", "-o", "out.mp4", "--sense", "metric_m"], 2, "built-in gives relative_inverse"),
            (["run", "test:", "-o", "out.mp4", "--preset", "foo"], 2, "preset is one of ultrafast"),
            (["run", "test:", "-o", "out.mp4", "--provider", "cpu:gpu"], 2, "use --provider cpu"),
            (["run", "test:", "-o", "out.mp4", "--dtype", "q8"], 1, "it has fp32"),
            (["run", "test:", "-o", "out.mp4", "--credentials", "nope"], 2, "credentials: there is no file nope"),
            (["run", "test:", "-o", "out.mp4", "--camera-mode", "640x480"], 2, "leave --camera-mode out"),
            (["run", "test:", "-o", "out.mp4", "--data-size", "model"], 2, "add --data OUT"),
            (["rnu"], 2, "did you mean 'run'"),
            (["image", "nothing.png", "-o", "x.png"], 1, "nothing.png"),
            (["image", "nothing.png"], 2, "--json"),
            (["styles", "--preview", "x.jpg"], 2, "end its name with .png"),
            (["run", "test:", "-o", "-"], 2, "standard output"),
            (["run", "test:", "--data", "-"], 2, "standard output"),
            (["image", "http://host/x.jpg", "--json"], 2, "http://host/x.jpg: stills are not fetched from URLs"),
        ],
        ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else None,
    )
    def test_one_line_and_the_right_code(
        self,
        arguments: list[str],
        code: int,
        says: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == code
        assert says.lower() in one_line(capsys).lower()
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "never"),
        [
            (["run", "test:", "-o", "o.mkv", "--style", "nope"], "copper"),
            (["run", "test:", "-o", "o.mkv", "--codec", "aac"], "did you mean"),
            (["run", "clip.mp4", "-o", "o.mkv"], "file.mp4"),
        ],
    )
    def test_only_what_is_alike_is_suggested(
        self,
        arguments: list[str],
        never: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file.mp4").touch()
        assert main(arguments) != 0
        assert never not in one_line(capsys)

    def test_no_arguments_show_the_help_alone(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([]) == 2
        printed = capsys.readouterr()
        assert "Usage: streamdepth" in printed.out + printed.err
        assert "see --help" not in printed.err

    def test_an_output_that_is_there_is_kept(
        self, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out.mkv"
        out.write_bytes(b"precious")
        assert main(["run", str(clip), "-o", str(out)]) == 1
        assert "--overwrite" in one_line(capsys)
        assert out.read_bytes() == b"precious"
        assert main(["run", str(clip), "-o", str(out), "--overwrite"]) == 0
        assert len(read_pts(out)) == 12

    def test_the_input_is_never_the_output(self, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = clip.read_bytes()
        assert main(["run", str(clip), "-o", str(clip), "--overwrite"]) == 2
        assert "input" in one_line(capsys)
        assert clip.read_bytes() == before

    @pytest.mark.parametrize("linked", [False, True])
    def test_statistics_take_nobodys_place(
        self, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], linked: bool
    ) -> None:
        before = clip.read_bytes()
        out, stats = tmp_path / "o.mkv", tmp_path / "st.json"
        if linked:
            stats.symlink_to(clip)
        arguments = ["run", str(clip), "-o", str(out), "--overwrite", "--stats"]
        assert main([*arguments, str(stats if linked else clip)]) == 2
        assert "is the input" in one_line(capsys)
        if linked:
            stats.unlink()
            stats.symlink_to(out)
        assert main([*arguments, str(stats if linked else out)]) == 2
        assert "an output too" in one_line(capsys)
        assert clip.read_bytes() == before
        assert not out.exists()

    def test_statistics_replace_earlier_ones_only(
        self, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stats, notes = tmp_path / "st.json", tmp_path / "notes.json"
        for _ in range(2):
            assert main(["run", str(clip), "-o", "null:", "--max-frames", "2", "--stats", str(stats)]) == 0
        notes.write_text('{"mine": 1}')
        for place, says in (
            (notes, "no statistics file"),
            (tmp_path / "none" / "st.json", "no folder"),
            (tmp_path, "is a folder"),
        ):
            assert main(["run", str(clip), "-o", f"{tmp_path}/never.mkv", "--stats", str(place)]) == 1
            assert says in one_line(capsys)
        assert notes.read_text() == '{"mine": 1}'
        assert not (tmp_path / "never.mkv").exists()

    def test_a_damaged_clip_fails_and_the_good_part_is_kept(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        garbage = tmp_path / "garbage.mp4"
        garbage.write_bytes(bytes(range(256)) * 50)
        stats = tmp_path / "s.json"
        assert main(["run", str(garbage), "-o", str(tmp_path / "o.mkv"), "--stats", str(stats)]) == 1
        said = one_line(capsys)
        assert "garbage.mp4" in said
        assert f"streamdepth: {json.loads(stats.read_text())['error']}\n" == said

    def test_a_bad_clip_of_several_is_passed_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 50)
        for name in ("b", "c"):
            write_clip(tmp_path / f"{name}.mp4", frames=3, width=32, height=32)
        (tmp_path / "b.mkv").write_bytes(b"precious")
        stats = tmp_path / "s.json"
        arguments = ["run", f"{tmp_path}/*.mp4", "-o", f"{tmp_path}/{{name}}.mkv", "--stats", str(stats)]
        assert main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert ["a.mp4" in lines[0], "b.mkv" in lines[1], len(lines)] == [True, True, 3]
        assert "2 of 3 clips failed: " in lines[2]
        assert all(name in lines[2] for name in ("a.mp4", "b.mp4"))
        assert len(read_pts(tmp_path / "c.mkv")) == 3
        assert (tmp_path / "b.mkv").read_bytes() == b"precious"
        content = json.loads(stats.read_text())
        assert [run["processed"] for run in content["runs"]] == [0, 0, 3]
        assert [run["error"] for run in content["runs"]] == [
            *(line.removeprefix("streamdepth: ") for line in lines[:2]),
            None,
        ]
        assert content["error"] == content["runs"][0]["error"]

    def test_debug_shows_the_traceback(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", str(tmp_path / "none.mp4"), "--debug", "-o", "x.mkv"]) == 1
        assert "Traceback" in capsys.readouterr().err


class TestStills:
    @pytest.fixture
    def photo(self, tmp_path: Path) -> Path:
        from PIL import Image

        path = tmp_path / "photo.jpg"
        ramp = np.linspace(0, 255, 80 * 60 * 3).reshape(60, 80, 3).astype(np.uint8)
        Image.fromarray(ramp).save(path)
        return path

    def test_a_still_as_jpg_and_webp(self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from PIL import Image

        outputs = [word for kind in ("png", "jpg", "webp") for word in ("-o", f"{tmp_path}/o.{kind}")]
        assert main(["image", str(photo), *outputs]) == 0
        with (
            Image.open(tmp_path / "o.png") as png,
            Image.open(tmp_path / "o.jpg") as jpg,
            Image.open(tmp_path / "o.webp") as webp,
        ):
            assert (jpg.format, webp.format, jpg.mode) == ("JPEG", "WEBP", "RGB")
            assert np.array_equal(np.asarray(png.convert("RGB")), np.asarray(webp.convert("RGB")))
            shown = np.asarray(png.convert("RGB")).astype(int)
            assert np.abs(shown - np.asarray(jpg)).mean() < 4
        assert main(["image", str(photo), "-o", f"{tmp_path}/p.jpg", "--alpha", "0.3,0.8"]) == 2
        assert "use .png or .webp" in one_line(capsys)
        assert main(["image", str(photo), "-o", f"{tmp_path}/p.webp", "--alpha", "0.3,0.8"]) == 0

    def test_each_form_by_suffix(self, photo: Path, tmp_path: Path) -> None:
        from PIL import Image

        outputs = [str(tmp_path / name) for name in ("o.png", "o.npy", "o.json")]
        arguments = ["image", str(photo), "--style", "viridis", "--alpha", "0.3,0.8"]
        assert main([*arguments, *(part for out in outputs for part in ("-o", out))]) == 0
        with Image.open(outputs[0]) as picture:
            assert (picture.size, picture.mode) == ((80, 60), "RGBA")
            low, high = picture.getchannel("A").getextrema()
        assert (low, high) == pytest.approx((0.3 * 255, 0.8 * 255), abs=0.5)
        depth = np.load(outputs[1])
        assert (depth.shape, depth.dtype) == ((60, 80), np.float32)
        node = json.loads(Path(outputs[2]).read_text())
        assert node.keys() == {"data", "image", "width", "height"}
        assert np.allclose(np.reshape(node["data"], (60, 80)), depth)

    def test_the_nodes_form_on_standard_output(self, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["image", str(photo), str(photo), "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["width"] for line in lines] == [80, 80]

    def test_a_bad_picture_of_several_is_passed_over(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        bad, last = tmp_path / "bad.txt", tmp_path / "last.jpg"
        bad.write_text("no picture")
        last.write_bytes(photo.read_bytes())
        assert main(["image", str(photo), str(bad), str(last), "-o", f"{tmp_path}/out/"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert ["bad.txt" in lines[0], lines[1:]] == [True, ["streamdepth: 1 of 3 pictures failed: bad"]]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["last.png", "photo.png"]
        assert main(["image", str(bad), "-o", f"{tmp_path}/x.png"]) == 1
        assert "bad.txt" in one_line(capsys)

    def test_a_folder_into_a_folder(self, photo: Path, tmp_path: Path) -> None:
        assert main(["image", str(photo.parent), "-o", f"{tmp_path}/out/", "--style", "gray"]) == 0
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.png"]

    def test_pictures_of_one_name_get_outputs_of_their_own(self, photo: Path, tmp_path: Path) -> None:
        (tmp_path / "more").mkdir()
        (tmp_path / "more" / "photo.jpg").write_bytes(photo.read_bytes())
        assert main(["image", f"{tmp_path}/**/*.jpg", "-o", f"{tmp_path}/{{name}}.npy"]) == 0
        assert sorted(path.name for path in tmp_path.glob("*.npy")) == ["photo-2.npy", "photo.npy"]

    def test_a_folder_of_pictures_run_as_a_film_keeps_their_names(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "more").mkdir()
        photo.rename(tmp_path / "more" / photo.name)
        for folder in ("out", "more"):
            code = main(["run", f"{tmp_path}/more", "-o", f"{tmp_path}/{folder}/{{picture}}.webp", "-y", "--quiet"])
            assert code == (0 if folder == "out" else 2)
        assert "holds the pictures that are read" in one_line(capsys)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["photo.webp"]

    def test_outputs_that_would_collide_are_refused(
        self, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["image", str(photo), str(photo), "-o", str(tmp_path / "o.png")]) == 2
        assert "{name}" in one_line(capsys)
        assert main(["image", str(photo), "-o", str(tmp_path / "o.tiff")]) == 2
        assert ".npy" in one_line(capsys)


class TestLists:
    def test_styles(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["styles"]) == 0
        names = capsys.readouterr().out.split()
        assert {"viridis", "inferno", "jet", "grayscale"} <= set(names)
        assert main(["styles", "--all"]) == 0
        assert "cmocean:thermal" in capsys.readouterr().out.split()

    def test_models(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "list"]) == 0
        rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert any(row[:2] == ["built-in", "relative_inverse"] for row in rows)
        assert main(["models", "show", "built-in"]) == 0
        assert "sense\trelative_inverse" in capsys.readouterr().out

    def test_doctor(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "--json"]) == 0
        topics = {finding["topic"] for finding in json.loads(capsys.readouterr().out)}
        assert {"streamdepth", "onnxruntime", "provider cpu", "built-in model", "FFmpeg"} <= topics
        assert {"processor", "GPU", "cache", "decoding on cuda", "encoder h264_vaapi"} <= topics

    def test_doctor_says_ok_of_what_is_there(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("streamdepth.inference.nvidia.gpu_name", lambda: "")
        monkeypatch.setattr("streamdepth.hardware.cannot_encode", lambda _: "cannot be opened")
        assert main(["doctor"]) == 0
        rows = [line.split("\t")[:3] for line in capsys.readouterr().out.splitlines()]
        assert ["-", "GPU", "none with an NVIDIA driver"] in rows
        assert ["-", "encoder h264_vaapi", "cannot be opened"] in rows
        assert ["ok", "provider cpu", "can run"] in rows
        monkeypatch.setattr("streamdepth.doctor._PACKAGES", ("no-such-package",))
        assert main(["doctor"]) == 1
        assert "MISSING\tno-such-package\tmissing" in capsys.readouterr().out

    def test_doctor_names_gpu_and_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("streamdepth.inference.nvidia.gpu_name", lambda: "NVIDIA T4 (7.5)")
        monkeypatch.setattr("streamdepth.inference.nvidia.tensorrt_version", lambda: "")
        monkeypatch.setattr("streamdepth.doctor._nvidia_driver", lambda: "580.65")
        found = {finding.topic: finding for finding in doctor.examine()}
        assert found["GPU"].found == "NVIDIA T4 (7.5), driver 580.65"
        assert found["TensorRT"].hint.startswith("pip install ")

    def test_doctor_says_what_helps(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("streamdepth.hardware.cannot_decode", lambda kind: f"no {kind}; plug one in")
        found = {finding.topic: finding for finding in doctor.examine()}
        assert (found["decoding on cuda"].found, found["decoding on cuda"].hint) == ("no cuda", "plug one in")
        assert found["decoding on cuda"].ok
        assert not found["decoding on cuda"].there
        assert (found["cache"].found, found["cache"].hint) == (str(tmp_path / "cache"), "")
        monkeypatch.setattr("os.access", lambda *_: False)
        found = {finding.topic: finding for finding in doctor.examine()}
        assert "STREAMDEPTH_CACHE" in found["cache"].hint

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"streamdepth {sd.__version__}\n"


class TestProcess:
    def test_help_loads_nothing_heavy(self) -> None:
        code = "import sys, streamdepth.cli as cli; cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        loaded = set(done.stderr.split())
        assert "run" in done.stdout
        assert not loaded & {"numba", "onnxruntime", "cv2", "scenedetect", "huggingface_hub", "av", "onnx"}

    def test_ctrl_c_leaves_a_file_that_plays_and_exits_130(self, tmp_path: Path) -> None:
        out, stats = tmp_path / "out.mkv", tmp_path / "s.json"
        command = [
            *PYTHON,
            "run",
            "test:?frames=0&size=160x120",
            "-o",
            str(out),
            "--range",
            "ema",
            "--stats",
            str(stats),
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        _until(lambda: out.exists() and out.stat().st_size > 2000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == "streamdepth: interrupted\n"
        content = json.loads(stats.read_text())
        assert len(read_pts(out)) == content["written"] == content["captured"] > 0

    def test_a_burst_of_signals_is_one_ctrl_c(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As ``timeout`` sends them: to the process, and at once to its group."""
        end = Pipeline._finish

        def again(pipeline: Pipeline, *rest: Any) -> None:
            signal.raise_signal(signal.SIGINT)
            end(pipeline, *rest)

        monkeypatch.setattr(Pipeline, "_finish", again)
        kept = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        press = PatternSource.frames

        def pressing(source: PatternSource) -> Iterator[Frame]:
            for frame in press(source):
                if frame.index == 6:
                    os.kill(os.getpid(), signal.SIGINT)
                yield frame

        monkeypatch.setattr(PatternSource, "frames", pressing)
        out, stats = tmp_path / "o.mkv", tmp_path / "s.json"
        try:
            code = main(["run", "test:?frames=0&size=64x48", "-o", str(out), "--range", "ema", "--stats", str(stats)])
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), kept, strict=True):
                signal.signal(number, handler)
        assert code == 130
        assert "interrupted" in one_line(capsys)
        content = json.loads(stats.read_text())
        assert content["dropped"] == {}
        assert len(read_pts(out)) == content["captured"] > 6

    def test_terminating_is_interrupting(self, tmp_path: Path) -> None:
        out = tmp_path / "out.mp4"
        command = [*PYTHON, "run", "test:?frames=0&size=160x120", "-o", str(out), "--range", "ema"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _until(lambda: out.exists() and out.stat().st_size > 1000)
        process.terminate()
        assert process.wait(60) == 130
        assert read_pts(out)

    def test_kill_9_leaves_an_mkv_that_plays(self, tmp_path: Path) -> None:
        out = tmp_path / "out.mkv"
        process = subprocess.Popen(
            [*PYTHON, "run", "test:?frames=0&size=320x240", "-o", str(out), "--range", "ema"], stderr=subprocess.DEVNULL
        )
        _until(lambda: out.exists() and out.stat().st_size > 60_000)
        process.kill()
        process.wait(10)
        with av.open(str(out)) as container:
            assert sum(1 for _ in container.decode(video=0)) > 10

    def test_progress_on_a_terminal(self, clip: Path, tmp_path: Path) -> None:
        """A pseudo-terminal as standard error: bar, frames, fps and the closing line appear there."""
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [*PYTHON, "run", str(clip), "-o", str(tmp_path / "o.mkv")],
            stderr=slave,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(slave)
        text = _read_all(master)
        assert process.wait(60) == 0
        assert "12/12 frames" in text
        assert "fps" in text
        assert f"clip.mp4 to {tmp_path}/o.mkv: 12 frames" in text
        assert "built-in fp32 on cpu" in " ".join(text.split())


def _until(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def _read_all(descriptor: int) -> str:
    chunks = []
    while select.select([descriptor], [], [], 60)[0]:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(descriptor)
    return b"".join(chunks).decode(errors="replace")


@pytest.mark.parametrize(("given", "low"), [([], True), (["--latency", "normal"], False)])
def test_latency_reaches_streams_in_and_out(given: list[str], low: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def live(_url: str, **how: Any) -> LiveSource:
        asked["in"] = how["low_latency"]
        return LiveSource("rtsp://127.0.0.1:9/none")

    def publish(_url: str, **how: Any) -> None:
        asked["out"] = how["low_latency"], how["preset"]
        raise SinkError("far enough")

    monkeypatch.setattr("streamdepth.sources.live.LiveSource", live)
    monkeypatch.setattr("streamdepth.sinks.rtsp_publish.RtspPublishSink", publish)
    assert main(["run", "rtsp://127.0.0.1:9/in", "-o", "rtsp://127.0.0.1:9/out", *given]) == 1
    assert asked == {"in": low, "out": (low, "ultrafast" if low else "veryfast")}


def test_a_latency_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "test:", "-o", "rtsp://127.0.0.1:9/out", "--latency", "none"]) == 2
    assert "latency" in capsys.readouterr().err


def test_whoever_calls_main_keeps_its_signal_handlers() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["styles"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before

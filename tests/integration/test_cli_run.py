"""`streamdepth run` as people use it: outputs, configuration, what reaches which stage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

import streamdepth as sd
from streamdepth.cli import main
from streamdepth.colorize.colorizer import Colorizer
from streamdepth.core.errors import SinkError
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.file import FileSource
from streamdepth.sources.live.source import LiveSource
from tests.support import need
from tests.support.cli import one_line
from tests.support.media import read_pts, write_clip
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from pathlib import Path


class TestRun:
    def test_a_clip_becomes_depth_with_the_same_times(
        self, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, stats = tmp_path / "out.mp4", tmp_path / "stats.json"
        assert main(["run", str(clip), "-o", str(out), "--stats", str(stats), "--provider", "cpu"]) == 0
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

    @pytest.mark.parametrize("data", ["d.mkv", "d/", "d/%03d.npy"])
    @pytest.mark.usefixtures("on_cpu")
    def test_depth_carried_between_key_frames_is_marked_as_such(
        self, clip: Path, tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, stats = tmp_path / "out.mp4", tmp_path / "stats.json"
        arguments = ["--data", f"{tmp_path}/{data}", "-o", str(out), "--stats", str(stats), "--model-every", "5"]
        assert main(["run", str(clip), *arguments]) == 0
        assert read_pts(out) == read_pts(clip)
        content = json.loads(stats.read_text())
        assert (content["written"], content["propagated"]) == (12, 9)
        assert len(content["stages_ms"]["propagate"]) == 2
        with sd.read_depth(tmp_path / data.partition("/")[0]) as reader:
            assert [frame.propagated for frame in reader] == [index % 5 != 0 for index in range(12)]
            assert (reader[5].propagated, reader[11].propagated) == (False, True)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("extra", [[], ["--range", "ema"], ["--model-every", "2"]])
    @pytest.mark.usefixtures("on_cpu")
    def test_images_of_different_shapes_are_shots_of_their_own(self, tmp_path: Path, extra: list[str]) -> None:
        folder = tmp_path / "images"
        folder.mkdir()
        for name, shape in (("a", (40, 64, 3)), ("b", (64, 40, 3)), ("c", (48, 48, 3))):
            ramp = np.tile(np.arange(shape[1], dtype=np.uint8)[:, None] * 3, (shape[0], 1, 3))
            Image.fromarray(ramp).save(folder / f"{name}.png")
        assert main(["run", str(folder), "-o", f"{tmp_path}/out/", *extra]) == 0
        sizes = []
        for name in "abc":
            with Image.open(tmp_path / "out" / f"{name}.png") as image:
                sizes.append(image.size)
        assert sizes == [(64, 40), (40, 64), (48, 48)]

    @pytest.mark.slow
    def test_several_outputs_at_once(self, clip: Path, tmp_path: Path) -> None:
        outputs = ["-o", f"{tmp_path}/a.mkv", "-o", f"{tmp_path}/b/", "--data", f"{tmp_path}/d.mkv", "-o", "null:"]
        assert main(["run", str(clip), *outputs, "--view", "side", "--max-frames", "5"]) == 0
        with av.open(str(tmp_path / "a.mkv")) as container:
            assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 48)
        assert len(list((tmp_path / "b").glob("*.png"))) == 5
        depths = list(sd.read_depth(tmp_path / "d.mkv"))
        assert len(depths) == 5
        assert depths[0].values.shape == (48, 64)

    @pytest.mark.usefixtures("on_cpu")
    def test_a_name_without_suffix_is_told_to_be_a_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["run", "test:?size=64x48", "--max-frames", "1", "--range", "ema", "--overwrite", "-o"]
        assert main([*arguments, f"{tmp_path}/out"]) == 0
        assert f"{tmp_path}/out has no suffix; images are written to a folder" in one_line(capsys)
        assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".png"]
        assert main([*arguments, "null:"]) == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.slow
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

    @pytest.mark.usefixtures("on_cpu")
    @pytest.mark.parametrize("stem", ["50%d {x} [1]", "-dash", "n" * 250])
    def test_a_clip_of_any_name(self, stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_clip(tmp_path / f"{stem}.mp4", frames=2, width=32, height=32)
        assert main(["run", "-q", "-o", "{name}.mkv", "--", f"{stem}.mp4"]) == 0
        assert len(read_pts(tmp_path / f"{stem}.mkv")) == 2

    @pytest.mark.usefixtures("on_cpu")
    def test_existing_outputs_are_skipped_on_request(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("a", "b"):
            write_clip(tmp_path / f"{name}.mp4", frames=3, width=64, height=48)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.mkv").write_bytes(b"done before")
        (tmp_path / "out" / "b.partial.mkv").write_bytes(b"left by a killed run")
        arguments = ["run", str(tmp_path / "*.mp4"), "-o", str(tmp_path / "out" / "{name}.mkv"), "--skip-existing"]
        assert main(arguments) == 0
        assert "a.mp4: skipped" in capsys.readouterr().err.replace("\n", " ")
        assert (tmp_path / "out" / "a.mkv").read_bytes() == b"done before"
        assert len(read_pts(tmp_path / "out" / "b.mkv")) == 3
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mkv", "b.mkv"]
        assert main(arguments) == 0
        capsys.readouterr()
        assert main([*arguments, "--overwrite"]) == 2
        assert "exclude each other" in one_line(capsys)

    @pytest.mark.usefixtures("on_cpu")
    @pytest.mark.parametrize("output", ["{name}-%02d.png", "{name}/%02d.png", "{name}"])
    def test_existing_images_are_skipped_on_request(
        self, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a", "b"):
            write_clip(tmp_path / f"{name}.mp4", frames=2, width=64, height=48)
        for clip in ("a.mp4", "*.mp4"):
            arguments = ["run", str(tmp_path / clip), "-o", f"{tmp_path}/out/{output}", "--skip-existing"]
            assert main(arguments) == 0
        assert "a.mp4: skipped" in capsys.readouterr().err
        assert len(list((tmp_path / "out").rglob("*.png"))) == 4

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
        monkeypatch.setattr("streamdepth.media.hwaccel.cannot_decode", lambda kind: f"no {kind} to decode")
        monkeypatch.setattr("streamdepth.media.hwaccel.cannot_encode", lambda name, *_: f"no {name}")
        out, stats = tmp_path / "out.mp4", tmp_path / "s.json"
        assert main(["run", str(clip), "-o", str(out), "--hwaccel", wanted, "--stats", str(stats)]) == 0
        assert read_pts(out) == read_pts(clip)
        notes = [note for note in json.loads(stats.read_text())["notes"] if "software" in note]
        assert notes == (
            [f"{clip.name}: decoding in software: no cuda to decode", f"{out}: encoding in software: no h264_nvenc"]
            if wanted == "cuda"
            else []
        )

    @pytest.mark.usefixtures("on_cpu")
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

    @pytest.mark.slow
    def test_batch_auto_measures(self, clip: Path, tmp_path: Path) -> None:
        stats = tmp_path / "s.json"
        assert main(["run", str(clip), "-o", "null:", "--batch", "auto", "--stats", str(stats)]) == 0
        assert json.loads(stats.read_text())["batch"] >= 1

    def test_a_third_party_model_of_metres(self, clip: Path, tmp_path: Path) -> None:
        """FastDepth: metres, far = large, RGB in 0..1 without mean and deviation."""
        model = need.shared("models/fastdepth/fastdepth.onnx")
        data = tmp_path / "d.mkv"
        options = ["--model", str(model), "--sense", "metric_m", "--normalize", "none"]
        assert main(["run", str(clip), *options, "-o", "null:", "--data", str(data)]) == 0
        reader = sd.read_depth(data)
        assert reader.metadata.sense is sd.Sense.METRIC_M
        depth = np.stack([frame.values for frame in reader])
        assert 0.1 < np.median(depth) < 20

    @pytest.mark.usefixtures("on_cpu")
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


@pytest.mark.parametrize(("given", "low"), [([], True), (["--latency", "normal"], False)])
def test_latency_reaches_streams_in_and_out(given: list[str], low: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def live(_url: str, **how: Any) -> LiveSource:
        asked["in"] = how["low_latency"]
        return LiveSource("rtsp://127.0.0.1:9/none")

    def publish(_url: str, **how: Any) -> None:
        asked["out"] = how["low_latency"], how["preset"]
        raise SinkError("far enough")

    monkeypatch.setattr("streamdepth.sources.live.source.LiveSource", live)
    monkeypatch.setattr("streamdepth.sinks.rtsp.publish.RtspPublishSink", publish)
    assert main(["run", "rtsp://127.0.0.1:9/in", "-o", "rtsp://127.0.0.1:9/out", *given]) == 1
    assert asked == {"in": low, "out": (low, "auto")}


@pytest.mark.usefixtures("on_cpu")
def test_outputs_of_sources_with_one_stem_have_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.mp4", "x.mkv", "a b.mp4", "a_b.mp4"):
        write_clip(tmp_path / name, frames=2, width=64, height=48)
    assert main(["run", "x.mp4", "x.mkv", "a b.mp4", "a_b.mp4", "-o", "o/{name}.mkv"]) == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a b.mkv", "a_b.mkv", "x.mkv.mkv", "x.mp4.mkv"]


def test_outputs_that_are_one_file_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").mkdir()
    outputs = ["-o", str(tmp_path / "out.mkv"), "-o", str(tmp_path / "x" / ".." / "out.mkv")]
    assert main(["run", "test:?frames=2", *outputs]) == 2
    assert "is named twice" in capsys.readouterr().err

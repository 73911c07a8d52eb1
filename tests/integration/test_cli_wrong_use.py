"""What the command line refuses: one line that names the thing and the way out, the right exit code, nothing harmed."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from streamdepth.cli import main
from tests.support.cli import one_line
from tests.support.media import read_pts, write_clip

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "none.mp4", "-o", "x.mkv"], 1),
        (["image", "none.png", "-o", "x.png"], 1),
        (["serve", "none.mp4", "--listen", "http://127.0.0.1:0"], 1),
        (["bench", "none.mp4"], 1),
        (["restyle", "none.mkv", "-o", "y.mkv"], 1),
        (["verify", "./none.onnx"], 1),
        (["build", "./none.onnx"], 1),
        (["models", "show", "./none.onnx"], 1),
        (["models", "pull", "./none.onnx"], 1),
        (["run", "test:", "-o", "x.mkv", "--model", "./none.onnx"], 1),
        (["run", "test:", "-o", "x.mkv", "--config", "none.yaml"], 2),
        (["run", "test:", "-o", "x.mkv", "--intrinsics", "none.yaml"], 2),
        (["run", "rtsps://127.0.0.1:1/x", "-o", "x.mkv", "--tls-ca", "none.pem"], 2),
        (["run", "rtsp://127.0.0.1:1/x", "-o", "x.mkv", "--credentials", "none.txt"], 2),
        (["serve", "--token-file", "none.txt"], 2),
        (["bench", "--compare", "none.json"], 2),
    ],
)
def test_an_input_that_does_not_exist_is_a_failure_and_the_file_of_an_option_wrong_use(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert re.search(r"none\.\w+.*; \w+", one_line(capsys))
    assert not list(tmp_path.iterdir())


class TestWrongUse:
    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["run"], 2, "no source given"),
            (["run", "test:"], 2, "add -o OUT"),
            (["run", "nothing-here.mp4", "-o", "x.mp4"], 1, "nothing-here.mp4: no such file"),
            (["run", "test:", "-o", "out.mp5"], 2, "did you mean '.mp4'"),
            (["run", "x" * 300, "-o", "out.mp4"], 1, "x: the name is too long for a file; choose a shorter one"),
            (["run", "test:", "-o", "out.mp4", "--batch", "0"], 2, "batch must be 1 to 256 frames, or auto"),
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
            (["run", "test:", "-o", "a.partial.mp4", "-o", "a.mp4"], 2, "is the name of a.mp4 while it is written"),
            (["run", "test:", "rtsp://127.0.0.1:9/x", "-o", "{name}.mp4"], 2, "run them separately"),
            (["run", "test:", "-o", "b{foo}.mp4"], 2, "unknown field {foo}; use {image}"),
            (["run", "test:", "-o", "out%06d.mp4"], 2, "a video is one file"),
            (["run", "test:", "-o", "out.mp4", "--sense", "metric_m"], 2, "built-in gives relative_inverse"),
            (["run", "test:", "-o", "out.mp4", "--preset", "foo"], 2, "preset is one of auto, ultrafast"),
            (["run", "test:", "-o", "out.mp4", "--provider", "cpu:gpu"], 2, "use --provider cpu"),
            (["run", "test:", "-o", "out.mp4", "--dtype", "q8"], 1, "it has fp32"),
            (["run", "test:", "-o", "out.mp4", "--credentials", "nope"], 2, "credentials: there is no file nope"),
            (["run", "test:", "-o", "out.mp4", "--camera-mode", "640x480"], 2, "omit --camera-mode"),
            (["run", "test:", "-o", "out.mp4", "--data-size", "model"], 2, "add --data OUT"),
            (["run", "test:", "--serve", "8555"], 2, "8555: only rtsp:// and http:// can be served; use e.g. rtsp://"),
            (["rnu"], 2, "did you mean 'run'"),
            (["image", "nothing.png", "-o", "x.png"], 1, "nothing.png"),
            (["image", "nothing.png"], 2, "--json"),
            (["styles", "--preview", "x.jpg"], 2, "end its name with .png"),
            (["run", "test:", "-o", "-"], 2, "standard output"),
            (["run", "test:", "--data", "-"], 2, "standard output"),
            (["image", "http://host/x.jpg", "--json"], 2, "http://host/x.jpg: images are not downloaded from URLs"),
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
            (notes, "is not a statistics file"),
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

    @pytest.mark.slow
    def test_a_bad_clip_of_several_is_passed_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.mp4").write_bytes(bytes(range(256)) * 50)
        for name in ("b", "c"):
            write_clip(tmp_path / f"{name}.mp4", frames=3, width=32, height=32)
        (tmp_path / "b.mkv").write_bytes(b"precious")
        stats = tmp_path / "s.json"
        named = [f"{tmp_path}/*.mp4", f"{tmp_path}/none.mp4"]
        arguments = ["run", *named, "-o", f"{tmp_path}/{{name}}.mkv", "--stats", str(stats)]
        assert main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        found = [name in line for name, line in zip(("none.mp4", "a.mp4", "b.mkv"), lines, strict=False)]
        assert [*found, len(lines)] == [True, True, True, 4]
        assert "3 of 4 clips failed: " in lines[3]
        assert all(name in lines[3] for name in ("a.mp4", "b.mp4", "none.mp4"))
        assert len(read_pts(tmp_path / "c.mkv")) == 3
        assert (tmp_path / "b.mkv").read_bytes() == b"precious"
        content = json.loads(stats.read_text())
        assert [run["processed"] for run in content["runs"]] == [0, 0, 0, 3]
        assert [run["error"] for run in content["runs"]] == [
            *(line.removeprefix("streamdepth: ") for line in lines[:3]),
            None,
        ]
        assert content["error"] == content["runs"][0]["error"]

    def test_debug_shows_the_traceback(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", str(tmp_path / "none.mp4"), "--debug", "-o", "x.mkv"]) == 1
        assert "Traceback" in capsys.readouterr().err


def test_a_latency_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "test:", "-o", "rtsp://127.0.0.1:9/out", "--latency", "none"]) == 2
    assert "latency" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError])
def test_an_interrupt_while_modules_are_loaded_is_one_line(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: list[str]) -> list[str]:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise error

    monkeypatch.setattr(sys.modules["streamdepth.cli.main"], "_with_values", interrupted)
    assert main(["run", "test:", "-o", "null:"]) == 130
    assert one_line(capsys) == "streamdepth: interrupted\n"


def test_an_interrupt_at_the_very_start_is_one_line() -> None:
    program = """
import sys
class Interrupt:
    def find_spec(self, name, *_):
        if name == "streamdepth.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
import streamdepth.cli
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "streamdepth: interrupted\n")

"""The command line around its runs: lists, help, signals, the terminal."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import av
import pytest

import streamdepth as sd
from streamdepth import doctor
from streamdepth.cli import main
from streamdepth.pipeline import Pipeline
from streamdepth.sinks.files import partial_path
from streamdepth.sources.file import FileSource
from streamdepth.sources.pattern import PatternSource
from tests.support import need
from tests.support.cli import one_line
from tests.support.media import read_pts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.core.frame import Frame

PYTHON = [sys.executable, "-m", "streamdepth"]


class TestLists:
    def test_styles(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["styles"]) == 0
        names = capsys.readouterr().out.split()
        assert {"viridis", "inferno", "jet", "grayscale", "turbo", "spectral_r"} <= set(names)
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
        monkeypatch.setattr("streamdepth.media.hwaccel.cannot_encode", lambda _: "cannot be opened")
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
        monkeypatch.setattr("streamdepth.media.hwaccel.cannot_decode", lambda kind: f"no {kind}; plug one in")
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
        assert not loaded & {"numba", "onnxruntime", "cv2", "huggingface_hub", "av", "onnx"}

    @need.posix_signals
    def test_ctrl_c_leaves_a_file_that_plays_and_exits_130(self, tmp_path: Path) -> None:
        out, stats = tmp_path / "out.mkv", tmp_path / "s.json"
        command = [
            *PYTHON,
            "run",
            "test:?frames=0&size=160x120",
            "-o",
            str(out),
            "--policy",
            "every",
            "--range",
            "ema",
            "--stats",
            str(stats),
            "--provider",
            "cpu",
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        _until(lambda: partial_path(out).exists() and partial_path(out).stat().st_size > 2000)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == "streamdepth: interrupted\n"
        content = json.loads(stats.read_text())
        assert len(read_pts(out)) == content["written"] == content["captured"] > 0

    @need.posix_signals
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
            options = ["--range", "ema", "--policy", "every", "--stats", str(stats), "--provider", "cpu"]
            code = main(["run", "test:?frames=0&size=64x48", "-o", str(out), *options])
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), kept, strict=True):
                signal.signal(number, handler)
        assert code == 130
        assert "interrupted" in one_line(capsys)
        content = json.loads(stats.read_text())
        assert content["dropped"] == {}
        assert len(read_pts(out)) == content["captured"] > 6

    @need.posix_signals
    @pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_an_interrupted_file_run_names_its_unfinished_outputs(
        self,
        number: str,
        clip: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        press, stop, stopped = FileSource.frames, Pipeline.stop, threading.Event()

        def pressing(source: FileSource) -> Iterator[Frame]:
            for frame in press(source):
                if frame.index == 6:
                    os.kill(os.getpid(), getattr(signal, number))
                    assert stopped.wait(60)
                yield frame

        def stopping(pipeline: Pipeline) -> None:
            stop(pipeline)
            stopped.set()

        out, depth = tmp_path / "o.mkv", tmp_path / "d.mkv"
        command = ["run", str(clip), "-o", str(out), "--data", str(depth), "--range", "ema", "-q"]
        assert main([*command, "--max-frames", "1"]) == 0  # compiles kernels, which takes longer than the deadline
        out.unlink()
        depth.unlink()
        monkeypatch.setattr(FileSource, "frames", pressing)
        monkeypatch.setattr(Pipeline, "stop", stopping)
        assert main(command) == 130
        unfinished = [partial_path(out), partial_path(depth)]
        assert one_line(capsys) == f"streamdepth: interrupted; unfinished output: {unfinished[0]}, {unfinished[1]}\n"
        assert sorted(tmp_path.glob("[od].*")) == sorted(unfinished)
        assert read_pts(unfinished[0])

    def test_a_partial_file_of_an_earlier_run_is_not_named(
        self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def interrupted(_: FileSource) -> NoReturn:
            raise KeyboardInterrupt

        monkeypatch.setattr(FileSource, "open", interrupted)
        out = tmp_path / "o.mkv"
        partial_path(out).write_bytes(b"of an earlier run")
        assert main(["run", str(clip), "-o", str(out), "-q"]) == 130
        assert "unfinished" not in capsys.readouterr().err
        assert partial_path(out).exists()

    @need.posix_signals
    def test_terminating_is_interrupting(self, tmp_path: Path) -> None:
        out = tmp_path / "out.mp4"
        command = [*PYTHON, "run", "test:?frames=0&size=160x120", "-o", str(out), "--range", "ema"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        _until(lambda: partial_path(out).exists() and partial_path(out).stat().st_size > 1000)
        process.terminate()
        assert process.wait(60) == 130
        assert read_pts(out)

    @need.posix_signals
    def test_kill_9_leaves_an_mkv_that_plays(self, tmp_path: Path) -> None:
        out = tmp_path / "out.mkv"
        process = subprocess.Popen(
            [*PYTHON, "run", "test:?frames=0&size=320x240", "-o", str(out), "--range", "ema"], stderr=subprocess.DEVNULL
        )
        _until(lambda: partial_path(out).exists() and partial_path(out).stat().st_size > 60_000)
        process.kill()
        process.wait(10)
        assert not out.exists()
        with av.open(str(partial_path(out))) as container:
            assert sum(1 for _ in container.decode(video=0)) > 10

    @need.posix_signals
    def test_progress_on_a_terminal(self, clip: Path, tmp_path: Path) -> None:
        """A pseudo-terminal as standard error: bar, frames, fps and the closing line appear there."""
        pty = importlib.import_module("pty")  # Windows has none
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [*PYTHON, "run", str(clip), "-o", str(tmp_path / "o.mkv"), "--provider", "cpu"],
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


def test_whoever_calls_main_keeps_its_signal_handlers() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    assert main(["styles"]) == 0
    assert [signal.getsignal(number) for number in numbers] == before


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


@need.posix_signals
def test_an_interrupted_run_ends_with_its_summary_on_a_terminal(tmp_path: Path) -> None:
    out = tmp_path / "o.mkv"
    pty = importlib.import_module("pty")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*PYTHON, "run", "test:?frames=0&size=160x120", "-o", str(out)],
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    _until(lambda: partial_path(out).exists() and partial_path(out).stat().st_size > 2000)
    process.send_signal(signal.SIGINT)
    text = " ".join(_read_all(master).split())
    assert process.wait(60) == 130
    assert f"test: to {out}:" in text
    assert text.endswith("streamdepth: interrupted")


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1", "libvpx-vp9", "ffv1"])
def test_encoders_print_nothing(codec: str, tmp_path: Path) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    command = [*PYTHON, "run", "test:?frames=3&size=160x120", "-o", str(tmp_path / "o.mkv"), "--codec", codec]
    command += ["--provider", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestEncodings:
    @pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
    def test_output_has_escapes_for_what_the_encoding_lacks(self, encoding: str, tmp_path: Path) -> None:
        folder = tmp_path / "深度"
        folder.mkdir()
        environ = {**os.environ, "PYTHONIOENCODING": encoding, "STREAMDEPTH_CACHE": str(folder)}
        done = subprocess.run([*PYTHON, "doctor"], capture_output=True, env=environ, timeout=60)
        assert done.returncode == 0, done.stderr
        assert b"\\u6df1\\u5ea6" in done.stdout
        missing = subprocess.run(
            [*PYTHON, "run", str(folder / "x.mp4"), "-o", "y.mp4"], capture_output=True, env=environ, timeout=60
        )
        assert missing.returncode == 1
        assert b"\\u6df1\\u5ea6/x.mp4: no such file" in missing.stderr

    def test_help_is_ascii_where_the_encoding_is(self) -> None:
        environ = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run([*PYTHON, "run", "--help"], capture_output=True, env=environ, timeout=60)
        assert done.returncode == 0
        assert b"--output" in done.stdout
        assert b"\\u" not in done.stdout


def test_what_the_machine_refuses_is_one_line(tmp_path: Path) -> None:
    def run(*arguments: str, **options: Any) -> tuple[int, str]:
        command = [*PYTHON, *arguments]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=90, check=False, **options)
        return done.returncode, done.stderr

    closed = run("image", "-", "-o", str(tmp_path / "o.png"), preexec_fn=lambda: os.close(0))
    assert closed == (2, "streamdepth: -: standard input is closed; pipe an image into it, or name a file\n")
    with Path("/dev/full").open("w") as full:
        code, errors = run("models", "list", stdout=full)
    assert (code, errors) == (1, "streamdepth: standard output: no space left on device; free some space\n")
    out = tmp_path / "a.mkv"
    code, errors = run("run", "test:?frames=3&size=64x48", "-o", str(out), preexec_fn=lambda: os.close(2))
    assert code == 0
    assert out.stat().st_size


def test_no_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("streamdepth.cli.jobs.plan", refuse)
    assert main(["run", "test:", "-o", "null:"]) == 1
    assert (
        capsys.readouterr().err == "streamdepth: out of memory; use a smaller --size, fewer sources or smaller frames\n"
    )


def test_text_that_is_not_utf_8_fails_no_run(tmp_path: Path) -> None:
    file = tmp_path / "latin.avi"
    with av.open(str(file), "w") as container:
        container.metadata["title"] = "MuXller"
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    file.write_bytes(file.read_bytes().replace(b"MuXller", b"M\xfc-ller"))
    assert main(["run", str(file), "-o", str(tmp_path / "out.mkv"), "-q"]) == 0


def test_the_package_logs_errors_and_libraries_log_nothing() -> None:
    """A page answers "see the server's log"; Pillow logs an error for some damaged TIFF files."""
    code = (
        "import logging; from streamdepth.cli import process; process.route_logs();"
        "logging.getLogger('PIL.TiffImagePlugin').error('noise');"
        "logging.getLogger('streamdepth.web').error('internal error: %s', 'cause')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "streamdepth: internal error: cause\n"

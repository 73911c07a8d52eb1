"""Rerun recordings, read back by the viewer's own program. Skips without the extra ``rerun``, which is 170 MB."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamdepth as sd
from streamdepth.cli.main import main
from streamdepth.core.errors import DataFormatError, MissingDependencyError, SinkError, UsageError
from streamdepth.core.frame import DepthRange, Result
from streamdepth.sinks.robotics.rerun import RerunSink
from tests.support.cli import one_line
from tests.support.sinks import paint, result, run_sink, stream_info


def camera(width_px: int, height_px: int) -> sd.Intrinsics:
    return sd.Intrinsics(50, 52, 30, 25, 64, 48).for_size(width_px, height_px)


def results(count: int, sense: sd.Sense = sd.Sense.METRIC_M) -> list[Result]:
    made = []
    for index in range(count):
        values = np.full((24, 32), 1 + index, np.float32)
        values[0, 0] = np.nan
        whole = result(paint(64, 48, index), index, index=index)
        made.append(Result(whole.frame, sd.DepthMap(values, sense, anchor_error=0.125), DepthRange(1, 5)))
    return made


class TestRecording:
    @pytest.fixture(autouse=True)
    def _package(self) -> None:
        pytest.importorskip("rerun", reason="rerun-sdk (extra rerun) is not installed")

    def program(self) -> list[str]:
        found = shutil.which("rerun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        assert found is not None
        return [found]

    def printed(self, path: Path, home: Path, *, complete: bool = True) -> str:
        environment = {**os.environ, "HOME": str(home), "COLUMNS": "100000"}
        for command in (["verify"], ["print", "-vvv"])[not complete :]:
            done = subprocess.run(
                [*self.program(), "rrd", *command, str(path)],
                capture_output=True,
                text=True,
                timeout=60,
                env=environment,
            )
            assert done.returncode == 0, done.stderr
        return done.stdout

    @pytest.mark.parametrize("live", [False, True])
    def test_read_by_the_viewers_program(self, tmp_path: Path, live: bool) -> None:
        path = tmp_path / "run.rrd"
        sink = RerunSink(path, intrinsics=camera, wall_clock_ns=lambda: 10**18, monotonic_ns=lambda: 0)
        run_sink(sink, stream_info(live=live), results(3))
        text = self.printed(path, tmp_path)
        assert set(re.findall(r"entity_path: /(camera\S*)", text)) == {
            "camera",
            "camera/depth",
            "camera/image",
            "camera/metres",
        }
        assert "[[50.0, 0.0, 0.0, 0.0, 52.0, 0.0, 30.0, 25.0, 1.0]]" in text
        assert "[[25.0, 0.0, 0.0, 0.0, 26.0, 0.0, 14.75, 12.25, 1.0]]" in text
        assert "anchored, relative error 0.125" in text
        assert ("2001-09-09T01:46:40" in text) is live
        assert ("PT0.08S" in text) is not live
        two_metres = ", ".join(map(str, np.float32(2).tobytes()))
        assert f"[[0, 0, 0, 0, {two_metres}, {two_metres}," in text

    def test_sent_to_a_viewer_that_runs(self, tmp_path: Path) -> None:
        """The viewer's program takes what is sent and saves it; it stands for a window."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        saved = tmp_path / "saved.rrd"
        command = [*self.program(), "--save", str(saved), "--port", str(port), "--bind", "127.0.0.1"]
        environment = {**os.environ, "HOME": str(tmp_path)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as viewer:
            assert viewer.stderr is not None
            assert any("Listening for gRPC" in line for line in viewer.stderr)
            run_sink(sd.sink_for(f"rerun+http://127.0.0.1:{port}/proxy", intrinsics=camera), stream_info(), results(2))
            viewer.send_signal(signal.SIGINT)
            viewer.communicate(timeout=30)
        text = self.printed(saved, tmp_path, complete=False)  # a viewer that is interrupted writes no footer
        assert {"/camera/image", "/camera/depth"} <= set(re.findall(r"entity_path: (/camera\S*)", text))
        assert "anchored, relative error 0.125" in text

    @pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
    def test_no_viewer(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
            port = closed.getsockname()[1]
            monkeypatch.setattr("streamdepth.sinks.robotics.rerun._PORT", port)
            monkeypatch.delenv("DISPLAY", raising=False)
            monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
            options = ["--fov", "60", "--anchor", "0.5,0.95=1.2", "--anchor", "0.5,0.3=6", "--provider", "cpu"]
            assert main(["run", "test:?size=64x48&frames=2", "--show", "rerun", *options]) == 1
            assert "rerun: the viewer needs a display, and none is set; write -o run.rrd" in one_line(capsys)
            with pytest.raises(SinkError, match=rf"{port}/proxy: no Rerun viewer answers; start one there with: rerun"):
                run_sink(RerunSink(f"rerun+http://127.0.0.1:{port}/proxy", intrinsics=camera), stream_info(), [])

    def test_what_is_no_metre_and_no_camera(self, tmp_path: Path) -> None:
        path = tmp_path / "run.rrd"
        with pytest.raises(DataFormatError, match=r"run\.rrd: holds metres, but the model's depth is relative_depth"):
            run_sink(RerunSink(path, intrinsics=camera), stream_info(), results(1, sd.Sense.RELATIVE_DEPTH))
        with pytest.raises(UsageError, match=r"run\.rrd: needs the camera's intrinsics"):
            run_sink(sd.sink_for(str(path)), stream_info(), [])
        assert not path.exists()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependencyError, match=r"needs the package rerun-sdk; pip install"):
        run_sink(RerunSink(tmp_path / "run.rrd", intrinsics=camera), stream_info(), [])

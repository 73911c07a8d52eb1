"""Rerun recordings, read back by the viewer's own program. Skips without the extra ``rerun``, which is 170 MB."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamdepth as sd
from streamdepth.core.errors import DataFormatError, MissingDependencyError, UsageError
from streamdepth.core.frame import DepthRange, Result
from streamdepth.sinks.robotics.rerun import RerunSink
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

    def printed(self, path: Path, home: Path) -> str:
        program = shutil.which("rerun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        assert program is not None
        environment = {**os.environ, "HOME": str(home), "COLUMNS": "100000"}
        for command in (["verify"], ["print", "-vvv"]):
            done = subprocess.run(
                [program, "rrd", *command, str(path)], capture_output=True, text=True, timeout=60, env=environment
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

"""``--resume`` after ``kill -9`` at random moments."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import streamdepth as sd
from tests.support import need
from tests.support.media import decode_rgb, draw_index, write_clip
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from pathlib import Path

_KILLS = 3


@pytest.mark.timeout(280)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_three_times_equals_an_uninterrupted_one(workers: int, tmp_path: Path) -> None:
    """Killed once a random number of further files is complete; the last run finishes. Frame for frame.

    With two workers, depth is stabilized.
    """
    clip = write_clip(tmp_path / "clip.mp4", frames=160, draw=draw_index, options={"preset": "veryfast"})
    model = write_depth_model(tmp_path / "model.onnx", height=56, width=56)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    more = ["--stabilize", "on"] if workers > 1 else []
    assert _started(clip, model, whole, workers, *more).wait() == 0
    chance = random.Random(20261128 + workers)
    resumed = 0
    for _ in range(_KILLS):
        process = _started(clip, model, killed, workers, *more)
        enough = len(_complete(killed)) + chance.randint(0, 6)
        while process.poll() is None and len(_complete(killed)) < enough:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        process.kill()
        process.wait()
        resumed += bool(_complete(killed))
    assert not (killed / "depth.mkv").exists()
    assert resumed
    assert _started(clip, model, killed, workers, *more).wait() == 0
    for name in ("out.mp4", "out.mkv"):
        first, second = decode_rgb(whole / name), decode_rgb(killed / name)
        assert len(first) == len(second) == 160
        assert all((one == other).all() for one, other in zip(first, second, strict=True))
    with sd.read_depth(whole / "depth.mkv") as one, sd.read_depth(killed / "depth.mkv") as other:
        assert [(frame.pts, frame.values.tobytes()) for frame in one] == [
            (frame.pts, frame.values.tobytes()) for frame in other
        ]
    assert sorted(path.name for path in killed.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A clip, a model, and the outputs of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("made")
    clip = write_clip(folder / "clip.mp4", frames=160, draw=draw_index, options={"preset": "veryfast"})
    model = write_depth_model(folder / "model.onnx", height=56, width=56)
    assert _started(clip, model, folder / "whole", 1).wait() == 0
    return clip, model, folder / "whole"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("engine", [["--workers", "2"], ["--workers", "2", "--engine", "ray"]], ids=["local", "ray"])
def test_ctrl_c_cancels_the_workers_and_leaves_what_resume_continues(
    engine: list[str], made: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    if "ray" in engine:
        need.module("ray", "the extra ray")
    clip, model, whole = made
    stopped = tmp_path / "stopped"
    process = _started(clip, model, stopped, 2, *engine[2:], stderr=subprocess.PIPE)
    while process.poll() is None and len(_complete(stopped)) < 2:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 130, said
    assert "--resume continues" in said
    assert not (stopped / "depth.mkv").exists()
    assert len(_complete(stopped)) >= 2
    assert not list(stopped.glob(".out.mp4.segments/tmp-*")), "a cancelled task left a file"
    assert _started(clip, model, stopped, 1).wait() == 0
    assert (whole / "out.mp4").read_bytes() == (stopped / "out.mp4").read_bytes()


def _started(
    clip: Path, model: Path, folder: Path, workers: int, *more: str, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "streamdepth", "run", str(clip), "-m", str(model), "--provider", "cpu", "--resume"]
    outputs = ["-o", f"{folder}/out.mp4", "-o", f"{folder}/out.mkv", "--data", f"{folder}/depth.mkv"]
    return subprocess.Popen([*command, *outputs, "--workers", str(workers), "--segment", "0.5", *more], stderr=stderr)


def _complete(folder: Path) -> list[Path]:
    return [path for path in folder.glob(".out.mp4.segments/*") if not path.name.startswith("tmp-")]

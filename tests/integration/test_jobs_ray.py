"""Segments on Ray actors: the same files as on this machine, also after a worker was killed."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from streamdepth.cli import main
from streamdepth.core.errors import SourceError
from streamdepth.jobs import ClipSettings, DepthOutput, ModelSettings, TaskResult, VideoOutput
from streamdepth.jobs.clip import ClipRun
from streamdepth.jobs.engines import InlineEngine
from tests.support import need
from tests.support.cli import one_line
from tests.support.media import draw_index, write_clip
from tests.support.models import write_depth_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Progress:
    """Keeps results; ``after`` is called with each."""

    def __init__(self, after: Callable[[TaskResult], None] = lambda _: None) -> None:
        self.results: list[TaskResult] = []
        self._after = after

    def note(self, message: str) -> None:
        pass

    def planned(self, frames: int, done: int) -> None:
        pass

    def finished(self, result: TaskResult) -> None:
        self.results.append(result)
        self._after(result)


def _settings(tmp_path: Path, name: str) -> ClipSettings:
    folder = tmp_path / name
    folder.mkdir()
    clip, model = tmp_path / "clip.mp4", tmp_path / "model.onnx"
    if not clip.exists():
        write_clip(clip, frames=120, draw=draw_index, options={"preset": "veryfast"})
        write_depth_model(model, height=56, width=56)
    return ClipSettings(
        source=str(clip),
        source_id="clip.mp4",
        model=ModelSettings(model=str(model), provider="cpu"),
        videos=(VideoOutput(path=str(folder / "out.mp4"), codec="libx264"),),
        depths=(DepthOutput(path=str(folder / "depth.mkv")),),
        segment_seconds=0.5,
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_task_of_a_killed_actor_runs_again(tmp_path: Path) -> None:
    """The process of an actor gets SIGKILL after its first segment; Ray restarts it, and nothing is lost."""
    need.module("ray", "the extra ray")
    from streamdepth.jobs.engines import RayEngine

    plain = _settings(tmp_path, "plain")
    inline = InlineEngine()
    ClipRun(plain).run(inline, Progress())
    inline.close()
    killed: list[str] = []

    def kill(result: TaskResult) -> None:
        if not killed:
            killed.append(result.worker)
            os.kill(int(result.worker.rpartition(":")[2]), signal.SIGKILL)

    on_ray = _settings(tmp_path, "ray")
    progress = Progress(kill)
    engine = RayEngine(2)
    try:
        stats = ClipRun(on_ray).run(engine, progress)
    finally:
        engine.close()
    assert stats.processed == 120
    later = {result.worker for result in progress.results[1:]}
    assert later - set(killed), "no other process ran a segment"
    assert len(progress.results) == 2 * len({result.segment for result in progress.results})
    assert (tmp_path / "ray" / "out.mp4").read_bytes() == (tmp_path / "plain" / "out.mp4").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_error_of_a_task_is_raised_as_it_is(tmp_path: Path) -> None:
    need.module("ray", "the extra ray")
    from streamdepth.jobs.engines import RayEngine

    settings = _settings(tmp_path, "ray")
    engine = RayEngine(1)

    def cut(result: TaskResult) -> None:
        if result.stage == "depth":
            write_clip(tmp_path / "clip.mp4", frames=10, options={"preset": "veryfast"})

    try:
        with pytest.raises(SourceError, match=r"clip\.mp4"):
            ClipRun(settings).run(engine, Progress(cut))
    finally:
        engine.close()
    assert not (tmp_path / "ray" / "out.mp4").exists()


def test_an_address_without_ray_is_refused(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(clip), "-o", str(tmp_path / "o.mp4"), "--ray-address", "auto"]) == 2
    assert one_line(capsys) == (
        "streamdepth: ray-address auto: Ray is not used; add --engine ray, or omit --ray-address\n"
    )

"""What the bar shows of a run."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from streamdepth.cli import process
from streamdepth.cli.run import summary
from streamdepth.pipeline import Pipeline, RunStats, Snapshot
from streamdepth.pipeline.stats import SinkStats
from tests.support.stages import RecordingSink, ScriptedSource, fake_estimator

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The last state of the bar, as text."""

    def show(state: Snapshot, title: str = "clip") -> str:
        out = io.StringIO()
        monkeypatch.setattr(process, "progress_shown", lambda _: True)
        monkeypatch.setattr(
            process, "progress_console", lambda: Console(file=out, width=120, force_terminal=True, color_system=None)
        )
        with process.frames_bar(title, lambda: state, quiet=False):
            pass
        return out.getvalue()

    return show


def snapshot(processed: int, written: int, spool: int, *, expected: int | None = None) -> Snapshot:
    return Snapshot(
        captured=500,
        processed=processed,
        written=written,
        dropped={"policy": 3} if processed else {},
        expected=expected,
        seconds=10.0,
        queues={"spool": spool},
    )


def test_frames_that_wait_for_their_shot_count(shown: Callable[..., str]) -> None:
    text = shown(snapshot(0, 0, 430))
    assert "430 frames 43.0 fps" in " ".join(text.split())  # a clip of one shot is written at its end
    text = shown(snapshot(100, 98, 330, expected=900))
    assert "430/900 frames 98 written" in " ".join(text.split())
    assert "3 dropped" in text


def test_written_is_left_out_where_nothing_waits(shown: Callable[..., str]) -> None:
    text = shown(snapshot(430, 428, 0))
    assert "430 frames" in text
    assert "written" not in text


def test_an_endless_shot_shows_how_far_depth_is() -> None:
    seen: list[Snapshot] = []
    pipeline: Pipeline

    def wait_at_the_end(index: int) -> None:
        if index == 8:
            moment = threading.Event()
            any(pipeline.snapshot().queues["spool"] == 8 or moment.wait(0.01) for _ in range(1000))
            seen.append(pipeline.snapshot())

    pipeline = Pipeline([ScriptedSource(9, before=wait_at_the_end)], fake_estimator(), [RecordingSink()], range="shot")
    assert pipeline.run().written == 9
    assert (seen[0].processed, seen[0].estimated) == (0, 8)
    assert pipeline.snapshot().estimated == 9


def test_names_with_brackets_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    process.table(("what helps",), [("pip install 'streamdepth[openvino]'",)], title="[bold]clip")
    printed = capsys.readouterr().out
    assert "streamdepth[openvino]" in printed
    assert "[bold]clip" in printed


def test_a_title_with_brackets_is_shown_as_it_is(shown: Callable[..., str]) -> None:
    assert "a[red]b.mp4" in shown(snapshot(1, 1, 0), "a[red]b.mp4")


def test_the_summary_says_what_outputs_counted() -> None:
    sinks = (
        SinkStats("a.mkv", 12, {}),
        SinkStats("rtsp://host/x", 10, {"unsent": 2}, {"reconnects": 1, "slow_viewer": 3, "late": 0}),
    )
    stats = RunStats(captured=13, processed=12, dropped={"policy": 1}, seconds=2.0, sinks=sinks)
    text = summary(stats, "clip")
    assert text.startswith("clip to a.mkv, rtsp://host/x (2 unsent, 1 reconnects, 3 slow viewer): 12 frames")
    assert text.endswith(", 1 dropped (1 policy)")

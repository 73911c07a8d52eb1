"""Nearest distances per zone as JSON lines."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

import streamdepth as sd
from streamdepth.cli.main import main
from streamdepth.core.errors import OutputExistsError, StopPipeline, UsageError
from streamdepth.core.frame import DepthRange, Result
from streamdepth.core.queues import Aborted
from streamdepth.sinks.robotics.zones import Zone, ZoneEventsSink
from tests.support.cli import one_line
from tests.support.sinks import paint, result, run_sink, stream_info

if TYPE_CHECKING:
    from pathlib import Path


def results(count: int, *, sense: sd.Sense = sd.Sense.METRIC_M, error: float | None = None) -> list[Result]:
    """Left half 2 m, right half 5 m and 1 m nearer with every frame; one wrong pixel of 0.1 m."""
    made = []
    for index in range(count):
        values = np.full((20, 40), 2, np.float32)
        values[:, 20:] = 50 - index
        values[3, 3] = 0.1
        whole = result(paint(64, 48, index), index, index=index)
        made.append(Result(whole.frame, sd.DepthMap(values, sense, anchor_error=error), DepthRange(0, 50)))
    return made


def lines(given: list[Result], **options: object) -> list[dict[str, object]]:
    out = io.StringIO()
    run_sink(ZoneEventsSink(out, **options), stream_info(), given)  # type: ignore[arg-type]
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_nearest_of_each_zone() -> None:
    zones = (Zone("left", 0, 0, 32, 48), Zone("right", 0.5, 0, 0.5, 1, fraction=True))
    found = lines(results(2, error=0.125), zones=zones, rate=25)
    assert found[:3] == [
        {"source": "clip", "index": 0, "seconds": 0.0, "zone": "left", "nearest": 2.0, "unit": "m", "sense": "metric_m"}
        | {"error": 0.125},
        {"source": "clip", "index": 0, "seconds": 0.0, "zone": "right", "nearest": 50.0, "unit": "m"}
        | {"sense": "metric_m", "error": 0.125},
        {"source": "clip", "index": 1, "seconds": 0.04, "zone": "left", "nearest": 2.0, "unit": "m"}
        | {"sense": "metric_m", "error": 0.125},
    ]


def test_relative_depth_has_no_unit_and_its_nearest_is_its_largest() -> None:
    (found,) = lines(results(1, sense=sd.Sense.RELATIVE_INVERSE))
    assert (found["zone"], found["nearest"], found["unit"]) == ("frame", 50.0, "")
    assert "error" not in found


def test_a_zone_without_depth_is_null() -> None:
    (given,) = results(1)
    given = Result(
        given.frame, sd.DepthMap(given.depth.values, given.depth.sense, np.zeros((20, 40), bool)), given.range
    )
    assert lines([given])[0]["nearest"] is None


@pytest.mark.parametrize(("rate", "indices"), [(25, [0, 1, 2, 3]), (12.5, [0, 2, 4]), (10, [0, 3, 5, 8]), (1, [0])])
def test_the_rate_is_met_on_average(rate: float, indices: list[int]) -> None:
    found = [event["index"] for event in lines(results(10), rate=rate)]
    assert found[: len(indices)] == indices


@pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be polled")
def test_a_pipe_that_nobody_reads_can_be_interrupted() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb"):
        sink = ZoneEventsSink(stream)
        sink.open(stream_info(), None)
        ended: list[type[BaseException]] = []

        def write() -> None:
            try:
                sink.process(results(1)[0])
            except Aborted as error:
                ended.append(type(error))

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        sink.interrupt()
        thread.join(5)
        assert ended == [Aborted]


def test_a_closed_pipe_ends_the_run() -> None:
    class Closed(io.StringIO):
        def write(self, _: str, /) -> int:
            raise BrokenPipeError

    with pytest.raises(StopPipeline):
        run_sink(ZoneEventsSink(Closed()), stream_info(), results(1))


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("door=100,50,200,300", Zone("door", 100, 50, 200, 300)),
        ("left half=0,0,0.5,1", Zone("left half", 0, 0, 0.5, 1, fraction=True)),
    ],
)
def test_zone_of_text(text: str, want: Zone) -> None:
    assert Zone.parse(text) == want


@pytest.mark.parametrize(
    "text", ["", "door", "door=1,2,3", "=1,2,3,4", "door=1,2,0,4", "door=0.6,0,0.5,1", "d=-1,0,5,5"]
)
def test_text_that_is_no_zone(text: str) -> None:
    with pytest.raises(UsageError, match=r"not NAME=X,Y,W,H within the frame; give e\.g\. door=100,50,200,300"):
        Zone.parse(text)


def test_a_zone_outside_the_frame_and_a_file_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    zone = Zone("door", 60, 0, 10, 10)
    with pytest.raises(UsageError, match="zone door does not lie within the frame of 64x48"):
        run_sink(ZoneEventsSink(path, zones=[zone]), stream_info(), [])
    run_sink(ZoneEventsSink(path), stream_info(), results(1))
    with pytest.raises(OutputExistsError):
        run_sink(ZoneEventsSink(path), stream_info(), results(1))
    run_sink(ZoneEventsSink(path, overwrite=True, rate=25), stream_info(), results(2))
    assert len(path.read_text().splitlines()) == 2


class TestCommand:
    COMMAND = ("run", "test:?size=160x120", "--provider", "cpu", "--max-frames", "7")

    def test_standard_output(self, capsys: pytest.CaptureFixture[str]) -> None:
        anchors = ("--anchor", "0.5,0.95=1.5", "--anchor", "0.5,0.2=8")
        assert main([*self.COMMAND, "--zone", "a=0,0,0.5,1", "--zone", "b=100,0,60,120", *anchors]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(event["index"], event["zone"]) for event in found] == [
            (index, zone) for index in (0, 3, 6) for zone in "ab"
        ]
        assert {event["unit"] for event in found} == {"m"}

    def test_a_file_and_wrong_use(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([*self.COMMAND, "--events", f"{tmp_path}/e.jsonl", "--events-rate", "30"]) == 0
        assert len((tmp_path / "e.jsonl").read_text().splitlines()) == 7
        capsys.readouterr()
        assert main([*self.COMMAND, "--zone", "a=150,0,60,120"]) == 2
        assert "zone a does not lie within the frame of 160x120" in one_line(capsys)

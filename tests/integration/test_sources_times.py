"""Times, parts and repairs of video files."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.core.errors import SourceError, UsageError
from streamdepth.sources.file import FileSource
from streamdepth.sources.times import Timeline
from tests.support.files import read
from tests.support.media import (
    draw_index,
    read_index,
    read_pts,
    write_clip,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_variable_rate_keeps_every_pts(tmp_path: Path) -> None:
    stamps = [0, 33, 70, 171, 200, 1200, 1201]
    path = write_clip(tmp_path / "a.mkv", pts=stamps, time_base=Fraction(1, 1000), draw=draw_index)
    info, frames, _ = read(path)
    assert info.time_base == Fraction(1, 1000)
    assert [frame.pts for frame in frames] == stamps


def test_start_time_of_a_stream_is_kept(tmp_path: Path) -> None:
    stamps = [90_000 * 3 + 3600 * n for n in range(20)]
    path = write_clip(tmp_path / "a.ts", pts=stamps, time_base=Fraction(1, 90_000), draw=draw_index)
    _, frames, _ = read(path)
    first = read_pts(path)[0]
    assert [frame.pts for frame in frames] == [first + 3600 * n for n in range(20)]
    info, part, _ = read(path, start_seconds=0.4, duration_seconds=0.2)
    assert [read_index(frame.to_rgb()) for frame in part] == [10, 11, 12, 13, 14]
    assert info.origin_seconds == Fraction(first, 90_000) + Fraction(2, 5)


@pytest.mark.parametrize(
    ("start", "duration", "count", "expected"),
    [
        (0, None, 3, range(3)),
        (0.04, None, 2, range(1, 3)),
        (0.5, 0.2, None, range(13, 18)),
        (1.0, None, None, range(25, 50)),
        (0, 0.08, None, range(2)),
        (1.96, None, None, range(49, 50)),
        (0.41, 10, None, range(11, 50)),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi", ".h264"])
def test_parts_are_exact_to_the_frame(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    start: float,
    duration: float | None,
    count: int | None,
    expected: range,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"part{suffix}"
    if not path.exists():
        write_clip(path, frames=50, draw=draw_index, options={"bf": "2"} if suffix != ".avi" else {})
    info, frames, _ = read(path, start_seconds=start, duration_seconds=duration, max_frames=count)
    assert [read_index(frame.to_rgb()) for frame in frames] == list(expected)
    assert [frame.index for frame in frames] == list(range(len(expected)))
    beginning = (read_pts(path)[0] or 0) * info.time_base if suffix == ".ts" else 0
    if start:
        assert info.origin_seconds == beginning + Fraction(start).limit_denominator(1000)
        assert float(info.origin_seconds) <= frames[0].seconds + 1e-9
    else:
        assert info.origin_seconds == beginning


def test_start_behind_the_end(numbered_clip: Path) -> None:
    with pytest.raises(SourceError, match=r"no frame at or after 100 s; choose an earlier start"):
        FileSource(numbered_clip, start_seconds=100).open()


@pytest.mark.parametrize(
    "options",
    [
        {"start_seconds": -1},
        {"start_seconds": float("nan")},
        {"duration_seconds": 0},
        {"max_frames": 0},
        {"timeout_seconds": 0},
        {"threads": -1},
    ],
)
def test_limits_that_mean_nothing(numbered_clip: Path, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        FileSource(numbered_clip, **options)  # type: ignore[arg-type]


def test_frames_without_pts_are_all_given(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.h264", frames=12, draw=draw_index)
    info, frames, source = read(path)
    assert [read_index(frame.to_rgb()) for frame in frames] == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx([n / 25 for n in range(12)])
    assert (info.duration_seconds, source.repaired["missing_pts"]) == (None, 12)


def test_reordered_avi_has_the_times_ffmpeg_gives_it(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.avi", frames=12, draw=draw_index, options={"bf": "2"})
    _, frames, _ = read(path)
    assert [read_index(frame.to_rgb()) for frame in frames] == list(range(12))
    steps = np.diff([frame.pts for frame in frames])
    assert set(steps.tolist()) == {1}


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_other_size_and_format_in_mid_stream(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "1.ts", frames=10, draw=draw_index)
    two = write_clip(tmp_path / "2.ts", frames=10, width=320, height=240, pix_fmt="yuv444p", draw=draw_index)
    info, frames, source = read(join(tmp_path / "both.ts", one, two))
    assert (info.width_px, info.height_px, info.pix_fmt) == (160, 120, "yuv420p")
    assert {(frame.width_px, frame.height_px, frame.image.format.name) for frame in frames} == {(160, 120, "yuv420p")}
    assert [read_index(frame.to_rgb()) for frame in frames] == [*range(10), *range(10)]
    assert source.repaired["size"] == source.repaired["pix_fmt"] == 10
    assert any("another size" in note for note in source.notes)


def test_times_that_jump_back_go_on(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "1.ts", frames=60, draw=draw_index)
    _, frames, source = read(join(tmp_path / "both.ts", one, one))
    assert len(frames) == 120
    assert all(later.pts > earlier.pts for earlier, later in pairwise(frames))
    assert frames[-1].seconds - frames[0].seconds == pytest.approx(119 / 25, abs=0.05)
    assert source.repaired["time_jump"] == 1


def test_damage_in_the_middle_costs_what_is_damaged(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=50, draw=draw_index)
    with av.open(str(path)) as container:
        places = [(packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.dts is not None]
    data = bytearray(path.read_bytes())
    for at, size in (places[21], places[33]):
        data[at : at + size] = b"\xff" * size
    path.write_bytes(data)
    _, frames, source = read(path)
    given = [read_index(frame.to_rgb()) for frame in frames]
    assert source.dropped == {"corrupt": 2}
    assert len(frames) == 48
    assert given[:21] == list(range(21))
    assert given[-10:] == list(range(40, 50))
    assert [frame.pts for frame in frames] == sorted({frame.pts for frame in frames})
    assert frames[-1].index == 49
    assert source.notes == ("frames that could not be decoded: 2",)


def test_cut_off_file_gives_what_is_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=50, draw=draw_index, container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 4 // 5])
    _, frames, source = read(path)
    assert 25 < len(frames) < 50
    assert any(re.search(r"ends 0\.\d s earlier than its header says", note) for note in source.notes)


def test_a_file_that_is_mostly_lost_is_an_error(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=50, draw=draw_index, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source = FileSource(path)
    source.open()
    with pytest.raises(SourceError, match=r"a.mp4: only \d+ of about 50 frames could be decoded; the file is damaged"):
        list(source.frames())
    source.close()


def test_timeline() -> None:
    line = Timeline(Fraction(1, 1000), Fraction(25), first_pts=100)
    assert [line.place(pts, None, duration) for pts, duration in [(None, 0), (None, 50), (None, 0)]] == [100, 140, 190]
    line = Timeline(Fraction(1, 1000), Fraction(25))
    assert [line.place(pts) for pts in (0, 40, 40, 30, 80, None, 160)] == [0, 40, 41, 42, 80, 120, 160]
    assert line.repaired == {"backward_pts": 2, "missing_pts": 0}  # 160 confirms that 120 is right
    assert [line.place(pts) for pts in (None, None, 230)] == [200, 240, 241]
    assert line.repaired == {"backward_pts": 3, "missing_pts": 2}
    line = Timeline(Fraction(1, 1000), Fraction(25))
    assert [line.place(pts) for pts in (5000, 5040, 0, 40, 80)] == [5000, 5040, 5080, 5120, 5160]
    assert [Timeline(Fraction(1, 10), None).place(None, 7)] == [7]

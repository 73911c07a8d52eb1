"""Video files: what comes out of the source against what the test wrote into the file."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.errors import SourceError, UsageError
from streamdepth.frame import ColorTags, Frame, StreamInfo
from streamdepth.sources.file import FileSource
from streamdepth.stages import Source
from tests.support.media import (
    decode_rgb,
    draw_index,
    draw_marks,
    read_index,
    read_pts,
    write_clip,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEDIA = Path(__file__).parents[2] / "shared" / "media"


class TickClock:
    """1 ms later at every look."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns


def read(path: Path | str, **options: object) -> tuple[StreamInfo, list[Frame], FileSource]:
    source = FileSource(path, **options)  # type: ignore[arg-type]
    info = source.open()
    frames = list(source.frames())
    source.close()
    return info, frames, source


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4", frames=50, draw=draw_index, audio=True, subtitles=True
    )


def test_frames_are_those_of_the_file(clip: Path) -> None:
    clock = TickClock()
    info, frames, source = read(clip, clock=clock)
    assert isinstance(source, Source)
    assert (info.width_px, info.height_px, info.pix_fmt, info.rate) == (160, 120, "yuv420p", Fraction(25))
    assert (info.frame_count, info.live, info.source_id) == (50, False, "clip.mp4")
    assert info.duration_seconds == pytest.approx(2, abs=0.05)
    assert info.media_path == str(clip)
    assert (info.origin_seconds, info.end_seconds, info.sample_aspect_ratio) == (Fraction(0), None, Fraction(1))
    assert [frame.pts for frame in frames] == read_pts(clip)
    assert [frame.index for frame in frames] == list(range(50))
    assert [read_index(frame.to_rgb()) for frame in frames] == list(range(50))
    assert [frame.captured_ns for frame in frames] == [1_000_000 * n for n in range(1, 51)]
    assert frames[0].key
    assert [frame.index for frame in frames if frame.key] == [0, 10, 20, 30, 40]
    assert source.dropped == {}
    assert source.notes == ()


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "libx264", "yuv444p"),
        ("a.mp4", "libx264", "yuv422p10le"),
        ("a.mkv", "libx265", "yuv420p10le"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.avi", "mpeg4", "yuv420p"),
        ("a.ts", "libx264", "yuv420p"),
        ("a.y4m", "wrapped_avframe", "yuv420p"),
    ],
)
def test_containers_codecs_and_pixel_formats(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = write_clip(tmp_path / name, frames=7, codec=codec, pix_fmt=pix_fmt, draw=draw_index)
    info, frames, _ = read(path)
    assert info.pix_fmt == pix_fmt
    assert {frame.picture.format.name for frame in frames} == {pix_fmt}
    assert [read_index(frame.to_rgb()) for frame in frames] == list(range(7))


@pytest.mark.parametrize("size", [(1, 1), (31, 17), (17, 9)])
def test_odd_and_tiny_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "a.mkv", frames=3, width=size[0], height=size[1], codec="ffv1")
    info, frames, _ = read(path)
    assert (info.width_px, info.height_px) == size
    assert len(frames) == 3


def test_8k(tmp_path: Path) -> None:
    def flat(_: int, width: int, height: int) -> NDArray[np.uint8]:
        return np.full((height, width, 3), 90, np.uint8)

    path = write_clip(
        tmp_path / "a.mkv", frames=1, width=7680, height=4320, codec="mjpeg", pix_fmt="yuvj420p", draw=flat
    )
    info, frames, _ = read(path)
    assert (info.width_px, info.height_px, len(frames)) == (7680, 4320, 1)


@pytest.mark.parametrize(
    "tags", [ColorTags(1, 1, 1, 1), ColorTags(5, 2, 5, 6), ColorTags(9, 1, 9, 14), ColorTags(6, 1, 6, 6)]
)
def test_color_tags_are_kept(tmp_path: Path, tags: ColorTags) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=2, color=tags)
    info, frames, _ = read(path)
    assert info.color == tags
    assert ColorTags.of(frames[-1].picture) == tags


def shown_as(rgb: NDArray[np.uint8], rotation: int, mirror: bool) -> NDArray[np.uint8]:
    turned = np.rot90(rgb, -rotation // 90)
    return turned[:, ::-1] if mirror else turned


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_all_eight_orientations(tmp_path: Path, rotation: int, mirror: bool) -> None:
    path = write_clip(
        tmp_path / "a.mp4", frames=3, rotation=rotation, mirror=mirror, sample_aspect_ratio=Fraction(4, 3)
    )
    info, frames, _ = read(path)
    crossed = rotation in (90, 270)
    assert (info.width_px, info.height_px) == ((120, 160) if crossed else (160, 120))
    assert info.sample_aspect_ratio == (Fraction(3, 4) if crossed else Fraction(4, 3))
    assert info.pix_fmt == "yuv420p"
    assert [frame.pts for frame in frames] == read_pts(path)
    for frame, coded in zip(frames, decode_rgb(path), strict=True):
        expected = shown_as(coded, rotation, mirror).astype(np.int16)
        assert np.abs(frame.to_rgb().astype(np.int16) - expected).mean() < 2
        assert "DISPLAYMATRIX" not in {side.type.name for side in frame.picture.side_data} or not (rotation or mirror)  # type: ignore[attr-defined]


def test_turning_422_keeps_its_colour_resolution(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mov", frames=1, codec="prores_ks", pix_fmt="yuv422p10le", rotation=90)
    info, frames, _ = read(path)
    assert info.pix_fmt == "yuv444p10le"
    assert "yuv422p10le" in info.note
    expected = shown_as(draw_marks(0, 160, 120), 90, False).astype(np.int16)
    assert np.abs(frames[0].to_rgb().astype(np.int16) - expected).mean() < 8


def test_interlaced_is_accepted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", frames=5, options={"x264-params": "tff=1"})
    _, frames, _ = read(path)
    assert len(frames) == 5
    assert frames[0].picture.interlaced_frame


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
    if start:
        beginning = (read_pts(path)[0] or 0) * info.time_base if suffix == ".ts" else 0
        assert info.origin_seconds == beginning + Fraction(start).limit_denominator(1000)
        assert float(info.origin_seconds) <= frames[0].seconds + 1e-9
    else:
        assert info.origin_seconds == 0


def test_start_behind_the_end(clip: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing from 100 s on; choose an earlier start"):
        FileSource(clip, start_seconds=100).open()


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
def test_limits_that_mean_nothing(clip: Path, options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        FileSource(clip, **options)  # type: ignore[arg-type]


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


def test_best_of_several_streams(tmp_path: Path) -> None:
    small, large = (
        write_clip(tmp_path / "s.mp4", frames=9),
        write_clip(tmp_path / "l.mp4", width=320, height=240, frames=9),
    )
    path = tmp_path / "both.mkv"
    with av.open(str(small)) as one, av.open(str(large)) as two, av.open(str(path), "w") as out:
        pairs = [(container, out.add_stream_from_template(container.streams.video[0])) for container in (one, two)]
        pairs[0][1].disposition = av.stream.Disposition(0)
        pairs[1][1].disposition = av.stream.Disposition.default
        for container, target in pairs:
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream = target
                    out.mux(packet)
    info, frames, _ = read(path)
    assert (info.width_px, len(frames)) == (320, 9)


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def test_other_size_and_format_in_mid_stream(tmp_path: Path) -> None:
    one = write_clip(tmp_path / "1.ts", frames=10, draw=draw_index)
    two = write_clip(tmp_path / "2.ts", frames=10, width=320, height=240, pix_fmt="yuv444p", draw=draw_index)
    info, frames, source = read(join(tmp_path / "both.ts", one, two))
    assert (info.width_px, info.height_px, info.pix_fmt) == (160, 120, "yuv420p")
    assert {(frame.width_px, frame.height_px, frame.picture.format.name) for frame in frames} == {(160, 120, "yuv420p")}
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
    assert source.notes == ("a.mp4: 2 frames were damaged and could not be decoded",)


def test_cut_off_file_gives_what_is_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=50, draw=draw_index, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, frames, source = read(path)
    assert 5 < len(frames) < 50
    assert any("of the 50 frames its header promises" in note for note in source.notes)


def test_again_gives_the_same_frames(clip: Path) -> None:
    source = FileSource(clip, start_seconds=0.5, max_frames=4)
    source.open()
    first = [(frame.pts, frame.to_rgb().tobytes()) for frame in source.frames()]
    second = source.again()
    assert second is not None
    second.open()
    assert [(frame.pts, frame.to_rgb().tobytes()) for frame in second.frames()] == first
    source.close()
    second.close()


def test_contract_of_open_frames_close(clip: Path) -> None:
    source = FileSource(clip)
    with pytest.raises(SourceError, match="open it before"):
        next(source.frames())
    assert source.open() is source.open()
    frames = source.frames()
    next(frames)
    with pytest.raises(SourceError, match="read once"):
        next(source.frames())
    source.interrupt()
    assert list(frames) == []
    source.close()
    source.close()
    source.interrupt()


def test_interrupt_before_open_gives_no_frames(clip: Path) -> None:
    source = FileSource(clip)
    source.interrupt()
    with pytest.raises(SourceError, match="interrupted"):
        source.open()
    source.close()


def test_pictures_live_on_after_close(clip: Path) -> None:
    _, frames, source = read(clip)
    source.close()
    assert read_index(frames[7].to_rgb()) == 7


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipe_is_read_once_and_can_be_interrupted(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = write_clip(tmp_path / "a.mkv", frames=10, draw=draw_index).read_bytes()
    hold = threading.Event()

    def feed() -> None:
        with pipe.open("wb") as file:
            file.write(data)
            file.flush()
            hold.wait(20)

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    source = FileSource(pipe)
    assert source.open().media_path is None
    assert source.again() is None
    frames = source.frames()
    assert read_index(next(frames).to_rgb()) == 0
    ended = threading.Event()

    def drain() -> None:
        for _ in frames:
            pass
        ended.set()

    threading.Thread(target=drain, daemon=True).start()
    assert not ended.wait(0.2)
    source.interrupt()
    assert ended.wait(1)
    hold.set()
    feeder.join(5)
    source.close()


@pytest.mark.skipif(not MEDIA.is_dir() or shutil.which("ffprobe") is None, reason="needs real clips and ffprobe")
@pytest.mark.parametrize("name", ["nasa_13013.mp4", "rollercoaster_960x540.mp4"])
def test_real_clips_against_ffprobe(name: str) -> None:
    with av.open(str(MEDIA / name)) as container:
        best = container.streams.best("video")
        assert best is not None
        stream = best.index
    shown = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-select_streams",
            str(stream),
            "-show_entries",
            "frame=pts",
            "-of",
            "csv=p=0",
            MEDIA / name,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [int(line.strip(",")) for line in shown.stdout.split()]
    _, frames, source = read(MEDIA / name)
    assert [frame.pts for frame in frames] == expected
    assert source.dropped == {}


@pytest.mark.parametrize("rotation", [0, 90])
def test_pictures_are_freed_without_the_cycle_collector(tmp_path: Path, rotation: int) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=40, rotation=rotation)
    gc.collect()
    before = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    gc.disable()
    try:
        source = FileSource(path)
        source.open()
        for _ in source.frames():
            pass
        source.close()
        after = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
    finally:
        gc.enable()
    assert after - before <= 4

"""Video files: what comes out of the source against what the test wrote into the file."""

from __future__ import annotations

import gc
import os
import subprocess
import threading
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.core.contracts import Source
from streamdepth.core.errors import SourceError
from streamdepth.core.frame import ColorTags
from streamdepth.sources.file import FileSource
from tests.support import need
from tests.support.clock import ManualClock
from tests.support.files import read
from tests.support.media import (
    decode_rgb,
    draw_index,
    draw_marks,
    read_index,
    read_pts,
    write_clip,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def test_frames_are_those_of_the_file(numbered_clip: Path) -> None:
    clock = ManualClock(step_seconds=0.001, now_ns=0)
    info, frames, source = read(numbered_clip, clock=clock)
    assert isinstance(source, Source)
    assert (info.width_px, info.height_px, info.pix_fmt, info.rate) == (160, 120, "yuv420p", Fraction(25))
    assert (info.frame_count, info.live, info.source_id) == (50, False, "clip.mp4")
    assert info.duration_seconds == pytest.approx(2, abs=0.05)
    assert info.media_path == str(numbered_clip)
    assert (info.origin_seconds, info.end_seconds, info.sample_aspect_ratio) == (Fraction(0), None, Fraction(1))
    assert [frame.pts for frame in frames] == read_pts(numbered_clip)
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
    assert {frame.image.format.name for frame in frames} == {pix_fmt}
    assert [read_index(frame.to_rgb()) for frame in frames] == list(range(7))


@pytest.mark.parametrize("size", [(1, 1), (31, 17), (17, 9)])
def test_odd_and_tiny_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_clip(tmp_path / "a.mkv", frames=3, width=size[0], height=size[1], codec="ffv1")
    info, frames, _ = read(path)
    assert (info.width_px, info.height_px) == size
    assert len(frames) == 3


@pytest.mark.slow
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
    assert ColorTags.of(frames[-1].image) == tags


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
        assert "DISPLAYMATRIX" not in {side.type.name for side in frame.image.side_data} or not (rotation or mirror)  # type: ignore[attr-defined]


def test_turning_422_keeps_its_colour_resolution(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mov", frames=1, codec="prores_ks", pix_fmt="yuv422p10le", rotation=90)
    info, frames, _ = read(path)
    assert info.pix_fmt == "yuv444p10le"
    assert "yuv422p10le" in info.note
    expected = shown_as(draw_marks(0, 160, 120), 90, False).astype(np.int16)
    assert np.abs(frames[0].to_rgb().astype(np.int16) - expected).mean() < 8


def test_interlaced_frames_are_deinterlaced_unless_disabled(tmp_path: Path) -> None:
    def comb(index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A bright bar whose position differs between the two fields."""
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[0::2, 8 * index : 8 * index + 16] = 255
        rgb[1::2, 8 * index + 4 : 8 * index + 20] = 255
        return rgb

    path = write_clip(tmp_path / "a.mkv", frames=6, draw=comb, options={"x264-params": "tff=1"})
    info, frames, _ = read(path)
    assert info.note == "interlaced frames are deinterlaced; --deinterlace off disables it"
    assert [frame.pts for frame in frames] == [0, 40, 80, 120, 160, 200]
    assert not any(frame.image.interlaced_frame for frame in frames)
    untouched_info, untouched, _ = read(path, deinterlace=False)
    assert untouched_info.note.startswith("interlaced frames are kept, and video files flag them as progressive")
    assert all(frame.image.interlaced_frame for frame in untouched)
    # Lines that alternate are the comb: bwdif rebuilds one field from the other.
    combed, smooth = (
        float(np.abs(np.diff(found[2].to_rgb()[:, :, 0].astype(float), axis=0)).mean()) for found in (untouched, frames)
    )
    assert smooth < 0.5 * combed


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


def test_again_gives_the_same_frames(numbered_clip: Path) -> None:
    source = FileSource(numbered_clip, start_seconds=0.5, max_frames=4)
    source.open()
    first = [(frame.pts, frame.to_rgb().tobytes()) for frame in source.frames()]
    second = source.again()
    assert second is not None
    second.open()
    assert [(frame.pts, frame.to_rgb().tobytes()) for frame in second.frames()] == first
    source.close()
    second.close()


def test_contract_of_open_frames_close(numbered_clip: Path) -> None:
    source = FileSource(numbered_clip)
    with pytest.raises(SourceError, match="call open\\(\\) before frames"):
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


def test_interrupt_before_open_gives_no_frames(numbered_clip: Path) -> None:
    source = FileSource(numbered_clip)
    source.interrupt()
    with pytest.raises(SourceError, match="interrupted"):
        source.open()
    source.close()


def test_images_live_on_after_close(numbered_clip: Path) -> None:
    _, frames, source = read(numbered_clip)
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


@pytest.mark.needs("ffprobe")
@pytest.mark.parametrize("name", ["nasa_13013.mp4", "rollercoaster_960x540.mp4"])
def test_real_clips_against_ffprobe(name: str) -> None:
    path = need.shared(f"media/{name}")
    with av.open(str(path)) as container:
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
            path,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [int(line.strip(",")) for line in shown.stdout.split()]
    _, frames, source = read(path)
    assert [frame.pts for frame in frames] == expected
    assert source.dropped == {}


@pytest.mark.parametrize("rotation", [0, 90])
def test_images_are_freed_without_the_cycle_collector(tmp_path: Path, rotation: int) -> None:
    path = write_clip(tmp_path / "a.mp4", frames=40, width=158, height=118, rotation=rotation)
    gc.collect()
    gc.disable()
    try:
        source = FileSource(path)
        source.open()
        for _ in source.frames():
            pass
        source.close()
        # isinstance() asks the object, and a proxy of one that is gone raises
        images = (thing for thing in gc.get_objects() if issubclass(type(thing), av.VideoFrame))
        left = sum({image.width, image.height} == {158, 118} for image in images)  # other threads have images too
    finally:
        gc.enable()
    assert left <= 4

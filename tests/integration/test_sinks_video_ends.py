"""How video files end: killed, closed early, refused, out of space, or waiting for sound that stalls."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from streamdepth.core.errors import OutputExistsError, SinkError, UsageError
from streamdepth.core.frame import ImageInfo
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.file import FileSource
from tests.support.live import Body, http_server
from tests.support.media import read_pts, write_clip
from tests.support.rtsp import listener, say_nothing
from tests.support.sinks import (
    control,
    image_info,
    info_of,
    painted,
    result,
    results_of,
    run_sink,
    small_disk,
    stream_info,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

FAST = {"preset": "ultrafast"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", kilobytes=1500) as folder:
        yield folder


_KILLED = """
import os, sys
from tests.support.sinks import control, painted, image_info, stream_info
from streamdepth.sinks.video import VideoSink
info = stream_info(width=160, height=96)
sink = VideoSink(sys.argv[1], control=control(), options={"preset": "ultrafast"} if "webm" not in sys.argv[1] else {})
sink.open(info, image_info(info))
for item in painted(range(150), width=160, height=96):
    sink.process(item)
print("ready", flush=True)
sys.stdin.read()
"""


def partial(path: Path) -> Path:
    return path.with_name(f"{path.stem}.partial{path.suffix}")


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov", ".webm"])
def test_a_killed_run_leaves_a_file_that_plays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.kill()
    # The name says that it is not finished.
    assert not path.exists()
    # One second of video may be lost, and what the encoder had not given out yet.
    pts = read_pts(partial(path))
    assert len(pts) >= 100
    assert pts == sorted(pts)


def test_an_mp4_is_an_ordinary_file_once_closed(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    run_sink(VideoSink(path, control=control(), options=FAST), stream_info(), painted(range(80)))
    boxes, at, data = [], 0, path.read_bytes()
    while at < len(data):
        boxes.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    assert boxes == ["ftyp", "free", "mdat", "moov"]


def test_a_leftover_of_a_killed_run_is_replaced_and_one_being_written_is_not(tmp_path: Path) -> None:
    path, info = tmp_path / "out.mkv", stream_info()
    partial(path).write_bytes(b"left over" * 1000)
    first = VideoSink(path, control=control(), options=FAST)
    first.open(info, image_info(info))
    with pytest.raises(OutputExistsError, match=r"out.partial.mkv: another process is writing it"):
        VideoSink(path, control=control(), options=FAST).open(info, image_info(info))
    for item in painted(range(3)):
        first.process(item)
    first.flush()
    first.close()
    assert len(read_pts(path)) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["out.mkv"]


@pytest.mark.parametrize("how", ["stopped", "limited", "read"])
def test_only_a_source_that_was_read_to_its_end_gives_a_finished_file(tmp_path: Path, how: str) -> None:
    source = FileSource(write_clip(tmp_path / "in.mp4", frames=10), max_frames=4 if how == "limited" else None)
    path, info = tmp_path / "out.mkv", source.open()
    sink = VideoSink(path, control=control(), options=FAST)
    sink.open(info, image_info(info))
    for frame in source.frames():
        sink.process(result(frame.image, frame.pts, index=frame.index, time_base=frame.time_base))
        if how == "stopped" and frame.index == 4:
            source.interrupt()
    source.close()
    sink.flush()
    sink.close()
    if how == "stopped":
        assert not path.exists()
        assert len(read_pts(partial(path))) >= 5
        assert sink.note == "incomplete: kept as out.partial.mkv"
    else:
        assert len(read_pts(path)) == (4 if how == "limited" else 10)
        assert sink.note == ""


def test_closing_without_flush_keeps_every_frame_and_closing_twice_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    info = stream_info()
    sink = VideoSink(path, control=control())
    sink.open(info, image_info(info))
    for item in painted(range(30)):
        sink.process(item)
    sink.close()
    sink.close()
    # A run that failed is closed without a flush.
    assert not path.exists()
    assert len(read_pts(partial(path))) == 30


def test_a_run_without_frames_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "out.mkv"
    run_sink(VideoSink(path, control=control()), stream_info(), [])
    assert not path.exists()
    assert path.parent.is_dir()


def test_an_existing_file_is_kept_unless_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    path.write_bytes(b"precious")
    info = stream_info()
    with pytest.raises(OutputExistsError, match="already exists; --overwrite replaces it"):
        VideoSink(path, control=control()).open(info, image_info(info))
    # A run that fails before its first frame, or an encoder that refuses, costs nothing.
    run_sink(VideoSink(path, control=control(), overwrite=True), info, [])
    with pytest.raises(SinkError):
        VideoSink(path, control=control(), overwrite=True, crf=-700).open(info, image_info(info))
    assert path.read_bytes() == b"precious"
    run_sink(VideoSink(path, control=control(), overwrite=True, options=FAST), info, painted(range(3)))
    assert len(read_pts(path)) == 3


def test_the_output_cannot_be_the_input(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=3)
    before = clip.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    info = info_of(clip)
    for path in (clip, link):
        with pytest.raises(UsageError, match="is the input"):
            VideoSink(path, control=control(), overwrite=True).open(info, image_info(info))
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        (
            "out.mkw",
            {},
            UsageError,
            r"no video container has the suffix '.mkw' \(did you mean '.mkv'\?\); use .mkv, .mp4",
        ),
        ("out", {}, UsageError, "no video container has the suffix ''"),
        ("out.mkv", {"threads": -1}, UsageError, "encoder threads must be 0"),
        ("out.mkv", {"codec": "libx265x"}, UsageError, r"no video encoder is called 'libx265x' \(did you mean"),
        ("out.mkv", {"codec": "aac"}, UsageError, "no video encoder is called 'aac'"),
        ("out.mkv", {"options": {"preste": "fast"}}, UsageError, "libx264 has no option 'preste'"),
        ("out.mkv", {"preset": "warp"}, UsageError, "preset is one of auto, ultrafast, .* for libx264, not 'warp'"),
        ("out.webm", {"codec": "libx264"}, UsageError, "webm cannot hold libx264 video; use libvpx-vp9"),
    ],
)
def test_bad_options_are_one_clear_line(
    tmp_path: Path, name: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    info = stream_info()
    with pytest.raises(error, match=message) as caught:
        VideoSink(tmp_path / name, control=control(), **arguments).open(info, image_info(info))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / name).exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    info = stream_info()
    folder = tmp_path / "folder.mkv"
    folder.mkdir()
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.mkv")
    for path, message in (
        (folder, "is a folder"),
        (tmp_path / "pipe.mkv", "is not a regular file"),
        (tmp_path / "file" / "out.mkv", r"file: cannot be created \(a file has its name\)"),
        (tmp_path / "file" / "more" / "out.mkv", r"more: cannot be created \(a parent is a file\)"),
    ):
        with pytest.raises(SinkError, match=message):
            VideoSink(path, control=control(), overwrite=True).open(info, image_info(info))


def test_an_encoder_that_refuses_the_size_says_so(tmp_path: Path) -> None:
    info = stream_info(width=1, height=1)
    with pytest.raises(SinkError, match="libx265 refuses 1x1 yuv444p"):
        VideoSink(tmp_path / "out.mkv", control=control(), codec="libx265").open(info, ImageInfo(1, 1, "yuv444p"))
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_full_disk_keeps_what_was_written(disk: Path, suffix: str) -> None:
    path = disk / f"out{suffix}"
    info = stream_info(width=320, height=180)
    sink = VideoSink(path, control=control(), crf=1, options={**FAST, "bf": "0"})
    noise = np.random.default_rng(1)

    def results() -> Any:
        for index in range(400):
            rgb = noise.integers(0, 255, (180, 320, 3), np.uint8)
            yield result(av.VideoFrame.from_ndarray(rgb, format="rgb24"), index, index=index)

    said = rf"^{path}: no space left on the device; what was written is kept as {partial(path).name}; free"
    with pytest.raises(SinkError, match=said):
        run_sink(sink, info, results(), ImageInfo(320, 180, "rgb24"))
    shown = 0
    assert not path.exists()
    with av.open(str(partial(path))) as container, contextlib.suppress(av.InvalidDataError):
        for _ in container.decode(container.streams.video[0]):  # the very last image may be cut in two
            shown += 1
    assert shown >= 5


def test_opening_a_sound_input_that_says_nothing_is_interruptible(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.ts", frames=5, audio=True)
    path = tmp_path / "out.mkv"
    connected = threading.Event()

    def mute(client: socket.socket) -> None:
        connected.set()
        say_nothing(client)

    with listener(mute) as port:
        info = dataclasses.replace(info_of(clip), media_path=f"http://127.0.0.1:{port}/clip.ts")
        sink = VideoSink(path, control=control(), options=FAST)
        opened = threading.Event()

        def open_sink() -> None:
            sink.open(info, image_info(info))
            opened.set()

        threading.Thread(target=open_sink, daemon=True).start()
        assert connected.wait(10)
        assert not opened.is_set()
        sink.interrupt()
        assert opened.wait(2)
        for item in results_of(clip):
            sink.process(item)
        sink.flush()
        sink.close()
    assert len(read_pts(path)) == 5
    assert "audio and subtitles not copied: interrupted" in sink.note


@pytest.mark.parametrize("before_open", [True, False])
@pytest.mark.slow
def test_interrupt_lets_the_video_go_on_without_a_stalled_input(tmp_path: Path, before_open: bool) -> None:
    """A server that sends the first half of a clip and then nothing, with the connection open."""
    clip = write_clip(tmp_path / "in.ts", frames=200, audio=True, draw=_noise)
    path = tmp_path / "out.mkv"
    content = clip.read_bytes()
    half = Body("video/mp2t", [content[: len(content) // 2]], seconds=30)
    with http_server(half, length=len(content)) as url:
        info = dataclasses.replace(info_of(clip), media_path=url)
        sink = VideoSink(path, control=control(), options=FAST)
        if before_open:
            sink.interrupt()
        sink.open(info, image_info(info))
        done = threading.Event()

        def write() -> None:
            for item in results_of(clip):
                sink.process(item)
            done.set()

        threading.Thread(target=write, daemon=True).start()
        if not before_open:
            assert not done.wait(1.5)
            sink.interrupt()
        assert done.wait(10)
        sink.flush()
        sink.close()
    assert len(read_pts(path)) == 200


def _noise(index: int, width: int, height: int) -> Any:
    return np.random.default_rng(index).integers(0, 255, (height, width, 3), np.uint8)

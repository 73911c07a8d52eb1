"""Files that are no video, damaged, misnamed or strangely named: one clear line each, never a traceback."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from streamdepth.core.errors import SourceError, SourceNotFoundError
from streamdepth.sources.file import FileSource
from tests.support.files import read
from tests.support.media import (
    write_audio,
    write_clip,
)


def cut_off(path: Path) -> None:
    write_clip(path, frames=50)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path: Path) -> None:
    path.write_bytes(random.Random(5).randbytes(30_000))


def undecodable(path: Path) -> None:
    data = bytearray(write_clip(path, frames=5, codec="ffv1").read_bytes())
    body = data.find(b"\x1f\x43\xb6\x75")
    data[body + 40 : len(data) - 200] = bytes(len(data) - 240 - body)
    path.write_bytes(data)


def prose(path: Path) -> None:
    path.write_text("It was a dark and stormy night.\n" * 100)


def cover_only(path: Path) -> None:
    tone = write_audio(path.with_name("tone.m4a"))
    with av.open(str(tone)) as source, av.open(str(path), "w", format="mp4") as out:
        audio = out.add_stream_from_template(source.streams.audio[0])
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = int(av.stream.Disposition.attached_pic)  # type: ignore[assignment]
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24").reformat(format="yuvj420p")
        frame.pts = 0
        out.mux(cover.encode(frame))
        out.mux(cover.encode(None))
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = audio
                out.mux(packet)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.mp4", lambda _: None, "no such file"),
        ("empty.mp4", Path.touch, "is empty \\(0 bytes\\); record or download it again"),
        ("cut.mp4", cut_off, "the index \\(moov\\) is missing"),
        ("noise.mkv", noise, "not a video that FFmpeg can read"),
        ("undecodable.mkv", undecodable, "none of its frames can be decoded|not a video"),
        ("prose.txt", prose, "not a video"),
        ("tone.m4a", write_audio, r"not a video \(only 1 audio stream\)"),
        ("cover.mp4", cover_only, "only a cover image"),
        ("folder.mp4", Path.mkdir, "is a folder; name a file in it"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path: Path, name: str, make: object, message: str) -> None:
    path = tmp_path / name
    make(path)  # type: ignore[operator]
    source = FileSource(path)
    with pytest.raises(SourceError, match=message) as caught:
        source.open()
    source.close()
    text = str(caught.value)
    assert name in text
    assert "\n" not in text
    assert "; " in text
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, FileNotFoundError) == (name == "missing.mp4")


def test_unreadable_file(numbered_clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tests may run as root, who may read everything.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SourceError, match=r"clip.mp4: permission denied; check its permissions"):
        FileSource(numbered_clip).open()


def test_mistyped_name_gets_a_hint(numbered_clip: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"did you mean '.*clip.mp4'"):
        FileSource(numbered_clip.with_name("clip.mp")).open()


@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "100%.mp4",
        "what?.mp4",
        "a#b.mp4",
        "shot%03d.mp4",
        "-o.mp4",
        "--help",
        "0",
        "concat:x.mp4",
        "http:x.mp4",
        "ünï.mp4",
        b"lat\xefn.mp4",
    ],
)
def test_any_file_name(numbered_clip: Path, tmp_path: Path, name: str | bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    text = os.fsdecode(name)
    shutil.copy(numbered_clip, tmp_path / text)
    monkeypatch.chdir(tmp_path)
    info, frames, _ = read(text, max_frames=2)
    assert len(frames) == 2
    info.source_id.encode("utf-8")

"""What of a file no output has, or no browser plays: no frame is lost, and one note names it."""

from __future__ import annotations

import contextlib
import struct
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import pytest

from streamdepth.sources.file import FileSource
from tests.support.faulty_media import add_to_sample_entry, box, full_box, write_packets
from tests.support.media import draw_index, read_index, read_pts, write_clip
from tests.support.sinks import duration, transcode, video

if TYPE_CHECKING:
    from pathlib import Path

FRAMES = 5
SECOND_LAYER = 1 << 3
"""In the second byte of an HEVC unit: ``nuh_layer_id`` 1."""


def hevc_clip(path: Path) -> Path:
    options = {"x265-params": "log-level=error"}
    return write_clip(path, frames=FRAMES, codec="libx265", options=options, draw=draw_index)


def read(path: Path) -> tuple[list[int], str, tuple[str, ...]]:
    """Numbers of the frames, the note and the omitted metadata."""
    source = FileSource(path)
    info = source.open()
    with contextlib.closing(source):
        numbers = [read_index(frame.to_rgb()) for frame in source.frames()]
    return numbers, info.note, info.omitted


def add_second_layer(source: Path, path: Path) -> Path:
    """Copy an HEVC file with every slice repeated as a slice of a second layer, as in MV-HEVC."""
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if not packet.size:
                continue
            units, at, content = [], 0, bytes(packet)
            while at < len(content):
                size = int.from_bytes(content[at : at + 4], "big")
                units.append(content[at + 4 : at + 4 + size])
                at += 4 + size
            units += [bytes([unit[0], unit[1] | SECOND_LAYER]) + unit[2:] for unit in units if unit[0] >> 1 < 32]
            both = av.Packet(b"".join(struct.pack(">I", len(unit)) + unit for unit in units))
            both.stream, both.time_base = stream, packet.time_base
            both.pts, both.dts, both.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
            out.mux(both)
    return path


def test_of_spatial_video_the_base_view_is_read(tmp_path: Path) -> None:
    path = add_second_layer(hevc_clip(tmp_path / "base.mp4"), tmp_path / "spatial.mp4")
    second = box(b"lhvC", bytes([1, 0xF0, 0, 0xFC, 0xCF, 1, 0x20 | 33, 0, 1, 0, 3, 0x42, 1 | SECOND_LAYER, 9]))
    eyes = box(b"eyes", full_box(b"stri", 0, 0, b"\3"), full_box(b"hero", 0, 0, b"\1"))
    projection = box(b"proj", full_box(b"prji", 0, 0, b"rect"))
    field = box(b"hfov", struct.pack(">I", 63_000))
    add_to_sample_entry(path, b"hev1", second, box(b"vexu", eyes, projection), field)
    assert read(path) == (list(range(FRAMES)), "spatial video: only its base view is read", ())


def dolby_vision(kind: bytes, profile: int) -> bytes:
    """The configuration box: version 1.0, level 1, with a base layer and metadata."""
    return box(kind, struct.pack(">BBHB19x", 1, 0, profile << 9 | 1 << 3 | 0b101, (profile == 8) << 4))


@pytest.mark.parametrize(("kind", "profile", "says"), [(b"dvvC", 8, ""), (b"dvcC", 5, "the colours of Dolby Vision")])
def test_dolby_vision_is_named_also_without_metadata_in_the_frames(
    tmp_path: Path, kind: bytes, profile: int, says: str
) -> None:
    path = hevc_clip(tmp_path / "in.mp4")
    add_to_sample_entry(path, b"hev1", dolby_vision(kind, profile))
    numbers, note, omitted = read(path)
    assert (numbers, omitted) == (list(range(FRAMES)), ("Dolby Vision metadata",))
    assert note.startswith(says)
    assert bool(note) == bool(says)
    matroska = tmp_path / "in.mkv"
    with av.open(str(path)) as container, av.open(str(matroska), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    assert read(matroska)[1:] == (note, omitted)


def test_a_note_of_a_video_names_omitted_metadata(tmp_path: Path) -> None:
    path = hevc_clip(tmp_path / "in.mp4")
    add_to_sample_entry(path, b"hev1", dolby_vision(b"dvvC", 8))
    assert transcode(path, video(tmp_path / "out.mp4")).note == "omitted: Dolby Vision metadata"


def test_closed_captions_are_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.h264", frames=FRAMES, options={"bf": "0"}, draw=draw_index)
    pairs = bytes([0xFC, 0x94, 0x2C])
    message = b"\xb5\x00\x31GA94\x03" + bytes([0x40 | 1, 0xFF]) + pairs + b"\xff"
    caption = b"\0\0\0\1\6" + bytes([4, len(message)]) + message + b"\x80"
    with av.open(str(clip)) as container:
        contents = [caption + bytes(packet) for packet in container.demux(video=0) if packet.size]
    path = write_packets(tmp_path / "captions.ts", "h264", contents)
    numbers, _, omitted = read(path)
    assert (numbers, omitted) == (list(range(FRAMES)), ("closed captions",))


def test_a_data_track_is_named_and_makes_no_output_longer(tmp_path: Path) -> None:
    """A GoPro's telemetry: a text track whose handler and sample entry are renamed."""
    clip = write_clip(tmp_path / "clip.mp4", frames=25)
    path = tmp_path / "gopro.mp4"
    with av.open(str(clip)) as frames, av.open(str(path), "w") as out:
        picture = out.add_stream_from_template(frames.streams.video[0])
        track = out.add_stream("mov_text")
        track.codec_context.subtitle_header = b"[Script Info]\n"
        track.codec_context.open()
        for packet in frames.demux(video=0):
            if packet.size:
                packet.stream = picture
                out.mux(packet)
        for start, length in ((0, 500), (500, 8500)):
            sample = av.Packet(b"\0\1a")
            sample.stream, sample.time_base = track, Fraction(1, 1000)
            sample.pts = sample.dts = start
            sample.duration = length
            out.mux(sample)
    data = path.read_bytes()
    assert data.count(b"tx3g") == 1
    path.write_bytes(data.replace(b"tx3g", b"gpmd").replace(b"sbtl", b"meta"))
    with av.open(str(path)) as container:
        assert container.streams[1].type == "data"
    for suffix in (".mp4", ".mkv"):
        out_path = tmp_path / f"out{suffix}"
        assert transcode(path, video(out_path)).note == "omitted: data stream 1"
        assert duration(out_path) == pytest.approx(1.0, abs=0.05)
        assert len(read_pts(out_path)) == 25


@pytest.mark.parametrize(
    ("pix_fmt", "note"),
    [
        ("yuv420p", ""),
        ("yuv444p", "4:4:4 H.264 does not play in browsers; .webm does"),
        ("yuv422p10le", "10-bit 4:2:2 H.264 does not play in browsers; .webm does"),
    ],
)
def test_a_note_names_h264_that_browsers_refuse(tmp_path: Path, pix_fmt: str, note: str) -> None:
    path = write_clip(tmp_path / "in.mkv", frames=2, codec="ffv1", pix_fmt=pix_fmt)
    assert transcode(path, video(tmp_path / "out.mp4")).note == note

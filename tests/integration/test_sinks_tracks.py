"""Subtitles and audio of an input in an output."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from tests.support.media import write_clip
from tests.support.sinks import duration, shown_lines, times, transcode, video, with_sound

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write_lines(path: Path, lines: Sequence[tuple[float, float, str]], *, frames: int = 50) -> Path:
    """A Matroska file with ASS subtitles at the given starts and durations."""
    clip = write_clip(path.with_name("clip.mkv"), frames=frames)
    header = (
        "[Script Info]\nScriptType: v4.00+\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,20\n"
        "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    )
    script = path.with_suffix(".ass")
    clock = [f"0:00:{start:05.2f},0:00:{start + shown:05.2f}" for start, shown, _ in lines]
    events = [
        f"Dialogue: 0,{at},Default,,0,0,0,,{text}\n" for at, (_, _, text) in zip(clock, lines, strict=True)
    ]  # fmt: skip
    script.write_text(header + "".join(events))
    with av.open(str(clip)) as container, av.open(str(script)) as text, av.open(str(path), "w") as out:
        picture = out.add_stream_from_template(container.streams.video[0])
        subtitles = out.add_stream_from_template(text.streams.subtitles[0])
        for source, stream, copy in (
            (container, container.streams.video[0], picture),
            (text, text.streams.subtitles[0], subtitles),
        ):
            for packet in source.demux(stream):
                if packet.size:
                    packet.stream = copy
                    out.mux(packet)
    return path


def test_lines_that_overlap_keep_their_starts_in_mp4(tmp_path: Path) -> None:
    lines = [(0.2, 0.8, "one"), (0.5, 1.0, "two"), (1.7, 0.2, "three")]
    out = tmp_path / "out.mp4"
    transcode(write_lines(tmp_path / "in.mkv", lines), video(out))
    assert shown_lines(out) == [(0.2, 0.3, "one"), (0.5, 1.0, "two"), (1.7, 0.2, "three")]


def test_lines_that_start_together_become_one_in_mp4(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    transcode(write_lines(tmp_path / "in.mkv", [(0.2, 0.8, "one"), (0.2, 0.6, "two")]), video(out))
    assert shown_lines(out) == [(0.2, 0.8, "one\ntwo")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_no_subtitle_makes_an_output_longer(tmp_path: Path, suffix: str) -> None:
    path = write_lines(tmp_path / "in.mkv", [(0.5, 1.0, "one"), (1.5, 0.4, "two")])
    out = tmp_path / f"out{suffix}"
    transcode(path, video(out))
    assert duration(out) <= duration(path) + 0.05


@pytest.mark.parametrize(
    ("codec", "source", "suffix", "written"),
    [
        ("adpcm_ima_qt", ".mov", ".mkv", "flac"),
        ("adpcm_ms", ".avi", ".mp4", "aac"),
        ("wmav2", ".asf", ".mp4", "aac"),
        ("aac", ".mp4", ".webm", "opus"),
    ],
)
def test_audio_that_a_container_cannot_hold_is_encoded(
    tmp_path: Path, codec: str, source: str, suffix: str, written: str
) -> None:
    path = with_sound(tmp_path / f"in{source}", codec)
    out_path = tmp_path / f"out{suffix}"
    sink = transcode(path, video(out_path))
    assert f"encoded as {written}" in sink.note
    with av.open(str(out_path)) as container:
        assert container.streams.audio[0].codec_context.name.removeprefix("lib") == written
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])
    assert len(samples) == pytest.approx(2 * 48_000, rel=0.06)
    # Each packet starts where the one before ends, also where AVI counts time in blocks of 21 ms.
    assert all(abs(start + long - after) < 0.002 for (start, long), (after, _) in pairwise(times(out_path, "audio")))
    only = transcode(path, video(tmp_path / f"copy{suffix}", audio="copy"))
    assert "omitted" in only.note


def test_opus_keeps_its_first_packet_in_matroska(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.webm", frames=25, audio=True, codec="libvpx-vp9")
    out = tmp_path / "out.webm"
    transcode(path, video(out))
    before, after = times(path, "audio"), times(out, "audio")
    assert before[0][0] < 0
    assert len(after) == len(before)
    assert max(abs(a - b) for (a, _), (b, _) in zip(before, after, strict=True)) <= 0.001


def test_pcm_is_encoded_for_mp4_and_no_decoder_delay_is_lost(tmp_path: Path) -> None:
    """PCM failed the whole run in MP4; the last samples of WMA come when its decoder is flushed, without time stamp."""
    pcm = write_clip(tmp_path / "a.avi", frames=12, codec="mjpeg", pix_fmt="yuvj420p", audio="pcm_s16le")
    assert "audio stream 1 (pcm_s16le) encoded as aac" in transcode(pcm, video(tmp_path / "pcm.mp4")).note
    assert transcode(pcm, video(tmp_path / "pcm.mkv")).note == ""
    wma = write_clip(tmp_path / "a.wmv", frames=25, codec="wmv2", audio="wmav2")
    assert "wmav2" in transcode(wma, video(tmp_path / "wma.mov")).note
    with av.open(str(wma)) as source, av.open(str(tmp_path / "wma.mov")) as kept:
        lengths = [sum(frame.samples for frame in one.decode(audio=0)) for one in (source, kept)]
        assert lengths[0] <= lengths[1] <= lengths[0] + 2 * 1024  # AAC works in blocks of 1024
        assert kept.duration is not None
        assert kept.duration < 1_200_000

"""Video files: frames, times, colour and sound against ffprobe and the source's own packets."""

from __future__ import annotations

import re
import subprocess
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import pytest

from streamdepth.core.errors import UsageError
from streamdepth.core.frame import ColorTags
from streamdepth.sinks.video import VideoSink
from tests.support import need
from tests.support.media import audio_samples, decode_images, read_pts, stream_kinds, write_clip
from tests.support.sinks import (
    control,
    image_info,
    info_of,
    packets,
    paint,
    painted,
    probe,
    result,
    results_of,
    run_sink,
    stream_info,
)

if TYPE_CHECKING:
    from pathlib import Path

    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

FAST = {"preset": "ultrafast"}
TIMINGS: dict[str, tuple[Fraction, list[int], Fraction | None]] = {
    "cfr": (Fraction(1, 12800), [index * 512 for index in range(40)], Fraction(25)),
    "ntsc": (Fraction(1, 30000), [index * 1001 for index in range(40)], Fraction(30000, 1001)),
    "frames": (Fraction(1001, 30000), list(range(40)), Fraction(30000, 1001)),
    "variable": (Fraction(1, 1000), [0, 33, 70, 171, 200, *range(300, 1500, 41)], None),
    "late start": (Fraction(1, 90000), [127920 + index * 3003 for index in range(40)], Fraction(30000, 1001)),
}

needs_ffprobe = pytest.mark.needs("ffprobe")


def milliseconds(pts: int, time_base: Fraction) -> int:
    value = pts * time_base * 1000
    return int(value + Fraction(1, 2))


@needs_ffprobe
@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
@pytest.mark.parametrize("timing", TIMINGS)
def test_every_frame_keeps_its_time(tmp_path: Path, timing: str, suffix: str) -> None:
    time_base, stamps, rate = TIMINGS[timing]
    path = tmp_path / f"out{suffix}"
    info = stream_info(time_base=time_base, rate=rate)
    # B-frames, whose reordering must not shift anything.
    run_sink(VideoSink(path, control=control(), preset="veryfast"), info, painted(stamps, time_base=time_base))

    found = probe(path)

    base = Fraction(found["time_base"])
    times = [pts * base for pts in found["pts"]]
    if suffix == ".mkv":
        assert [round(time * 1000) for time in times] == [milliseconds(pts, time_base) for pts in stamps]
    else:
        assert times == [pts * time_base for pts in stamps]
    assert found["has_b_frames"] > 0
    assert found["errors"] == ""
    if rate is not None:
        assert Fraction(found["avg_frame_rate"]) == rate


@needs_ffprobe
def test_webm_keeps_count_and_times(tmp_path: Path) -> None:
    path = tmp_path / "out.webm"
    stamps = [0, 33, 70, 171, 200]
    info = stream_info(time_base=Fraction(1, 1000), rate=None)
    run_sink(VideoSink(path, control=control()), info, painted(stamps, time_base=Fraction(1, 1000)))
    found = probe(path)
    assert found["codec_name"] == "vp9"
    assert found["pts"] == stamps


@needs_ffprobe
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_a_trimmed_source_starts_at_its_origin(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=75, audio=True, time_base=Fraction(1, 30000))
    path = tmp_path / f"out{suffix}"
    origin = Fraction(1, 3)
    info = info_of(clip, origin_seconds=origin, end_seconds=Fraction(2))
    kept = [item for item in results_of(clip) if origin <= item.frame.pts * item.frame.time_base < 2]
    run_sink(VideoSink(path, control=control(), options=FAST), info, kept)
    found = probe(path)
    expected = [item.frame.pts * item.frame.time_base - origin for item in kept]
    got = [pts * Fraction(found["time_base"]) for pts in found["pts"]]
    if suffix == ".mp4":
        assert got == expected
    else:
        assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= Fraction(1, 2000)
    sound = packets(path, "audio")
    assert (0 if suffix == ".mkv" else Fraction(-1, 40)) <= sound[0][0] < Fraction(1, 20)
    assert Fraction(16, 10) < sound[-1][0] < 2 - origin
    source = {content: time for time, content in packets(clip, "audio")}
    assert all(abs(source[content] - origin - time) < Fraction(1, 1000) for time, content in sound)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
def test_sound_and_subtitles_are_the_same_packets(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / f"in{suffix}", frames=60, audio=True, subtitles=True)
    path = tmp_path / f"out{suffix}"
    sink = VideoSink(path, control=control(), options=FAST)
    run_sink(sink, info_of(clip), results_of(clip))
    assert [kind for kind, _ in stream_kinds(path)] == ["video", "audio", "subtitle"]
    assert sink.note == ""
    # Matroska cannot hide the priming packet before 0 and goes without.
    source = [(time, content) for time, content in packets(clip, "audio") if time >= 0 or suffix != ".mkv"]
    copied = packets(path, "audio")
    assert [content for _, content in copied] == [content for _, content in source]
    assert max(abs(a - b) for (a, _), (b, _) in zip(copied, source, strict=True)) <= Fraction(1, 1000)
    lines = [content for _, content in packets(path, "subtitle") if len(content) > 2]
    assert lines == [content for _, content in packets(clip, "subtitle") if len(content) > 2]
    assert len(audio_samples(path)) > 48000
    assert read_pts(path) == read_pts(clip)


def test_what_the_container_cannot_hold_is_said(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=10, audio=True, subtitles=True)
    webm = VideoSink(tmp_path / "out.webm", control=control(), audio="copy")
    run_sink(webm, info_of(clip), results_of(clip))
    assert "audio stream 1 (aac) omitted: webm cannot hold it" in webm.note
    assert [kind for kind, _ in stream_kinds(tmp_path / "out.webm")] == ["video", "subtitle"]
    silent = VideoSink(tmp_path / "silent.mkv", control=control(), options=FAST, audio="none")
    run_sink(silent, info_of(clip), results_of(clip))
    assert "audio" not in silent.note
    assert [kind for kind, _ in stream_kinds(tmp_path / "silent.mkv")] == ["video", "subtitle"]
    matroska = VideoSink(tmp_path / "out.mkv", control=control(), options=FAST)
    run_sink(matroska, info_of(clip), results_of(clip))
    assert "audio" not in matroska.note


@pytest.mark.needs("ffmpeg")
@pytest.mark.parametrize(
    ("given", "wanted", "codec", "said"),
    [
        (".mp4", ".mkv", "srt", "(mov_text) written as subrip"),
        (".mkv", ".mp4", "mov_text", "written as mov_text"),
        (".mp4", ".webm", "webvtt", "(mov_text) written as webvtt"),
    ],
)
def test_text_subtitles_go_into_every_container(tmp_path: Path, given: str, wanted: str, codec: str, said: str) -> None:
    clip = write_clip(tmp_path / f"in{given}", frames=60, subtitles=True)
    path = tmp_path / f"out{wanted}"
    sink = VideoSink(path, control=control())
    run_sink(sink, info_of(clip), results_of(clip))
    assert stream_kinds(path)[1] == ("subtitle", codec)
    assert said in sink.note
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-map", "0:s", "-f", "webvtt", "-"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    times = ["00:00.000 --> 00:00.800", "00:01.000 --> 00:01.800"]
    assert re.findall(r"(\d\d:.* --> .*)\n", text) == times
    assert re.findall(r"line \d", text) == ["line 0", "line 1"]


def test_sound_can_be_left_out(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=10, audio=True)
    run_sink(
        VideoSink(tmp_path / "out.mkv", control=control(), options=FAST, copy_sound=False),
        info_of(clip),
        results_of(clip),
    )
    assert stream_kinds(tmp_path / "out.mkv") == [("video", "h264")]


def test_sound_of_a_transport_stream_goes_into_every_container(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.ts", frames=30, audio=True)
    for suffix in (".mkv", ".mp4"):
        path = tmp_path / f"out{suffix}"
        sink = VideoSink(path, control=control(), options=FAST)
        run_sink(sink, info_of(clip), results_of(clip))
        assert [kind for kind, _ in stream_kinds(path)] == ["video", "audio"], sink.note
        assert len(audio_samples(path)) > 40000


def test_a_run_that_ends_early_ends_its_sound_too(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=100, audio=True)
    path = tmp_path / "out.mkv"
    run_sink(VideoSink(path, control=control(), options=FAST), info_of(clip), list(results_of(clip))[:25])
    assert len(read_pts(path)) == 25
    assert packets(path, "audio")[-1][0] <= 1


@needs_ffprobe
def test_colour_and_shape_are_tagged(tmp_path: Path) -> None:
    for suffix in (".mkv", ".mp4"):
        path = tmp_path / f"out{suffix}"
        info = stream_info(
            color=ColorTags(matrix=9, range=2, primaries=9, transfer=16), sample_aspect_ratio=Fraction(4, 3)
        )
        run_sink(VideoSink(path, control=control(), options=FAST), info, painted(range(5)))
        found = probe(path)
        assert found["color_range"] == "pc"
        assert found["color_space"] == "bt2020nc"
        assert found["color_primaries"] == "bt2020"
        assert found["color_transfer"] == "smpte2084"
        assert found["sample_aspect_ratio"] == "4:3"


@pytest.mark.parametrize(
    ("pix_fmt", "written"),
    [
        ("yuv420p", "yuv420p"),
        ("yuvj420p", "yuvj420p"),
        ("nv12", "yuv420p"),
        ("yuv422p", "yuv422p"),
        ("yuv444p", "yuv444p"),
        ("yuv420p10le", "yuv420p10le"),
        ("yuv422p10le", "yuv422p10le"),
        ("gray", "yuvj420p"),
        ("rgb24", "yuv420p"),
        ("bgr24", "yuv420p"),
        ("rgba", "yuv420p"),
    ],
)
def test_pixel_formats_and_their_colours(tmp_path: Path, pix_fmt: str, written: str) -> None:
    path = tmp_path / "out.mkv"
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:24], rgb[24:] = (200, 60, 60), (40, 40, 220)
    if pix_fmt == "gray":
        rgb[:24], rgb[24:] = 200, 40
    source = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    full = pix_fmt.startswith(("yuvj", "gray", "rgb", "bgr"))
    is_rgb = pix_fmt.startswith(("rgb", "bgr"))
    tags = ColorTags(matrix=2 if is_rgb else 6, range=2 if full else 1)
    image = source.reformat(
        format=pix_fmt, dst_colorspace=None if is_rgb else 5, dst_color_range=2 if full else 1, src_color_range=2
    )
    tags.apply(image)
    info = stream_info(pix_fmt=pix_fmt, color=tags)
    results = [result(image, index, index=index) for index in range(3)]
    run_sink(VideoSink(path, control=control(), crf=4, options=FAST), info, results)
    found = decode_images(path)[1]
    assert found.format.name == written
    matrix = 1 if is_rgb else 5
    back = found.to_ndarray(format="rgb24", src_colorspace=matrix).astype(int)
    assert np.abs(back[10, 30] - rgb[10, 30]).max() <= 6
    assert np.abs(back[40, 30] - rgb[40, 30]).max() <= 6


@pytest.mark.parametrize("size", [(63, 47), (64, 47), (63, 48), (1, 1)])
@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_odd_sizes_keep_every_pixel(tmp_path: Path, size: tuple[int, int], suffix: str) -> None:
    width, height = size
    path = tmp_path / f"out{suffix}"
    info = stream_info(width=width, height=height)
    run_sink(VideoSink(path, control=control()), info, painted(range(4), width=width, height=height))
    images = decode_images(path)
    assert [(image.width, image.height) for image in images] == [size] * 4


@pytest.mark.parametrize(
    ("name", "size", "written", "said"),
    [
        ("out.mp4", (64, 47), "yuv422p", "64x47 has an odd side and is written as 4:2:2"),
        ("out.mkv", (63, 48), "yuv444p", "63x48 has an odd side and is written as 4:4:4"),
        ("out.mp4", (64, 48), "yuv420p", ""),
        ("out.webm", (63, 47), "yuv420p", ""),
    ],
)
def test_odd_sizes_that_few_players_take_are_said(
    tmp_path: Path, name: str, size: tuple[int, int], written: str, said: str
) -> None:
    width, height = size
    sink = VideoSink(tmp_path / name, control=control())
    run_sink(sink, stream_info(width=width, height=height), painted(range(2), width=width, height=height))
    assert decode_images(tmp_path / name)[0].format.name == written
    assert sink.note.startswith(said)
    assert (".webm" in sink.note) == bool(said)


@pytest.mark.parametrize(
    ("name", "codec", "decoder"),
    [
        ("out.webm", None, "libvpx-vp9"),
        ("out.mov", None, "prores"),
        ("out.mov", "png", "png"),
        ("out.mkv", None, "ffv1"),
    ],
)
def test_transparency_survives(tmp_path: Path, name: str, codec: str | None, decoder: str) -> None:
    path = tmp_path / name
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[..., 0] = 220
    rgba[..., 3] = np.linspace(0, 255, 64).astype(np.uint8)
    info = stream_info(pix_fmt="rgba", color=ColorTags(range=2))
    results = [result(av.VideoFrame.from_ndarray(rgba, format="rgba"), index, index=index) for index in range(4)]
    run_sink(VideoSink(path, control=control(transparent=True), codec=codec), info, results)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = cast("VideoCodecContext", av.CodecContext.create(decoder, "r"))
        context.extradata = stream.codec_context.extradata
        context.width, context.height = 64, 48
        context.codec_tag = stream.codec_context.codec_tag
        frames = [frame for packet in container.demux(stream) for frame in context.decode(packet)]
    assert len(frames) == 4
    back = frames[1].to_ndarray(format="rgba").astype(int)
    assert np.abs(back[..., 3] - rgba[..., 3]).max() <= 6
    assert abs(back[24, 60, 0] - 220) <= 12


def test_containers_and_codecs_without_alpha_refuse_a_transparent_look(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.mp4 cannot carry transparency; use \.webm or \.mov"):
        VideoSink(tmp_path / "out.mp4", control=control(transparent=True))
    info = stream_info(pix_fmt="rgba")
    for codec in ("libx264", "libx265"):
        with pytest.raises(UsageError, match=f"{codec} cannot carry transparency"):
            VideoSink(tmp_path / "out.mov", control=control(transparent=True), codec=codec).open(info, image_info(info))


def test_images_of_other_sizes_are_letterboxed_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    white = av.VideoFrame.from_ndarray(np.full((100, 50, 3), 255, np.uint8), format="rgb24")
    results = [result(paint(64, 48, 0, "rgb24"), 0), result(white, 1, index=1), result(paint(64, 48, 2), 2, index=2)]
    sink = VideoSink(path, control=control(), crf=4, options=FAST)
    run_sink(sink, stream_info(pix_fmt="rgb24"), results)
    assert dict(sink.counts) == {"resized": 1}
    boxed = decode_images(path)[1].to_ndarray(format="rgb24")
    assert boxed.shape == (48, 64, 3)
    assert boxed[24, 32].min() > 240
    assert boxed[24, 5].max() < 16
    assert boxed[24, 58].max() < 16


def test_what_an_encoder_cannot_keep_is_said(tmp_path: Path) -> None:
    deep = VideoSink(tmp_path / "deep.mkv", control=control(), codec="mpeg4")
    info = stream_info(pix_fmt="yuv422p10le")
    run_sink(deep, info, painted(range(2), pix_fmt="yuv422p10le"))
    assert "10-bit frames are written with 8 bits, the most that mpeg4 supports" in deep.note
    see_through = VideoSink(tmp_path / "alpha.mkv", control=control(), options=FAST)
    run_sink(see_through, stream_info(pix_fmt="rgba"), painted(range(2), pix_fmt="rgba"))
    assert "alpha of the input is omitted" in see_through.note


def test_the_callers_image_is_not_written_to(tmp_path: Path) -> None:
    image = paint(64, 48, 1)
    image.pts, image.time_base = 77, Fraction(1, 7)
    run_sink(VideoSink(tmp_path / "out.mkv", control=control(), options=FAST), stream_info(), [result(image, 3)])
    assert (image.pts, image.time_base) == (77, Fraction(1, 7))


@needs_ffprobe
@pytest.mark.slow
def test_the_shared_clips(tmp_path: Path) -> None:
    clip = need.shared("media/nasa_13013.mp4")
    for suffix in (".mp4", ".mkv"):
        path = tmp_path / f"nasa{suffix}"
        sink = VideoSink(path, control=control(), options=FAST)
        run_sink(sink, info_of(clip), results_of(clip))
        with av.open(str(clip)) as container:
            best = cast("VideoStream", container.streams.best("video")).index
        before, after = probe(clip, stream=str(best)), probe(path)
        tolerance = 0 if suffix == ".mp4" else 0.000501
        assert len(after["seconds"]) == len(before["seconds"])
        assert max(abs(a - b) for a, b in zip(after["seconds"], before["seconds"], strict=True)) <= tolerance
        kinds = [kind for kind, _ in stream_kinds(path)]
        assert kinds.count("audio") == 2
        assert kinds.count("subtitle") == 2
        for index in (0, 1):
            source = [content for time, content in packets(clip, "audio", index) if time >= 0 or suffix == ".mp4"]
            copied = [content for _, content in packets(path, "audio", index)]
            assert len(copied) > 50
            assert copied == source[: len(copied)]

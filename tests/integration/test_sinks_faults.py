"""Video files made of inputs after public bug reports: sound, times, colour and what else a container carries."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest
from PIL import Image

from streamdepth.media.side_data import metadata_of
from streamdepth.sinks.depth.reader import read_depth
from streamdepth.sinks.depth.sink import DepthVideoSink
from streamdepth.sinks.join import join_depth
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.select import source_for
from tests.support.faulty_media import joined_ts, shared_case
from tests.support.media import audio_samples, write_clip
from tests.support.sinks import FAST, control, duration, info_of, shown_lines, times, transcode, video, with_sound

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("length", [25, 75])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_sound_follows_the_repair_of_the_clock(tmp_path: Path, length: int, suffix: str) -> None:
    part = {"frames": length, "audio": True}
    path = joined_ts(tmp_path / "joined.ts", [part, part])
    whole = len(times(path, "audio"))
    out = tmp_path / f"out{suffix}"
    sink = transcode(path, video(out))
    assert sink.note == ""
    sound = times(out, "audio")
    assert len(sound) >= whole - 1
    starts = [start for start, _ in sound]
    assert starts == sorted(starts)
    assert starts[-1] == pytest.approx(2 * length / 25, abs=0.15)
    # No hole at the joint.
    assert max(after - before for before, after in pairwise(starts)) < 0.1


def test_sound_that_outlasts_the_frames_is_kept(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "still.mp4", frames=5, audio=True)
    longer = tmp_path / "longer.mp4"
    tone = write_clip(tmp_path / "a.mp4", frames=100, audio=True)
    with av.open(str(clip)) as frames, av.open(str(tone)) as sound, av.open(str(longer), "w") as out:
        copies = {
            "video": out.add_stream_from_template(frames.streams.video[0]),
            "audio": out.add_stream_from_template(sound.streams.audio[0]),
        }
        for container, kind in ((frames, "video"), (sound, "audio")):
            stream = next(stream for stream in container.streams if stream.type == kind)
            for packet in container.demux(stream):
                if packet.size:
                    packet.stream = copies[kind]
                    out.mux(packet)
    transcode(longer, video(tmp_path / "out.mp4"))
    assert times(tmp_path / "out.mp4", "audio")[-1][0] == pytest.approx(4.0, abs=0.1)
    # What the user cuts stays cut.
    transcode(longer, video(tmp_path / "cut.mp4"), max_frames=3)
    assert times(tmp_path / "cut.mp4", "audio")[-1][0] < 0.25


def test_the_start_of_the_container_becomes_0(tmp_path: Path) -> None:
    late = [50_000 * 25 + index for index in range(25)]
    path = write_clip(tmp_path / "late.ts", pts=late)
    out, data = tmp_path / "out.mp4", tmp_path / "depth.mkv"
    transcode(path, video(out))
    assert times(out, "video")[0][0] == 0
    assert duration(out) == pytest.approx(1.0, abs=0.05)
    transcode(path, DepthVideoSink(data))
    source = source_for(path)
    source.open()
    with read_depth(data) as reader:
        assert [frame.pts for frame in reader] == [frame.pts for frame in source.frames()]
    source.close()


@pytest.mark.parametrize(("suffix", "codec"), [(".webm", None), (".mkv", "ffv1"), (".mkv", None), (".mp4", None)])
def test_the_pixel_aspect_is_kept(tmp_path: Path, suffix: str, codec: str | None) -> None:
    aspect = Fraction(64, 45)
    path = write_clip(tmp_path / "in.mp4", frames=5, sample_aspect_ratio=aspect)
    out = tmp_path / f"out{suffix}"
    options = {} if codec == "ffv1" else FAST
    transcode(path, VideoSink(out, control=control(), codec=codec, options={} if suffix == ".webm" else options))
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == aspect
        assert "title" not in {key.lower() for key in stream.metadata}
        assert len(list(container.decode(stream))) == 5


def test_the_pixel_aspect_of_depth_data_is_kept(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", frames=5, sample_aspect_ratio=Fraction(4, 3))
    depth, joined = tmp_path / "depth.mkv", tmp_path / "joined.mkv"
    transcode(path, DepthVideoSink(depth))
    join_depth([depth], joined, info_of(path), [Fraction(index, 25) for index in range(5)])
    for file in (depth, joined):
        with av.open(str(file)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        with read_depth(file) as reader:
            assert len(list(reader)) == 5


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_the_last_frame_of_an_animation_lasts_its_time(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((48, 64, 3), 60 * index, np.uint8)) for index in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[1000, 2000, 3000])
    out = tmp_path / f"out{suffix}"
    transcode(tmp_path / "a.gif", video(out))
    assert [start for start, _ in times(out, "video")] == [0, 1, 3]
    assert duration(out) == pytest.approx(6.0, abs=0.01)


def test_what_else_a_container_carries(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mkv", frames=25, audio=True)
    path = tmp_path / "full.mkv"
    cover = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(cover, "JPEG")
    with av.open(str(clip)) as container, av.open(str(path), "w") as out:
        out.metadata.update({"title": "My title", "artist": "Someone", "comment": "http://me:secret@host/x"})
        out.set_chapters(
            [
                {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
                {"id": 2, "start": 400, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
            ]
        )
        copies = {stream.index: out.add_stream_from_template(stream) for stream in container.streams}
        out.add_attachment("small.ttf", "application/x-truetype-font", b"font")
        out.add_attachment("cover.jpg", "image/jpeg", cover.getvalue())
        for packet in container.demux():
            if packet.size:
                packet.stream = copies[packet.stream.index]
                out.mux(packet)
    kept = transcode(path, video(tmp_path / "out.mkv"))
    assert kept.note == ""
    with av.open(str(tmp_path / "out.mkv")) as container:
        tags = {key.lower(): text for key, text in container.metadata.items()}
        assert (tags["title"], tags["artist"]) == ("My title", "Someone")
        assert "secret" not in tags["comment"]
        chapters = container.chapters()
        assert [chapter["metadata"]["title"] for chapter in chapters] == ["One", "Two"]
        assert [round(float(chapter["start"] * cast("Fraction", chapter["time_base"])), 3) for chapter in chapters] == [
            0,
            0.4,
        ]
        attached = [stream.metadata.get("filename") for stream in container.streams if stream.type != "audio"]
        assert {"small.ttf", "cover.jpg"} <= set(attached)
    part = transcode(path, video(tmp_path / "part.mkv"), start_seconds=0.6)
    assert part.note == ""
    with av.open(str(tmp_path / "part.mkv")) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["Two"]
    other = transcode(path, video(tmp_path / "out.mp4"))
    assert "omitted: small.ttf" in other.note
    assert "cover" not in other.note
    back = transcode(tmp_path / "out.mp4", video(tmp_path / "back.mkv"))
    assert back.note == ""
    for name in ("out.mp4", "back.mkv"):
        with av.open(str(tmp_path / name)) as container:
            tags = {key.lower(): text for key, text in container.metadata.items()}
            assert (tags["title"], tags["artist"]) == ("My title", "Someone")
            assert len(container.chapters()) == 2
            (picture,) = (
                stream
                for stream in container.streams.video
                if int(stream.disposition) & int(av.stream.Disposition.attached_pic)
            )
            assert bytes(next(container.demux(picture))) == cover.getvalue()
    web = transcode(path, video(tmp_path / "out.webm"))
    assert "omitted: small.ttf, cover image" in web.note


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_the_timecode_is_kept(tmp_path: Path, suffix: str) -> None:
    path, clip = tmp_path / "in.mov", write_clip(tmp_path / "clip.mp4", frames=50)
    with av.open(str(clip)) as container, av.open(str(path), "w") as out:
        copy = out.add_stream_from_template(container.streams.video[0])
        copy.metadata["timecode"] = "01:00:00:00"
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = copy
                out.mux(packet)

    def timecode(found: Path) -> str:
        with av.open(str(found)) as container:
            tags = {key.lower(): text for stream in container.streams for key, text in stream.metadata.items()}
        return tags.get("timecode", "")

    assert timecode(path) == "01:00:00:00"
    assert transcode(path, video(tmp_path / f"out{suffix}")).note == ""
    assert timecode(tmp_path / f"out{suffix}") == "01:00:00:00"
    part = transcode(path, video(tmp_path / f"part{suffix}"), start_seconds=1)
    assert part.note == "timecode omitted: the output starts at another time"
    assert timecode(tmp_path / f"part{suffix}") == ""


def hdr_clip(path: Path) -> Path:
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    params = f"log-level=error:master-display={display}:max-cll=1000,400"
    return write_clip(path, frames=3, codec="libx265", pix_fmt="yuv420p10le", options={"x265-params": params})


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_hdr10_metadata_is_kept(tmp_path: Path, codec: str) -> None:
    path = hdr_clip(tmp_path / "in.mp4")
    out = tmp_path / "out.mp4"
    sink = transcode(path, VideoSink(out, control=control(), codec=codec, preset="ultrafast"))
    with av.open(str(path)) as before, av.open(str(out)) as after:
        wanted, got = (metadata_of(next(container.decode(video=0))).hdr for container in (before, after))
        assert wanted is not None
        assert got == wanted
        assert "L(10000000,1)" in wanted.mastering
        assert wanted.light == "1000,400"
        tag = after.streams.video[0].codec_context.codec_tag
    if codec == "libx264":
        assert sink.note == "10-bit H.264 does not play in browsers; --codec libx265 or .webm does"
    else:
        assert (sink.note, tag) == ("", "hvc1")


def test_a_note_names_hdr10_metadata_that_is_lost(tmp_path: Path) -> None:
    sink = transcode(hdr_clip(tmp_path / "in.mp4"), VideoSink(tmp_path / "out.webm", control=control()))
    assert "HDR10 metadata is omitted: libvpx-vp9 cannot write it; use --codec libx265" in sink.note


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [("wmav2", ".asf"), ("wmav1", ".avi"), ("adpcm_ms", ".avi"), ("pcm_alaw", ".mov")],
)
def test_audio_with_a_tag_of_wav_is_copied_into_matroska(tmp_path: Path, codec: str, suffix: str) -> None:
    path, out_path = with_sound(tmp_path / f"in{suffix}", codec), tmp_path / "out.mkv"
    assert transcode(path, video(out_path)).note == ""
    with av.open(str(path)) as source, av.open(str(out_path)) as kept:
        before, after = source.streams.audio[0], kept.streams.audio[0]
        assert after.codec_context.name == codec
        assert (after.rate, after.channels) == (before.rate, before.channels) == (48_000, 1)
        packets = [[p for p in one.demux(audio=0) if p.size] for one in (source, kept)]
        for one, other in zip(*packets, strict=True):
            assert bytes(one) == bytes(other)
            assert abs(one.pts * one.time_base - other.pts * other.time_base) <= Fraction(1, 1000)
    assert np.array_equal(audio_samples(out_path), audio_samples(path))


def test_depth_frames_within_a_millisecond_are_found_by_index(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "fast.mp4", frames=20, rate=4000, time_base=Fraction(1, 16000))
    transcode(path, DepthVideoSink(tmp_path / "depth.mkv"))
    with read_depth(tmp_path / "depth.mkv") as reader:
        every = list(reader)
        for index in (5, 0, 19, 7, 6):
            frame = reader[index]
            assert frame.pts == every[index].pts == 4 * index
            np.testing.assert_array_equal(frame.values, every[index].values)


def shared(tmp_path: Path, name: str, suffix: str, **options: Any) -> Path:
    out = tmp_path / f"out{suffix}"
    transcode(shared_case(name), video(out, **options))
    return out


def test_shared_cases_of_sound(tmp_path: Path) -> None:
    for name, suffix, packets, end in (
        ("th.ogv", ".mkv", 50, 1.0),
        ("join.ts", ".mkv", 284, 6.0),
        ("concat.ts", ".mkv", 96, 2.0),
        ("screenrec.mp4", ".mp4", 189, 4.0),
    ):
        (tmp_path / name).mkdir()
        sound = times(shared(tmp_path / name, name, suffix), "audio")
        assert len(sound) >= packets - 1
        assert sound[-1][0] == pytest.approx(end, abs=0.1)


def test_shared_cases_of_times(tmp_path: Path) -> None:
    broadcast = shared(tmp_path, "dvb.ts", ".mp4")
    assert duration(broadcast) == pytest.approx(2.02, abs=0.05)
    assert times(broadcast, "video")[0][0] - times(broadcast, "audio")[0][0] == pytest.approx(0.021, abs=0.002)
    (tmp_path / "neg").mkdir()
    assert len(times(shared(tmp_path / "neg", "neg.mkv", ".mp4"), "video")) == 50
    (tmp_path / "gif").mkdir()
    assert duration(shared(tmp_path / "gif", "delays.gif", ".mkv")) == pytest.approx(6.0, abs=0.01)
    (tmp_path / "full").mkdir()
    assert shown_lines(shared(tmp_path / "full", "full.mkv", ".mp4"))[1][0] == pytest.approx(0.521, abs=0.01)
    transcode(shared_case("f4000.mp4"), DepthVideoSink(tmp_path / "depth.mkv"))
    with read_depth(tmp_path / "depth.mkv") as reader:
        assert reader[5].pts == 20


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {}),
        ("a.mp4", "libx264", {"movflags": "faststart"}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.flv", "flv", {}),
        ("a.avi", "mpeg4", {}),
        ("a.asf", "wmv2", {}),
    ],
)
def test_a_file_that_is_cut_off_is_noted(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """The whole file has more sound than video, which is no fault."""
    clip, path = tmp_path / name, tmp_path / f"cut-{name}"
    with av.open(str(clip), "w", options=options) as out:
        picture: Any = out.add_stream(codec, rate=25, options={"g": "5"})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound: Any = out.add_stream("libmp3lame", rate=44_100)
        sound.layout = "mono"
        noise = np.random.default_rng(0)
        for second in range(3):
            for index in range(25 if second < 2 else 0):
                image = av.VideoFrame.from_ndarray(noise.integers(0, 255, (48, 64, 3), np.uint8), format="rgb24")
                image.pts = 25 * second + index
                out.mux(picture.encode(image))
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, second * 44_100
            out.mux(sound.encode(frame))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    path.write_bytes(clip.read_bytes()[: clip.stat().st_size * 7 // 10])
    for file, says in ((path, True), (clip, False)):
        source = source_for(file)
        source.open()
        assert (len(list(source.frames())) < 50) == says
        assert any("it is cut off or damaged" in note for note in source.notes) == says
        source.close()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_bitmap_subtitles_that_last_until_the_next_one(tmp_path: Path, suffix: str) -> None:
    """FFmpeg gives DVD subtitles without an end 2**32 - 1 ms: MP4 refused the video, Matroska was 50 days long."""
    path, out = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    clip = write_clip(tmp_path / "clip.mkv", frames=25)
    content = bytes.fromhex(
        "0024 0016 0000 0000 0000 0000 0000 0000 0000 0000 0000 0000 0016 01 02ff 0000 0000 0000 0000 0000"
    )
    with av.open(str(clip)) as source, av.open(str(path), "w") as container:
        picture = source.streams.video[0]
        video_stream: Any = container.add_stream_from_template(picture)
        subtitles: Any = container.add_mux_stream("dvdsub")
        container.start_encoding()
        for packet in source.demux(picture):
            if packet.size:
                packet.stream = video_stream
                container.mux(packet)
        for start_ms in (200, 600):
            line: Any = av.Packet(content)
            line.stream, line.time_base = subtitles, Fraction(1, 1000)
            line.pts = line.dts = start_ms
            line.duration = 2**32 - 1
            container.mux(line)
    transcode(path, video(out))
    with av.open(str(out)) as container:
        kept: list[Any] = [packet for packet in container.demux(subtitles=0) if packet.size]
        assert [round(float(packet.pts * packet.time_base), 3) for packet in kept] == [0.2, 0.6]
        assert [bytes(packet) for packet in kept] == [content, content]
    assert duration(out) == pytest.approx(1.0, abs=0.05)
    assert len(times(out, "video")) == 25


def test_alpha_that_a_decoder_omits_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuva420p"
        for packet in [*stream.encode(av.VideoFrame(64, 48, "yuva420p")), *stream.encode(None)]:
            out.mux(packet)
    source = source_for(path)
    assert "alpha is not decoded (vp9)" in source.open().note
    source.close()


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_packets_shorter_than_a_millisecond_keep_their_times(tmp_path: Path, suffix: str) -> None:
    """Matroska rounds time stamps to milliseconds, so that packets of 0.83 ms (TrueHD) share them."""
    path, out = tmp_path / "short.mkv", tmp_path / f"out{suffix}"
    with av.open(str(path), "w") as container:
        image = container.add_stream("mpeg4", rate=25)
        image.width, image.height = 32, 32
        tone = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        container.start_encoding()
        for _ in range(5):
            container.mux(image.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(image.encode(None))
        for start in range(0, 9600, 40):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 40), np.int16), layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
            container.mux(tone.encode(sound))
    transcode(path, video(out))
    assert times(out, "audio")[-1][0] == pytest.approx(0.2, abs=0.03)

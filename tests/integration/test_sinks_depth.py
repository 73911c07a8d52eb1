"""Depth data: what is read back is what went in, whole or cut off, checked with ffprobe and plain decoders too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from streamdepth.colorize.resize import resize_bilinear
from streamdepth.core.errors import DataFormatError, OutputExistsError, SinkError, SourceNotFoundError, UsageError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.sinks.depth import CODES, Coding, first_coding, span_of, wider
from streamdepth.sinks.depth.reader import read_depth
from streamdepth.sinks.depth.sink import DepthFolderSink, DepthVideoSink
from streamdepth.version import __version__
from tests.support.sinks import depth_map, paint, probe, result, run_sink, small_disk, stream_info

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.core.frame import Result

NTSC = Fraction(1, 30000)
FAR = np.linspace(0.3, 60.0, 48 * 64, dtype=np.float32).reshape(48, 64)


def depths(
    maps: Sequence[NDArray[Any]],
    *,
    sense: Sense = Sense.METRIC_M,
    stamps: Sequence[int] | None = None,
    time_base: Fraction = NTSC,
    size: tuple[int, int] = (64, 48),
) -> Iterator[Result]:
    image = paint(*size, 0)
    for index, values in enumerate(maps):
        pts = index * 1001 if stamps is None else stamps[index]
        depth = depth_map(values, sense=sense)
        yield result(image, pts, index=index, time_base=time_base, depth=depth)


def sink_at(path: Path, **more: Any) -> DepthVideoSink | DepthFolderSink:
    if path.suffix == ".mkv":
        return DepthVideoSink(path, **more)
    pattern = "{index:06d}.npy" if path.name == "npy" else "{index:06d}.png"
    return DepthFolderSink(path, pattern=pattern, **more)


INFO = stream_info(time_base=NTSC, rate=Fraction(30000, 1001))


@pytest.mark.parametrize("name", ["out.mkv", "png", "npy"])
@pytest.mark.parametrize("sense", list(Sense))
def test_depth_comes_back(tmp_path: Path, name: str, sense: Sense) -> None:
    path = tmp_path / name
    maps = [FAR * (1 + 0.02 * index) for index in range(5)]
    maps[2] = maps[2].copy()
    maps[2][10:20, 5:9] = np.nan
    stamps = [0, 1001, 2002, 90007, 90008]
    run_sink(sink_at(path, model="built-in", model_revision="7"), INFO, depths(maps, sense=sense, stamps=stamps))
    with read_depth(path) as reader:
        meta = reader.metadata
        assert (meta.sense, meta.model, meta.model_revision, meta.version) == (sense, "built-in", "7", __version__)
        assert (meta.width_px, meta.height_px, meta.source) == (64, 48, "clip")
        assert meta.unit == ("m" if sense is Sense.METRIC_M else "")
        if sense is Sense.METRIC_M and name != "npy":
            assert (meta.scale, meta.offset) == (0.001, 0.0)
        assert len(reader) == 5
        for _ in range(2):
            for frame, stamp, given_values in zip(reader, stamps, maps, strict=True):
                values = frame.values
                assert (frame.pts, frame.time_base) == (stamp, NTSC)
                assert (frame.sense, frame.unit) == (sense, meta.unit)
                assert values.dtype == np.float32
                assert np.array_equal(np.isnan(values), np.isnan(given_values))
                error = np.nanmax(np.abs(values.astype(np.float64) - given_values))
                # Half a step, and what the float32 of the answer itself cannot hold.
                assert error <= (0 if name == "npy" else meta.scale / 2 + 4e-6)
        assert reader[3].pts == 90007
        assert repr(reader[1]) == f"<DepthFrame 64x48 {sense.value} at 0.033 s>"
        assert np.array_equal(reader[-1].values, list(reader)[-1].values, equal_nan=True)
        assert [frame.pts for frame in reader[1:3]] == [1001, 2002]
        with pytest.raises(IndexError):
            reader[5]


def test_codes_are_bit_exact_for_other_programs(tmp_path: Path) -> None:
    codes = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21 + 1
    maps = [codes.astype(np.float32) / 1000]
    run_sink(DepthVideoSink(tmp_path / "out.mkv"), INFO, depths(maps))
    run_sink(DepthFolderSink(tmp_path / "out"), INFO, depths(maps))
    with av.open(str(tmp_path / "out.mkv")) as container:
        frame = next(container.decode(video=0))
    assert frame.format.name == "gray16le"
    assert np.array_equal(frame.to_ndarray(), codes)
    with Image.open(tmp_path / "out" / "000000.png") as image:
        assert np.array_equal(np.asarray(image), codes)
    for path in (tmp_path / "out.mkv", tmp_path / "out"):
        with read_depth(path) as reader:
            stored = list(reader.coded())
        assert np.array_equal(stored[0].codes, codes)
        assert stored[0].coding == Coding(0.001, 0.0)


@pytest.mark.needs("ffprobe")
def test_the_video_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "out.mkv"
    stamps = [0, 33, 70, 171, 200]
    info = stream_info(time_base=Fraction(1, 1000), rate=None)
    run_sink(DepthVideoSink(path), info, depths([FAR] * 5, stamps=stamps, time_base=Fraction(1, 1000)))
    found = probe(path)
    assert (found["codec_name"], found["pix_fmt"], found["pts"]) == ("ffv1", "gray16le", stamps)
    with av.open(str(path)) as container:
        tags = container.metadata
    assert tags["STREAMDEPTH_SCALE"] == "0.001"
    assert tags["STREAMDEPTH_SENSE"] == "metric_m"
    assert tags["STREAMDEPTH_VERSION"] == __version__


@pytest.mark.parametrize("name", ["out.mkv", "png"])
@pytest.mark.parametrize("sense", list(Sense))
def test_a_frame_out_of_range_is_recoded_not_clipped(tmp_path: Path, name: str, sense: Sense) -> None:
    path = tmp_path / name
    maps = [FAR, FAR * 40, FAR - 9000, FAR, np.full_like(FAR, np.nan)]
    sink = sink_at(path)
    run_sink(sink, INFO, depths(maps, sense=sense))
    assert sink.counts["recoded"] == 2
    with read_depth(path) as reader:
        codings = [frame.coding for frame in reader.coded()]
        for number, (frame, given_values) in enumerate(zip(reader, maps, strict=True)):
            if number == 4:
                assert np.isnan(frame.values).all()
                continue
            error = np.abs(frame.values.astype(np.float64) - given_values).max()
            assert error <= codings[number].scale / 2 + 1e-3
            assert np.array_equal(reader[number].values, frame.values)
    assert codings[0] != codings[1] != codings[2]
    assert codings[2] == codings[3]
    if sense is Sense.METRIC_M:
        assert codings[1].scale in {0.001 * 2**power for power in range(1, 12)}


@settings(max_examples=200)
@given(
    st.sampled_from(list(Sense)),
    st.lists(
        st.floats(-(2.0**99), 2.0**99, width=32, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-20),
        min_size=1,
        max_size=6,
    ),
)
def test_any_values_fit_their_coding(sense: Sense, values: list[float]) -> None:
    coding = first_coding(sense, (values[0], values[0]))
    for number, value in enumerate(values):
        seen = min(values[: number + 1]), max(values[: number + 1])
        if not coding.fits(*seen):
            coding = wider(coding, sense, seen)
        assert coding.fits(*seen)
        code = round((value - coding.offset) / coding.scale)
        assert 1 <= code <= CODES
        # A float64 offset far from zero has steps of its own.
        rounding = 4e-16 * (abs(coding.offset) + abs(value))
        assert abs(coding.offset + coding.scale * code - value) <= coding.scale / 2 + rounding


def test_flat_and_empty_images_have_a_coding() -> None:
    for sense in Sense:
        for span in ((0.0, 0.0), (3.0, 3.0), (-2.0, -2.0), None):
            coding = first_coding(sense, span)
            assert span is None or coding.fits(*span)
    assert span_of(np.full((2, 2), np.nan, np.float32)) is None
    assert span_of(np.array([[np.inf, 1.0], [np.nan, 2.0]], np.float32)) == (1.0, 2.0)


def test_masked_and_infinite_values_are_no_depth(tmp_path: Path) -> None:
    values = FAR.copy()
    values[0, 0], values[0, 1] = np.inf, -np.inf
    valid = np.ones(values.shape, np.bool_)
    valid[40:, :] = False
    image = paint(64, 48, 0)
    depth = DepthMap(values, Sense.METRIC_M, valid)
    run_sink(DepthVideoSink(tmp_path / "out.mkv"), INFO, [result(image, 0, time_base=NTSC, depth=depth)])
    with read_depth(tmp_path / "out.mkv") as reader:
        back = reader[0].values
    assert np.isnan(back[40:]).all()
    assert np.isnan(back[0, :2]).all()
    assert np.isfinite(back[1:40]).all()


@pytest.mark.parametrize("name", ["out.mkv", "png", "npy"])
def test_the_size_is_the_sources_or_the_models(tmp_path: Path, name: str) -> None:
    small = FAR[::4, ::4].copy()
    wide = tmp_path / "wide" / name
    run_sink(sink_at(wide), INFO, depths([small]))
    with read_depth(wide) as reader:
        assert reader[0].values.shape == (48, 64)
        assert np.abs(reader[0].values - resize_bilinear(small, 64, 48)).max() <= 0.00051
    model = tmp_path / "model" / name
    run_sink(sink_at(model, size="model"), INFO, depths([small]))
    with read_depth(model) as reader:
        assert reader[0].values.shape == (12, 16)
        assert np.abs(reader[0].values - small).max() <= 0.00051
    with pytest.raises(UsageError, match="'source' or 'model', not 'big'"):
        sink_at(tmp_path / name, size="big")


def test_frames_of_another_size_are_fitted(tmp_path: Path) -> None:
    results = [*depths([FAR]), result(paint(24, 48, 1), 1001, index=1, time_base=NTSC, depth=depth_map(FAR))]
    sink = DepthVideoSink(tmp_path / "out.mkv")
    run_sink(sink, INFO, results)
    assert sink.counts == {"resized": 1}
    with read_depth(tmp_path / "out.mkv") as reader:
        back = reader[1].values
    assert np.isnan(back[:, :19]).all()
    assert np.isnan(back[:, 45:]).all()
    assert np.isfinite(back[:, 20:44]).all()


def test_a_trimmed_source_keeps_its_own_stamps(tmp_path: Path) -> None:
    info = stream_info(time_base=NTSC, rate=Fraction(30000, 1001), origin_seconds=Fraction(1001, 3000))
    run_sink(DepthVideoSink(tmp_path / "out.mkv"), info, depths([FAR] * 3, stamps=[10010, 11011, 12012]))
    with read_depth(tmp_path / "out.mkv") as reader:
        assert [frame.pts for frame in reader] == [10010, 11011, 12012]
        assert reader.metadata.origin_seconds == Fraction(1001, 3000)
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert next(container.decode(video=0)).time == 0


def test_stamps_closer_than_the_containers_clock_stay_apart(tmp_path: Path) -> None:
    stamps = [0, 3, 6, 9, 40]
    maps = [FAR + 0.001 * index for index in range(5)]
    run_sink(DepthVideoSink(tmp_path / "out.mkv"), INFO, depths(maps, stamps=stamps))
    with read_depth(tmp_path / "out.mkv") as reader:
        frames = list(reader)
        assert [frame.pts for frame in frames] == stamps
        for index, frame in enumerate(frames):
            assert np.array_equal(reader[index].values, frame.values)


def test_records_stripped_by_another_program_leave_the_containers_clock(tmp_path: Path) -> None:
    run_sink(DepthVideoSink(tmp_path / "out.mkv"), INFO, depths([FAR] * 4))
    stripped = tmp_path / "stripped.mkv"
    with av.open(str(tmp_path / "out.mkv")) as source, av.open(str(stripped), "w") as target:
        target.metadata.update(source.metadata)
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    with read_depth(stripped) as reader:
        assert len(reader) == 4
        assert [round(frame.seconds, 2) for frame in reader] == [0.0, 0.03, 0.07, 0.1]
        assert np.abs(reader[1].values - FAR).max() <= 0.00051


_KILLED = """
import sys
from pathlib import Path
from tests.integration.test_sinks_depth import FAR, INFO, depths, sink_at
sink = sink_at(Path(sys.argv[1]))
sink.open(INFO, None)
for item in depths([FAR + 0.001 * index for index in range(100)]):
    sink.process(item)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("name", "least"), [("out.mkv", 60), ("png", 100), ("npy", 100)])
@pytest.mark.slow
def test_a_killed_run_can_be_read(tmp_path: Path, name: str, least: int) -> None:
    path = tmp_path / name
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.kill()
    if path.suffix == ".mkv":
        assert not path.exists()
        path = path.with_name("out.partial.mkv")
    with read_depth(path) as reader:
        frames = list(reader)
        assert least <= len(frames) <= 100
        assert len(reader) == len(frames)
        assert reader.metadata.sense is Sense.METRIC_M
        for index, frame in enumerate(frames):
            assert frame.pts == index * 1001
            assert np.abs(frame.values - FAR - 0.001 * index).max() <= 0.00051


def test_a_half_written_folder_is_read_up_to_where_it_is_whole(tmp_path: Path) -> None:
    run_sink(DepthFolderSink(tmp_path), INFO, depths([FAR] * 3))
    index = tmp_path / "depth.jsonl"
    index.write_text(index.read_text()[:-9])
    with read_depth(tmp_path) as reader:
        assert len(reader) == len(list(reader)) == 2


@pytest.mark.parametrize("name", ["out.mkv", "png", "npy"])
def test_a_full_disk_keeps_what_was_written(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(1)
    maps = [noise.uniform(1, 60, (96, 128)).astype(np.float32) for _ in range(60)]
    info = stream_info(width=128, height=96, time_base=NTSC)
    with small_disk(tmp_path / "disk", kilobytes=700) as disk:
        path = disk / name
        with pytest.raises(SinkError, match="no space left on the device; what was written is kept"):
            run_sink(sink_at(path), info, depths(maps, size=(128, 96)))
        if path.suffix == ".mkv":
            assert not path.exists()
            path = path.with_name("out.partial.mkv")
        with read_depth(path) as reader:
            frames = list(reader)
            assert len(frames) >= 5
            assert np.abs(frames[3].values - maps[3]).max() <= 0.00051


def test_outputs_are_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"depth video is written to .mkv only; use .mkv"):
        DepthVideoSink(tmp_path / "out.mp4")
    (tmp_path / "out.mkv").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="already exists"):
        DepthVideoSink(tmp_path / "out.mkv").open(INFO, None)
    with pytest.raises(OutputExistsError, match="is not empty"):
        DepthFolderSink(tmp_path).open(INFO, None)
    with pytest.raises(SinkError, match="is a file; name a folder"):
        DepthFolderSink(tmp_path / "out.mkv").open(INFO, None)
    same = stream_info(media_path=str(tmp_path / "out.mkv"))
    with pytest.raises(UsageError, match="is the input"):
        DepthVideoSink(tmp_path / "out.mkv", overwrite=True).open(same, None)
    run_sink(DepthVideoSink(tmp_path / "out.mkv", overwrite=True), INFO, [])
    assert (tmp_path / "out.mkv").read_bytes() == b"precious"
    run_sink(DepthVideoSink(tmp_path / "out.mkv", overwrite=True), INFO, depths([FAR]))
    assert len(read_depth(tmp_path / "out.mkv")) == 1
    run_sink(DepthVideoSink(tmp_path / "none.mkv"), INFO, [])
    assert not (tmp_path / "none.mkv").exists()
    for pattern, message in (
        ("depth.png", "gives every frame the same name"),
        ("{index}.jpg", "unknown image suffix '.jpg'"),
        ("{frame}.png", "unknown field {frame}; use {image}, {index}, {pts} or %06d, and {name}"),
        ("{}.mp4", "unknown field {}; use"),
        ("{index.png", "cannot be filled in"),
        ("{index:z}.png", "cannot be filled in"),
        ("out%06d.mp4", "a video is one file; omit the number, or use the suffix .png or .npy"),
        ("a/{index}.png", "cannot contain folders"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            DepthFolderSink(tmp_path, pattern=pattern)


def test_what_is_not_depth_is_refused_clearly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.support.media import with_unknown_codec, write_clip

    unknown = with_unknown_codec(write_clip(tmp_path / "unknown.mp4", frames=2))
    clip = write_clip(tmp_path / "clip.mkv", frames=2)
    gray = write_clip(tmp_path / "gray.mkv", frames=2, codec="ffv1", pix_fmt="gray16le")
    (tmp_path / "junk.mkv").write_bytes(b"junk" * 100)
    (tmp_path / "empty").mkdir()
    for path in (clip, gray, unknown, tmp_path / "junk.mkv", tmp_path / "empty"):
        with pytest.raises(DataFormatError, match="not depth data of streamdepth; write it with --data") as caught:
            read_depth(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(SourceNotFoundError, match="no such file or folder"):
        read_depth(tmp_path / "missing.mkv")
    newer = tmp_path / "newer"
    run_sink(DepthFolderSink(newer), INFO, depths([FAR]))
    lines = (newer / "depth.jsonl").read_text().splitlines()
    head = json.loads(lines[0]) | {"format": "9"}
    (newer / "depth.jsonl").write_text("\n".join([json.dumps(head), *lines[1:]]))
    with pytest.raises(DataFormatError):
        read_depth(newer)
    (tmp_path / "broken").mkdir()
    run_sink(DepthFolderSink(tmp_path / "broken", overwrite=True), INFO, depths([FAR]))
    file = tmp_path / "broken" / "000000.png"
    data = file.read_bytes()
    for content in (data[:-20], data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], b""):  # checksum of the pixels
        file.write_bytes(content)
        with read_depth(tmp_path / "broken") as reader, pytest.raises(DataFormatError, match=r"000000\.png cannot be"):
            reader[0]
    assert not capfd.readouterr().err  # nor does libpng print


def test_secrets_do_not_reach_the_file(tmp_path: Path) -> None:
    info = stream_info(time_base=NTSC)
    sink = DepthVideoSink(tmp_path / "out.mkv", model="https://user:hunter2@hub/model.onnx")
    run_sink(sink, info, depths([FAR]))
    assert b"hunter2" not in (tmp_path / "out.mkv").read_bytes()

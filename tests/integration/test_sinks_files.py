"""Images in folders, and which sink an output's name means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from streamdepth.core.contracts import Sink
from streamdepth.core.errors import OutputExistsError, SinkError, StageError, StopPipeline, UsageError
from streamdepth.sinks.consumers import CallbackSink, NullSink, VirtualCameraSink
from streamdepth.sinks.depth.reader import read_depth
from streamdepth.sinks.depth.sink import DepthFolderSink, DepthVideoSink
from streamdepth.sinks.files import check_distinct, partial_path
from streamdepth.sinks.images import ImagesSink
from streamdepth.sinks.names import SOURCE_NAMES, output_of
from streamdepth.sinks.select import data_sink_for, sink_for
from streamdepth.sinks.video import VideoSink
from tests.support.media import read_pts
from tests.support.sinks import control, paint, painted, result, run_sink, small_disk, stream_info

if TYPE_CHECKING:
    from streamdepth.core.frame import DepthMap, Frame

INFO = stream_info()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (SOURCE_NAMES, ["000000.png", "000001.png"]),
        ("{index:06d}.png", ["000000.png", "000001.png"]),
        ("%04d.jpg", ["0000.jpg", "0001.jpg"]),
        ("at-{pts}.webp", ["at-40.webp", "at-55.webp"]),
    ],
)
def test_images_are_named_after_their_frames(tmp_path: Path, pattern: str, names: list[str]) -> None:
    folder = tmp_path / "deep" / "out"
    run_sink(ImagesSink(folder, control=control(), pattern=pattern), INFO, painted([40, 55], pix_fmt="rgb24"))
    assert files(folder) == names
    expected = paint(64, 48, 1, "rgb24").to_ndarray()
    with Image.open(folder / names[1]) as image:
        assert image.size == (64, 48)
        error = np.abs(np.asarray(image.convert("RGB")).astype(int) - expected)
    assert error.max() == 0 if pattern.endswith("png") else error.mean() < 6


def test_images_keep_the_names_of_those_they_are_made_of(tmp_path: Path) -> None:
    sources = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/X.png", "b/x-2.png", "b/y.z.tif")]
    results = [result(paint(8, 8, 0, "rgb24"), n, index=n, path=path) for n, path in enumerate(sources)]
    run_sink(ImagesSink(tmp_path / "out", control=control()), INFO, [*results, result(paint(8, 8, 0), 9, index=9)])
    assert files(tmp_path / "out") == sorted(["x.png", "x-2.png", "X-3.png", "x-2-2.png", "y.z.png", "000009.png"])
    run_sink(ImagesSink(tmp_path / "own", control=control(), pattern="of-{image}.webp"), INFO, results[-1:])
    assert files(tmp_path / "own") == ["of-y.z.webp"]
    run_sink(DepthFolderSink(tmp_path / "depth"), INFO, results[:2])
    assert files(tmp_path / "depth") == ["depth.jsonl", "x-2.png", "x.png"]
    assert len(read_depth(tmp_path / "depth")) == 2


def test_the_folder_that_is_read_is_never_written_to(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"precious")
    for sink in (ImagesSink(tmp_path, control=control(), overwrite=True), DepthFolderSink(tmp_path, overwrite=True)):
        with pytest.raises(UsageError, match="contains the images that are read"):
            run_sink(sink, INFO, [result(paint(8, 8, 0, "rgb24"), 0, path=photo)])
    assert photo.read_bytes() == b"precious"


def test_png_keeps_alpha_and_gray(tmp_path: Path) -> None:
    rgba = np.random.default_rng(2).integers(0, 255, (48, 64, 4), np.uint8)
    gray = rgba[..., 0].copy()
    images = [av.VideoFrame.from_ndarray(rgba, format="rgba"), av.VideoFrame.from_ndarray(gray, format="gray")]
    results = [result(image, index, index=index) for index, image in enumerate(images)]
    run_sink(ImagesSink(tmp_path / "out", control=control(transparent=True)), stream_info(pix_fmt="rgba"), results)
    with Image.open(tmp_path / "out" / "000000.png") as image:
        assert np.array_equal(np.asarray(image), rgba)
    with Image.open(tmp_path / "out" / "000001.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), gray)


def test_images_of_many_sizes_keep_them(tmp_path: Path) -> None:
    results = [result(paint(64, 48, 0), 0), result(paint(33, 21, 1, "rgb24"), 1, index=1)]
    run_sink(ImagesSink(tmp_path, control=control()), INFO, results)
    with Image.open(tmp_path / "000001.png") as image:
        assert image.size == (33, 21)


def test_image_folders_are_refused_clearly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.jpg cannot carry transparency; use \.png or \.webp"):
        ImagesSink(tmp_path, control=control(transparent=True), pattern="%d.jpg")
    with pytest.raises(UsageError, match=r"quality must be 1 to 100, not 0"):
        ImagesSink(tmp_path, control=control(), quality=0)
    with pytest.raises(UsageError, match=r"did you mean '\.png'"):
        ImagesSink(tmp_path, control=control(), pattern="%d.pgn")
    (tmp_path / "000000.png").write_bytes(b"precious")
    with pytest.raises(OutputExistsError, match="is not empty; --overwrite writes into it"):
        ImagesSink(tmp_path, control=control()).open(INFO, None)
    with pytest.raises(SinkError, match="is a device; the output null: discards frames"):
        ImagesSink(Path(os.devnull), control=control()).open(INFO, None)
    with pytest.raises(SinkError, match="is a file"):
        ImagesSink(tmp_path / "000000.png", control=control()).open(INFO, None)
    (tmp_path / "other.txt").write_bytes(b"kept")
    over = ImagesSink(tmp_path, control=control(), overwrite=True)
    run_sink(over, INFO, painted([0]))
    assert over.note == "existing files kept: 1"
    assert (tmp_path / "other.txt").read_bytes() == b"kept"
    assert (tmp_path / "000000.png").read_bytes() != b"precious"


def test_a_full_disk_leaves_whole_images_only(tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (96, 128, 3), np.uint8)
    results = [
        result(av.VideoFrame.from_ndarray(np.roll(noise, index), format="rgb24"), index, index=index)
        for index in range(40)
    ]
    with small_disk(tmp_path / "disk", kilobytes=300) as disk:
        with pytest.raises(SinkError, match="no space left"):
            run_sink(ImagesSink(disk / "out", control=control()), INFO, results)
        names = files(disk / "out")
        assert len(names) >= 3
        for name in names:
            with Image.open(disk / "out" / name) as image:
                image.load()


@pytest.mark.parametrize(
    ("output", "kind", "name"),
    [
        ("out.mkv", VideoSink, "out.mkv"),
        ("OUT.MP4", VideoSink, "OUT.MP4"),
        ("a/b.webm", VideoSink, "a/b.webm"),
        ("frames/", ImagesSink, "frames/"),
        ("frames", ImagesSink, "frames"),
        ("frames/%05d.jpg", ImagesSink, "frames"),
        ("{index}.png", ImagesSink, "."),
        ("null:", NullSink, "null:"),
        ("virtualcam:", VirtualCameraSink, "virtualcam:"),
        ("virtualcam:/dev/video9", VirtualCameraSink, "virtualcam:/dev/video9"),
    ],
)
def test_outputs_by_name(output: str, kind: type[Sink], name: str) -> None:
    sink = sink_for(output)
    assert type(sink) is kind
    assert isinstance(sink, Sink)
    assert sink.name == name
    assert sink.control is not None


@pytest.mark.parametrize(
    ("output", "kind", "name"),
    [
        ("out/{name}.mkv", VideoSink, "out/a%d {x} 50%%.v2.mkv"),
        ("out/{name}", ImagesSink, "out/a%d {x} 50%%.v2"),
        ("{name}/", ImagesSink, "a%d {x} 50%%.v2/"),
        ("{name}/%03d.png", ImagesSink, "a%d {x} 50%%.v2"),
        ("null:", NullSink, "null:"),
    ],
)
def test_characters_of_a_source_are_never_fields(output: str, kind: type[Sink], name: str) -> None:
    sink = sink_for(output, name="a%d {x} 50%%.v2")
    assert type(sink) is kind
    assert sink.name == name


def test_images_of_several_sources_share_a_folder(tmp_path: Path) -> None:
    output = f"{tmp_path}/{{name}}-%02d.png"
    for name in ("a", "a-1", "b%d"):
        run_sink(sink_for(output, name=name), INFO, painted([0, 1]))
    assert files(tmp_path) == ["a-00.png", "a-01.png", "a-1-00.png", "a-1-01.png", "b%d-00.png", "b%d-01.png"]
    for name in ("a", "b%d"):
        assert output_of(output, (), name).exists()
        with pytest.raises(OutputExistsError, match="has files with names of the output; --overwrite writes into it"):
            sink_for(output, name=name).open(INFO, None)
    assert not output_of(output, (), "c").exists()


@pytest.mark.parametrize("pattern", ["{name}-%02d.npy", "{name}-{index:02d}.npy"])
def test_a_source_with_such_characters_in_a_pattern(pattern: str, tmp_path: Path) -> None:
    run_sink(data_sink_for(f"{tmp_path}/{pattern}", name="a%d {x} 50%%.v2"), INFO, painted([0, 1]))
    assert files(tmp_path) == ["a%d {x} 50%%.v2-00.npy", "a%d {x} 50%%.v2-01.npy", "depth.jsonl"]


def test_the_partial_name_of_a_long_name_is_shortened() -> None:
    name = partial_path(Path("é" * 125 + ".mkv")).name
    assert name == "é" * 121 + ".partial.mkv"
    assert len(name.encode()) <= 255


def test_streams_by_name() -> None:
    published = sink_for("rtsp://user:hunter2@127.0.0.1:9/in", bitrate=500, preset="superfast")
    served = sink_for("rtsp://127.0.0.1:0/depth", serve=True)
    assert type(published).__name__ == "RtspPublishSink"
    assert type(served).__name__ == "RtspServerSink"
    assert "hunter2" not in published.name


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("out.mkv", DepthVideoSink),
        ("depth/", DepthFolderSink),
        ("depth", DepthFolderSink),
        ("depth/%06d.npy", DepthFolderSink),
        ("depth/{pts}.png", DepthFolderSink),
        ("null:", NullSink),
    ],
)
def test_data_outputs_by_name(output: str, kind: type[Sink]) -> None:
    sink = data_sink_for(output, model="built-in", size="model")
    assert type(sink) is kind
    assert sink.control is None


def test_data_as_arrays_of_ones_own_names(tmp_path: Path) -> None:
    run_sink(data_sink_for(f"{tmp_path}/d-%03d.npy"), INFO, painted([0, 1]))
    assert files(tmp_path) == ["d-000.npy", "d-001.npy", "depth.jsonl"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.mkb", r"video cannot be written as '.mkb' \(did you mean '.mkv'\?\); use .mkv, .mp4"),
        ("out.gif", r"cannot be written as '.gif'"),
        ("out.png", r"one .png file cannot hold several frames; use out-%06d\.png or .mkv, .mp4"),
        ("http://host/x", r"video cannot be written to http:"),
        ("rtps://user:hunter2@host/x", r"rtps: \(did you mean 'rtsps?'\?"),
        ("", "an output needs a name"),
        ("frames/%06d.bmp", r"unknown image suffix '.bmp'.*; use .png or .jpg"),
    ],
)
def test_outputs_that_mean_nothing(output: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        sink_for(output)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "out.mp4",
            r"out.mp4: depth data cannot be written as '.mp4'.*; use .mkv, .mcap, .rrd, .json, or end the name",
        ),
        ("out.npy", r"use out-%06d\.npy or \.mkv"),
        ("rtsp://host/x", "depth data cannot be written to rtsp:; use OUT.mkv"),
        ("out.mkw", "did you mean '.mkv'"),
    ],
)
def test_data_outputs_that_mean_nothing(output: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        data_sink_for(output)


def test_unknown_options_are_refused_with_the_nearest_name() -> None:
    wrong: dict[str, Any] = {"bitrat": 5}
    with pytest.raises(UsageError, match=r"there is no sink option 'bitrat' \(did you mean 'bitrate'"):
        sink_for("out.mkv", **wrong)
    wrong = {"modell": "x"}
    with pytest.raises(UsageError, match=r"there is no sink option 'modell' \(did you mean 'model'"):
        data_sink_for("out.mkv", **wrong)


def test_only_streams_can_be_served() -> None:
    with pytest.raises(UsageError, match="only rtsp:// can be served"):
        sink_for("out.mkv", serve=True)


def test_outputs_named_twice(tmp_path: Path) -> None:
    check_distinct(["null:", "null:", "a.mkv", "b.mkv", f"{tmp_path}/"])
    with pytest.raises(UsageError, match="is named twice"):
        check_distinct(["out.mkv", "./out.mkv"])


def test_a_bit_rate_reaches_the_file(tmp_path: Path) -> None:
    sink = sink_for(f"{tmp_path}/out.mkv", bitrate=100, preset="ultrafast")
    run_sink(sink, INFO, painted(range(5)))
    assert len(read_pts(tmp_path / "out.mkv")) == 5
    both = sink_for(f"{tmp_path}/both.mkv", bitrate=100, crf=20)
    run_sink(both, INFO, painted(range(2)))


def test_a_callback_gets_frames_and_may_end_the_run() -> None:
    got: list[tuple[int, float]] = []

    def take(frame: Frame, depth: DepthMap) -> None:
        got.append((frame.index, float(depth.values[0, 0])))
        if frame.index == 1:
            raise StopPipeline

    sink = CallbackSink(take)
    with pytest.raises(StopPipeline):
        run_sink(sink, INFO, painted(range(5)))
    assert [index for index, _ in got] == [0, 1]

    def fail(frame: Frame, depth: DepthMap) -> None:
        raise ZeroDivisionError(f"{frame.index} {depth.width_px}")

    with pytest.raises(StageError, match=r"callback .*fail: ZeroDivisionError: 0 16"):
        run_sink(CallbackSink(fail), INFO, painted(range(5)))


def test_the_null_sink_takes_everything() -> None:
    run_sink(NullSink(), INFO, painted(range(3)))
    assert NullSink(control=control()).control is not None

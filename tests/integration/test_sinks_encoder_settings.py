"""What ``--preset auto`` encodes with, read from the files: x264 writes its settings into the first packet."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest

from streamdepth.core.errors import UsageError
from streamdepth.core.look import View
from streamdepth.media import hwaccel
from streamdepth.sinks.encoding import encoder_threads
from streamdepth.sinks.rtsp.media import Encoder
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.select import source_for
from tests.support.media import decode_images
from tests.support.sinks import control, packets, paint, painted, result, run_sink, stream_info

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SMOOTH = {"cabac": "1", "deblock": "1:0:0", "8x8dct": "1", "subme": "0", "crf": "20.0", "bframes": "0"}
_DETAILED = {**_SMOOTH, "subme": "1", "crf": "22.0"}
_TWO_IMAGES = {**_DETAILED, "chroma_qp_offset": "-4", "decimate": "0"}


def settings_in(path: Path) -> dict[str, str]:
    """x264's settings as it wrote them into the stream."""
    found = re.search(rb"options: ([ -~]+)", packets(path, "video")[0][1])
    assert found is not None
    return dict(word.split("=", 1) for word in found[1].decode().split() if "=" in word)


def written(path: Path, view: View = View.DEPTH, frames: int = 4, **arguments: Any) -> Path:
    info = stream_info(width=160, height=96)
    sink = VideoSink(path, control=control(view=view), **arguments)
    run_sink(sink, info, painted(range(frames), width=160, height=96))
    return path


@pytest.mark.parametrize(
    ("view", "arguments", "expected"),
    [
        (View.DEPTH, {}, _SMOOTH),
        (View.DEPTH, {"preset": "auto"}, _SMOOTH),
        (View.OVERLAY, {}, _DETAILED),
        (View.SIDE, {}, _TWO_IMAGES),
        (View.STACK, {}, _TWO_IMAGES),
        (View.OVERLAY, {"crf": 30}, {**_DETAILED, "crf": "30.0"}),
        (View.DEPTH, {"options": {"b": "300k"}}, {"cabac": "1", "subme": "0", "rc": "abr", "bitrate": "300"}),
        (View.OVERLAY, {"preset": "veryfast"}, {"subme": "2", "crf": "20.0", "bframes": "3", "aq": "1:1.00"}),
        (View.DEPTH, {"preset": "ultrafast", "crf": 18}, {"cabac": "0", "deblock": "0:0:0", "crf": "18.0"}),
        (View.DEPTH, {"codec": "libx264", "preset": "auto"}, _SMOOTH),
    ],
)
def test_x264_is_set_by_view_unless_a_preset_is_named(
    tmp_path: Path, view: View, arguments: dict[str, Any], expected: dict[str, str]
) -> None:
    found = settings_in(written(tmp_path / "out.mkv", view, **arguments))
    assert {name: found.get(name) for name in expected} == expected


def test_a_hardware_encoder_is_taken_only_where_hwaccel_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hwaccel, "cannot_encode", lambda *_: "")
    monkeypatch.setattr(hwaccel, "cannot_decode", lambda *_: "")
    asked: tuple[dict[str, Any], ...] = ({}, {"preset": "auto"}, {"preset": "auto", "crf": 22.0})
    for number, arguments in enumerate(asked):
        assert settings_in(written(tmp_path / f"{number}.mp4", **arguments))["cabac"] == "1"
    assert hwaccel.encoder(hwaccel.HwAccel.AUTO, "libx264", "yuv420p", 160, 96).value != "libx264"


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libsvtav1"])
@pytest.mark.parametrize("view", [View.DEPTH, View.OVERLAY])
def test_other_encoders_know_the_options_of_auto(tmp_path: Path, codec: str, view: View) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV was built without {codec}")
    path = written(tmp_path / "out.mkv", view, codec=codec, preset="auto")
    assert len(decode_images(path)) == 4


def test_auto_is_smaller_than_mpeg4_and_about_as_good(tmp_path: Path) -> None:
    """MPEG-4 with the options of OpenCV's VideoWriter, on the synthetic scene with sensor noise."""
    images = _noisy_scene(24)
    info = stream_info(width=640, height=360)
    sizes, errors = [], []
    runs: dict[str, dict[str, Any]] = {
        "loop.mkv": {"codec": "mpeg4", "options": {"b": "100M", "g": "12", "qmin": "3"}},
        "auto.mkv": {},
    }
    for name, arguments in runs.items():
        sink = VideoSink(tmp_path / name, control=control(view=View.OVERLAY), **arguments)
        run_sink(sink, info, (result(image, index, index=index) for index, image in enumerate(images)))
        sizes.append((tmp_path / name).stat().st_size)
        decoded = decode_images(tmp_path / name)
        errors.append(np.mean([(_luma(a) - _luma(b)) ** 2 for a, b in zip(images, decoded, strict=True)]))
    mpeg4, auto = (10 * np.log10(255**2 / error) for error in errors)
    assert sizes[1] < 0.7 * sizes[0]
    assert auto > mpeg4 - 1.5


def _noisy_scene(count: int) -> list[av.VideoFrame]:
    source = source_for(f"test:?size=640x360&rate=25&frames={count}")
    source.open()
    images = [frame.image.reformat(format="yuv420p") for frame in source.frames()]
    source.close()
    for index, image in enumerate(images):
        luma = np.frombuffer(cast("Any", image.planes[0]), np.uint8)
        luma[:] = np.clip(luma + np.random.default_rng(index).normal(0, 3, luma.size), 16, 235).astype(np.uint8)
    return images


def _luma(image: av.VideoFrame) -> NDArray[np.float64]:
    plane = cast("Any", image.planes[0])
    return np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width].astype(np.float64)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot restrict a process to one core")
def test_a_file_does_not_depend_on_the_number_of_cores(tmp_path: Path) -> None:
    available = os.sched_getaffinity(0)
    if len(available) < 2:
        pytest.skip("one core only")
    several = packets(written(tmp_path / "several.mkv", View.OVERLAY, 12), "video")
    os.sched_setaffinity(0, {min(available)})
    try:
        one = packets(written(tmp_path / "one.mkv", View.OVERLAY, 12), "video")
    finally:
        os.sched_setaffinity(0, available)
    assert one == several


def test_encoder_threads_follow_from_the_size() -> None:
    sizes = [(64, 48), (640, 360), (1280, 720), (1920, 1080), (3840, 2160)]
    assert [encoder_threads(*size) for size in sizes] == [1, 1, 4, 9, 12]


@pytest.mark.parametrize(
    ("preset", "low_latency", "profile"), [("auto", True, 100), ("auto", False, 100), ("ultrafast", True, 66)]
)
def test_streams_use_cabac_and_8x8_blocks(preset: str, low_latency: bool, profile: int) -> None:
    encoder = Encoder(
        rate=Fraction(25), bitrate=None, gop_seconds=1.0, preset=preset, low_latency=low_latency, announce=False
    )
    try:
        encoder.encode(paint(64, 48, 0), 0, key=True)
        assert encoder.sps[1] == profile  # profile_idc of ITU-T H.264 A.2: 100 High, 66 Baseline
    finally:
        encoder.close()


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_crf_above_the_scale_of_the_encoder_is_refused(codec: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"crf is at most 51 for {codec}, not 60"):
        VideoSink(tmp_path / "out.mkv", control=control(), codec=codec, crf=60)
    VideoSink(tmp_path / "out.webm", control=control(), crf=60)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_files_of_h265_have_valid_times(frames: int, tmp_path: Path) -> None:
    for number in range(12):
        used = [b"\xff" * size for size in (32, 64, 200, 512, 1000, 4000) * 50]
        del used  # libx265 would find these bytes instead of zeros
        path = written(tmp_path / f"{number}.mp4", frames=frames, codec="libx265")
        assert sorted(round(float(at) * 25) for at, _ in packets(path, "video")) == list(range(frames))

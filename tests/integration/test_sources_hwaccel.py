"""Hardware decoding and encoding: what happens where there is none, which is where tests run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import UsageError
from streamdepth.core.frame import ColorTags, ImageInfo
from streamdepth.media import hwaccel
from streamdepth.media.hwaccel import HwAccel
from streamdepth.sinks.encoding import encoder_formats, encoding_for
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.file import FileSource
from streamdepth.sources.live.reader import Image, LiveDecoding, LiveReader, Opened
from tests.support.live import live
from tests.support.rtsp import GstServer
from tests.support.sinks import control, painted, run_sink, stream_info

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hardware") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for level in (40, 120, 200):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    return path


def luma(source: FileSource) -> list[float]:
    return [float(frame.image.to_ndarray(format="gray").mean()) for frame in source.frames()]


@pytest.mark.parametrize("wanted", list(HwAccel))
def test_a_file_is_decoded_whatever_hardware_was_asked_for(clip: Path, wanted: HwAccel) -> None:
    plain = FileSource(clip)
    plain.open()
    levels = luma(plain)
    plain.close()
    source = FileSource(clip, hwaccel=wanted)
    info = source.open()
    assert luma(source) == pytest.approx(levels, abs=1)
    source.close()
    missing = wanted not in (HwAccel.AUTO, HwAccel.NONE) and hwaccel.decoder(wanted).value is None
    assert ("decoding in software: " in info.note) == missing


def test_the_second_pass_uses_the_same_hardware(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[HwAccel] = []

    def none(wanted: HwAccel) -> hwaccel.Chosen:
        asked.append(wanted)
        return hwaccel.Chosen(None)

    monkeypatch.setattr("streamdepth.sources.medium.decoder", none)
    again = FileSource(clip, hwaccel="cuda").again()
    assert again is not None
    again.open()
    again.close()
    assert asked == [HwAccel.CUDA]


def test_auto_falls_back_in_silence_and_a_name_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwaccel, "cannot_decode", lambda kind: f"no {kind} here")
    assert hwaccel.decoder(HwAccel.AUTO) == hwaccel.Chosen(None)
    assert hwaccel.decoder(HwAccel.NONE) == hwaccel.Chosen(None)
    assert hwaccel.decoder(HwAccel.CUDA) == hwaccel.Chosen(None, "decoding in software: no cuda here")


def test_a_camera_is_decoded_in_software_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwaccel, "cannot_decode", lambda kind: f"no {kind} here")
    with GstServer() as server:
        source = live(server.url("/cam"), hwaccel="cuda", threads=1, max_frames=2, timeout_seconds=5)
        assert source.open().note == "h264 160x96; decoding in software: no cuda here"
        assert len(list(source.frames())) == 2
    with pytest.raises(UsageError, match="hwaccel is one of auto, cuda"):
        live("rtsp://127.0.0.1/x", hwaccel="gpu")
    with pytest.raises(UsageError, match="decoder threads"):
        live("rtsp://127.0.0.1/x", threads=-1)


def test_a_live_decoder_on_hardware_is_announced_with_its_first_image() -> None:
    """Before it, the decoder only knows the device's format, which no sink can take."""
    context = SimpleNamespace(
        is_hwaccel=True, name="vp9", width=64, height=48, pix_fmt="cuda", extradata=None,
    )  # fmt: skip
    stream: Any = SimpleNamespace(
        codec_context=context, time_base=None, average_rate=None, guessed_rate=None, sample_aspect_ratio=None
    )
    packet = SimpleNamespace(stream=stream, size=1, is_corrupt=False, decode=lambda: [av.VideoFrame(64, 48, "nv12")])
    container: Any = SimpleNamespace(format=SimpleNamespace(name="rtsp"), demux=lambda _: [packet])
    reader = LiveReader(
        "", {}, open_timeout_seconds=1, read_timeout_seconds=1, decoding=LiveDecoding(), clock=SystemClock(), label="",
        explain=lambda error: error,
    )  # fmt: skip
    reader._pump(container, stream)
    opened = reader.mailbox.take(1)
    assert isinstance(opened, Opened)
    assert (opened.pix_fmt, opened.width_px) == ("nv12", 64)
    assert isinstance(reader.mailbox.take(1), Image)


def standing_in(monkeypatch: pytest.MonkeyPatch, works: str) -> list[str]:
    """Let one hardware encoder open; gives what was tried."""
    tried: list[str] = []

    def cannot_encode(name: str, width_px: int, height_px: int) -> str:
        tried.append(f"{name} {width_px}x{height_px}")
        return "" if name == works else f"no {name} here"

    monkeypatch.setattr(hwaccel, "cannot_encode", cannot_encode)
    return tried


def test_the_hardwares_encoder_is_taken_where_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = standing_in(monkeypatch, "h264_vaapi")
    assert hwaccel.encoder(HwAccel.AUTO, "libx264", "yuv420p", 64, 48) == hwaccel.Chosen("h264_vaapi")
    assert tried == ["h264_nvenc 64x48", "h264_vaapi 64x48"]
    assert hwaccel.encoder(HwAccel.NONE, "libx264", "yuv420p", 64, 48) == hwaccel.Chosen("libx264")


@pytest.mark.parametrize(
    ("software", "pix_fmt", "why"),
    [
        ("libx264", "yuv420p", "no h264_nvenc here"),
        ("libx264", "yuv420p10le", "h264_nvenc does not support yuv420p10le"),
        ("libx264", "yuv444p", "h264_nvenc does not support yuv444p"),
        ("ffv1", "bgra", "cuda has no encoder that replaces ffv1"),
    ],
)
def test_what_hardware_cannot_take_is_encoded_in_software(
    monkeypatch: pytest.MonkeyPatch, software: str, pix_fmt: str, why: str
) -> None:
    standing_in(monkeypatch, "none of them")
    note = f"encoding in software: {why}"
    assert hwaccel.encoder(HwAccel.CUDA, software, pix_fmt, 64, 48) == hwaccel.Chosen(software, note)
    assert hwaccel.encoder(HwAccel.AUTO, software, pix_fmt, 64, 48) == hwaccel.Chosen(software)


@pytest.mark.parametrize(
    "wanted", [kind for kind in HwAccel if kind not in (HwAccel.AUTO, HwAccel.NONE, HwAccel.D3D11VA)]
)
def test_an_encoder_that_does_not_open_is_replaced_and_named(wanted: HwAccel) -> None:
    chosen = hwaccel.encoder(wanted, "libx264", "yuv420p", 256, 256)
    if chosen.value != "libx264":
        pytest.skip(f"{chosen.value} works here")
    assert chosen.note.startswith("encoding in software: ")
    assert hwaccel.HARDWARE[wanted].encoders["libx264"] in chosen.note


def test_an_encoder_that_opens_is_recognised() -> None:
    assert hwaccel.cannot_encode("libx264") == ""
    assert "built without" in hwaccel.cannot_encode("h264_nonesuch")
    assert "cannot be opened for 33x32" in hwaccel.cannot_encode("libx264", 33, 32)


def test_only_vaapi_has_its_images_brought_to_the_device() -> None:
    assert hwaccel.upload_device("h264_nvenc") is None
    assert hwaccel.upload_device("h264_vaapi") is not None


class Opening:
    """An encoder at PyAV's boundary: notes how it is set up, opens."""

    def __init__(self) -> None:
        self.given: list[tuple[str, bool]] = []

    def create(self, name: str, _mode: str, hwaccel: object = None) -> Opening:
        self.given.append((name, hwaccel is not None))
        return self

    def open(self) -> None:
        self.given.append((str(vars(self)["pix_fmt"]), True))


def test_vaapi_is_tried_with_uploaded_images(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Opening()
    monkeypatch.setattr("av.CodecContext", fake)
    assert hwaccel.cannot_encode("h264_vaapi") == ""
    assert fake.given == [("h264_vaapi", True), ("nv12", True)]
    assert hwaccel.cannot_encode("h264_nvenc") == ""
    assert fake.given[2:] == [("h264_nvenc", False), ("yuv420p", True)]


def test_a_device_that_opens_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hwaccel, "cannot_decode", lambda kind: "" if kind == "vaapi" else "no")
    chosen = hwaccel.decoder(HwAccel.AUTO)
    assert (type(chosen.value).__name__, chosen.note) == ("HWAccel", "")


def written(path: Path, **options: Any) -> tuple[str, str]:
    """Codec of a file written from 64x48 images, and what the sink says."""
    sink = VideoSink(path, control=control(), **options)
    run_sink(sink, stream_info(), painted(range(3)))
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.name, sink.note


def test_a_file_is_written_whatever_hardware_was_asked_for(tmp_path: Path) -> None:
    if hwaccel.cannot_encode("h264_nvenc", 64, 48):
        assert written(tmp_path / "auto.mp4", hwaccel="auto") == ("h264", "")
        codec, note = written(tmp_path / "cuda.mp4", hwaccel="cuda")
        assert (codec, note.startswith("encoding in software: ")) == ("h264", True)
    assert written(tmp_path / "named.mp4", hwaccel="cuda", codec="mpeg4") == ("mpeg4", "")


def test_the_stand_in_writes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # mpeg4 plays the hardware: what is chosen is what is opened.
    monkeypatch.setattr("streamdepth.sinks.video.encoder", lambda *_: hwaccel.Chosen("mpeg4"))
    assert written(tmp_path / "out.mp4", hwaccel="cuda") == ("mpeg4", "")


@pytest.mark.parametrize(
    ("codec", "options", "wanted"),
    [
        ("h264_nvenc", {}, {"preset": "p4", "rc": "vbr", "cq": "20", "b": "0"}),
        ("h264_nvenc", {"crf": "18.5", "preset": "veryfast"}, {"preset": "p2", "cq": "18.5"}),
        ("h264_nvenc", {"preset": "p6"}, {"preset": "p6", "cq": "20"}),
        ("h264_nvenc", {"preset": "veryslow", "b": "4000k"}, {"preset": "p7", "b": "4000k", "cq": None, "rc": None}),
        ("h264_vaapi", {}, {"rc_mode": "CQP", "qp": "20"}),
        ("h264_vaapi", {"crf": "18.5", "preset": "ultrafast"}, {"qp": "18", "compression_level": "7", "preset": None}),
        ("h264_vaapi", {"b": "4000k"}, {"b": "4000k", "qp": None, "rc_mode": None}),
    ],
)
def test_quality_and_speed_are_said_in_the_hardwares_terms(
    monkeypatch: pytest.MonkeyPatch, codec: str, options: dict[str, str], wanted: dict[str, str | None]
) -> None:
    monkeypatch.setattr("streamdepth.sinks.encoding.encoder_formats", lambda _: ["yuv420p"])
    chosen = encoding_for(ImageInfo(64, 48, "yuv420p", ColorTags()), codec=codec, transparent=False, options=options)
    assert {name: chosen.options.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_vaapi", "hevc_vaapi"])
def test_the_encoders_know_what_they_are_told(codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV was built without {codec}")
    known = av.CodecContext.create(codec, "w").supported_options
    image = ImageInfo(64, 48, "yuv420p", ColorTags())
    options = encoding_for(image, codec=codec, transparent=False, options={"crf": "20", "preset": "slow"}).options
    assert options.keys() <= {option.name for option in (*known.generic, *known.private)}


def test_images_in_device_memory_are_uploaded_from_nv12(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(type="video", video_formats=[SimpleNamespace(name="vaapi")])
    monkeypatch.setattr("av.Codec", lambda *_: fake)
    assert encoder_formats("h264_vaapi") == ["nv12"]
    assert encoder_formats("hevc_vaapi") == ["nv12", "p010le"]


def test_an_unknown_value_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"hwaccel is one of auto, cuda, .*v4l2m2m, none, not"):
        FileSource("x.mp4", hwaccel="gpu")


def test_each_system_has_its_hardware() -> None:
    assert hwaccel.kinds("linux") == ("cuda", "vaapi", "qsv")
    assert hwaccel.kinds("darwin") == ("videotoolbox",)
    assert hwaccel.kinds("win32") == ("cuda", "qsv", "amf", "d3d11va")
    assert {*hwaccel.HARDWARE, "auto", "none"} == {kind.value for kind in HwAccel}


def test_hardware_that_only_encodes_decodes_in_software() -> None:
    assert hwaccel.decoder(HwAccel.V4L2M2M).note.startswith("decoding in software: v4l2m2m only encodes")
    assert "no encoder that replaces libx264" in hwaccel.encoder(HwAccel.D3D11VA, "libx264", "yuv420p", 64, 48).note

"""Hardware decoding and encoding: what happens where there is none, which is where tests run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth import hardware
from streamdepth.errors import UsageError
from streamdepth.hardware import HwAccel
from streamdepth.sources.file import FileSource

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
    return [float(frame.picture.to_ndarray(format="gray").mean()) for frame in source.frames()]


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
    missing = wanted in (HwAccel.CUDA, HwAccel.VAAPI) and hardware.decoder(wanted).value is None
    assert ("decoding in software: " in info.note) == missing


def test_the_second_pass_uses_the_same_hardware(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[HwAccel] = []

    def none(wanted: HwAccel) -> hardware.Chosen:
        asked.append(wanted)
        return hardware.Chosen(None)

    monkeypatch.setattr("streamdepth.sources.decoding.decoder", none)
    again = FileSource(clip, hwaccel="cuda").again()
    assert again is not None
    again.open()
    again.close()
    assert asked == [HwAccel.CUDA]


def test_auto_falls_back_in_silence_and_a_name_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_no_device", lambda kind: f"no {kind} here")
    assert hardware.decoder(HwAccel.AUTO) == hardware.Chosen(None)
    assert hardware.decoder(HwAccel.NONE) == hardware.Chosen(None)
    assert hardware.decoder(HwAccel.CUDA) == hardware.Chosen(None, "decoding in software: no cuda here")


def test_the_hardwares_encoder_is_taken_where_it_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_cannot_encode", lambda name: "" if name == "h264_nvenc" else "no")
    assert hardware.encoder(HwAccel.AUTO, "libx264") == hardware.Chosen("h264_nvenc")
    assert hardware.encoder(HwAccel.NONE, "libx264") == hardware.Chosen("libx264")
    assert hardware.encoder(HwAccel.CUDA, "ffv1") == hardware.Chosen(
        "ffv1", "encoding in software: cuda has no counterpart of ffv1"
    )


@pytest.mark.parametrize("wanted", [HwAccel.CUDA, HwAccel.VAAPI])
def test_an_encoder_that_does_not_open_is_replaced_and_named(wanted: HwAccel) -> None:
    chosen = hardware.encoder(wanted, "libx264")
    if chosen.value != "libx264":
        pytest.skip(f"{chosen.value} works here")
    assert chosen.note.startswith("encoding in software: ")
    assert wanted.value in chosen.note or "nvenc" in chosen.note


def test_an_encoder_that_opens_is_recognised() -> None:
    assert hardware._cannot_encode("libx264") == ""
    assert "built without" in hardware._cannot_encode("h264_nonesuch")


def test_an_unknown_value_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="none of auto, cuda, vaapi, none"):
        FileSource("x.mp4", hwaccel="gpu")

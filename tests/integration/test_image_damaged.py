"""Damaged compressed images through every way in: one line of ours, and nothing that a C library prints."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamdepth.cli import main
from streamdepth.image.estimator import DepthEstimator
from streamdepth.serve.site import WebSite
from streamdepth.sources.images import ImagesSource
from tests.support.goldens import FOLDER
from tests.support.web import http

if TYPE_CHECKING:
    from pathlib import Path

PIXELS = np.random.default_rng(1).integers(0, 255, (10, 15, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def damaged(form: str, **options: Any) -> bytes:
    """An image that is cut off in the middle; a TIFF, whose directory is at its end, with wrong bytes before that."""
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(options.pop("mode", "RGB")).save(out, form, **options)
    data = out.getvalue()
    half = len(data) // 2
    if form != "TIFF":
        return data[:half]
    return data[: half // 2] + np.random.default_rng(2).bytes(half // 2) + data[half // 2 * 2 :]


IMAGES = {
    **{
        f"{name}.tif": damaged("TIFF", compression=name, mode="1" if name == "group4" else "L")
        for name in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4", "zstd", "lzma")
    },
    **{f"{form}.{form}".lower(): damaged(form) for form in ("JPEG", "PNG", "WEBP", "AVIF")},
    "a.jp2": damaged("JPEG2000"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_one_line_on_the_command_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_bytes(IMAGES[name])
    outputs = {"image": f"{tmp_path}/o.png", "run": f"{tmp_path}/out/"}
    for command, output in outputs.items():
        code = main([command, str(path), "-o", output, "-q", "--provider", "cpu"])
        printed = capfd.readouterr().err
        # decoders accept some wrong bytes
        assert (code, printed.count("\n")) in {(0, 0), (1, 1)}, printed
        assert not code or printed.startswith(f"streamdepth: {path}: ")


def test_nothing_beside_the_answer_of_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    with DepthEstimator(FOLDER / "dpt" / "model.onnx", provider="cpu") as estimator:
        site = WebSite("http://127.0.0.1:0", estimator=estimator, environ={})
        site.start()
        try:
            answers = {name: http(f"{site.address}/v1/depth", body=data).status for name, data in IMAGES.items()}
        finally:
            site.stop()
    assert set(answers.values()) <= {200, 422}
    assert answers["tiff_lzw.tif"] == answers["packbits.tif"] == 422
    assert not capfd.readouterr().err


def test_damaged_frames_of_an_animation_are_counted(tmp_path: Path) -> None:
    """The durations of all frames are read at the start; a damaged frame must not fail there."""
    frames = [Image.fromarray(np.roll(PIXELS, shift, 1)) for shift in range(3)]
    path = tmp_path / "a.tif"
    frames[0].save(path, compression="tiff_lzw", save_all=True, append_images=frames[1:])
    data = bytearray(path.read_bytes())
    data[-3000:-2000] = bytes(1000)
    path.write_bytes(data)
    source = ImagesSource(path)
    assert source.open().frame_count == 3
    assert [frame.index for frame in source.frames()] == [0, 1]
    assert source.dropped == {"corrupt": 1}

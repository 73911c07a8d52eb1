"""Images as frames, and every kind of decoded as RGB."""

from __future__ import annotations

import os
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamdepth.core.contracts import Source
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError
from streamdepth.core.frame import ColorTags
from streamdepth.media.images import image_from_pil, rgb_from_pil
from streamdepth.sources.images import ImagesSource, natural_key
from tests.support.media import draw_marks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def save(path: Path, index: int = 0, size: tuple[int, int] = (40, 30), **options: Any) -> Path:
    Image.fromarray(draw_marks(index, *size)).save(path, **options)
    return path


def test_folder_in_natural_order_with_sizes_of_their_own(tmp_path: Path) -> None:
    sizes = {"img1.png": (40, 30), "img2.PNG": (64, 16), "img10.bmp": (1, 1), ".hidden.png": (8, 8)}
    for index, (name, size) in enumerate(sizes.items()):
        save(tmp_path / name, index, size)
    (tmp_path / "notes.txt").write_text("not a decoded")
    (tmp_path / "img3.png").mkdir()
    source = ImagesSource(tmp_path, rate=Fraction(30000, 1001))
    assert isinstance(source, Source)
    info = source.open()
    frames = list(source.frames())
    assert (info.width_px, info.height_px, info.frame_count, info.pix_fmt) == (40, 30, 3, "rgb24")
    assert info.time_base == Fraction(1001, 30000)
    assert info.color == ColorTags(range=2)
    assert [(frame.width_px, frame.height_px) for frame in frames] == [(40, 30), (64, 16), (1, 1)]
    assert [(frame.index, frame.pts) for frame in frames] == [(0, 0), (1, 1), (2, 2)]
    np.testing.assert_array_equal(frames[1].to_rgb(), draw_marks(1, 64, 16))
    source.close()


def test_list_keeps_its_order_and_glob_sorts(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, index) for index, name in enumerate(["b.png", "a.png"])]
    for given, order in ((paths, (0, 1)), (str(tmp_path / "*.png"), (1, 0)), (str(tmp_path / "**" / "*.png"), (1, 0))):
        source = ImagesSource(given)
        source.open()
        for frame, index in zip(source.frames(), order, strict=True):
            np.testing.assert_array_equal(frame.to_rgb(), draw_marks(index, 40, 30))


def test_bad_images_among_good_ones_are_counted(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(save(tmp_path / "x.png", size=(300, 300)).read_bytes()[:400])
    (tmp_path / "3.jpg").write_bytes(b"hello")
    save(tmp_path / "4.png")
    source = ImagesSource(
        [*(tmp_path / name for name in ("0.png", "1.png", "2.png", "3.jpg", "4.png")), tmp_path / "no"]
    )
    source.open()
    assert [(frame.index, frame.pts) for frame in source.frames()] == [(1, 1), (4, 4)]
    assert source.dropped == {"corrupt": 3, "missing": 1}
    assert len(source.notes) == 4
    assert source.notes[0].endswith("0.png: is empty (0 bytes)")


def test_no_good_image_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no decoded")
    with pytest.raises(SourceError, match=r"a.png: is not an image .*\(nor any of 1 more\); give an image"):
        ImagesSource(tmp_path).open()


@pytest.mark.parametrize(
    ("given", "message"),
    [("none", r"no such file"), ("*.jpg", r"matches no file"), ("folder", r"contains no images; name a folder")],
)
def test_nothing_there(tmp_path: Path, given: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceNotFoundError, match=message):
        ImagesSource(str(tmp_path / given)).open()


def test_arguments_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ImagesSource([])
    with pytest.raises(UsageError):
        ImagesSource(tmp_path, rate=Fraction(0))
    with pytest.raises(SourceError, match="call open\\(\\) before frames"):
        next(ImagesSource(tmp_path).frames())


def test_interrupt_again_close(tmp_path: Path) -> None:
    for index in range(4):
        save(tmp_path / f"{index}.png", index)
    source = ImagesSource(tmp_path)
    source.open()
    frames = source.frames()
    next(frames)
    source.interrupt()
    assert list(frames) == []
    source.close()
    source.close()
    again = source.again()
    again.open()
    assert len(list(again.frames())) == 4


@pytest.mark.parametrize(
    "name", ["a b.png", "100%.png", "what?.png", "a#b.png", "shot%03d.png", "x[1].png", b"lat\xefn.png"]
)
def test_any_file_name(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(save(tmp_path / "plain.png").read_bytes())
    source = ImagesSource(str(path))
    info = source.open()
    assert len(list(source.frames())) == 1
    info.source_id.encode("utf-8")


def test_natural_key() -> None:
    names = ["b1", "a10", "A2", "a1", "a1b", "1", "02", "a"]
    assert sorted(names, key=natural_key) == ["1", "02", "a", "a1", "a1b", "A2", "a10", "b1"]


RGB = draw_marks(0, 24, 18)
GRADIENT = np.linspace(0, 65535, 24 * 18).reshape(18, 24)


def gray(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("image", "expected", "tolerance"),
    [
        (Image.fromarray(RGB), RGB, 0),
        (Image.fromarray(RGB).convert("RGBA"), RGB, 0),
        (Image.fromarray(np.dstack([RGB, np.zeros((18, 24), np.uint8)]), "RGBA"), RGB, 0),
        (Image.fromarray(RGB).convert("P", palette=Image.Palette.ADAPTIVE), RGB, 30),
        (Image.fromarray(RGB[..., 0]), gray(RGB[..., 0]), 0),
        (Image.fromarray(RGB[..., 0] > 127), gray((RGB[..., 0] > 127) * 255), 0),
        (Image.fromarray(RGB).convert("CMYK"), RGB, 1),
        (Image.fromarray(RGB).convert("YCbCr"), RGB, 3),
        (Image.fromarray(GRADIENT.astype(np.uint16)), gray(np.round(GRADIENT // 1 / 257)), 0),
        (Image.fromarray(GRADIENT.astype(np.int32)), gray(np.round(GRADIENT // 1 / 257)), 0),
        (Image.fromarray((GRADIENT // 257).astype(np.int32)), gray(GRADIENT // 257), 0),
        (Image.fromarray((GRADIENT * 1000).astype(np.int32)), gray(np.round(GRADIENT / 257)), 1),
        (Image.fromarray((GRADIENT / 65535).astype(np.float32)), gray(np.round(GRADIENT / 257)), 1),
        (Image.fromarray(np.full((18, 24), np.nan, np.float32)), gray(np.zeros((18, 24))), 0),
        (Image.fromarray(np.full((18, 24), 7e9, np.float32)), gray(np.zeros((18, 24))), 0),
    ],
)
def test_every_mode_becomes_rgb(
    image: Image.Image, expected: NDArray[np.uint8], tolerance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = rgb_from_pil(image)
    assert rgb.shape == (18, 24, 3)
    assert np.abs(rgb.astype(int) - expected.astype(int)).max() <= tolerance
    monkeypatch.setattr("streamdepth.media.images._STRIP_PIXELS", 24 * 5)
    np.testing.assert_array_equal(rgb_from_pil(image), rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    # TIFF 6.0: which side of the shown decoded row 0 and column 0 are.
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a[::-1].transpose(1, 0, 2)[::-1][:, ::-1][::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }
    undo[6] = lambda a: np.rot90(a, -1)
    undo[8] = lambda a: np.rot90(a, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        decoded = image_from_pil(image)
    np.testing.assert_array_equal(decoded.to_ndarray(format="rgb24"), undo[orientation](RGB))

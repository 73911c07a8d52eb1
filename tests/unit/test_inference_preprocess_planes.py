"""Images in YUV planes on their way into a network: the filter, the colours, and where chroma lies."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import av.filter
import numpy as np
import pytest
from PIL import Image

from streamdepth.core.frame import ColorTags
from streamdepth.inference.plane_scaling import PlaneScaler, axis
from streamdepth.inference.preprocess import image_of, to_rgb_array, value_table
from streamdepth.media.scene import pattern
from streamdepth.models.spec import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.models.spec import Resample

NUMBERS = value_table(Preprocessing(), np.dtype(np.uint8))
"""Each value as it is."""
YUV = (
    "yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p", "nv12",
    "yuv420p10le", "yuv422p10le", "yuv444p10le", "p010le",
)  # fmt: skip
PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def scene(pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    pixels = 40 + pattern(width, height) // 2  # no clipping: Pillow clips each channel, the planes are clipped once
    frame_image = image_of(pixels).reformat(format=pix_fmt, dst_colorspace=1, interpolation="BICUBIC")
    ColorTags(matrix=1, range=2 if pix_fmt.startswith("yuvj") else 1).apply(frame_image)
    return frame_image


def flat(pix_fmt: str, words: tuple[int, int, int], tags: ColorTags, side: int = 64) -> av.VideoFrame:
    frame_image = av.VideoFrame(side, side, pix_fmt)
    for plane, value in zip(frame_image.planes, words, strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    tags.apply(frame_image)
    return frame_image


def scaled(frame_image: av.VideoFrame, width: int, height: int, resample: Resample = "bicubic") -> NDArray[np.int64]:
    """[height, width, 3] as numbers that can be subtracted."""
    out = np.zeros((3, height, width), np.uint8)
    scaler = PlaneScaler(resample, NUMBERS)
    assert scaler.takes(frame_image)
    scaler.write(frame_image, out)
    return out.transpose(1, 2, 0).astype(np.int64)


def by_pillow(frame_image: av.VideoFrame, width: int, height: int, resample: Resample = "bicubic") -> NDArray[np.int64]:
    """The exact path's way: all of the frame_image to RGB, then Pillow."""
    image = Image.fromarray(to_rgb_array(frame_image)).resize((width, height), PILLOW[resample])
    return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize("resample", PILLOW)
@pytest.mark.parametrize(("length", "count"), [(37, 12), (100, 7), (9, 31), (20, 20), (1, 5), (300, 1)])
def test_weights_are_those_of_pillow(resample: Resample, length: int, count: int) -> None:
    line = np.random.default_rng(length).uniform(0, 255, length).astype(np.float32)
    wanted = np.asarray(Image.fromarray(line[None]).resize((count, 1), PILLOW[resample]))[0]
    found = axis(length, count, resample, multiple=4)
    assert found.weights.shape[1] % 4 == 0
    padded = np.concatenate([line, np.full(found.reach, 1e4, np.float32)])
    places = found.first[:, None] + np.arange(found.weights.shape[1])
    np.testing.assert_allclose((padded[places] * found.weights).sum(axis=1), wanted, atol=1e-3)


@pytest.mark.parametrize("pix_fmt", YUV)
@pytest.mark.parametrize(
    ("size", "network"),
    [((320, 180), (84, 56)), ((127, 77), (70, 42)), ((63, 35), (112, 70)), ((322, 242), (322, 242))],
)
def test_every_form_is_scaled_as_pillow_does(pix_fmt: str, size: tuple[int, int], network: tuple[int, int]) -> None:
    """Odd sizes, smaller and larger networks. What differs is chroma: upsampled and downsampled there, once here."""
    frame_image = scene(pix_fmt, *size)
    off = np.abs(scaled(frame_image, *network) - by_pillow(frame_image, *network))
    assert off.mean() <= 0.7
    assert np.quantile(off, 0.999) <= 8


@pytest.mark.parametrize("resample", PILLOW)
def test_filters_of_models_are_kept(resample: Resample) -> None:
    frame_image = scene("yuv444p", 320, 180)
    assert np.abs(scaled(frame_image, 84, 56, resample) - by_pillow(frame_image, 84, 56, resample)).mean() <= 0.5
    others = [by_pillow(frame_image, 84, 56, other) for other in PILLOW if other != resample]  # type: ignore[arg-type]
    own = np.abs(scaled(frame_image, 84, 56, resample) - by_pillow(frame_image, 84, 56, resample)).mean()
    assert all(np.abs(scaled(frame_image, 84, 56, resample) - other).mean() > own for other in others)


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize(
    ("matrix", "kr", "kb"),
    [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (6, 0.299, 0.114), (7, 0.212, 0.087), (9, 0.2627, 0.0593)],
)
def test_matrix_and_range_are_the_images_own(matrix: int, kr: float, kb: float, is_full: bool) -> None:
    """Some colours by each matrix's own formula (ITU-R BT.601, BT.709, BT.2020, SMPTE 240M)."""
    for rgb in np.array([[1, 0, 0], [0, 1, 0], [0.2, 0.3, 0.9], [1, 1, 1], [0, 0, 0]]):
        luma = kr * rgb[0] + (1 - kr - kb) * rgb[1] + kb * rgb[2]
        cb, cr = (rgb[2] - luma) / (2 * (1 - kb)), (rgb[0] - luma) / (2 * (1 - kr))
        y, c = (255 * luma, 255) if is_full else (16 + 219 * luma, 224)
        words = round(y), min(255, round(128 + c * cb)), min(255, round(128 + c * cr))
        frame_image = flat("yuv444p", words, ColorTags(matrix=matrix, range=1 + is_full))
        assert np.abs(scaled(frame_image, 32, 32)[16, 16] - rgb * 255).max() <= 2


@pytest.mark.parametrize("matrix", [0, 2])
def test_an_unsaid_matrix_is_taken_as_the_exact_path_takes_it(matrix: int) -> None:
    frame_image = flat("yuv444p", (100, 90, 200), ColorTags(matrix=matrix), side=1280)
    assert np.abs(scaled(frame_image, 32, 32)[16, 16] - to_rgb_array(frame_image)[16, 16]).max() <= 1


def test_chroma_is_read_where_the_stream_says_it_lies() -> None:
    """H.264's lies left of the middle, JPEG's in it; PyAV tells neither. Columns in colour, eight times as large."""
    for codec, container in (("libx264", "mp4"), ("mjpeg", "avi")):
        frame_image = _coded(codec, container)
        off = np.abs(scaled(frame_image, 512, 64) - by_pillow(frame_image, 512, 64))[:, 16:-16]
        moved = np.abs(np.roll(scaled(frame_image, 512, 64), 2, axis=1) - by_pillow(frame_image, 512, 64))[:, 16:-16]
        assert off.mean() < 0.5 * moved.mean()
        assert off.mean() <= 2.5


def _coded(codec: str, container: str) -> av.VideoFrame:
    columns = np.zeros((64, 64, 3), np.uint8)
    columns[:, :, 0] = 128 + 100 * np.sin(np.arange(64) / 2.5)
    columns[:, :, 2] = 128
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p"
        stream.codec_context.color_range = 2
        frame_image = image_of(columns).reformat(format="yuvj420p", dst_color_range=2)
        output.mux([*stream.encode(frame_image), *stream.encode(None)])
    file.seek(0)
    with av.open(file, "r") as coded:
        return next(coded.decode(video=0))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (2, 4000), (16000, 2), (4096, 2160)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    frame_image = image_of(np.full((size[1], size[0], 3), 90, np.uint8)).reformat(format="yuv420p")
    got = scaled(frame_image, 56, 42)
    assert np.abs(got - 90).max() <= 2  # of which the way to YUV takes one or two


def test_lines_that_are_stored_bottom_up_are_turned() -> None:
    graph = av.filter.Graph()
    pixel = av.VideoFormat("yuv420p")
    buffer = graph.add_buffer(width=96, height=64, format=pixel, time_base=Fraction(1, 25))
    steps = [buffer, graph.add("vflip"), graph.add("buffersink")]
    for before, after in pairwise(steps):
        before.link_to(after)
    graph.configure()
    upright = scene("yuv420p", 96, 64)
    graph.push(upright)
    turned = graph.pull()
    assert isinstance(turned, av.VideoFrame)
    ColorTags.of(upright).apply(turned)
    np.testing.assert_array_equal(scaled(turned, 48, 32), scaled(upright, 48, 32)[::-1])


def test_the_image_is_only_read_and_others_do_not_disturb_it() -> None:
    """One scaler, forms in turn: each as by a scaler of its own."""
    scaler = PlaneScaler("bicubic", NUMBERS)
    images = [scene(pix_fmt, *size) for pix_fmt in ("yuv420p", "nv12") for size in ((16, 16), (300, 200))]
    before = [[bytes(plane) for plane in frame_image.planes] for frame_image in images]
    for frame_image in images * 2:
        out = np.zeros((3, 32, 48), np.uint8)
        scaler.write(frame_image, out)
        np.testing.assert_array_equal(out.transpose(1, 2, 0), scaled(frame_image, 48, 32))
    assert [[bytes(plane) for plane in frame_image.planes] for frame_image in images] == before


def test_all_other_images_are_left_to_the_scaler() -> None:
    for pix_fmt in ("rgb24", "gray", "rgba", "gbrp", "yuva420p", "yuv410p"):
        assert not PlaneScaler("bicubic", NUMBERS).takes(av.VideoFrame(64, 64, pix_fmt)), pix_fmt
    frame_image = av.VideoFrame(64, 64, "yuv420p")
    assert not PlaneScaler("nearest", NUMBERS).takes(frame_image)
    ColorTags(matrix=8).apply(frame_image)
    assert not PlaneScaler("bicubic", NUMBERS).takes(frame_image)

"""The blend against an independent float64 reference, and that reference against swscale and OpenCV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdepth.colorize.colorizer import Colorizer
from streamdepth.colorize.palettes import palette
from streamdepth.core.frame import ColorTags, DepthRange, Sense
from streamdepth.core.look import Look, View
from streamdepth.media.planes import LAYOUTS, plane_values, to_signal
from tests.support import color

if TYPE_CHECKING:
    from numpy.typing import NDArray

YUV_FORMATS = [name for name in color.CHROMA_STEP if not name.startswith("gray")]
SWSCALE = {1: 1, 6: 5, 9: 9}
# swscale's fast paths alone are 2 and more levels off; these flags choose its exact ones.
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
WIDTH, HEIGHT = 93, 58


def worst(image: av.VideoFrame, want: list[NDArray[np.float64]]) -> float:
    got = color.channels(image)[: len(want)]
    assert [plane.shape for plane in got] == [plane.shape for plane in want]
    return max(float(np.abs(a - b).max()) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 4, 5, 6, 7, 9])
@pytest.mark.parametrize("pix_fmt", YUV_FORMATS)
def test_overlay_is_within_one_level(pix_fmt: str, matrix: int, full: bool) -> None:
    full = full or pix_fmt.startswith("yuvj")
    tags = ColorTags(matrix=matrix, range=2 if full else 1)
    image = color.random_image(WIDTH, HEIGHT, pix_fmt, seed=matrix)
    tags.apply(image)
    depth = color.smooth_depth(31, 19, seed=matrix)
    span = color.span(depth, 0.03)
    near = color.nearness(depth, span, WIDTH, HEIGHT)
    with Colorizer(color.stream_info(WIDTH, HEIGHT, pix_fmt, tags)) as colorizer:
        for style in ("inferno", "hsv", "earth"):
            look = Look(style=style, alpha=(0.95, 0.15), view=View.OVERLAY)
            out = colorizer.render(image, depth, span, look)
            assert out.format.name == pix_fmt
            assert (int(out.colorspace), int(out.color_range)) == (matrix, 2 if full else 1)
            want = color.overlay(image, near, palette(style), (0.95, 0.15), matrix, full)
            assert worst(out, want) <= 1.0


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le", *color.PACKED])
def test_overlay_of_gray_and_rgb_is_within_one_level(pix_fmt: str) -> None:
    image = color.random_image(WIDTH, HEIGHT, pix_fmt)
    depth = color.smooth_depth(31, 19)
    span = color.span(depth)
    near = color.nearness(depth, span, WIDTH, HEIGHT)
    with Colorizer(color.stream_info(WIDTH, HEIGHT, pix_fmt)) as colorizer:
        for style in ("viridis", "hsv", "rainbow-soft"):
            out = colorizer.render(image, depth, span, Look(style=style, alpha=(0.1, 0.9), view=View.OVERLAY))
            want = color.overlay(image, near, palette(style), (0.1, 0.9), 6, True)
            assert worst(out, want) <= 1.0


@pytest.mark.parametrize("name", ["viridis", "jet", "hsv", "cubehelix", "alpha", "earth", "picnic"])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "rgb24", "yuv444p10le"])
def test_depth_view_is_within_one_level(pix_fmt: str, name: str) -> None:
    depth = color.smooth_depth(40, 30, sense=Sense.METRIC_M)
    span = color.span(depth, 0.01)
    near = color.nearness(depth, span, 120, 90)
    image = color.random_image(120, 90, pix_fmt)
    with Colorizer(color.stream_info(120, 90, pix_fmt, ColorTags(matrix=1))) as colorizer:
        out = colorizer.render(image, depth, span, Look(style=name, alpha=(1.0, 0.25), reverse=True))
        rgb, opacity = color.colour(near, palette(name)[::-1], (1.0, 0.25))
        over_black = rgb * opacity[..., None]
        if pix_fmt == "rgb24":
            want = over_black * 255
        else:
            bits = color.BITS.get(pix_fmt, 8)
            want = color.to_yuv(over_black, 1, False, bits)
        assert worst(out, [want[..., index] for index in range(3)]) <= 1.0


@settings(max_examples=60)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 50),
    depth_width=st.integers(1, 40),
    depth_height=st.integers(1, 30),
    pix_fmt=st.sampled_from(["yuv420p", "nv12", "yuv422p", "yuv444p", "yuv420p10le", "rgb24", "rgba", "gray"]),
    alpha=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    cut=st.floats(-0.2, 0.3),
    sense=st.sampled_from(list(Sense)),
    seed=st.integers(0, 99),
)
def test_any_size_is_within_one_level(
    width: int,
    height: int,
    depth_width: int,
    depth_height: int,
    pix_fmt: str,
    alpha: tuple[float, float],
    cut: float,
    sense: Sense,
    seed: int,
) -> None:
    image = color.random_image(width, height, pix_fmt, seed)
    depth = color.smooth_depth(depth_width, depth_height, seed, sense)
    span = color.span(depth, cut)
    if span.flat:
        span = DepthRange(span.lo - 1, span.hi + 1)
    near = color.nearness(depth, span, width, height)
    with Colorizer(color.stream_info(width, height, pix_fmt)) as colorizer:
        out = colorizer.render(image, depth, span, Look(style="plasma", alpha=alpha, view=View.OVERLAY))
    want = color.overlay(image, near, palette("plasma"), alpha, 6, pix_fmt == "gray")
    assert worst(out, want) <= 1.0


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 6, 9])
def test_reference_conversion_agrees_with_swscale(matrix: int, full: bool) -> None:
    rng = np.random.default_rng(matrix)
    blocks = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(blocks), format="rgb24")
    yuv = image.reformat(
        format="yuv444p",
        dst_colorspace=SWSCALE[matrix],
        dst_color_range=2 if full else 1,
        src_color_range=2,
        interpolation=EXACT,
    )
    want = color.to_yuv(blocks / 255.0, matrix, full)
    for index, plane in enumerate(color.channels(yuv)):
        assert np.abs(plane - want[..., index]).max() <= 1.0


def test_reference_conversion_agrees_with_opencv() -> None:
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    planar = cv2.cvtColor(blocks, cv2.COLOR_RGB2YUV_I420)
    want = color.to_yuv(blocks / 255.0, 6, False)
    assert np.abs(planar[:32] - want[..., 0]).max() <= 1.0
    chroma = planar[32:].reshape(2, 16, 16)
    assert np.abs(chroma[0] - want[::2, ::2, 1]).max() <= 1.0
    assert np.abs(chroma[1] - want[::2, ::2, 2]).max() <= 1.0


def in_rgb(image: av.VideoFrame, matrix: int) -> NDArray[np.uint8]:
    converted = image.reformat(format="rgb24", src_colorspace=SWSCALE[matrix], interpolation=EXACT)
    return np.asarray(converted.to_ndarray(), dtype=np.uint8)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv420p", "nv12", "yuv444p10le"])
def test_overlay_in_rgb_is_within_two_levels(pix_fmt: str, matrix: int, full: bool) -> None:
    """A flat image under flat depth, so that chroma subsampling plays no part."""
    tags = ColorTags(matrix=matrix, range=2 if full else 1)
    rng = np.random.default_rng(matrix)
    entries = palette("inferno")
    with Colorizer(color.stream_info(32, 16, pix_fmt, tags)) as colorizer:
        for _ in range(12):
            rgb = rng.integers(0, 256, 3).astype(np.uint8)
            flat = np.ascontiguousarray(np.broadcast_to(rgb, (16, 32, 3)))
            image = av.VideoFrame.from_ndarray(flat, format="rgb24").reformat(
                format=pix_fmt, dst_colorspace=SWSCALE[matrix], dst_color_range=tags.range, src_color_range=2
            )
            tags.apply(image)
            depth = color.smooth_depth(8, 4)
            level = float(rng.uniform(0, 1))
            depth.values[:] = level
            out = colorizer.render(image, depth, DepthRange(0, 1), Look(alpha=(0.7, 0.3), view=View.OVERLAY))
            back = in_rgb(out, matrix)
            before = in_rgb(image, matrix)[0, 0]
            colour, opacity = color.colour(np.array(level), entries, (0.7, 0.3))
            want = np.rint(before * (1 - opacity) + 255 * colour * opacity)
            assert np.abs(back[4:-4, 4:-4] - want).max() <= 2.0


def test_unsaid_matrix_is_taken_as_players_take_it() -> None:
    for (width, height), matrix in {(640, 360): 6, (720, 576): 6, (1280, 720): 1, (704, 608): 1}.items():
        info = Colorizer(color.stream_info(width, height, "yuv420p")).image_info(Look(view=View.SIDE))
        assert (info.color.matrix, info.color.range) == (matrix, 1)


def test_tags_travel_and_a_frames_own_win() -> None:
    stream = color.stream_info(32, 32, "yuv420p", ColorTags(matrix=1, range=1, primaries=1, transfer=1))
    colorizer = Colorizer(stream)
    image = color.random_image(32, 32, "yuv420p")
    depth = color.smooth_depth(4, 4)
    out = colorizer.render(image, depth, color.span(depth), Look())
    assert ColorTags.of(out) == stream.color == colorizer.image_info(Look()).color
    ColorTags(matrix=9, range=2, primaries=9, transfer=14).apply(image)
    out = colorizer.render(image, depth, color.span(depth), Look())
    assert ColorTags.of(out) == ColorTags(matrix=9, range=2, primaries=9, transfer=14)


def test_white_of_a_palette_is_reference_white_in_hdr() -> None:
    """BT.2408: reference white is 58 % of a PQ signal and 75 % of an HLG signal."""
    white = np.ones((1, 3))
    assert to_signal(white, ColorTags(9, 1, 9, 16))[0] == pytest.approx([0.58] * 3, abs=0.005)
    assert to_signal(white, ColorTags(9, 1, 9, 18))[0] == pytest.approx([0.75] * 3, abs=0.005)
    assert (to_signal(white, ColorTags(1, 1, 1, 1)) == 1).all()
    ten_bit = plane_values(to_signal(white, ColorTags(9, 1, 9, 16)), ColorTags(9, 1, 9, 16), LAYOUTS["yuv420p10le"])
    assert ten_bit[0] == pytest.approx([64 + 876 * 0.58, 512, 512], abs=4)

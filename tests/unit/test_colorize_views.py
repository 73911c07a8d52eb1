"""Views, sizes, alpha, options and bad input of the colour stage, on images of every layout."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from streamdepth.colorize.colorizer import Colorizer
from streamdepth.colorize.palettes import palette
from streamdepth.core.errors import UsageError
from streamdepth.core.frame import ColorTags, DepthRange, Sense
from streamdepth.core.look import Look, Upsampling, View
from streamdepth.media.planes import working_format
from tests.support import color
from tests.support.painted import flat, render, same

if TYPE_CHECKING:
    from pathlib import Path


OVERLAY = Look(view=View.OVERLAY)


@pytest.mark.parametrize("pix_fmt", color.ALL_FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (63, 47), (1, 1), (2, 3)])
def test_alpha_zero_returns_the_frame_bit_for_bit(pix_fmt: str, size: tuple[int, int]) -> None:
    image = color.random_image(*size, pix_fmt)
    before = [bytes(plane) for plane in image.planes]
    out = render(image, color.smooth_depth(9, 7), replace(OVERLAY, alpha=(0.0, 0.0)))
    got, want = color.channels(out), color.channels(image)
    assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=False))
    assert [bytes(plane) for plane in image.planes] == before
    assert (out.pts, out.time_base) == (7, Fraction(1, 25))


@pytest.mark.parametrize("pix_fmt", color.ALL_FORMATS)
def test_the_frame_is_never_written_to(pix_fmt: str) -> None:
    image = color.random_image(33, 21, pix_fmt)
    before = [bytes(plane) for plane in image.planes]
    for view in View:
        render(image, color.smooth_depth(9, 7), Look(view=view, bar=True, contours=3, upsampling=Upsampling.GUIDED))
    assert [bytes(plane) for plane in image.planes] == before


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv420p10le", "rgb24"])
def test_alpha_is_exact_at_both_ends_and_linear_between(pix_fmt: str) -> None:
    image = color.random_image(40, 20, pix_fmt)
    tags = ColorTags(matrix=6, range=1)
    tags.apply(image)
    span = DepthRange(0.0, 1.0)
    white = ((0.0, (255, 255, 255)), (1.0, (255, 255, 255)))
    for near in (0.0, 0.25, 0.5, 1.0):
        out = render(image, flat(near), Look(style=white, alpha=(1.0, 0.2), view=View.OVERLAY), span)
        alpha = 0.2 + 0.8 * near
        top = 2.0 ** color.BITS.get(pix_fmt, 8) - 1
        paper = top if pix_fmt == "rgb24" else 235 * (top + 1) / 256
        old, new = color.channels(image)[0], color.channels(out)[0]
        assert np.abs(new - (old * (1 - alpha) + paper * alpha)).max() <= 0.51 + (near == 0.25) * 0.1


def test_alpha_follows_distance_not_colour() -> None:
    image = color.random_image(32, 32, "yuv420p")
    span = DepthRange(0.0, 1.0)
    for reverse in (False, True):
        look = Look(style="viridis", alpha=(0.0, 1.0), reverse=reverse, view=View.OVERLAY)
        assert same(render(image, flat(1.0), look, span), image)
        assert not same(render(image, flat(0.0), look, span), image)


def test_near_takes_the_high_end_whatever_the_sense() -> None:
    image = color.random_image(16, 16, "rgb24")
    high, low = palette("inferno")[-1][:3], palette("inferno")[0][:3]
    span = DepthRange(1.0, 5.0)
    for sense, near in ((Sense.RELATIVE_INVERSE, 5.0), (Sense.RELATIVE_DEPTH, 1.0), (Sense.METRIC_M, 1.0)):
        out = render(image, flat(near, sense), Look(), span)
        assert [channel[3, 3] for channel in color.channels(out)] == list(high)
        out = render(image, flat(near, sense), Look(reverse=True), span)
        assert [channel[3, 3] for channel in color.channels(out)] == list(low)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv444p", "yuv420p10le", "gray"])
def test_greyscale_is_neutral(pix_fmt: str) -> None:
    out = render(color.random_image(31, 17, pix_fmt), color.smooth_depth(9, 7), Look(style="grey"))
    _, u, v = color.channels(out)
    middle = 2.0 ** (color.BITS.get(pix_fmt, 8) - 1)
    assert (u == middle).all()
    assert (v == middle).all()


@pytest.mark.parametrize("pix_fmt", color.ALL_FORMATS)
@pytest.mark.parametrize("size", [(24, 18), (25, 17)])
@pytest.mark.parametrize("view", [View.SIDE, View.STACK])
def test_two_images_in_one(pix_fmt: str, size: tuple[int, int], view: View) -> None:
    image, depth = color.random_image(*size, pix_fmt), color.smooth_depth(9, 7)
    both = color.channels(render(image, depth, Look(view=view)))
    alone = color.channels(render(image, depth, Look()))
    before = color.channels(image)
    for index, (pair, single) in enumerate(zip(both, alone, strict=True)):
        height, width = single.shape
        frame_cell = pair[:height, :width]
        depth_cell = (
            pair[:height, -(pair.shape[1] // 2) :][:, :width]
            if view is View.SIDE
            else pair[-(pair.shape[0] // 2) :][:height]
        )
        np.testing.assert_array_equal(depth_cell, single)
        if index < len(before):
            np.testing.assert_array_equal(frame_cell, before[index])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le", "rgb24", "gray"])
def test_transparent_keeps_alpha_as_a_channel(pix_fmt: str) -> None:
    image = color.random_image(24, 18, pix_fmt)
    depth = color.smooth_depth(9, 7)
    near = color.nearness(depth, color.span(depth), 24, 18)
    rgb, opacity = color.colour(near, palette("plasma"), (1.0, 0.25))
    for view in (View.DEPTH, View.OVERLAY):
        out = render(image, depth, Look(style="plasma", alpha=(1.0, 0.25), transparent=True, view=view))
        assert out.format.name == "rgba"
        *colours, alpha = color.channels(out)
        assert np.abs(alpha - 255 * opacity).max() <= 1
        assert max(np.abs(c - 255 * rgb[..., i]).max() for i, c in enumerate(colours)) <= 1


def test_transparent_side_by_side_keeps_the_frame_opaque() -> None:
    image = color.random_image(24, 18, "yuv444p")
    ColorTags(matrix=1, range=1).apply(image)
    *_, alpha = color.channels(
        render(image, color.smooth_depth(9, 7), Look(view=View.SIDE, transparent=True, alpha=(0.0, 0.0)))
    )
    assert (alpha[:, :24] == 255).all()
    assert (alpha[:, 24:] == 0).all()


def test_over_a_image_that_has_alpha_itself() -> None:
    image = color.random_image(24, 18, "rgba")
    words = np.frombuffer(memoryview(image.planes[0]), np.uint8)
    rng = np.random.default_rng(5)
    words[3::4] = rng.integers(0, 256, words[3::4].size)
    depth = color.smooth_depth(9, 7)
    out = color.channels(render(image, depth, Look(view=View.OVERLAY, alpha=(0.8, 0.1))))
    under = [channel / 255 for channel in color.channels(image)]
    near = color.nearness(depth, color.span(depth), 24, 18)
    rgb, opacity = color.colour(near, palette("inferno"), (0.8, 0.1))
    cover = opacity + under[3] * (1 - opacity)
    assert np.abs(out[3] - 255 * cover).max() <= 1
    for index in range(3):
        want = (rgb[..., index] * opacity + under[index] * under[3] * (1 - opacity)) / cover
        assert np.abs(out[index] - 255 * want).max() <= 1


def test_images_stored_bottom_up() -> None:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=40, height=22, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25))
    flip, sink = graph.add("vflip"), graph.add("buffersink")
    source.link_to(flip)
    flip.link_to(sink)
    graph.configure()
    image = color.random_image(40, 22, "yuv420p")
    graph.push(image)
    flipped = graph.pull()
    assert isinstance(flipped, av.VideoFrame)
    assert flipped.planes[0].line_size < 0
    out = render(flipped, color.smooth_depth(9, 7), replace(OVERLAY, alpha=(0.0, 0.0)))
    for new, old in zip(color.channels(out), color.channels(image), strict=True):
        np.testing.assert_array_equal(new, old[::-1])


@pytest.mark.parametrize(
    ("pix_fmt", "working"),
    [
        ("yuv410p", "yuv444p"),
        ("yuv440p", "yuv444p"),
        ("nv21", "yuv420p"),
        ("yuv420p12le", "yuv420p10le"),
        ("yuv422p16le", "yuv422p10le"),
        ("yuyv422", "yuv422p"),
        ("gbrp", "rgb24"),
        ("bgra", "rgba"),
        ("yuva420p", "rgba"),
        ("pal8", "rgba"),
        ("gray16le", "gray10le"),
        ("rgb48le", "rgb24"),
    ],
)
def test_other_formats_are_converted_once_and_lost_bits_noted(pix_fmt: str, working: str) -> None:
    image = av.VideoFrame(32, 24, pix_fmt)
    for plane in image.planes:
        np.frombuffer(memoryview(plane), np.uint8)[:] = 100
    colorizer = Colorizer(color.stream_info(32, 24, pix_fmt))
    assert working_format(av.VideoFormat(pix_fmt, 32, 24)) == working
    lost = {"yuv420p12le": 10, "yuv422p16le": 10, "gray16le": 10, "rgb48le": 8}.get(pix_fmt)
    assert colorizer.note == (f"{pix_fmt} frames are coloured with {lost} bits" if lost else "")
    depth = color.smooth_depth(9, 7)
    out = colorizer.render(image, depth, color.span(depth), OVERLAY)
    info = colorizer.image_info(OVERLAY)
    assert (out.format.name, out.width, out.height) == (info.pix_fmt, 32, 24)
    assert Colorizer(color.stream_info(32, 24, "yuv420p")).note == ""


def test_conversion_keeps_the_range() -> None:
    image = av.VideoFrame(32, 24, "yuv440p")
    for plane in image.planes:
        np.frombuffer(memoryview(plane), np.uint8)[:] = 3
    ColorTags(matrix=1, range=2).apply(image)
    out = render(image, color.smooth_depth(3, 3), replace(OVERLAY, alpha=(0.0, 0.0)))
    assert all((channel == 3).all() for channel in color.channels(out))


@pytest.mark.parametrize("layout", ["yuv420p", "yuvj420p", "rgb24", "gray"])
@pytest.mark.parametrize("pix_fmt", ["rgb24", "yuv444p", "yuvj420p", "gray", "rgba"])
def test_images_of_other_formats_than_the_first(layout: str, pix_fmt: str) -> None:
    """A folder of images: all come out in the first one's format, in their own colours."""
    grey = pix_fmt == "gray" or layout == "gray"
    rgb = np.full((24, 32, 3), (90, 90, 90) if grey else (200, 40, 90), np.uint8)
    image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    if pix_fmt != "rgb24":
        full = pix_fmt in ("yuvj420p", "gray", "rgba")
        image = image.reformat(format=pix_fmt, dst_colorspace=5, src_color_range=2, dst_color_range=2 if full else 1)
        ColorTags(matrix=0 if pix_fmt == "rgba" else 5, range=2 if full else 1).apply(image)
    colorizer = Colorizer(color.stream_info(32, 24, layout))
    depth = color.smooth_depth(5, 5)
    out = colorizer.render(image, depth, color.span(depth), replace(OVERLAY, alpha=(0.0, 0.0)))
    assert out.format.name == ("yuv420p" if layout == "gray" else layout)
    got = np.array([channel[4:-4, 4:-4].mean() for channel in color.channels(out)][:3])
    colour = rgb[0, 0] / 255
    want = colour * 255 if layout == "rgb24" else color.to_yuv(colour, int(out.colorspace), int(out.color_range) == 2)
    assert np.abs(got - want).max() <= 2


def test_unknown_pixel_format() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        Colorizer(color.stream_info(32, 24, "nonsense"))


@pytest.mark.parametrize("threads", [0, 65])
def test_impossible_thread_count(threads: int) -> None:
    with pytest.raises(UsageError, match=str(threads)):
        Colorizer(color.stream_info(32, 24, "yuv420p"), threads=threads)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv444p10le", "rgb24"])
@pytest.mark.parametrize("view", list(View))
def test_threads_change_nothing(pix_fmt: str, view: View) -> None:
    image, depth = color.random_image(130, 201, pix_fmt), color.smooth_depth(33, 21)
    for look in (
        Look(view=view),
        Look(view=view, upsampling=Upsampling.GUIDED),
        Look(view=view, contours=5, bar=True),
    ):
        alone = render(image, depth, look)
        assert same(alone, render(image, depth, look, threads=2))
        assert same(alone, render(image, depth, look, threads=5))


def test_a_shared_executor_is_used_and_left_running() -> None:
    image, depth = color.random_image(64, 200, "yuv420p"), color.smooth_depth(9, 7)
    with ThreadPoolExecutor(1) as executor:
        with Colorizer(color.stream_info(64, 200, "yuv420p"), threads=2, executor=executor) as colorizer:
            out = colorizer.render(image, depth, color.span(depth), OVERLAY)
        assert executor.submit(int, "3").result(5) == 3
    assert same(out, render(image, depth, OVERLAY))


def test_images_already_given_are_not_written_to_again() -> None:
    depth = color.smooth_depth(9, 7)
    colorizer = Colorizer(color.stream_info(64, 48, "yuv420p"))
    held = [
        colorizer.render(color.random_image(64, 48, "yuv420p", seed), depth, color.span(depth), OVERLAY)
        for seed in range(6)
    ]
    for seed, out in enumerate(held):
        assert same(out, render(color.random_image(64, 48, "yuv420p", seed), depth, OVERLAY))


def test_frames_of_another_size_than_the_streams() -> None:
    colorizer = Colorizer(color.stream_info(64, 48, "rgb24"))
    depth = color.smooth_depth(9, 7)
    for size in ((64, 48), (31, 77), (64, 48)):
        image = color.random_image(*size, "rgb24")
        out = colorizer.render(image, depth, color.span(depth), OVERLAY)
        assert (out.width, out.height) == size
        assert same(out, render(image, depth, OVERLAY))


@pytest.mark.parametrize("alpha", [(-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_alpha_outside_its_range(alpha: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="alpha"):
        Look(alpha=alpha)


def test_a_look_may_change_from_frame_to_frame() -> None:
    image, depth = color.random_image(64, 48, "yuv420p"), color.smooth_depth(9, 7)
    colorizer = Colorizer(color.stream_info(64, 48, "yuv420p"))
    looks: list[Any] = [Look(), OVERLAY, Look(style="viridis"), Look(view=View.SIDE), Look(transparent=True), OVERLAY]
    for look in [
        *looks,
        *(Look(style=style) for style in ("hot", "cool", "jet", "hsv", "bone", "earth", "par")),
        Look(),
    ]:
        out = colorizer.render(image, depth, color.span(depth), look)
        assert same(out, render(image, depth, look))


def test_an_unknown_style_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="inferno"):
        render(color.random_image(16, 16, "rgb24"), color.smooth_depth(3, 3), Look(style="infernno"))
    with pytest.raises(UsageError, match="inferno"):
        Colorizer(color.stream_info(16, 16, "rgb24")).image_info(Look(style="infernno"))


def test_own_stops_as_a_style() -> None:
    stops: Any = [[0, [255, 0, 0]], [1, [0, 0, 255, 128]]]
    image = color.random_image(16, 16, "rgb24")
    near = color.channels(render(image, flat(1.0), Look(style=stops), DepthRange(0, 1)))
    assert [channel[0, 0] for channel in near] == [0, 0, 128]
    far = color.channels(render(image, flat(0.0), Look(style=stops), DepthRange(0, 1)))
    assert [channel[0, 0] for channel in far] == [255, 0, 0]


def test_memory_of_images_comes_back_only_when_nobody_holds_it() -> None:
    image, depth = color.random_image(64, 48, "yuv420p"), color.smooth_depth(9, 7)
    colorizer = Colorizer(color.stream_info(64, 48, "yuv420p"))

    def address() -> tuple[int, av.VideoFrame]:
        out = colorizer.render(image, depth, color.span(depth), OVERLAY)
        return out.planes[0].buffer_ptr, out

    first, held = address()
    second, out = address()
    assert second != first
    plane = out.planes[0]
    del out
    third, out = address()
    assert third not in (first, second), "a plane keeps its image"
    del plane, out
    assert address()[0] in (second, third)
    many = [address() for _ in range(40)]
    assert len({place for place, _ in many} | {first}) == 41
    assert all(same(held, other) for _, other in many)


def test_two_looks_in_turn_keep_their_memory() -> None:
    image, depth = color.random_image(64, 48, "yuv420p"), color.smooth_depth(9, 7)
    colorizer = Colorizer(color.stream_info(64, 48, "yuv420p"))
    places = [
        colorizer.render(image, depth, color.span(depth), look).planes[0].buffer_ptr
        for look in (OVERLAY, Look(view=View.SIDE), Look(transparent=True)) * 5
    ]
    assert len(set(places)) == 3


def test_images_of_the_pool_can_be_encoded(tmp_path: Path) -> None:
    """An encoder with look-ahead holds many at once; what it writes must be what was rendered."""
    depth, span = color.smooth_depth(9, 7), DepthRange(0.0, 1.0)
    colorizer = Colorizer(color.stream_info(64, 48, "yuv420p"))
    path = tmp_path / "out.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "bf": "3", "threads": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(60):
            out = colorizer.render(color.random_image(64, 48, "yuv420p", index), depth, span, OVERLAY)
            out.pts = index
            container.mux(stream.encode(out))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    assert len(decoded) == 60
    for index, got in enumerate(decoded):
        assert same(got, render(color.random_image(64, 48, "yuv420p", index), depth, OVERLAY, span))

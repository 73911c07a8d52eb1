"""The colour bar: its words, and that it looks the same in every layout."""

from __future__ import annotations

import av
import numpy as np
import pytest

from streamdepth.colorize.colorizer import Colorizer
from streamdepth.colorize.images import bar_labels, draw_bar
from streamdepth.colorize.palettes import palette
from streamdepth.core.frame import DepthRange, Sense
from streamdepth.core.look import Look, View
from tests.support import color

LOOK = Look(view=View.OVERLAY, alpha=(0.0, 0.0), bar=True, style="viridis")


@pytest.mark.parametrize(
    ("span", "texts"),
    [
        ((0.4, 2.4), ["0.40 m", "0.90 m", "1.40 m", "1.90 m", "2.40 m"]),
        ((1.0, 9.0), ["1.0 m", "3.0 m", "5.0 m", "7.0 m", "9.0 m"]),
        ((2.0, 82.0), ["2 m", "22 m", "42 m", "62 m", "82 m"]),
    ],
)
def test_metres_from_near_to_far(span: tuple[float, float], texts: list[str]) -> None:
    assert bar_labels(DepthRange(*span), Sense.METRIC_M, inverse=False) == texts


def test_metres_at_even_steps_of_inverse_depth() -> None:
    assert bar_labels(DepthRange(1, 16), Sense.METRIC_M, inverse=True) == ["1.0 m", "1.3 m", "1.9 m", "3.4 m", "16.0 m"]


@pytest.mark.parametrize("sense", [Sense.RELATIVE_DEPTH, Sense.RELATIVE_INVERSE])
def test_no_metres_of_a_relative_model(sense: Sense) -> None:
    assert bar_labels(DepthRange(0.4, 2.4), sense, inverse=True) == ["near", "far"]


@pytest.mark.parametrize("reverse", [False, True])
def test_near_is_on_top(reverse: bool) -> None:
    panel = draw_bar(Look(style="viridis", reverse=reverse), ["near", "far"], 640, 480)
    assert panel.shape[0] % 2 == panel.shape[1] % 2 == 0
    entries = palette("viridis", reverse=reverse)
    places = [np.argwhere((panel == entry).all(axis=2)) for entry in (entries[-1], entries[0])]
    assert 0 < places[0][:, 0].mean() < places[1][:, 0].mean()


def test_a_flat_range_still_has_words() -> None:
    assert bar_labels(DepthRange(2.0, 2.0), Sense.METRIC_M, inverse=True) == ["2.00 m"] * 5


@pytest.mark.parametrize("pix_fmt", ["bgr24", "rgba", "yuv444p", "yuv420p", "nv12", "yuv444p10le", "p010le"])
def test_every_layout_shows_the_same_bar(pix_fmt: str) -> None:
    flat = av.VideoFrame.from_ndarray(np.full((240, 320, 3), 120, np.uint8), format="rgb24")
    depth, span = color.smooth_depth(9, 7, sense=Sense.METRIC_M), DepthRange(0.4, 7.2)

    def shown(image: av.VideoFrame) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        colorizer = Colorizer(color.stream_info(320, 240, image.format.name))
        out = colorizer.render(image, depth, span, LOOK)
        return np.asarray(out.reformat(format="rgb24").to_ndarray(), dtype=np.int64)

    want, got = shown(flat), shown(flat.reformat(format=pix_fmt))
    corner = np.s_[100:, 220:]
    assert np.abs(want - 120)[corner].mean() > 10
    # Chroma subsampling blurs the ramp's border; on the whole the two must look alike.
    assert np.abs(got - want).mean() < 2.5
    if pix_fmt in ("bgr24", "rgba"):
        np.testing.assert_array_equal(got, want)

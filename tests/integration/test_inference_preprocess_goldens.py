"""Exactness against the real ``transformers`` pipeline, and what the fast path costs of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamdepth.inference import preprocess
from streamdepth.inference.engine import Engine
from streamdepth.inference.geometry import crop_rect, resize, to_image
from streamdepth.inference.preprocess import image_of
from tests.support.goldens import ARCHITECTURES, INPUT_STRIDE, Golden, load

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT_BOUND = 5e-4
# Mean error of the fast path as a share of the range, on images full of one-pixel stripes and hard edges and through
# networks of random weights, both the worst there is; photographs through trained networks stay far below.
FAST_MEAN_BOUND = {"depth_anything": 6e-3, "dpt": 4e-3, "glpn": 1e-3, "zoedepth": 4e-3, "depth_pro": 2e-3}
FAST_INPUT_BOUND = {"depth_anything": 0.01, "dpt": 4e-3, "glpn": 1e-3, "zoedepth": 4e-3, "depth_pro": 4e-3}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)


def estimate(engine: Engine, rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(network input, depth at the image's size)."""
    geometry = engine.geometry(rgb.shape[1], rgb.shape[0])
    slot = engine.acquire(geometry.net_size)
    if engine.exact:
        slot.write_rgb(0, rgb)
    else:
        slot.write(0, image_of(rgb))
    raw = engine.run_raw(slot, 1)[0]
    values = to_image(
        raw.values,
        engine.spec.preprocessing.family,
        geometry,
        exact=engine.exact,
        field_of_view_degrees=raw.extra.field_of_view_degrees,
    )
    return slot.input_chw(0).astype(np.float32), values


def test_network_input_is_that_of_transformers(golden: Golden) -> None:
    engine = Engine(golden.spec, provider="cpu", exact=True)
    for key, rgb in golden.images.items():
        geometry = engine.geometry(rgb.shape[1], rgb.shape[0])
        got = preprocess.exact_input(rgb, golden.spec.preprocessing, geometry)
        assert got.shape[1:] == tuple(golden.arrays[f"input_shape_{key}"])
        wanted = golden.arrays[f"input_{key}"]
        assert np.abs(got[:, ::INPUT_STRIDE, ::INPUT_STRIDE] - wanted).max() <= 1e-6


def test_exact_depth_is_that_of_the_pipeline(golden: Golden) -> None:
    engine = Engine(golden.spec, provider="cpu", exact=True)
    for key, rgb in golden.images.items():
        _, got = estimate(engine, rgb)
        wanted = golden.arrays[f"depth_{key}"]
        assert got.shape == rgb.shape[:2]
        assert np.abs(got - wanted).max() <= EXACT_BOUND * np.ptp(wanted)
        assert not np.isnan(got).any()


@pytest.mark.parametrize("name", FAST_MEAN_BOUND)
def test_fast_depth_stays_near_the_pipeline(name: str) -> None:
    """Not ``dpt_padded``: the fast path cuts the padding off that the pipeline leaves in, see the last test."""
    golden = load(name)
    fast, slow = Engine(golden.spec, provider="cpu"), Engine(golden.spec, provider="cpu", exact=True)
    for key, rgb in golden.images.items():
        fast_input, got = estimate(fast, rgb)
        slow_input, _ = estimate(slow, rgb)
        wanted = golden.arrays[f"depth_{key}"]
        assert np.abs(fast_input - slow_input).mean() <= FAST_INPUT_BOUND[name]
        assert np.abs(got - wanted).mean() <= FAST_MEAN_BOUND[name] * np.ptp(wanted)
        assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


def test_image_of_the_pipeline(golden: Golden) -> None:
    """Grey levels of the pipeline's own image: (d - min) / (max - min) * 255, cut off."""
    _, depth = estimate(Engine(golden.spec, provider="cpu", exact=True), golden.images["0"])
    grey = ((depth - depth.min()) / (depth.max() - depth.min()) * 255).astype(np.uint8).astype(int)
    wanted = golden.arrays["image_0"].astype(int)
    assert np.abs(grey - wanted).max() <= 1
    assert (grey == wanted).mean() > 0.99


def test_fast_path_cuts_zero_padding_off_where_the_image_ends() -> None:
    golden = load("dpt_padded")
    rgb = golden.images["4"]  # 203x77 becomes 210x84: 3 and 4 columns, 3 and 4 rows of zeros
    engine = Engine(golden.spec, provider="cpu")
    slot = engine.acquire(engine.network_size(203, 77))
    slot.write(0, image_of(rgb))
    raw = engine.run_raw(slot, 1)[0]
    scale_y, scale_x = raw.values.shape[0] / 84, raw.values.shape[1] / 210
    assert raw.geometry is not None
    left, top, width, height = crop_rect(raw.geometry, (raw.values.shape[0], raw.values.shape[1]))
    assert (left, top) == (round(3 * scale_x), round(3 * scale_y))
    assert abs(width - 203 * scale_x) <= 1
    assert abs(height - 77 * scale_y) <= 1
    inner = engine.run(slot, 1)[0].values
    np.testing.assert_array_equal(inner, raw.values[top : top + height, left : left + width])


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("name", ["depth_anything", "glpn", "zoedepth", "depth_pro"])
def test_maps_for_video_cover_the_image_edge_to_edge(name: str, is_exact: bool) -> None:
    """At the model's resolution, borders cut off and metres made: resized plainly they are the pipeline's depth."""
    golden = load(name)
    engine = Engine(golden.spec, provider="cpu", exact=is_exact)
    for key, rgb in golden.images.items():
        slot = engine.acquire(engine.network_size(rgb.shape[1], rgb.shape[0]))
        slot.write(0, image_of(rgb))
        depth = engine.run(slot, 1)[0]
        assert depth.sense is golden.spec.sense
        assert depth.values.flags.c_contiguous
        values, wanted = depth.values, golden.arrays[f"depth_{key}"]
        if name == "depth_pro":  # its pipeline resizes inverse depth
            values, wanted = np.float32(1) / values, 1 / wanted
        got = resize(values, rgb.shape[1], rgb.shape[0], bilinear=name == "depth_pro")
        assert np.abs(got - wanted).mean() <= 0.02 * np.ptp(wanted)
        assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.98

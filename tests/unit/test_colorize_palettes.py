"""Palettes: npm ``colormap`` exactly, the ``cmap`` catalogue, own stops, and what is said about wrong ones."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdepth.colorize.palettes import (
    catalogue_names,
    is_grayscale,
    load_stops,
    nearest_names,
    palette,
    palette_names,
    parse_stops,
)
from streamdepth.core.errors import UsageError
from tests.support import need

if TYPE_CHECKING:
    from pathlib import Path

# SHA-256 (first 16 digits) of the 256 RGB entries that npm colormap 2.3.2 itself computes with nshades 256.
NPM_256 = {
    "alpha": "069af124b2f3cf01",
    "autumn": "fe05d7bad3acff90",
    "bathymetry": "6787117811da21de",
    "blackbody": "55136d26150be004",
    "bluered": "52dcaa59f5d4f5e5",
    "bone": "d6ed3d69a6e81a00",
    "cdom": "9e7c58102dd864e4",
    "chlorophyll": "ea242e1276b4781d",
    "cool": "443e26532a55fb30",
    "copper": "39a99a06212cc45c",
    "cubehelix": "af3166f44e6496b7",
    "density": "ee01b80b10bd183a",
    "earth": "802b8ba95a6ab717",
    "electric": "7bb708d1caf7959e",
    "freesurface-blue": "78a6de95431e6e00",
    "freesurface-red": "6b324472c0c11701",
    "greens": "21ef7cf011d24757",
    "greys": "72432263dbfe17ab",
    "hot": "ef82f11096f18c2c",
    "hsv": "cefbd26daeb50872",
    "inferno": "d1dc7616f4c3d8d8",
    "jet": "2028f7ef21bcc047",
    "magma": "c1e31427524a2d98",
    "oxygen": "ccecd27ef227a931",
    "par": "e99ef6e4f07a0987",
    "phase": "7a72cd6c15f0cc05",
    "picnic": "ea382562c49e8321",
    "plasma": "3dbe26d81aab30a2",
    "portland": "21e3863338193698",
    "rainbow": "1f3b37568e3b9502",
    "rainbow-soft": "fb1f4dd355b1938b",
    "rdbu": "8be1b0ba67471be0",
    "salinity": "0414916462fd5b54",
    "spring": "1936eccfa8b7e627",
    "summer": "c8ca9eeff27c3689",
    "temperature": "8a0599d399e27d0d",
    "turbidity": "b64649dad57e3462",
    "velocity-blue": "89344940363ed641",
    "velocity-green": "0a94fdd76dfd065d",
    "viridis": "15c703bec9ac2e01",
    "warm": "df00506c999279ab",
    "winter": "48c15a26da53f9c5",
    "yignbu": "fb1140b3252f801e",
    "yiorrd": "03313b117aab25ac",
}


@pytest.mark.parametrize("name", NPM_256)
def test_npm_palettes_are_equal_entry_for_entry(name: str) -> None:
    table = palette(name)
    assert table.shape == (256, 4)
    assert table.dtype == np.uint8
    assert hashlib.sha256(table[:, :3].tobytes()).hexdigest()[:16] == NPM_256[name]


def test_npm_palettes_against_the_packages_own_output() -> None:
    reference = need.shared("reference/colormaps_256.json")
    for name, entries in json.loads(reference.read_text()).items():
        np.testing.assert_array_equal(palette(name)[:, :3], entries, err_msg=name)


def test_only_the_alpha_palette_has_alpha() -> None:
    np.testing.assert_array_equal(palette("alpha")[:, 3], np.arange(256))
    assert all((palette(name)[:, 3] == 255).all() for name in palette_names() if name != "alpha")


def test_names_listed() -> None:
    assert set(palette_names()) == {*NPM_256, "grayscale"}
    assert {"cmocean:thermal", "matlab:jet", "google:turbo"} <= set(catalogue_names())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("RdBu", "rdbu"),
        ("Rainbow_Soft", "rainbow-soft"),
        ("rainbowsoft", "rainbow-soft"),
        ("FREESURFACE BLUE", "freesurface-blue"),
        ("gray", "grayscale"),
        ("Grey", "grayscale"),
        ("greyscale", "greys"),
        ("Turbo", "google:turbo"),
        ("CMOCEAN:Thermal", "cmocean:thermal"),
    ],
)
def test_aliases(typed: str, meant: str) -> None:
    np.testing.assert_array_equal(palette(typed), palette(meant))


def test_npm_wins_and_the_catalogue_stays_reachable() -> None:
    assert tuple(palette("jet")[0]) == (0, 0, 131, 255)
    assert tuple(palette("matlab:jet")[0]) == (0, 0, 128, 255)


def test_grayscale_is_near_white() -> None:
    table = palette("grayscale")
    np.testing.assert_array_equal(table[:, 0], np.arange(256))
    assert is_grayscale("Grey")
    assert not is_grayscale("greys")


def test_reverse() -> None:
    np.testing.assert_array_equal(palette("plasma", 64, reverse=True), palette("plasma", 64)[::-1])
    np.testing.assert_array_equal(palette("cividis_r"), palette("cividis")[::-1])


def test_result_is_the_callers_own() -> None:
    palette("viridis")[:] = 0
    assert palette("viridis").any()


@pytest.mark.parametrize("n", [2, 3, 10, 72, 256, 1000])
def test_any_number_of_colours(n: int) -> None:
    table = palette("hsv", n)
    assert table.shape == (n, 4)
    assert tuple(table[0][:3]) == (255, 0, 0)
    assert tuple(table[-1][:3]) == (255, 0, 6)


def test_every_catalogue_name_gives_a_palette() -> None:
    for name in catalogue_names()[::23]:
        assert palette(name, 8).shape == (8, 4)


def test_too_few_colours() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        palette("viridis", 1)


@pytest.mark.parametrize(
    ("typed", "offered"), [("infreno", "inferno"), ("virdis", "viridis"), ("cmocean:thermla", "thermal")]
)
def test_unknown_name_lists_the_nearest(typed: str, offered: str) -> None:
    with pytest.raises(UsageError, match=offered):
        palette(typed)
    assert offered in nearest_names(typed)


@pytest.mark.parametrize("name", ["", "no such palette at all", "0", "_r"])
def test_hopeless_names_say_where_to_look(name: str) -> None:
    with pytest.raises(UsageError, match="streamdepth styles"):
        palette(name)


def test_own_stops_in_every_form() -> None:
    want = parse_stops([[0, 0, 0, 0], [0.5, 255, 128, 0], [1, 255, 255, 255]])
    for form in (
        [[0, [0, 0, 0]], [0.5, [255, 128, 0]], [1, [255, 255, 255]]],
        [[0, "#000000"], [0.5, "ff8000"], [1, "#FFFFFF"]],
        [{"index": 0, "rgb": [0, 0, 0]}, {"index": 0.5, "rgb": [255, 128, 0]}, {"index": 1, "rgb": [255, 255, 255]}],
    ):
        assert parse_stops(form) == want
    assert tuple(palette(want, 3)[1]) == (255, 128, 0, 255)


def test_own_stops_with_alpha() -> None:
    assert tuple(palette([[0, 1, 2, 3, 0], [1, 5, 6, 7, 200]], 2)[1]) == (5, 6, 7, 200)
    assert tuple(palette([{"index": 0, "rgb": [0, 0, 0, 0.5]}, {"index": 1, "rgb": [0, 0, 0]}], 2)[0]) == (0, 0, 0, 128)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_stops_from_a_file(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    stops: Any = [[0, 10, 20, 30], [1, 40, 50, 60]]
    path = tmp_path / f"mine.{suffix}"
    path.write_text(json.dumps({"stops": stops} if wrapped else stops))
    assert load_stops(path) == ((0.0, (10, 20, 30)), (1.0, (40, 50, 60)))
    assert tuple(palette(str(path), 2)[1]) == (40, 50, 60, 255)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "{"), ("a.yaml", "[1, 2"), ("a.json", "[]"), ("a.json", '{"other": 1}'), ("b.yml", "just text")],
)
def test_a_file_that_holds_no_stops_is_named(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UsageError, match=name):
        palette(str(path))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.json"):
        palette("nowhere.json")


@pytest.mark.parametrize(
    "stops",
    [
        None,
        3,
        [],
        [[0, 0, 0, 0]],
        [[0, 0, 0, 0], [0.9, 1, 1, 1]],
        [[0.1, 0, 0, 0], [1, 1, 1, 1]],
        [[0, 0, 0, 0], [0.7, 1, 1, 1], [0.5, 1, 1, 1], [1, 1, 1, 1]],
        [[0, 0, 0, 256], [1, 1, 1, 1]],
        [[0, 0, 0, -1], [1, 1, 1, 1]],
        [[0, 0, 0, float("nan")], [1, 1, 1, 1]],
        [[float("nan"), 0, 0, 0], [1, 1, 1, 1]],
        [[0, 0, 0, True], [1, 1, 1, 1]],
        [[0, "red"], [1, "#ffffff"]],
        [[0, "#fff"], [1, "#ffffff"]],
        [[0, 0, 0], [1, 1, 1]],
        [{"index": 0}, {"index": 1}],
        [{"index": 0, "rgb": [0, 0, 0, 2]}, {"index": 1, "rgb": [1, 1, 1]}],
        [["0", 0, 0, 0], ["1", 1, 1, 1]],
    ],
)
def test_malformed_stops(stops: Any) -> None:
    with pytest.raises(UsageError):
        palette(stops)


colour = st.tuples(*[st.integers(0, 255)] * 4)


@settings(max_examples=60)
@given(
    inner=st.lists(st.floats(0, 1), max_size=8).map(sorted),
    colours=st.lists(colour, min_size=10, max_size=10),
    n=st.integers(2, 300),
)
def test_own_stops_stay_between_their_colours(
    inner: list[float], colours: list[tuple[int, int, int, int]], n: int
) -> None:
    positions = [0.0, *inner, 1.0]
    stops = [[position, *colours[index]] for index, position in enumerate(positions)]
    table = palette(stops, n)
    used = np.array([stop[1:] for stop in stops])
    assert table.shape == (n, 4)
    assert (table >= used.min(axis=0)).all()
    assert (table <= used.max(axis=0)).all()
    np.testing.assert_array_equal(table[-1], used[-1])


@settings(max_examples=40)
@given(raw=st.recursive(st.none() | st.floats() | st.text(max_size=3) | st.booleans(), st.lists, max_leaves=12))
def test_whatever_is_given_is_a_palette_or_a_usage_error(raw: Any) -> None:
    if isinstance(raw, str):
        return
    with contextlib.suppress(UsageError):
        assert palette(raw, 4).shape == (4, 4)

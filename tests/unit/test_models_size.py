"""``--size N`` and ``--size WxH``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from streamdepth.core.errors import UsageError
from streamdepth.models.spec import Family, Preprocessing, Size, apply_size, fit_to_graph, parse_size

DA = Preprocessing()
STRETCHED = Preprocessing(width_px=256, height_px=192, keep_aspect=False, multiple_of=1)
GLPN = Preprocessing(family=Family.GLPN, multiple_of=32, resample="bilinear", do_normalize=False)
FREE = (None, None)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (518, Size(518)),
        ("518", Size(518)),
        (" 640x384 ", Size(640, 384)),
        ("640X384", Size(640, 384)),
        ((640, 384), Size(640, 384)),
        ([640, 384], Size(640, 384)),
        (Size(3), Size(3)),
    ],
)
def test_parse(value: Any, size: Size) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "x", "12x", "-5", "1.5", "640x384x3", "a b", True, (1,), (1, 2, 3), ("1", "2")])
def test_parse_refuses(value: Any) -> None:
    with pytest.raises(UsageError, match="give N or WxH in pixels"):
        parse_size(value)


@pytest.mark.parametrize("value", ["0", "0x5", "5x0", 0, 9000, "100x99999"])
def test_sides_have_limits(value: Any) -> None:
    with pytest.raises(UsageError, match="a side is 1 to 8192 pixels"):
        parse_size(value)


def test_n_is_a_target_for_the_models_rule() -> None:
    assert apply_size(DA, Size(252), FREE, "m") == replace(DA, width_px=252, height_px=252)
    assert apply_size(STRETCHED, Size(384), FREE, "m") == replace(STRETCHED, width_px=512, height_px=384)


def test_wxh_is_exact() -> None:
    sized = apply_size(DA, Size(504, 280), FREE, "m")
    assert (sized.width_px, sized.height_px, sized.keep_aspect) == (504, 280, False)


def test_a_floored_model_takes_a_size_too() -> None:
    sized = apply_size(GLPN, Size(320), FREE, "m")
    assert (sized.family, sized.width_px, sized.keep_aspect, sized.multiple_of) == (Family.DPT, 320, True, 32)
    assert sized.resample == "bilinear"
    assert not sized.do_normalize


def test_errors_say_what_fits() -> None:
    with pytest.raises(UsageError, match=r"size 500x300: m takes multiples of 14, the nearest is 504x294"):
        apply_size(DA, Size(500, 300), FREE, "m")
    with pytest.raises(UsageError, match=r"size 10: m needs sides of at least 14 pixels"):
        apply_size(DA, Size(10), FREE, "m")
    with pytest.raises(UsageError, match=r"size 300: the graph of m takes only 256x192"):
        apply_size(STRETCHED, Size(300), (256, 192), "m")
    with pytest.raises(UsageError, match=r"takes only anyx192"):
        apply_size(STRETCHED, Size(300, 200), (None, 192), "m")


def test_the_graphs_own_size_may_be_said() -> None:
    assert apply_size(STRETCHED, Size(192), (256, 192), "m") == STRETCHED
    assert apply_size(STRETCHED, Size(256, 192), (256, 192), "m") == STRETCHED


def test_a_fixed_graph_overrules_the_rules() -> None:
    assert fit_to_graph(DA, FREE) is DA
    fitted = fit_to_graph(DA, (640, 384))
    assert (fitted.width_px, fitted.height_px, fitted.keep_aspect, fitted.multiple_of) == (640, 384, False, 1)
    assert fit_to_graph(GLPN, (640, 480)).family is Family.DPT
    assert fit_to_graph(replace(DA, do_resize=False, do_pad=True), (28, 28)).do_resize

"""Stills and tensors that cannot be used: each is one clear line."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamdepth.core.errors import DataFormatError, ModelError, SourceError, SourceNotFoundError, UsageError
from streamdepth.image.estimator import DepthEstimator
from streamdepth.media.scene import pattern
from tests.support.goldens import FOLDER

if TYPE_CHECKING:
    from pathlib import Path


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"data": [1.0], "type": "float32", "dims": [1, 3, 64, 64]}, "has 1 values, dims .* need 12288"),
        ({"data": [1.0], "type": "complex64", "dims": [1]}, "type 'complex64' is unknown"),
        ({"data": [1.0], "type": 7, "dims": [1]}, "type 7 is unknown"),
        ({"data": [1.0], "dims": [0]}, "whole numbers above 0"),
        ({"data": [1.0], "dims": "3"}, "whole numbers above 0"),
        ({"data": [1.0], "dims": None}, "whole numbers above 0"),
        ({"data": ["a"], "dims": [1]}, "not a list of numbers"),
        ({"data": [[1.0], [1.0, 2.0]], "dims": [3]}, "not a list of numbers"),
        ({"data": b"abc", "dims": [1]}, "3 bytes, not a multiple of the 4"),
        ({"data": "%%", "dims": [1]}, "not base64"),
        ({"dims": [1]}, "a tensor is a mapping with data, type and dims, not one with dims"),
        ({}, "not one with nothing"),
        ({"data": [0.0] * 12, "dims": [1, 1, 3, 4]}, "does not fit .* input is \\[batch, 3, height, width\\]"),
        ({"data": [0.0] * 12, "dims": [12]}, "does not fit"),
    ],
)
def test_bad_tensors(dpt_estimator: DepthEstimator, tensor: dict[str, Any], message: str) -> None:
    with pytest.raises(DataFormatError, match=message) as caught:
        dpt_estimator(tensor)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha", ["x", (1, 2, 3), [None]])
def test_an_alpha_that_is_none_without_a_style(dpt_estimator: DepthEstimator, alpha: Any) -> None:
    with pytest.raises(UsageError, match="alpha is a number or a pair"):
        dpt_estimator(pattern(8, 8), alpha=alpha)


def test_a_tensor_too_small_for_the_network_in_the_package() -> None:
    with (
        DepthEstimator(provider="cpu") as built_in,
        pytest.raises(
            DataFormatError, match="a tensor of 2x3 pixels is too small for built-in; its smallest size is 32x32"
        ),
    ):
        built_in({"data": [0.0] * 18, "dims": [3, 3, 2]})


def test_a_tensor_of_a_size_the_graph_does_not_take(dpt_estimator: DepthEstimator) -> None:
    with pytest.raises(ModelError, match="its input is 64 wide, not 32"):
        dpt_estimator({"data": np.zeros(3 * 64 * 32), "dims": [1, 3, 64, 32]})


def test_inputs_that_are_no_image(dpt_estimator: DepthEstimator, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    cut = encoded(Image.fromarray(pattern(64, 64)))[:-400]
    cases: list[tuple[Any, type[Exception], str]] = [
        (tmp_path / "none.png", SourceNotFoundError, "no such file"),
        ("none.png", SourceNotFoundError, "none.png: no such file"),
        ("none", SourceNotFoundError, "no such file"),
        (str(tmp_path), SourceError, "cannot be read"),
        (text, DataFormatError, "not an image in a supported format"),
        (b"", DataFormatError, "empty"),
        (b"GIF89a", DataFormatError, "not an image|damaged"),
        (cut, DataFormatError, "damaged image"),
        ("", UsageError, "empty string"),
        ("data:image/png;base64,@@@@", DataFormatError, "not base64"),
        ("data:image/png;base64,QUJDRA==", DataFormatError, "not an image"),
        ("data:image/svg+xml,<svg/>", DataFormatError, "must be base64"),
        ("QUJD" * 20, SourceNotFoundError, "no such file, and not an image in base64"),
        ("QUJD" * 2000, DataFormatError, "not an image"),
        ("%%%%" * 2000, DataFormatError, "neither a path nor base64"),
        ("http://user:secret@host/x.png", UsageError, "not downloaded from URLs"),
        (np.zeros((0, 4, 3), np.uint8), DataFormatError, "no pixels"),
        (np.zeros((4, 4, 5), np.uint8), DataFormatError, "is not an image"),
        (np.zeros((3, 4, 4), np.uint8).reshape(3, 4, 4)[:, :, :2].repeat(4, 2), DataFormatError, "channels last"),
        (np.zeros(4, np.uint8), DataFormatError, "is not an image"),
        (np.full((4, 4, 3), 200.0), DataFormatError, "from 200 to 200; floating images lie in 0..1"),
        (np.full((4, 4), np.nan, np.float32), DataFormatError, "floating images lie in 0..1"),
        (np.zeros((4, 4, 3), np.int64), DataFormatError, "unsupported dtype"),
        (Image.new("RGB", (0, 0)), DataFormatError, "0x0 has no pixels"),
        (None, UsageError, "NoneType is not an image"),
        (3, UsageError, "int is not an image"),
    ]
    for value, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            dpt_estimator(value)
        said = str(caught.value)
        assert "\n" not in said
        assert "secret" not in said
        assert len(said) < 400


@pytest.mark.slow
def test_decompression_bombs_are_refused_before_they_are_decoded() -> None:
    bomb = encoded(Image.new("1", (13400, 13400)))
    with DepthEstimator(FOLDER / "dpt" / "model.onnx", max_pixels=1000) as small:
        with pytest.raises(DataFormatError, match=r"too many pixels .*MAX_IMAGE_PIXELS"):
            small(bomb)
        with pytest.raises(DataFormatError, match=r"50x40 is 2,000 pixels, the limit is 1,000"):
            small(pattern(50, 40))
        assert small(pattern(50, 20)).width == 50


def test_nothing_is_returned_where_one_of_a_list_is_bad(dpt_estimator: DepthEstimator) -> None:
    with pytest.raises(SourceNotFoundError):
        dpt_estimator([pattern(20, 20), "missing.png"])

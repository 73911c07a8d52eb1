"""PNG as the project writes it, read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from streamdepth.media.images import encode_png


@pytest.mark.parametrize(("channels", "mode"), [(None, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (120, 161)])
def test_every_value_comes_back(channels: int | None, mode: str, size: tuple[int, int]) -> None:
    shape = size if channels is None else (*size, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels)))
    assert (image.format, image.mode) == ("PNG", mode)
    assert np.array_equal(np.asarray(image), pixels)


def test_rows_may_lie_apart() -> None:
    wide = np.random.default_rng(1).integers(0, 256, (20, 64, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(wide[:, 5:30])))), wide[:, 5:30])
    grey = wide[::2, ::2, 0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(grey)))), grey)


def test_a_smooth_image_is_small() -> None:
    ramp = np.tile(np.arange(640, dtype=np.uint8) // 3, (360, 1))
    assert len(encode_png(np.dstack([ramp] * 4))) < 640 * 360 * 4 / 50

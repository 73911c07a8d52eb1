"""Images of any size and format into the one of a stream."""

from __future__ import annotations

import av
import numpy as np
import pytest

from streamdepth.core.frame import ColorTags
from streamdepth.media.filters import Letterbox

BT709 = ColorTags(1, 1, 1, 1)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuva420p", "yuv422p", "yuv420p10le", "yuv410p", "rgb24"])
@pytest.mark.parametrize("size_px", [(63, 47), (64, 48), (90, 30), (30, 90), (1, 1)])
@pytest.mark.parametrize("given", ["rgb24", "bgra", "yuv444p", "gray"])
def test_odd_sizes_come_out_whole(given: str, size_px: tuple[int, int], pix_fmt: str) -> None:
    image = av.VideoFrame(*size_px, given)
    for plane in image.planes:
        plane.update(bytes([200]) * plane.buffer_size)
    fitted = Letterbox(63, 47, pix_fmt, BT709)(image)
    assert (fitted.width, fitted.height, fitted.format.name) == (63, 47, pix_fmt)


def test_another_shape_lies_in_the_middle_of_black() -> None:
    white = av.VideoFrame.from_ndarray(np.full((30, 90, 3), 255, np.uint8), format="rgb24")
    fitted = Letterbox(63, 47, "yuv420p", BT709)(white).to_ndarray(format="rgb24")
    lit = np.flatnonzero(fitted[:, 31, 0] > 128)
    assert abs(len(lit) - 21) <= 1
    assert abs(lit.mean() - 23) <= 1
    assert fitted[:, 31].max(axis=1)[[0, -1]].tolist() == [0, 0]

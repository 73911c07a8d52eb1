"""YUV images scaled plane by plane and converted at the network's size, in one pass over the image.

The decoder's scaler has no vector code for scaling to RGB; for a 1280x720 image of 4:2:0 and a network of 352x192
this takes 0.6 ms where that took 1.5 (one Zen 5 core). It is also nearer to the exact path, whose filter it has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.frame import ColorTags
from streamdepth.inference import kernels
from streamdepth.inference.resampling import RESAMPLES, Axis, axis
from streamdepth.media import planes
from streamdepth.media.color_math import plane_values, resolve_tags
from streamdepth.media.pixel_formats import LAYOUTS

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamdepth.media.pixel_formats import PixelLayout
    from streamdepth.models.spec import Resample

_UNSAID = (0, 2)
_BT601 = 5
_MATRICES = (*_UNSAID, 1, _BT601, 6, 7, 9)
_TAPS_DOWN, _TAPS_ACROSS = 4, 8
_PROBE_STEP = 16


@dataclass(frozen=True, slots=True)
class _Plan:
    """What does not change while images have one form."""

    key: tuple[Any, ...]
    layout: PixelLayout
    widths: tuple[int, int, int]
    down: tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...]
    across: tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...]
    matrix: NDArray[np.float32]
    scratch: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]


class PlaneScaler:
    """Writes images into a network's input. One thread at a time; keeps its weights from image to image.

    Args:
        table: as ``preprocess.value_table`` gives it.
    """

    def __init__(self, resample: Resample, table: NDArray[Any]) -> None:
        self._resample = resample
        self._table = table
        self._plan: _Plan | None = None

    def takes(self, image: av.VideoFrame) -> bool:
        """YUV in planes that the colour stage works on as well, of a matrix the decoder's scaler knows."""
        layout = LAYOUTS.get(image.format.name)
        return (
            layout is not None
            and layout.family != "packed"
            and layout.chroma
            and int(image.colorspace) in _MATRICES
            and self._resample in RESAMPLES
        )

    def write(self, image: av.VideoFrame, out_chw: NDArray[Any]) -> None:
        """Fill ``out_chw`` [3, H, W] with the whole image, antialiased; the image is one it ``takes``."""
        size = (out_chw.shape[2], out_chw.shape[1])
        key = (image.format.name, image.width, image.height, size, ColorTags.of(image))
        if self._plan is None or self._plan.key != key:
            self._plan = _plan(key, image, size, self._resample)
        plan = self._plan
        source = planes.triple(planes.read(image, plan.layout))
        kernels.planes_to_chw(
            source, plan.widths, plan.down, plan.across, plan.matrix, self._table, plan.scratch, out_chw
        )


def _plan(key: tuple[Any, ...], image: av.VideoFrame, size: tuple[int, int], resample: Resample) -> _Plan:
    layout = LAYOUTS[image.format.name]
    width, height = image.width, image.height
    shift_x, shift_y = _chroma_shift(image, layout)
    chroma_width, chroma_height = layout.chroma_width_px(width), layout.chroma_height_px(height)
    luma_across = axis(width, size[0], resample, multiple=_TAPS_ACROSS)
    luma_down = axis(height, size[1], resample, multiple=_TAPS_DOWN)
    # Of an odd size the decoder's scaler, and with it the exact path, stretches chroma over the whole image, too.
    across = axis(chroma_width, size[0], resample, shift=shift_x, multiple=_TAPS_ACROSS)
    down = axis(chroma_height, size[1], resample, shift=shift_y, multiple=_TAPS_DOWN)
    of_u, of_v = across, across
    if layout.family == "semiplanar":
        chroma_width *= 2
        of_u, of_v = across.interleaved(0), across.interleaved(1)
    words = max(width, chroma_width, luma_across.reach, of_v.reach)
    scratch = np.zeros(words, np.float32), np.empty((3, size[0]), np.float32), np.empty((3, size[0]), np.uint8)
    return _Plan(
        key,
        layout,
        (width, chroma_width, chroma_width),
        tuple(_pair(one) for one in (luma_down, down, down)),
        tuple(_pair(one) for one in (luma_across, of_u, of_v)),
        _to_rgb(ColorTags.of(image), layout, width, height),
        scratch,
    )


def _pair(one: Axis) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return one.first, one.weights


def _to_rgb(tags: ColorTags, layout: PixelLayout, width_px: int, height_px: int) -> NDArray[np.float32]:
    """[3, 4]: R, G, B from the planes' words; the inverse of ``plane_values``, with the rounding added.

    An unsaid matrix is BT.601, as the decoder's scaler has it and with it the exact path.
    """
    if tags.matrix in _UNSAID:
        tags = replace(tags, matrix=_BT601)
    tags = resolve_tags(tags, layout, width_px, height_px)
    # halves, since full range has no word for the strongest blue and red
    black = plane_values(np.zeros((1, 3)), tags, layout)[0]
    forth = (plane_values(np.eye(3) / 2, tags, layout) - black) * 2
    back = np.linalg.inv(forth).T * 255
    offset = 0.5 - back @ black
    return np.ascontiguousarray(np.column_stack([back / (1 << layout.shift), offset]), dtype=np.float32)


def _chroma_shift(image: av.VideoFrame, layout: PixelLayout) -> tuple[float, float]:
    """How far chroma lies before the middle of the pixels it belongs to, (across, down), in chroma samples.

    H.264 and H.265 say so, and the decoder's scaler minds it, but PyAV has no name for it. So the scaler is asked: a
    scaled image inherits the place, and ramps written into its chroma show, at a pixel in the middle, what is there.
    """
    from av.video.reformatter import Interpolation, VideoReformatter

    if not layout.log2_chroma_w:
        return 0.0, 0.0
    name = "yuv420p" if layout.log2_chroma_h else "yuv422p"
    # never the image's own size: the scaler would give the image itself
    side = 32 if image.width == 16 else 16
    ramps = VideoReformatter().reformat(image, width=side, height=side, format=name, interpolation="POINT", threads=1)
    for plane, along in zip(ramps.planes, (None, 1, 0), strict=True):
        words = np.zeros((plane.height, plane.line_size), np.uint8)
        if along is not None:
            steps = np.arange(plane.height if along == 0 else plane.width, dtype=np.uint8) * _PROBE_STEP
            words[:, : plane.width] = steps[:, None] if along == 0 else steps
        plane.update(words.tobytes())
    flags = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP | Interpolation.ACCURATE_RND
    full = VideoReformatter().reformat(ramps, format="yuv444p", interpolation=flags, threads=1)
    _, across, down = (plane[side // 2, side // 2] / _PROBE_STEP for plane in planes.read(full, LAYOUTS["yuv444p"]))
    middle = (side // 2 + 0.5) / 2 - 0.5
    return float(across) - middle, float(down) - middle if layout.log2_chroma_h else 0.0

"""The fast way from a decoded image into a network's input buffer.

Images in YUV planes are scaled plane by plane (see :mod:`streamdepth.inference.plane_scaling`). All others take one
pass of the decoder's scaler to the network's size in RGB (which honours the image's own matrix and range), then one
compiled pass that normalises and rearranges. Rescale, mean and std are folded into a table of the 256 values a channel
can have, so that both round as the exact path does; all of the difference comes from the scaling. Tests state it.

ZoeDepth and DepthPro were made for aliased bilinear input, which the scaler cannot give when it shrinks: their images
are converted at their own size and sampled by OpenCV, ZoeDepth's reflected border included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import DataFormatError
from streamdepth.inference import kernels
from streamdepth.inference.plane_scaling import PlaneScaler
from streamdepth.models.spec import Family

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamdepth.inference.geometry import Geometry
    from streamdepth.models.spec import ModelSpec, Preprocessing, Resample


def to_rgb_array(image: av.VideoFrame) -> NDArray[np.uint8]:
    """An image as a new uint8 [H, W, 3] array, RGB, full range.

    Raises:
        DataFormatError: the scaler cannot convert this pixel format.
    """
    return Scaler("bicubic").scale(image, image.width, image.height).copy()


def image_of(rgb: NDArray[np.uint8]) -> av.VideoFrame:
    """A uint8 [H, W, 3] RGB array as an image."""
    from streamdepth.core.frame import image_from_array

    return image_from_array(rgb, "hwc_rgb")


def value_table(pre: Preprocessing, dtype: np.dtype[Any]) -> NDArray[Any]:
    """What each 8-bit value becomes: [3, 256] of ``dtype``, float16 as its bits in uint16.

    uint8 networks take the values as they are: mean, std and rescaling cannot be expressed in them.
    """
    values = np.arange(256)
    if dtype == np.uint8:
        return np.tile(values.astype(np.uint8), (3, 1))
    scaled = (values * pre.rescale_factor).astype(np.float32) if pre.do_rescale else values.astype(np.float32)
    table = np.tile(scaled, (3, 1))
    if pre.do_normalize:
        mean, std = (np.array(x, dtype=np.float32)[:, None] for x in (pre.mean, pre.std))
        table = (table - mean) / std
    table = np.ascontiguousarray(table.astype(dtype))
    return table.view(np.uint16) if dtype == np.float16 else table


class Scaler:
    """Scales and converts images to RGB. One thread at a time; keeps the scaler's tables between images."""

    def __init__(self, resample: Resample) -> None:
        from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

        self._reformatter = VideoReformatter()
        self._full_range = int(ColorRange.JPEG)
        method = {
            "nearest": Interpolation.POINT,
            "bilinear": Interpolation.BILINEAR,
            "bicubic": Interpolation.BICUBIC,
            "lanczos": Interpolation.LANCZOS,
        }[resample]
        # without the flags, chroma of 4:2:0 is repeated instead of interpolated and rounding drifts by a level
        self._method = method | Interpolation.FULL_CHR_H_INP | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND

    def scale(self, image: av.VideoFrame, width_px: int, height_px: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] RGB, full range; rows may be padded. Valid as long as it is referred to.

        Raises:
            DataFormatError: the scaler cannot convert this pixel format.
        """
        import av

        try:
            scaled = self._reformatter.reformat(
                image,
                width=width_px,
                height=height_px,
                format="rgb24",
                interpolation=self._method,
                dst_color_range=self._full_range,
                threads=1,  # frames overlap already; slices would take cores from the network
            )
        except (av.FFmpegError, ValueError) as exc:
            if (image.width, image.height) != (width_px, height_px):
                # shrinking about 60 times or more needs longer filters than libswscale has
                return self._scale_far(image, width_px, height_px)
            raise DataFormatError(
                f"a {image.width}x{image.height} {image.format.name} image cannot be converted to RGB "
                f"({exc}); convert it to yuv420p or rgb24 first"
            ) from exc
        plane = scaled.planes[0]
        rows: NDArray[np.uint8] = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(height_px, plane.line_size)
        rgb: NDArray[np.uint8] = rows[:, : 3 * width_px].reshape(height_px, width_px, 3)
        return rgb

    def _scale_far(self, image: av.VideoFrame, width_px: int, height_px: int) -> NDArray[np.uint8]:
        import cv2

        full = self.scale(image, image.width, image.height)
        scaled = cv2.resize(full, (width_px, height_px), interpolation=cv2.INTER_AREA)
        return np.asarray(scaled, dtype=np.uint8)


class FastWriter:
    """Writes images into rows of an input buffer. One thread at a time."""

    def __init__(self, spec: ModelSpec) -> None:
        pre = spec.preprocessing
        self._table = value_table(pre, np.dtype(spec.image_input.dtype))
        self._scaler = Scaler(pre.resample)
        self._planes = PlaneScaler(pre.resample, self._table)
        self._family = pre.family

    def write(self, row_chw: NDArray[Any], image: av.VideoFrame, geometry: Geometry) -> None:
        """Fill one row.

        Args:
            row_chw: [3, net height, net width] view of the buffer in its own dtype; strides as the layout needs.
        """
        row = row_chw.view(np.uint16) if row_chw.dtype == np.float16 else row_chw
        if self._family in (Family.ZOEDEPTH, Family.DEPTH_PRO):
            full = self._scaler.scale(image, image.width, image.height)
            kernels.table_to_chw(_sampled(full, geometry, self._family), self._table, row)
            return
        width, height = geometry.inner_width_px, geometry.inner_height_px
        if geometry.padded:
            row[...] = 0
            row = row[:, geometry.top_px : geometry.top_px + height, geometry.left_px : geometry.left_px + width]
        if self._planes.takes(image):
            self._planes.write(image, row)
        else:
            kernels.table_to_chw(self._scaler.scale(image, width, height), self._table, row)


def _sampled(rgb: NDArray[np.uint8], geometry: Geometry, family: Family) -> NDArray[np.uint8]:
    """Aliased bilinear samples [net height, net width, 3]."""
    import cv2

    size = geometry.net_size
    if family is Family.DEPTH_PRO:
        return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    pad_x, pad_y = geometry.pad_x_px, geometry.pad_y_px
    # corners of the padded image onto corners of the network's input; beyond the image OpenCV reflects it
    step_x = (geometry.width_px + 2 * pad_x - 1) / max(size[0] - 1, 1)
    step_y = (geometry.height_px + 2 * pad_y - 1) / max(size[1] - 1, 1)
    matrix = np.array([[step_x, 0, -pad_x], [0, step_y, -pad_y]], dtype=np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(rgb, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, dtype=np.uint8)

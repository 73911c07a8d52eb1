"""From a decoded image into a network's input buffer: the fast way for video, and the exact way of ``transformers``.

Fast: images in YUV planes are scaled plane by plane (:mod:`streamdepth.inference.plane_scaling`). All others take one
pass of FFmpeg's scaler to the network's size in RGB, which honours the image's matrix and range, then one compiled pass
that normalises and rearranges. Rescale, mean and std are folded into a table of the 256 values of a channel, so that
both ways round alike and differ in the scaling only. ZoeDepth and DepthPro were trained on aliased bilinear input,
which FFmpeg's scaler does not produce when it shrinks: their images are converted at full size and sampled by OpenCV,
ZoeDepth's reflected border included.

Exact: as the image processors of ``transformers`` 5, without torch. DPT, GLPN and ZoeDepth as its PIL back end
computes them (antialiased Pillow resize of 8-bit values; rescale in float64 rounded to float32; normalise in float32),
DepthPro as its torchvision back end does (mean and std scaled by 1 / rescale factor, then an aliased bilinear resize of
floats).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import DataFormatError
from streamdepth.inference.plane_scaling import PlaneScaler, table_to_chw
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
    from streamdepth.media.images import image_from_array

    return image_from_array(rgb, "hwc_rgb")


def border_value(pre: Preprocessing, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Network input of a border: zeros, or for ``letterbox`` the mean colour. [3] of ``dtype``."""
    if not pre.letterbox or pre.do_normalize:
        return np.zeros(3, dtype)
    mean = np.array(pre.mean) * (1.0 if pre.do_rescale else 255.0)
    return mean.astype(dtype)


def value_table(pre: Preprocessing, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Network input for each 8-bit value: [3, 256] of ``dtype``, float16 as its bits in uint16.

    uint8 networks take the values unchanged: the type cannot hold rescaled or normalised values.
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
        """uint8 [height, width, 3] RGB, full range; rows may be padded. Valid while referenced.

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
                threads=1,  # frames already overlap; slices would take cores from the network
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
        self._border = border_value(pre, np.dtype(spec.image_input.dtype))
        if self._border.dtype == np.float16:
            self._border = self._border.view(np.uint16)
        self._bgr = pre.bgr
        self._scaler = Scaler(pre.resample)
        self._planes = PlaneScaler(pre.resample, self._table)
        self._family = pre.family

    def write(self, row_chw: NDArray[Any], image: av.VideoFrame, geometry: Geometry) -> None:
        """Fill one row.

        Args:
            row_chw: [3, net height, net width] view of the buffer in its own dtype; strides as the layout needs.
        """
        row = row_chw.view(np.uint16) if row_chw.dtype == np.float16 else row_chw
        if self._bgr:
            row = row[::-1]
        if self._family in (Family.ZOEDEPTH, Family.DEPTH_PRO):
            full = self._scaler.scale(image, image.width, image.height)
            table_to_chw(_sampled(full, geometry, self._family), self._table, row)
            return
        width, height = geometry.inner_width_px, geometry.inner_height_px
        if geometry.padded:
            row[...] = self._border[:, None, None]
            row = row[:, geometry.top_px : geometry.top_px + height, geometry.left_px : geometry.left_px + width]
        if self._planes.takes(image):
            self._planes.write(image, row)
        else:
            table_to_chw(self._scaler.scale(image, width, height), self._table, row)


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


_CUBIC_A = -0.75


def exact_rules(spec: ModelSpec) -> Preprocessing:
    """The model's rules; for a uint8 input without the steps whose result the type cannot hold."""
    if spec.image_input.dtype != "uint8":
        return spec.preprocessing
    return replace(spec.preprocessing, do_rescale=False, do_normalize=False)


def exact_input(rgb: NDArray[np.uint8], pre: Preprocessing, geometry: Geometry) -> NDArray[np.float32]:
    """Network input of one image.

    Args:
        rgb: uint8 [H, W, 3], of the size ``geometry`` was planned for.
    Returns:
        float32 [3, net height, net width].
    Thread-safe.
    """
    if pre.family is Family.DEPTH_PRO and pre.match == "transformers":
        chw = _resize_aliased(_scale_fused(rgb, pre), geometry.net_size, pre.resample)
    elif pre.family is Family.ZOEDEPTH:
        image = _rescale(rgb.transpose(2, 0, 1), pre)
        if pre.do_pad:
            pad_x, pad_y = geometry.pad_x_px, geometry.pad_y_px
            image = np.pad(image, ((0, 0), (pad_y, pad_y), (pad_x, pad_x)), mode="reflect")
        chw = _normalize(_resize_aligned(image, geometry.net_size, pre.resample), pre)
    else:
        inner = (geometry.inner_width_px, geometry.inner_height_px)
        resize = _resize_antialiased if pre.match == "transformers" else _resize_as_libvips
        resized = resize(rgb, inner, pre.resample).transpose(2, 0, 1)
        chw = _normalize(_rescale(resized, pre), pre)
        if geometry.padded:
            right = geometry.net_width_px - inner[0] - geometry.left_px
            bottom = geometry.net_height_px - inner[1] - geometry.top_px
            inside, border = chw, border_value(pre, chw.dtype)
            chw = np.empty((3, geometry.net_height_px, geometry.net_width_px), np.float32)
            chw[...] = border[:, None, None]
            chw[:, geometry.top_px : chw.shape[1] - bottom, geometry.left_px : chw.shape[2] - right] = inside
    return np.ascontiguousarray(chw[::-1] if pre.bgr else chw, dtype=np.float32)


def _rescale(image: NDArray[np.uint8], pre: Preprocessing) -> NDArray[np.float32]:
    if not pre.do_rescale:
        return image.astype(np.float32)
    # 256 possible values: the same float64 product as on the whole image
    table = (np.arange(256, dtype=np.float64) * pre.rescale_factor).astype(np.float32)
    return np.asarray(table[image])


def _normalize(chw: NDArray[np.float32], pre: Preprocessing) -> NDArray[np.float32]:
    if not pre.do_normalize:
        return chw
    mean = np.array(pre.mean, dtype=np.float32)[:, None, None]
    std = np.array(pre.std, dtype=np.float32)[:, None, None]
    return np.asarray((chw - mean) / std)


def _scale_fused(rgb: NDArray[np.uint8], pre: Preprocessing) -> NDArray[np.float32]:
    image = rgb.astype(np.float32)
    factor = pre.rescale_factor if pre.do_rescale else 1.0
    if pre.do_normalize:
        mean = np.array(pre.mean, dtype=np.float32) / np.float32(factor)
        std = np.array(pre.std, dtype=np.float32) / np.float32(factor)
        return np.asarray((image - mean) / std)
    return np.asarray(image * np.float32(factor))


def _resize_antialiased(rgb: NDArray[np.uint8], size: tuple[int, int], resample: Resample) -> NDArray[np.uint8]:
    from PIL import Image

    filters = {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "lanczos": Image.Resampling.LANCZOS,
    }
    return np.asarray(Image.fromarray(rgb).resize(size, filters[resample]))


_VIPS_STEPS = 64
"""Sub-pixel positions that libvips distinguishes in bicubic interpolation."""
_VIPS_ONE = 4096
"""Weight 1 of libvips' interpolation of 8-bit images."""


def _resize_as_libvips(rgb: NDArray[np.uint8], size: tuple[int, int], resample: Resample) -> NDArray[np.uint8]:
    """The affine resize of transformers.js in Node.js (sharp, which is libvips).

    Not antialiased. Top left corners of pixels coincide, not centres, and pixels outside the image are black. Bicubic
    and nearest are equal to sharp 0.34 bit for bit; bilinear differs by at most 1 of 255 where a position is a tie.
    Lanczos is Pillow's; no depth model of the Hub has it.
    """
    if resample == "lanczos" or size == (rgb.shape[1], rgb.shape[0]):
        return _resize_antialiased(rgb, size, resample)
    (width, height), (rows, columns) = size, rgb.shape[:2]
    scale_x, scale_y = width / columns, height / rows
    inverse = 1 / (scale_x * scale_y)
    # libvips adds the step from column to column, and multiplies it by the row
    x = np.cumsum(np.concatenate([[0.0], np.full(width - 1, inverse * scale_y)]))
    y = np.arange(height) * (inverse * scale_x)
    if resample == "nearest":
        row, column = np.minimum(y.astype(np.int64), rows - 1), np.minimum(x.astype(np.int64), columns - 1)
        return np.asarray(rgb[row][:, column])
    padded = np.zeros((rows + 4, columns + 4, 3), np.int32)
    padded[1 : rows + 1, 1 : columns + 1] = rgb
    if resample == "bicubic":
        (column, across), (row, down) = _catmull_rom_taps(x), _catmull_rom_taps(y)
        wide = np.full((rows + 4, width, 3), _VIPS_ONE // 2, np.int32)
        for tap in range(4):
            wide += padded[:, column + tap] * across[:, tap, None]
        wide //= _VIPS_ONE
        full = np.full((height, width, 3), _VIPS_ONE // 2, np.int32)
        for tap in range(4):
            full += wide[row + tap] * down[:, tap, None, None]
        return np.asarray(np.clip(full // _VIPS_ONE, 0, 255), np.uint8)
    column, row = x.astype(np.int64) + 1, y.astype(np.int64) + 1
    right = ((x + 1 - column) * _VIPS_ONE).astype(np.int32)[None, :, None]
    below = ((y + 1 - row) * _VIPS_ONE).astype(np.int32)[:, None, None]
    both, beside = below * right // _VIPS_ONE, (_VIPS_ONE - below) * right // _VIPS_ONE
    upper, lower = padded[row], padded[row + 1]
    total = upper[:, column] * (_VIPS_ONE - below - beside) + upper[:, column + 1] * beside
    total += lower[:, column] * (below - both) + lower[:, column + 1] * both
    return np.asarray((total + _VIPS_ONE // 2) // _VIPS_ONE, np.uint8)


def _catmull_rom_taps(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """First of four source pixels (in an image with a border of 1) and their weights, at libvips' precision."""
    steps = (position * _VIPS_STEPS * 2).astype(np.int64)
    t = ((steps % (_VIPS_STEPS * 2) + 1) >> 1) / np.float32(_VIPS_STEPS)
    weights = [
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    ]
    return position.astype(np.int64), np.trunc(np.stack(weights, -1) * _VIPS_ONE).astype(np.int32)


def _resize_aliased(hwc: NDArray[np.float32], size: tuple[int, int], resample: Resample) -> NDArray[np.float32]:
    import cv2

    # torch's nearest takes floor(i * scale), which is OpenCV's INTER_NEAREST
    filters = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
    resized = cv2.resize(hwc, size, interpolation=filters.get(resample, cv2.INTER_CUBIC))
    return np.asarray(resized, dtype=np.float32).transpose(2, 0, 1)


def _resize_aligned(chw: NDArray[np.float32], size: tuple[int, int], resample: Resample) -> NDArray[np.float32]:
    """Separable interpolation with corners aligned (torch ``align_corners=True``), no antialias."""
    width, height = size
    rows, row_weights = _aligned_taps(chw.shape[1], height, cubic=resample == "bicubic")
    columns, column_weights = _aligned_taps(chw.shape[2], width, cubic=resample == "bicubic")
    wide = np.zeros((chw.shape[0], chw.shape[1], width), dtype=np.float32)
    for tap in range(columns.shape[0]):
        wide += chw[:, :, columns[tap]] * column_weights[tap]
    out = np.zeros((chw.shape[0], height, width), dtype=np.float32)
    for tap in range(rows.shape[0]):
        out += wide[:, rows[tap], :] * row_weights[tap][:, None]
    return out


def _aligned_taps(length: int, count: int, *, cubic: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source indices int64 [taps, count] and weights float32 [taps, count] of a 1-D resize."""
    scale = np.float32((length - 1) / (count - 1)) if count > 1 else np.float32(0)
    position = np.arange(count, dtype=np.float32) * scale
    first = np.floor(position).astype(np.int64)
    t = (position - first).astype(np.float32)
    if cubic:
        offsets = np.arange(-1, 3)
        distance = np.abs(t[None, :] - offsets[:, None]).astype(np.float32)
        near = ((_CUBIC_A + 2) * distance - (_CUBIC_A + 3)) * distance * distance + 1
        far = ((_CUBIC_A * distance - 5 * _CUBIC_A) * distance + 8 * _CUBIC_A) * distance - 4 * _CUBIC_A
        weights = np.where(distance <= 1, near, far).astype(np.float32)
    else:
        offsets = np.arange(2)
        weights = np.stack([1 - t, t]).astype(np.float32)
    return np.clip(first[None, :] + offsets[:, None], 0, length - 1), weights

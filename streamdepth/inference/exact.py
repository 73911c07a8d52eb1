"""Preprocessing equal to ``transformers``' image processors, without torch.

Formulae: DPT, GLPN and ZoeDepth as the PIL back end of ``transformers`` 5 computes them (antialiased Pillow resize of
8-bit values; rescale in float64 rounded to float32; normalise in float32), DepthPro as its torchvision back end does
(mean and std scaled by 1 / rescale factor, then an aliased bilinear resize of floats).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.models.spec import Family

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.inference.geometry import Geometry
    from streamdepth.models.spec import ModelSpec, Preprocessing, Resample

_CUBIC_A = -0.75


def rules(spec: ModelSpec) -> Preprocessing:
    """The model's own rules; those of a uint8 input without the steps such a tensor cannot hold."""
    if spec.image_input.dtype != "uint8":
        return spec.preprocessing
    return replace(spec.preprocessing, do_rescale=False, do_normalize=False)


def prepare(rgb: NDArray[np.uint8], pre: Preprocessing, geometry: Geometry) -> NDArray[np.float32]:
    """Network input of one image.

    Args:
        rgb: uint8 [H, W, 3], of the size ``geometry`` was planned for.
    Returns:
        float32 [3, net height, net width].
    Thread-safe.
    """
    if pre.family is Family.DEPTH_PRO:
        chw = _resize_aliased(_scale_fused(rgb, pre), geometry.net_size, pre.resample)
    elif pre.family is Family.ZOEDEPTH:
        image = _rescale(rgb.transpose(2, 0, 1), pre)
        if pre.do_pad:
            pad_x, pad_y = geometry.pad_x_px, geometry.pad_y_px
            image = np.pad(image, ((0, 0), (pad_y, pad_y), (pad_x, pad_x)), mode="reflect")
        chw = _normalize(_resize_aligned(image, geometry.net_size, pre.resample), pre)
    else:
        inner = (geometry.inner_width_px, geometry.inner_height_px)
        resized = _resize_antialiased(rgb, inner, pre.resample).transpose(2, 0, 1)
        chw = _normalize(_rescale(resized, pre), pre)
        if geometry.padded:
            right = geometry.net_width_px - inner[0] - geometry.left_px
            bottom = geometry.net_height_px - inner[1] - geometry.top_px
            chw = np.pad(chw, ((0, 0), (geometry.top_px, bottom), (geometry.left_px, right)))
    return np.ascontiguousarray(chw, dtype=np.float32)


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

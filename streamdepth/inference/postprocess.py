"""From a network's output back to the image: crop, units, and the resize of ``transformers``' pipeline."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.models.spec import Family

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.inference.geometry import Geometry
    from streamdepth.models.spec import ModelSpec

_DEPTH_PRO_MIN, _DEPTH_PRO_MAX = 1e-4, 1e4
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


def output_dtype(ort_type: str, spec: ModelSpec) -> np.dtype[Any]:
    """The NumPy dtype of an output of ONNX Runtime's type ``ort_type``.

    Raises:
        ModelError: the type cannot hold depth.
    """
    if ort_type not in _DTYPES:
        raise ModelError(
            f"{spec.name}: output {spec.depth_output.name} is {ort_type}, depth is {', '.join(_DTYPES)}; name another "
            "one"
        )
    return np.dtype(_DTYPES[ort_type])


def crop_rect(geometry: Geometry, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the image in a map of ``shape`` (h, w) covering the whole network input."""
    height, width = shape
    scale_x, scale_y = width / geometry.net_width_px, height / geometry.net_height_px
    left, top = round(geometry.left_px * scale_x), round(geometry.top_px * scale_y)
    right = round((geometry.left_px + geometry.inner_width_px) * scale_x)
    bottom = round((geometry.top_px + geometry.inner_height_px) * scale_y)
    return left, top, max(right - left, 1), max(bottom - top, 1)


def cropped(values: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
    """The part of ``values`` [h, w] that is the image; a copy if something is cut off."""
    if not geometry.padded:
        return values
    left, top, width, height = crop_rect(geometry, (values.shape[0], values.shape[1]))
    return np.ascontiguousarray(values[top : top + height, left : left + width])


def zoe_at_model_size(values: NDArray[np.float32], geometry: Geometry) -> NDArray[np.float32]:
    """Cut ZoeDepth's reflected border off at sub-pixel positions, staying near the model's resolution.

    ``transformers`` resizes to the padded image's size first and then crops whole image pixels; this samples the
    same surface once, bicubically, at the model's own density.
    """
    import cv2

    height, width = values.shape
    scale_x = width / (geometry.width_px + 2 * geometry.pad_x_px)
    scale_y = height / (geometry.height_px + 2 * geometry.pad_y_px)
    out_w = max(round(geometry.width_px * scale_x), 2)
    out_h = max(round(geometry.height_px * scale_y), 2)
    step_x, step_y = geometry.width_px * scale_x / out_w, geometry.height_px * scale_y / out_h
    x = (np.arange(out_w, dtype=np.float32) + 0.5) * step_x + geometry.pad_x_px * scale_x - 0.5
    y = (np.arange(out_h, dtype=np.float32) + 0.5) * step_y + geometry.pad_y_px * scale_y - 0.5
    map_x, map_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    out = cv2.remap(values, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(out, dtype=np.float32)


def depth_pro_metres(values: NDArray[np.float32], field_of_view_degrees: float | None) -> NDArray[np.float32]:
    """Metres from DepthPro's inverse depth and field of view (``transformers`` DepthProImageProcessor)."""
    if field_of_view_degrees is not None:
        # width / focal length, where focal length = width / 2 / tan(fov / 2): the width cancels
        values = values * np.float32(2 * math.tan(math.radians(field_of_view_degrees) / 2))
    return np.asarray(np.float32(1) / np.clip(values, np.float32(_DEPTH_PRO_MIN), np.float32(_DEPTH_PRO_MAX)))


def resize(
    values: NDArray[np.float32], width_px: int, height_px: int, *, bilinear: bool = False
) -> NDArray[np.float32]:
    """Resize [h, w] without antialias, corners not aligned, borders repeated: torch's ``interpolate``.

    Bicubic with a = -0.75, which is OpenCV's INTER_CUBIC, or bilinear. Values that are not finite, such as the
    infinite depth of sky, are resized by nearest neighbour. Returns a new array, never the input.
    """
    import cv2

    size = (width_px, height_px)
    if values.shape == (height_px, width_px):
        return values.copy()
    method = cv2.INTER_LINEAR if bilinear else cv2.INTER_CUBIC
    finite = np.isfinite(values)
    if finite.all() or not finite.any():
        return np.asarray(cv2.resize(values, size, interpolation=method), dtype=np.float32)
    filled = np.where(finite, values, values[finite].max())
    nearest = cv2.resize(values, size, interpolation=cv2.INTER_NEAREST)
    smooth = cv2.resize(filled, size, interpolation=method)
    return np.where(np.isfinite(nearest), smooth, nearest).astype(np.float32, copy=False)


def valid_at_image(valid: NDArray[np.bool_], geometry: Geometry | None) -> NDArray[np.bool_]:
    """A validity mask of the whole network input -> bool [image height, image width], nearest neighbour."""
    import cv2

    if geometry is None:
        return valid
    mask = np.ascontiguousarray(cropped(valid, geometry)).view(np.uint8)
    size = (geometry.width_px, geometry.height_px)
    return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)).view(np.bool_)


def to_image(
    values: NDArray[np.float32],
    family: Family,
    geometry: Geometry,
    *,
    exact: bool,
    field_of_view_degrees: float | None = None,
    letterbox: bool = False,
    bilinear: bool = False,
) -> NDArray[np.float32]:
    """A raw map of the whole network input -> float32 [image height, image width].

    With ``exact`` this is what ``transformers``' depth-estimation pipeline gives; for zero-padded DPT models that
    includes the padding, which the pipeline does not remove. Otherwise padding is always cut off.

    Args:
        field_of_view_degrees: DepthPro's second output; None where the graph gives metres itself.
        letterbox: the border is cut off with ``exact`` too.
        bilinear: as transformers.js resizes, instead of bicubic.
    """
    width, height = geometry.width_px, geometry.height_px
    if geometry.reflected:
        pad_x, pad_y = geometry.pad_x_px, geometry.pad_y_px
        full = resize(values, width + 2 * pad_x, height + 2 * pad_y)
        return np.ascontiguousarray(full[pad_y : pad_y + height, pad_x : pad_x + width])
    if letterbox or not exact:
        values = cropped(values, geometry)
    if family is Family.DEPTH_PRO:
        values = resize(values, width, height, bilinear=True)
        return values if field_of_view_degrees is None else depth_pro_metres(values, field_of_view_degrees)
    return resize(values, width, height, bilinear=bilinear)

"""Size and position of an image in a network's input, and the conversion of its output back to the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.models.spec import Family, nearest_multiple

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.models.spec import ModelSpec, Preprocessing

_ZOE_PAD_FACTOR = 3


@dataclass(frozen=True, slots=True)
class Geometry:
    """How images of one size go through a network.

    Attributes:
        width_px, height_px: the image.
        pad_x_px, pad_y_px: image pixels reflected on each side before the resize (ZoeDepth), else 0.
        net_width_px, net_height_px: the network's input.
        left_px, top_px, inner_width_px, inner_height_px: rectangle of the image, ZoeDepth's border included, in the
            network's input; smaller than the input where a border is added.
    """

    width_px: int
    height_px: int
    pad_x_px: int
    pad_y_px: int
    net_width_px: int
    net_height_px: int
    left_px: int
    top_px: int
    inner_width_px: int
    inner_height_px: int

    @property
    def net_size(self) -> tuple[int, int]:
        """(width, height) of the network's input."""
        return self.net_width_px, self.net_height_px

    @property
    def reflected(self) -> bool:
        """Whether the network sees a reflected border around the image."""
        return self.pad_x_px > 0 or self.pad_y_px > 0

    @property
    def focal_scale(self) -> float:
        """Factor from a focal length in image pixels to one in network pixels."""
        return self.inner_width_px / (self.width_px + 2 * self.pad_x_px)

    @property
    def padded(self) -> bool:
        """Whether the network sees a border of one colour around the image."""
        return (self.inner_width_px, self.inner_height_px) != self.net_size


def plan(spec: ModelSpec, width_px: int, height_px: int) -> Geometry:
    """How an image of this size goes through ``spec``'s network.

    The resize rules are those of ``transformers``' image processors of the same family. For a graph
    of fixed size the image is stretched to that size if the rule gives another. A side has at least one multiple;
    ``transformers`` would compute 0 and fail.

    Raises:
        ValueError: a side below 1 pixel.
    """
    if width_px < 1 or height_px < 1:
        raise ValueError(f"an image has at least 1x1 pixels, not {width_px}x{height_px}")
    pre = spec.preprocessing
    pad_x = pad_y = 0
    if pre.family is Family.ZOEDEPTH and pre.do_pad:
        pad_x, pad_y = zoe_padding(width_px), zoe_padding(height_px)
    resized = _resized(pre, width_px + 2 * pad_x, height_px + 2 * pad_y)
    net = resized
    if pre.family is Family.DPT and pre.do_pad:
        net = (_ceil_to(resized[0], int(pre.multiple_of)), _ceil_to(resized[1], int(pre.multiple_of)))
    fixed = fixed_sides(spec)
    if pre.letterbox:
        net = (fixed[0] or pre.width_px, fixed[1] or pre.height_px)
        scale = min(net[0] / width_px, net[1] / height_px)
        resized = (max(round(width_px * scale), 1), max(round(height_px * scale), 1))
    required = (fixed[0] or net[0], fixed[1] or net[1])
    if required != net:
        net = resized = required
    left, top = (net[0] - resized[0]) // 2, (net[1] - resized[1]) // 2
    return Geometry(width_px, height_px, pad_x, pad_y, net[0], net[1], left, top, resized[0], resized[1])


def fixed_sides(spec: ModelSpec) -> tuple[int | None, int | None]:
    """(width, height) of the graph's input, None for each side that is dynamic."""
    shape = spec.image_input.shape
    height, width = shape[-3:-1] if spec.image_layout == "hwc" else shape[-2:]
    return (width if isinstance(width, int) else None, height if isinstance(height, int) else None)


def zoe_padding(side_px: int) -> int:
    """Pixels ZoeDepth reflects at each end of a side (``transformers`` ZoeDepthImageProcessor.pad_image)."""
    return int(math.sqrt(side_px / 2) * _ZOE_PAD_FACTOR)


def _resized(pre: Preprocessing, width: int, height: int) -> tuple[int, int]:
    if not pre.do_resize:
        return width, height
    multiple = pre.multiple_of
    if pre.family is Family.GLPN:
        step = int(multiple)
        return max(width // step, 1) * step, max(height // step, 1) * step
    if pre.family is Family.DEPTH_PRO:
        return pre.width_px, pre.height_px
    scale_w, scale_h = pre.width_px / width, pre.height_px / height
    if pre.keep_aspect and pre.longest_side:
        # Depth Anything 3's rule: whole pixels first, then the nearest multiple, ties up
        scale = min(scale_w, scale_h)
        sides = (int((round(side * scale) + multiple / 2) // multiple * multiple) for side in (width, height))
        return max(next(sides), int(multiple)), max(next(sides), int(multiple))
    if pre.keep_aspect:
        # the scale nearer to 1, height on a tie: get_resize_output_image_size of transformers
        scale_w = scale_h = scale_w if abs(1 - scale_w) < abs(1 - scale_h) else scale_h
    return nearest_multiple(scale_w * width, multiple), nearest_multiple(scale_h * height, multiple)


def _ceil_to(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


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

"""Size of an image on its way into a network, and the part of the network's output that is the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamdepth.models.spec import Family, nearest_multiple

if TYPE_CHECKING:
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

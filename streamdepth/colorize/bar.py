"""The colour bar: a panel with the palette from far to near, labelled in metres for metric models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.colorize import kernels
from streamdepth.colorize.palettes import palette
from streamdepth.colorize.tables import blend_terms
from streamdepth.core.frame import Sense
from streamdepth.media.planes import plane_values, to_signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import ColorTags, DepthRange
    from streamdepth.core.look import Look
    from streamdepth.media.planes import PixelLayout

_PANEL_RGBA = (12, 12, 16, 176)
_TEXT_RGBA = (255, 255, 255, 255)
_TICKS = 5


def labels(depth_range: DepthRange, sense: Sense, *, inverse: bool) -> list[str]:
    """Labels from the nearest to the farthest end, evenly spaced in nearness."""
    if sense is not Sense.METRIC_M:
        return ["near", "far"]
    metres = np.linspace(depth_range.lo, depth_range.hi, _TICKS)
    floor = depth_range.nearness_terms(sense, inverse=inverse)[2]
    if floor:
        metres = 1 / np.linspace(1 / floor, 1 / depth_range.hi, _TICKS)
    top = float(np.abs(metres).max())
    # Few digits: a smoothed range changes slightly with every frame.
    digits = 0 if top >= 30 else 1 if top >= 3 else 2
    return [f"{value:.{digits}f} m" for value in metres]


def draw(look: Look, texts: list[str], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """The panel for an image (or cell) of this size.

    Returns:
        uint8 [h, w, 4], straight alpha, even height and width; [0, 0, 4] if the image is too small for a readable
        panel.
    """
    from PIL import Image, ImageDraw, ImageFont

    text_px = max(10, round(min(width_px, height_px * 1.5) / 40))
    font = ImageFont.load_default(text_px)
    pad = max(3, text_px // 2)
    text_width = max(round(font.getlength(text)) for text in texts)
    ramp_width = text_px
    ramp_height = round(height_px * 0.4)
    panel_width = -(-(3 * pad + ramp_width + text_width) // 2) * 2
    panel_height = -(-(ramp_height + 2 * pad + text_px // 2) // 2) * 2
    if panel_width > width_px or panel_height > height_px or ramp_height < len(texts) * text_px:
        return np.zeros((0, 0, 4), np.uint8)
    panel = Image.new("RGBA", (panel_width, panel_height), (*_PANEL_RGBA[:3], 0))
    pen = ImageDraw.Draw(panel)
    pen.rounded_rectangle((0, 0, panel_width - 1, panel_height - 1), radius=pad, fill=_PANEL_RGBA)
    ramp = palette(look.style, max(ramp_height, 2), reverse=look.reverse)[::-1].copy()
    ramp[:, 3] = 255
    top = (panel_height - ramp_height) // 2
    panel.paste(Image.fromarray(np.repeat(ramp[:, None], ramp_width, axis=1)), (pad, top))
    for index, text in enumerate(texts):
        y = top + round(index / (len(texts) - 1) * (ramp_height - 1))
        pen.line((pad + ramp_width, y, pad + ramp_width + pad // 2, y), fill=_TEXT_RGBA)
        pen.text((2 * pad + ramp_width, y), text, font=font, fill=_TEXT_RGBA, anchor="lm")
    return np.asarray(panel, dtype=np.uint8)


class BarPatch:
    """A panel converted to the planes of a pixel layout, for blending. Immutable."""

    def __init__(self, panel: NDArray[np.uint8], layout: PixelLayout, tags: ColorTags) -> None:
        self.height_px, self.width_px = panel.shape[:2]
        self._layout = layout
        self._parts: list[tuple[int, int, int, NDArray[np.uint16], NDArray[np.uint16]]] = []
        rgba = panel.astype(np.float64) / 255
        self._add_parts(rgba, tags)

    def _add_parts(self, rgba: NDArray[np.float64], tags: ColorTags) -> None:
        layout = self._layout
        if layout.family == "packed":
            values, alpha = self._terms(rgba, tags)
            for channel, component in ((layout.red, 0), (1, 1), (layout.blue, 2)):
                self._parts.append((0, channel, layout.channels, alpha, values[component]))
            if layout.alpha:
                # Porter-Duff over: a + v (1 - a), a blend towards opaque.
                self._parts.append((0, 3, 4, alpha, (alpha.astype(np.uint32) * 255 >> 8).astype(np.uint16)))
            return
        values, alpha = self._terms(rgba, tags)
        self._parts.append((0, 0, 1, alpha, values[0]))
        step_x, step_y = 1 << layout.log2_chroma_w, 1 << layout.log2_chroma_h
        premultiplied = rgba.copy()
        premultiplied[:, :, :3] *= rgba[:, :, 3:]
        corners = [premultiplied[y::step_y, x::step_x] for y in range(step_y) for x in range(step_x)]
        blocks = sum(corners[1:], corners[0]) / len(corners)
        blocks[:, :, :3] /= np.maximum(blocks[:, :, 3:], 1e-9)
        values, alpha = self._terms(blocks, tags)
        semiplanar = layout.family == "semiplanar"
        self._parts.append((1, 0, 2 if semiplanar else 1, alpha, values[1]))
        self._parts.append((1, 1, 2, alpha, values[2]) if semiplanar else (2, 0, 1, alpha, values[2]))

    def _terms(self, rgba: NDArray[np.float64], tags: ColorTags) -> tuple[list[NDArray[np.uint16]], NDArray[np.uint16]]:
        """``k`` of each component and ``a``, both [h, w], as in a blend entry."""
        height, width = rgba.shape[:2]
        flat = rgba.reshape(-1, 4)
        a, k = blend_terms(plane_values(to_signal(flat[:, :3], tags), tags, self._layout), flat[:, 3], self._layout)
        planes = k.astype(np.uint16).T.reshape(3, height, width)
        return [np.ascontiguousarray(plane) for plane in planes], a.astype(np.uint16).reshape(height, width)

    def blend(self, planes: list[NDArray[np.uint8]] | list[NDArray[np.uint16]], x_px: int, y_px: int) -> None:
        """Blend into the planes with the top left corner of the panel at these even coordinates."""
        layout = self._layout
        shift = 16 - layout.bits
        for plane, channel, step, a, k in self._parts:
            chroma = plane > 0
            origin = (x_px >> layout.log2_chroma_w, y_px >> layout.log2_chroma_h) if chroma else (x_px, y_px)
            kernels.blend_patch(planes[plane], a, k, channel, step, origin, shift - layout.shift, shift, layout.shift)


def place(width_px: int, height_px: int, panel: NDArray[np.uint8]) -> tuple[int, int]:
    """Position of the panel in an image: lower right corner with a margin, at even coordinates."""
    margin = max(2, height_px // 40)
    x = max(width_px - panel.shape[1] - margin, 0)
    y = max(height_px - panel.shape[0] - margin, 0)
    return x & ~1, y & ~1

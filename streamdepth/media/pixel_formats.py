"""Pixel formats supported by the colour kernels, and the formats that others are converted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from av.video.format import VideoFormat

Family = Literal["planar", "semiplanar", "packed"]


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """Memory layout of a pixel format.

    Attributes:
        name: FFmpeg name.
        family: ``planar`` Y, U, V; ``semiplanar`` Y and interleaved UV; ``packed`` RGB in one plane.
        bits: significant bits of a sample.
        shift: left shift of a sample in its word (p010: 6).
        log2_chroma_w, log2_chroma_h: chroma subsampling.
        channels: samples per pixel of a packed format, else 0.
        red, blue: index of these channels in a packed format.
        full_range: always full range (``yuvj...`` and RGB).
        chroma: has U and V planes; without them the image is gray.
    """

    name: str
    family: Family
    bits: int = 8
    shift: int = 0
    log2_chroma_w: int = 0
    log2_chroma_h: int = 0
    channels: int = 0
    red: int = 0
    blue: int = 2
    full_range: bool = False
    chroma: bool = True

    @property
    def word_bytes(self) -> int:
        return 1 if self.bits == 8 else 2

    @property
    def alpha(self) -> bool:
        return self.channels == 4

    def chroma_width_px(self, width_px: int) -> int:
        return -(-width_px >> self.log2_chroma_w)

    def chroma_height_px(self, height_px: int) -> int:
        return -(-height_px >> self.log2_chroma_h)


def _planar(name: str, log2_w: int, log2_h: int, *, bits: int = 8, full: bool = False) -> PixelLayout:
    return PixelLayout(name, "planar", bits, log2_chroma_w=log2_w, log2_chroma_h=log2_h, full_range=full)


_ALL = (
    _planar("yuv420p", 1, 1),
    _planar("yuv422p", 1, 0),
    _planar("yuv444p", 0, 0),
    _planar("yuvj420p", 1, 1, full=True),
    _planar("yuvj422p", 1, 0, full=True),
    _planar("yuvj444p", 0, 0, full=True),
    _planar("yuv420p10le", 1, 1, bits=10),
    _planar("yuv422p10le", 1, 0, bits=10),
    _planar("yuv444p10le", 0, 0, bits=10),
    PixelLayout("nv12", "semiplanar", log2_chroma_w=1, log2_chroma_h=1),
    PixelLayout("p010le", "semiplanar", 10, shift=6, log2_chroma_w=1, log2_chroma_h=1),
    PixelLayout("gray", "planar", chroma=False),
    PixelLayout("gray10le", "planar", 10, chroma=False),
    PixelLayout("rgb24", "packed", channels=3, full_range=True),
    PixelLayout("bgr24", "packed", channels=3, red=2, blue=0, full_range=True),
    PixelLayout("rgba", "packed", channels=4, full_range=True),
)
LAYOUTS = {layout.name: layout for layout in _ALL}
"""Formats that are processed without conversion."""

_COLOURED = {"gray": "yuv420p", "gray10le": "yuv420p10le"}


def coloured(layout: PixelLayout) -> PixelLayout:
    """The layout of the coloured image: that of the source; for gray, with chroma planes."""
    return LAYOUTS[_COLOURED.get(layout.name, layout.name)]


def working_format(format_: VideoFormat) -> str:
    """The format an image is processed in: its own if supported, else the most similar one.

    Formats with alpha become rgba, RGB becomes rgb24, gray above 8 bits becomes gray10le. YUV keeps its subsampling
    (unsupported ones become 4:4:4), in 8 bits or, above 8 bits, 10.
    """
    name = format_.name
    if name in LAYOUTS:
        return name
    components = format_.components
    if any(component.is_alpha for component in components) or format_.has_palette:
        return "rgba"
    if format_.is_rgb or not components:
        return "rgb24"
    deep = max(component.bits for component in components) > 8
    if len(components) == 1:
        return "gray10le" if deep else "gray"
    full = name.startswith("yuvj")
    sub_w = -(-256 // max(format_.chroma_width(256), 1))
    sub_h = -(-256 // max(format_.chroma_height(256), 1))
    base = {(2, 2): "420p", (2, 1): "422p"}.get((sub_w, sub_h), "444p")
    return f"yuv{'j' if full and not deep else ''}{base}{'10le' if deep else ''}"

"""Pixel formats of the colour kernels, code values of colours (ITU-T H.273), and images as arrays.

An array is one view [rows, words per line] per plane, including line padding.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np

from streamdepth.media.jit import kernel

if TYPE_CHECKING:
    from av.video.format import VideoFormat
    from numpy.typing import NDArray

    from streamdepth.core.frame import ColorTags

    Planes = list[NDArray[Any]]

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


def depth_bits(pix_fmt: str) -> int:
    """Bits of the deepest component."""
    from av.video.format import VideoFormat

    return max((component.bits for component in VideoFormat(pix_fmt).components), default=8)


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


# H.273 MatrixCoefficients -> (Kr, Kb). 10 (constant luminance) is treated as 9, as swscale does.
_KR_KB = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
_PQ, _HLG, _BT2020_PRIMARIES = 16, 18, 9

# BT.709 primaries to BT.2020, linear light (ITU-R BT.2087, table of M2).
_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


def resolve_tags(tags: ColorTags, layout: PixelLayout, width_px: int, height_px: int) -> ColorTags:
    """Replace unspecified tags with explicit ones, so that all players show the same colours.

    An unspecified matrix becomes BT.709 from 1280 columns or above 576 lines, else BT.601 (the rule of mpv). It is
    derived from the size of the source and written to the tags of the output, which may have another size (side by
    side). An unspecified range becomes limited for YUV, and full for ``yuvj``, gray and RGB (as in swscale).
    """
    matrix = tags.matrix
    if layout.family == "packed":
        return replace(tags, matrix=0, range=2)
    if matrix not in _KR_KB:
        matrix = 1 if width_px >= 1280 or height_px > 576 else 6
    full = layout.full_range or tags.range == 2 or (tags.range == 0 and not layout.chroma)
    return replace(tags, matrix=matrix, range=2 if full else 1)


def plane_values(rgb: NDArray[np.float64], tags: ColorTags, layout: PixelLayout) -> NDArray[np.float64]:
    """R'G'B' 0..1 to code values of the layout's planes.

    Args:
        rgb: float64 [n, 3].
        tags: as returned by :func:`resolve_tags`.

    Returns:
        float64 [n, 3]: Y, Cb, Cr, or packed channels in R, G, B order; not rounded, within 0..2**bits - 1.
    """
    top = float((1 << layout.bits) - 1)
    if layout.family == "packed":
        return rgb * top
    kr, kb = _KR_KB[tags.matrix]
    weights = np.array([kr, 1 - kr - kb, kb])
    luma = rgb @ weights
    cb = (rgb[:, 2] - luma) / (2 * (1 - kb))
    cr = (rgb[:, 0] - luma) / (2 * (1 - kr))
    unit = float(1 << (layout.bits - 8))
    centre = 128 * unit
    if tags.range == 2:
        values = np.stack([luma * top, centre + cb * top, centre + cr * top], axis=1)
    else:
        values = np.stack([(16 + 219 * luma) * unit, centre + 224 * unit * cb, centre + 224 * unit * cr], axis=1)
    return values.clip(0, top)


def to_signal(rgb: NDArray[np.float64], tags: ColorTags) -> NDArray[np.float64]:
    """Convert sRGB palette colours to the R'G'B' of a PQ or HLG signal; for other transfers return them unchanged.

    White maps to 203 cd/m2, the reference white of ITU-R BT.2408, instead of the peak of the signal. PQ as in SMPTE
    ST 2084, HLG as in ARIB STD-B67.
    """
    if tags.transfer not in (_PQ, _HLG):
        return rgb
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if tags.primaries in (2, _BT2020_PRIMARIES):
        linear = (linear @ _TO_BT2020.T).clip(0, 1)
    if tags.transfer == _PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = (linear * 203 / 10_000) ** m1
        return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)
    scene = linear * 0.2646  # HLG signal 0.75, the reference white of BT.2408
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def read(image: av.VideoFrame, layout: PixelLayout) -> Planes:
    """Read-only views, top row first. For a gray layout, neutral 4:2:0 chroma planes are added.

    An image stored bottom up (negative line size, as from a vertical flip filter) is copied.
    """
    arrays = [_view(plane, layout) for plane in image.planes]
    if not layout.chroma:
        neutral = np.full((-(-image.height // 2), -(-image.width // 2)), 128 << (layout.bits - 8), arrays[0].dtype)
        arrays += [neutral, neutral]
    for array in arrays:
        array.flags.writeable = False
    return arrays


def triple(planes: Planes) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Y, U, V; for a semi-planar image the last is the UV plane again, and unused."""
    return planes[0], planes[1], planes[-1]


class ImagePool:
    """Creates the output images of the colour stage in reused memory.

    New memory causes a page fault per 4 KiB: 0.4 ms per 1080p image, a fifth of the colour stage. Each image therefore
    wraps one of a few arrays, which is reused when the image and all references of an encoder to it are gone. Not
    thread-safe; images may be released on any thread.
    """

    _MAX_ARRAYS = 12
    _ALIGNMENT = 64

    def __init__(self) -> None:
        self._key: tuple[int, int, str] = (0, 0, "")
        self._arrays: list[NDArray[np.uint8]] = []
        self._planes: list[Planes] = []
        self._idle: list[int] = []

    def new(self, width_px: int, height_px: int, layout: PixelLayout) -> tuple[av.VideoFrame, Planes]:
        """An image with undefined content, and its writable planes. It gets separate memory if PyAV cannot wrap an
        array of its shape, or if all arrays are in use."""
        shape = _wrapped_shape(width_px, height_px, layout, self._ALIGNMENT)
        if shape is None:
            return _allocate(width_px, height_px, layout)
        key = (width_px, height_px, layout.name)
        if key != self._key:
            self._key, self._arrays, self._planes, self._idle = key, [], [], []
        for index, idle in enumerate(self._idle):
            if self._references(index) == idle:
                return self._wrap(index)
        if len(self._arrays) == self._MAX_ARRAYS:
            return _allocate(width_px, height_px, layout)
        array = _aligned(shape, self._ALIGNMENT)
        self._arrays.append(array)
        self._planes.append(_split_planes(array, height_px, layout))
        del array
        self._idle.append(self._references(len(self._arrays) - 1))
        return self._wrap(len(self._arrays) - 1)

    def _references(self, index: int) -> int:
        return sys.getrefcount(self._arrays[index])

    def _wrap(self, index: int) -> tuple[av.VideoFrame, Planes]:
        width, _, name = self._key
        image = av.VideoFrame.from_numpy_buffer(self._arrays[index], format=name, width=width)
        return image, self._planes[index]


def _allocate(width_px: int, height_px: int, layout: PixelLayout) -> tuple[av.VideoFrame, Planes]:
    image = av.VideoFrame(width_px, height_px, layout.name)
    return image, [_view(plane, layout) for plane in image.planes]


def _split_planes(array: NDArray[np.uint8], height_px: int, layout: PixelLayout) -> Planes:
    """The planes of an image that wraps ``array``, one after the other as in FFmpeg."""
    if layout.family == "packed":
        return [array.reshape(height_px, -1)]
    if layout.family == "semiplanar":
        return [array[:height_px], array[height_px:]]
    chroma = array[height_px:].reshape(2, height_px // 2, array.shape[1] // 2)
    return [array[:height_px], chroma[0], chroma[1]]


def _wrapped_shape(width_px: int, height_px: int, layout: PixelLayout, alignment: int) -> tuple[int, ...] | None:
    if layout.family == "packed":
        return height_px, width_px, layout.channels
    if layout.name in ("yuv420p", "yuvj420p", "nv12") and width_px % 2 == 0 and height_px % 4 == 0:
        # Chroma lines have half the length of luma lines; both must be aligned.
        return height_px * 3 // 2, -(-width_px // (2 * alignment)) * 2 * alignment
    return None


def _aligned(shape: tuple[int, ...], alignment: int) -> NDArray[np.uint8]:
    """An array at an aligned address, padded for code that reads whole vectors past the end."""
    size = int(np.prod(shape))
    memory = np.empty(size + 2 * alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].reshape(shape)


def luma(planes: Planes, layout: PixelLayout, out: NDArray[np.uint8]) -> None:
    """Write 8-bit luma of an image to ``out`` [H, W], for guided upsampling."""
    height, width = out.shape
    if layout.family == "packed":
        _packed_luma(planes[0], layout.channels, layout.red, layout.blue, out)
    elif layout.word_bytes == 1:
        out[:] = planes[0][:height, :width]
    else:
        np.right_shift(planes[0][:height, :width], layout.bits - 8 + layout.shift, out=out, casting="unsafe")


def copy(source: Planes, target: Planes, layout: PixelLayout, size: tuple[int, int]) -> None:
    """Copy an image to the top left corner of the target."""
    for words, rows, _, from_, to in _cells(source, target, layout, size):
        to[:rows, :words] = from_[:rows, :words]


def extend_edges(
    target: Planes,
    layout: PixelLayout,
    size: tuple[int, int],
    first: tuple[int, int],
    second: tuple[int, int],
    out_size: tuple[int, int],
) -> None:
    """Replicate the last column or row of both cells into the extra luma column or row after a cell of odd size."""
    width, height = size
    luma_plane = target[0]
    if layout.family == "packed":
        return
    for x, y in (first, second):
        if x + width < out_size[0] and second[0] - first[0] > width:
            luma_plane[y : y + height, x + width] = luma_plane[y : y + height, x + width - 1]
        if y + height < out_size[1] and second[1] - first[1] > height:
            luma_plane[y + height, :width] = luma_plane[y + height - 1, :width]


def _cells(source: Planes, target: Planes, layout: PixelLayout, size: tuple[int, int]) -> Any:
    width, height = size
    for index, (from_, to) in enumerate(zip(source, target, strict=True)):
        if layout.family == "packed":
            yield width * layout.channels, height, index, from_, to
        elif index == 0:
            yield width, height, index, from_, to
        else:
            pair = 2 if layout.family == "semiplanar" else 1
            yield layout.chroma_width_px(width) * pair, layout.chroma_height_px(height), index, from_, to


def _view(plane: Any, layout: PixelLayout) -> NDArray[Any]:
    words: NDArray[Any] = np.frombuffer(plane, dtype=np.uint8 if layout.word_bytes == 1 else np.uint16)
    stride = plane.line_size // layout.word_bytes
    if stride < 0:
        return np.ascontiguousarray(words.reshape(-1, -stride)[::-1])
    return words.reshape(-1, stride)


@kernel
def _packed_luma(plane, channels, red, blue, out):  # type: ignore[no-untyped-def]
    """BT.601 weights in 1/256; sufficient for edge detection."""
    height, width = out.shape
    for y in range(height):
        line = plane[y]
        for x in range(width):
            i = x * channels
            out[y, x] = (77 * line[i + red] + 150 * line[i + 1] + 29 * line[i + blue] + 128) >> 8

"""Images as arrays: one view [rows, words per line] per plane, including line padding."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from streamdepth.media.numba_kernel import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.media.pixel_formats import PixelLayout

    Planes = list[NDArray[Any]]


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

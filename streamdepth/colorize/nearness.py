"""Nearness of every pixel: depth is normalised at its own resolution, then scaled to that of the frame.

Units: ``NEARNESS_ONE`` is nearness 1 (see ``palettes``). A *nearness image* is uint16 [H, W] in these units, with
``INVALID`` where depth is invalid and the bit ``LINE`` set on contours.

The bilinear path needs no image: depth rows are scaled to the frame width once and the last two are buffered, so a row
of the frame costs one vertical interpolation in int32.

The kernels are compiled with numba, ``nogil``, cached on disk. They are pure functions: all buffers are arguments.
:class:`NearnessField` holds the buffers of one image size and calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.colorize.palettes import INVALID, LINE, NEARNESS_ONE
from streamdepth.core.look import Look, Upsampling
from streamdepth.media.jit import kernel, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamdepth.colorize.resize import GuidedScratch
    from streamdepth.core.frame import DepthMap, DepthRange

    Split = Callable[[Callable[[int, int, int], None], int], None]
    Guide = Callable[[NDArray[np.uint8]], None]

_FRACTION_BITS = 15
_HALF = 1 << (_FRACTION_BITS - 1)
_ONE = float(NEARNESS_ONE)

u16, u32, i32 = np.uint16, np.uint32, np.int32


def axis(small: int, large: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """Position of each of ``large`` pixel centres among ``small`` ones: index of the lower neighbour, and the fraction
    of the distance to the next in 1/32768. Edges are replicated."""
    position = (np.arange(large) + 0.5) * (small / large) - 0.5
    position = position.clip(0, small - 1)
    first = np.floor(position)
    part = np.minimum(np.rint((position - first) * (1 << _FRACTION_BITS)), (1 << _FRACTION_BITS) - 1)
    return first.astype(np.uint32), part.astype(np.uint16)


@kernel
def normalise(values, valid, use_valid, terms, out):  # type: ignore[no-untyped-def]
    """Depth to nearness at depth resolution; returns the number of invalid values.

    ``out`` is uint16 [h, w + 1]: the last column is repeated, so that each pixel has a right neighbour. Values are
    clipped before interpolation, so that values outside the range do not affect their neighbours. ``terms`` are
    those of ``DepthRange.nearness_terms``.
    """
    scale, offset, floor = terms
    height, width = values.shape
    invalid = 0
    for y in range(height):
        for x in range(width):
            value = values[y, x]
            if not np.isfinite(value) or (use_valid and not valid[y, x]):
                out[y, x] = INVALID
                invalid += 1
            else:
                if floor > 0.0:
                    value = 1.0 / max(value, floor)
                nearness = min(max(value * scale + offset, 0.0), 1.0)
                out[y, x] = u16(nearness * _ONE + 0.5)
        out[y, width] = out[y, width - 1]
    return invalid


@stage
def stretch_row(small, row, x_first, x_part, width, terms, stretched, slot):  # type: ignore[no-untyped-def]
    """Scale depth row ``row`` to the frame width, into ``stretched[slot]``. ``terms``: scratch, uint32 [>= width]."""
    for x in range(width):
        i = x_first[x]
        terms[x] = u32(small[row, i]) | (u32(small[row, i + u32(1)]) << u32(16))
    for x in range(width):
        low = i32(terms[x] & u32(0xFFFF))
        high = i32(terms[x] >> u32(16))
        stretched[slot, x] = u16(low + (((high - low) * i32(x_part[x]) + i32(_HALF)) >> i32(_FRACTION_BITS)))


@stage
def bilinear_row(small, x_first, x_part, y_first, y_part, y, width, terms, stretched, held, out, place):  # type: ignore[no-untyped-def]
    """Nearness of row ``y`` of the frame, into ``out[place]``. ``stretched`` [2, >= width] buffers depth rows between
    calls, ``held`` [2] their indices."""
    top = np.int64(y_first[y])
    bottom = min(top + 1, small.shape[0] - 1)
    if held[top & 1] != top:
        stretch_row(small, top, x_first, x_part, width, terms, stretched, top & 1)
        held[top & 1] = top
    if held[bottom & 1] != bottom:
        stretch_row(small, bottom, x_first, x_part, width, terms, stretched, bottom & 1)
        held[bottom & 1] = bottom
    part = i32(y_part[y])
    upper = top & 1
    lower = bottom & 1
    for x in range(width):
        low = i32(stretched[upper, x])
        out[place, x] = u16(low + (((i32(stretched[lower, x]) - low) * part + i32(_HALF)) >> i32(_FRACTION_BITS)))


@kernel
def bilinear_image(small, x_first, x_part, y_first, y_part, masked, terms, stretched, held, out, start, stop):  # type: ignore[no-untyped-def]
    """Rows ``start`` to ``stop`` of a nearness image. With invalid depth (``masked``), a pixel is valid if its nearest
    depth pixel is, and the weights are normalised over the valid ones of the four neighbours."""
    width = out.shape[1]
    held[0] = -1
    held[1] = -1
    for y in range(start, stop):
        if not masked:
            bilinear_row(small, x_first, x_part, y_first, y_part, y, width, terms, stretched, held, out, y)
            continue
        top = np.int64(y_first[y])
        bottom = min(top + 1, small.shape[0] - 1)
        down = float(y_part[y]) / (1 << _FRACTION_BITS)
        for x in range(width):
            left = np.int64(x_first[x])
            right = left + 1
            along = float(x_part[x]) / (1 << _FRACTION_BITS)
            if small[bottom if down >= 0.5 else top, right if along >= 0.5 else left] == INVALID:
                out[y, x] = INVALID
                continue
            total = 0.0
            weight = 0.0
            for row, vertical in ((top, 1.0 - down), (bottom, down)):
                for column, horizontal in ((left, 1.0 - along), (right, along)):
                    if small[row, column] != INVALID:
                        total += vertical * horizontal * small[row, column]
                        weight += vertical * horizontal
            out[y, x] = u16(total / weight + 0.5)


@stage
def _levels_row(image, y, bands, width, out, place):  # type: ignore[no-untyped-def]
    """Index of the one of ``bands`` equal nearness intervals that each pixel is in; 255 if invalid."""
    for x in range(width):
        value = u32(image[y, x]) & u32(INVALID)
        # 257 / 2**22 is slightly less than 1 / NEARNESS_ONE, so nearness 1 is in the last interval.
        part = (value * bands * u32(257)) >> u32(22)
        out[place, x] = u32(255) if value == u32(INVALID) else part


@kernel
def draw_contours(image, levels, thickness, scratch, start, stop):  # type: ignore[no-untyped-def]
    """Set ``LINE`` where nearness crosses one of ``levels`` evenly spaced values between a pixel and the pixels
    ``thickness`` to the right and below. In place; ``LINE`` set by another band does not change nearness.

    ``scratch``: uint16 [>= 2, >= width].
    """
    height, width = image.shape
    bands = u32(levels + 1)
    inner = max(width - thickness, 0)
    for y in range(start, stop):
        _levels_row(image, y, bands, width, scratch, 0)
        _levels_row(image, min(y + thickness, height - 1), bands, width, scratch, 1)
        for x in range(inner):
            here, right, below = scratch[0, x], scratch[0, x + thickness], scratch[1, x]
            crossed = (here != right) | (here != below)
            known = (here != 255) & (right != 255) & (below != 255)
            image[y, x] = image[y, x] | (u16(LINE) if crossed & known else u16(0))
        for x in range(inner, width):
            here, below = scratch[0, x], scratch[1, x]
            if here != below and here != 255 and below != 255:
                image[y, x] = image[y, x] | u16(LINE)


_NO_IMAGE = np.zeros((1, 1), np.uint16)
_NO_MASK = np.zeros((1, 1), np.bool_)


class NearnessField:
    """Buffers and mapping for one image size, reused while sizes stay the same. Not thread-safe.

    Attributes:
        marked: after ``prepare``, nearness may contain INVALID or LINE.
        invalid: after ``prepare``, number of invalid depth pixels.
    """

    def __init__(self, width_px: int, height_px: int, threads: int = 1) -> None:
        self.width_px = width_px
        self.height_px = height_px
        self.marked = False
        self.invalid = 0
        self.bands = threads
        # Padding after each row: the word after the last pixel is written, and bands must not share a cache line.
        width = width_px + 64
        self._stretched = np.zeros((threads, 2, width), np.uint16)
        self._rows = np.zeros((threads, 2, width), np.uint16)
        self._chroma = np.zeros((threads, 1, width), np.uint16)
        self._entries = np.zeros((threads, width), np.uint16)
        self._terms = np.zeros((threads, width), np.uint32)
        self._wide = np.zeros((threads, width), np.uint64)
        self._held = np.zeros((threads, 8), np.int64)
        self.words = np.zeros((threads, 4, width), np.uint16)
        self.pairs = np.zeros((threads, width), np.uint32)
        self._small = np.zeros((0, 0), np.uint16)
        self._axes: tuple[Any, ...] = ()
        self._image = _NO_IMAGE
        self._guide = np.zeros((1, 1), np.uint8)
        self._guided: GuidedScratch | None = None

    def scratch(self, band: int) -> tuple[Any, ...]:
        """Buffers of one band: (stretched, rows, chroma, entries, terms, wide, held)."""
        return (
            self._stretched[band],
            self._rows[band],
            self._chroma[band],
            self._entries[band],
            self._terms[band],
            self._wide[band],
            self._held[band],
        )

    def prepare(
        self, depth: DepthMap, depth_range: DepthRange, look: Look, split: Split, guide: Guide | None = None
    ) -> tuple[Any, ...]:
        """The ``nearness`` argument of the kernels; valid until the next call.

        Args:
            split: calls a function of (band, start, stop) for a number of rows, possibly on several threads.
            guide: writes the luma of the frame to a uint8 [H, W] array; required for guided upsampling.
        """
        self._fit(depth.width_px, depth.height_px)
        terms = depth_range.nearness_terms(depth.sense, inverse=look.inverse)
        valid = _NO_MASK if depth.valid is None else depth.valid
        values = np.ascontiguousarray(depth.values)
        self.invalid = int(normalise(values, np.ascontiguousarray(valid), depth.valid is not None, terms, self._small))
        self.marked = bool(self.invalid or look.contours)
        guided = look.upsampling is Upsampling.GUIDED and guide is not None
        if not (self.marked or guided):
            return (self._small, *self._axes, _NO_IMAGE, False)
        if self._image.shape != (self.height_px, self.width_px):
            self._image = np.empty((self.height_px, self.width_px), np.uint16)
        self._fill_bilinear(split)
        if guided and guide is not None:
            self._refine(guide, split)
        if look.contours:
            thickness = max(1, round(self.height_px / 360))

            def draw(band: int, start: int, stop: int) -> None:
                draw_contours(self._image, look.contours, thickness, self._rows[band], start, stop)

            split(draw, self.height_px)
        return (self._small, *self._axes, self._image, True)

    def _fit(self, width_px: int, height_px: int) -> None:
        if self._small.shape != (height_px, width_px + 1):
            self._small = np.zeros((height_px, width_px + 1), np.uint16)
            self._axes = (*axis(width_px, self.width_px), *axis(height_px, self.height_px))

    def _fill_bilinear(self, split: Split) -> None:
        def fill(band: int, start: int, stop: int) -> None:
            x_first, x_part, y_first, y_part = self._axes
            bilinear_image(
                self._small, x_first, x_part, y_first, y_part, self.invalid > 0, self._terms[band],
                self._stretched[band], self._held[band], self._image, start, stop,
            )  # fmt: skip

        split(fill, self.height_px)

    def _refine(self, guide: Guide, split: Split) -> None:
        from streamdepth.colorize import resize

        if self._guide.shape != self._image.shape:
            self._guide = np.empty(self._image.shape, np.uint8)
        guide(self._guide)
        if self._guided is None:
            self._guided = resize.GuidedScratch(self.width_px, self.bands)
        resize.upsample(self._guide, self._small, self._axes, self._image, split, self._guided)

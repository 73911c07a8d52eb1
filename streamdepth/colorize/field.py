"""Prepares depth for the kernels: nearness, and the mapping from depth to image resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.colorize import nearness as kernels
from streamdepth.core.look import Look, Upsampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from streamdepth.colorize.guided import GuidedScratch
    from streamdepth.core.frame import DepthMap, DepthRange

    Split = Callable[[Callable[[int, int, int], None], int], None]
    Guide = Callable[[NDArray[np.uint8]], None]

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
        self.invalid = int(
            kernels.normalise(values, np.ascontiguousarray(valid), depth.valid is not None, terms, self._small)
        )
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
                kernels.draw_contours(self._image, look.contours, thickness, self._rows[band], start, stop)

            split(draw, self.height_px)
        return (self._small, *self._axes, self._image, True)

    def _fit(self, width_px: int, height_px: int) -> None:
        if self._small.shape != (height_px, width_px + 1):
            self._small = np.zeros((height_px, width_px + 1), np.uint16)
            self._axes = (*kernels.axis(width_px, self.width_px), *kernels.axis(height_px, self.height_px))

    def _fill_bilinear(self, split: Split) -> None:
        def fill(band: int, start: int, stop: int) -> None:
            x_first, x_part, y_first, y_part = self._axes
            kernels.bilinear_image(
                self._small, x_first, x_part, y_first, y_part, self.invalid > 0, self._terms[band],
                self._stretched[band], self._held[band], self._image, start, stop,
            )  # fmt: skip

        split(fill, self.height_px)

    def _refine(self, guide: Guide, split: Split) -> None:
        from streamdepth.colorize import guided

        if self._guide.shape != self._image.shape:
            self._guide = np.empty(self._image.shape, np.uint8)
        guide(self._guide)
        if self._guided is None:
            self._guided = guided.GuidedScratch(self.width_px, self.bands)
        guided.upsample(self._guide, self._small, self._axes, self._image, split, self._guided)

"""Depth of a picture from the depth of pictures near it, carried along the motion between them.

A network of tens of milliseconds need not see every picture of a film: most of the next one is the last one, moved.
Dense inverse search (Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016;
OpenCV's) finds the motion from a picture to each of its neighbours with known depth, which is then fetched from there.
Where two neighbours know, the nearer in time counts more, and the one whose picture fits better: what one of them hides
the other mostly shows. Both flows, both fetches and the blend cost about 1.5 ms of one core at 352x192.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.errors import DataFormatError
from streamdepth.frame import DepthMap

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamdepth.frame import Sense

_LONGER_SIDE_PX = 256
"""Of the pictures that motion is looked for in. On a roller coaster, every 4th picture computed, depth then misses
that of the model by 3.3 % of the range; 352 px take twice the time and change nothing, 192 px give 3.4 %."""
_MISFIT_LEVELS = 8.0
"""Grey levels of difference to the moved neighbour that make it count e times less."""
_MISFIT_WINDOW_PX = 5
_SURE = 0.5
"""A fetched value is one where at least so much of what it was interpolated from is."""


@dataclass(frozen=True, slots=True)
class KnownDepth:
    """A picture whose depth the model gave.

    Attributes:
        small: uint8 [h, w], the picture as motion is looked for in it.
        values: float32 [H, W], its depth, 0 where there is none.
        known: float32 [H, W], 1 where there is depth, else 0; None = everywhere.
        sense: what the values mean.
        masked: the model gave a mask of what is valid.
    """

    small: NDArray[np.uint8]
    values: NDArray[np.float32]
    known: NDArray[np.float32] | None
    sense: Sense
    masked: bool

    @classmethod
    def of(cls, small: NDArray[np.uint8], depth: DepthMap) -> KnownDepth:
        """Keeps the depth's memory from its ring where all of it is known."""
        usable = np.isfinite(depth.values)
        if depth.valid is not None:
            usable &= depth.valid
        masked = depth.valid is not None
        if usable.all():
            return cls(small, depth.values, None, depth.sense, masked)
        return cls(small, np.where(usable, depth.values, np.float32(0)), usable.astype(np.float32), depth.sense, masked)

    def fits(self, other: KnownDepth) -> bool:
        """Whether the two can be blended: sizes may change in the middle of a stream."""
        return self.small.shape == other.small.shape and self.values.shape == other.values.shape


class DepthCarrier:
    """Carries depth from picture to picture. Owned by one thread."""

    def __init__(self) -> None:
        import av.video.reformatter
        import cv2

        self._scaler = av.video.reformatter.VideoReformatter()
        # the fastest preset: the next one takes twice the time, and depth then misses the model's by as much
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._grids: dict[tuple[int, ...], NDArray[np.float32]] = {}

    def small(self, picture: av.VideoFrame) -> NDArray[np.uint8]:
        """A picture as motion is looked for in it: uint8 [h, w], its luma, at most 256 px wide and high.

        Raises:
            DataFormatError: the scaler cannot convert it.
        """
        import av

        scale = min(1.0, _LONGER_SIDE_PX / max(picture.width, picture.height))
        width, height = (max(1, round(side * scale)) for side in (picture.width, picture.height))
        try:
            gray = self._scaler.reformat(
                picture, format="gray", width=width, height=height, interpolation="AREA", threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            raise DataFormatError(
                f"motion cannot be followed in a {picture.width}x{picture.height} {picture.format.name} picture "
                f"({error}); leave --model-every out"
            ) from error
        return np.asarray(gray.to_ndarray(), dtype=np.uint8)

    def carried(
        self, small: NDArray[np.uint8], before: KnownDepth, after: KnownDepth | None = None, *, share: float = 0.0
    ) -> DepthMap:
        """Depth of a picture.

        Args:
            small: the picture, as ``small`` gives it.
            before: a picture of the same shot, usually the last one the model saw.
            after: the next one it saw; None where there is none yet.
            share: where between them the picture stands in time, 0 = at ``before``, 1 = at ``after``.

        Returns:
            New arrays, marked as carried; where neither picture has depth there is none: not valid if the model gives
            masks, else NaN.
        """
        if after is not None and not before.fits(after):
            after = None
        values, known, misfit = self._fetched(small, before)
        if after is not None:
            later, later_known, later_misfit = self._fetched(small, after)
            trust = _resized(_trust(misfit, later_misfit, share), before.values.shape)
            if known is None and later_known is None:
                later += trust * (values - later)
                return DepthMap(later, before.sense, None, carried=True)
            ones = np.ones_like(values)
            near = trust * (ones if known is None else known)
            far = (1 - trust) * (ones if later_known is None else later_known)
            known = near + far
            values = np.divide(near * values + far * later, known, out=np.zeros_like(values), where=known > 0)
        if known is None:
            return DepthMap(values, before.sense, None, carried=True)
        sure = known > 0 if after is not None else known > _SURE
        if before.masked:
            return DepthMap(values, before.sense, sure, carried=True)
        return DepthMap(np.where(sure, values, np.float32("nan")), before.sense, None, carried=True)

    def _fetched(
        self, small: NDArray[np.uint8], at: KnownDepth
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32]]:
        """A neighbour's depth and where it is known, moved to the picture, and how ill its picture then fits."""
        if small.shape != at.small.shape:
            raise ValueError(f"pictures of {list(small.shape)} and {list(at.small.shape)} cannot be compared")
        import cv2

        flow = self._flow.calc(small, at.small, None) if min(small.shape) >= _LEAST_PX else _still(small)
        places = self._grid(small.shape) + flow
        moved = _fetch(at.small, places)
        misfit = cv2.blur(cv2.absdiff(moved, small), (_MISFIT_WINDOW_PX, _MISFIT_WINDOW_PX)).astype(np.float32)
        height, width = small.shape
        inside = cv2.inRange(places, (-0.5, -0.5), (width - 0.5, height - 0.5))
        misfit[inside == 0] += 4 * _MISFIT_LEVELS

        rows, columns = at.values.shape
        flow *= np.array([columns / width, rows / height], np.float32)
        places = _resized(flow, at.values.shape)
        places += self._grid(at.values.shape)
        values = _fetch(at.values, places)
        if at.known is None:
            return values, None, misfit
        known = _fetch(at.known, places)
        filled = np.divide(values, known, out=np.zeros_like(values), where=known > 0)
        return filled, np.where(known > _SURE, known, np.float32(0)), misfit

    def _grid(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """float32 [h, w, 2]: each pixel's own x and y."""
        grid = self._grids.get(shape)
        if grid is None:
            ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
            grid = self._grids[shape] = np.dstack([xs, ys])
            while len(self._grids) > 4:
                del self._grids[next(iter(self._grids))]
        return grid


_LEAST_PX = 16
"""Dense inverse search compares patches of 8 pixels at half the size."""


def _still(small: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.zeros((*small.shape, 2), np.float32)


def _trust(misfit: NDArray[np.float32], later_misfit: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """How much the earlier of two neighbours counts, 0..1: the logistic function of time and fit."""
    # the whole picture's misfit beside the pixel's own: at a cut a wrong neighbour fits by chance here and there
    balance = (later_misfit - misfit) + (float(later_misfit.mean()) - float(misfit.mean()))
    odds = np.exp(np.clip(balance / _MISFIT_LEVELS, -30, 30)) * ((1 - share) / share)
    return np.asarray(odds / (1 + odds), dtype=np.float32)


def _fetch(array: NDArray[Any], places: NDArray[np.float32]) -> NDArray[Any]:
    """An array's values at other places, [h, w, 2] as x and y, between its pixels and repeated beyond its edges."""
    import cv2

    remap: Any = cv2.remap  # its stubs know nothing of both maps in one
    return np.asarray(remap(array, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _resized(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.resize(array, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))

"""Depth of an image from the depth of images near it, propagated along the motion between them.

A network of tens of milliseconds need not see every image of a film: most of the next one is the last one, moved.
Dense inverse search (Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016;
OpenCV's) finds the motion from an image to each of its neighbours with known depth, which is then fetched from there.
Where two neighbours know, the nearer in time counts more, and the one whose image fits better: what one of them hides
the other mostly shows. Both flows, both fetches and the blend cost about 1.5 ms of one core at 352x192.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamdepth.core.errors import DataFormatError
from streamdepth.core.frame import DepthMap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import av
    from numpy.typing import NDArray

    from streamdepth.core.frame import Sense

_LONGER_SIDE_PX = 256
"""Of the images that motion is looked for in. On a roller coaster, every 4th image computed, depth then misses
that of the model by 3.3 % of the range; 352 px take twice the time and change nothing, 192 px give 3.4 %."""
_SHORTEST_SIDE_PX = 32
"""Of the same: four patches of 8. In OpenCV 5.0 images 256 wide and 16 high end in a crash."""
_MISFIT_LEVELS = 8.0
"""Grey levels of difference to the moved neighbour that make it count e times less."""
_MISFIT_WINDOW_PX = 5
_SURE = 0.5
"""A fetched value is one where at least so much of what it was interpolated from is."""


@dataclass(frozen=True, slots=True)
class KnownDepth:
    """An image whose depth the model gave.

    Attributes:
        small: uint8 [h, w], the image as motion is looked for in it.
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


class DepthPropagator:
    """Carries depth from image to image. Owned by one thread."""

    def __init__(self) -> None:
        import av.video.reformatter

        self._scaler = av.video.reformatter.VideoReformatter()
        self._search: Any = None
        self._searched: tuple[int, ...] = ()
        self._last: _Pursuit | None = None

    def small(self, image: av.VideoFrame) -> NDArray[np.uint8]:
        """An image as motion is looked for in it: uint8 [h, w], its luma, the longer side 256 px.

        Raises:
            DataFormatError: the scaler cannot convert it.
        """
        import av

        scale = _LONGER_SIDE_PX / max(image.width, image.height)
        width, height = (max(_SHORTEST_SIDE_PX, round(side * scale)) for side in (image.width, image.height))
        try:
            gray = self._scaler.reformat(
                image, format="gray", width=width, height=height, interpolation="AREA", threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            raise DataFormatError(
                f"motion cannot be followed in a {image.width}x{image.height} {image.format.name} image "
                f"({error}); leave --model-every out"
            ) from error
        return np.asarray(gray.to_ndarray(), dtype=np.uint8)

    def between(
        self, smalls: Sequence[NDArray[np.uint8]], before: KnownDepth, after: KnownDepth | None
    ) -> Iterator[DepthMap]:
        """Depth of the images between two.

        Args:
            smalls: as ``small`` gives them, evenly spaced in time from ``before`` to ``after``.
            before: an image of the same shot.
            after: another one; None where there is none, as at the end of a shot.

        Yields:
            New arrays, marked as propagated; where neither image has depth there is none: not valid if the model gives
            masks, else NaN.
        """
        if after is None or not before.fits(after):
            for small in smalls:
                yield self.onward(small, before)
            return
        pursuit, later = self._pursuit(before), self._pursuit(after)
        flows = [later.flow(small) for small in reversed(smalls)]
        for number, small in enumerate(smalls, start=1):
            near = _fetched(small, before, pursuit.flow(small))
            far = _fetched(small, after, flows.pop())
            yield _blended(near, far, before, share=number / (len(smalls) + 1))

    def onward(self, small: NDArray[np.uint8], before: KnownDepth) -> DepthMap:
        """Depth of an image from an earlier one alone; motion is looked for near where the last call found it.

        Raises:
            ValueError: their sizes differ.
        """
        if self._last is None or self._last.at is not before:
            self._last = self._pursuit(before)
        fetched = _fetched(small, before, self._last.flow(small))
        if fetched.known is None:
            return DepthMap(fetched.values, before.sense, None, propagated=True)
        return _with_holes(fetched.values, fetched.known > 0, before)

    def _pursuit(self, at: KnownDepth) -> _Pursuit:
        import cv2

        if self._searched != at.small.shape:
            # One for each size: in OpenCV 5.0 one that has seen another size crashes where it is told where to begin.
            # The fastest preset: the next one takes twice the time, and depth then misses the model's by as much.
            self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
            self._searched = at.small.shape
        return _Pursuit(self._search, at)


class _Pursuit:
    """The motion to one image from others, each further from it than the last, whose motion is where search begins.

    At every 16th frame of the roller coaster depth from behind misses the model's by 6.1 % of the range instead of 9.0.
    """

    def __init__(self, search: Any, at: KnownDepth) -> None:
        self.at = at
        self._search = search
        self._found: NDArray[np.float32] | None = None

    def flow(self, small: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [h, w, 2]: how far right and down of each pixel the image ``at`` shows the same."""
        if small.shape != self.at.small.shape:
            raise ValueError(f"images of {list(small.shape)} and {list(self.at.small.shape)} cannot be compared")
        begin = None if self._found is None else self._found.copy()  # OpenCV writes the answer over it
        self._found = np.asarray(self._search.calc(small, self.at.small, begin), np.float32)
        return self._found


class _Fetched(NamedTuple):
    """What a neighbour says of an image.

    Attributes:
        values: float32 [H, W], its depth, moved.
        known: float32 [H, W], 0 where there is none; None = everywhere.
        misfit: float32 [h, w], grey levels between its image, moved, and the image.
    """

    values: NDArray[np.float32]
    known: NDArray[np.float32] | None
    misfit: NDArray[np.float32]


def _fetched(small: NDArray[np.uint8], at: KnownDepth, flow: NDArray[np.float32]) -> _Fetched:
    import cv2

    height, width = small.shape
    places = flow + _grid(small.shape)
    levels = cv2.blur(cv2.absdiff(_fetch(at.small, places), small), (_MISFIT_WINDOW_PX, _MISFIT_WINDOW_PX))
    misfit: NDArray[np.float32] = levels.astype(np.float32)
    inside = cv2.inRange(places, (-0.5, -0.5), (width - 0.5, height - 0.5))
    misfit[inside == 0] += 4 * _MISFIT_LEVELS

    rows, columns = at.values.shape
    places = _resized(flow * np.array([columns / width, rows / height], np.float32), at.values.shape)
    places += _grid(at.values.shape)
    values = _fetch(at.values, places)
    if at.known is None:
        return _Fetched(values, None, misfit)
    known = _fetch(at.known, places)
    filled = np.divide(values, known, out=np.zeros_like(values), where=known > 0)
    return _Fetched(filled, np.where(known > _SURE, known, np.float32(0)), misfit)


def _blended(near: _Fetched, far: _Fetched, before: KnownDepth, *, share: float) -> DepthMap:
    """Of what two neighbours say; ``share`` is the way from the first to the second, 0..1."""
    trust = _resized(_trust(near.misfit, far.misfit, share), before.values.shape)
    if near.known is None and far.known is None:
        values = far.values + trust * (near.values - far.values)
        return DepthMap(values, before.sense, None, propagated=True)
    weights = (
        (trust if near.known is None else trust * near.known),
        ((1 - trust) if far.known is None else (1 - trust) * far.known),
    )
    known = weights[0] + weights[1]
    total = weights[0] * near.values + weights[1] * far.values
    return _with_holes(np.divide(total, known, out=np.zeros_like(total), where=known > 0), known > 0, before)


def _with_holes(values: NDArray[np.float32], known: NDArray[np.bool_], like: KnownDepth) -> DepthMap:
    """Depth that is not everywhere, said in the way in which the model says it."""
    if like.masked:
        return DepthMap(values, like.sense, known, propagated=True)
    return DepthMap(np.where(known, values, np.float32("nan")), like.sense, None, propagated=True)


def _trust(misfit: NDArray[np.float32], later_misfit: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """How much the earlier of two neighbours counts, 0..1: the logistic function of time and fit."""
    # the whole image's misfit beside the pixel's own: at a cut a wrong neighbour fits by chance here and there
    balance = (later_misfit - misfit) + (float(later_misfit.mean()) - float(misfit.mean()))
    odds = np.exp(np.clip(balance / _MISFIT_LEVELS, -30, 30)) * ((1 - share) / share)
    return np.asarray(odds / (1 + odds), dtype=np.float32)


@lru_cache(maxsize=4)
def _grid(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 [h, w, 2], read only: each pixel's own x and y."""
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    grid = np.dstack([xs, ys])
    grid.flags.writeable = False
    return grid


def _fetch(array: NDArray[Any], places: NDArray[np.float32]) -> NDArray[Any]:
    """An array's values at other places, [h, w, 2] as x and y, between its pixels and repeated beyond its edges."""
    import cv2

    remap: Any = cv2.remap  # its stubs know nothing of both maps in one
    return np.asarray(remap(array, places, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _resized(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    import cv2

    return np.asarray(cv2.resize(array, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))

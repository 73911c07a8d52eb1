"""Weights of an antialiased resize along one axis, as Pillow's resize has them.

The exact path resizes with Pillow, so these are its filters: support stretched by the shrink factor, cut off at the
edges and normalised again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from streamdepth.models.spec import Resample

_CUBIC_A = -0.5


@dataclass(frozen=True, slots=True)
class Axis:
    """How ``count`` samples come of ``length``.

    Attributes:
        first: int64 [count], the first source sample of each.
        weights: float32 [count, taps]; those of samples beyond the end are zero.
    """

    first: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def reach(self) -> int:
        """Source samples that are read, up to ``taps`` more than there are."""
        return int(self.first.max()) + int(self.weights.shape[1])

    def interleaved(self, offset: int) -> Axis:
        """The same for every second sample of a line that holds two kinds in turn, from ``offset`` on."""
        weights = np.zeros((len(self.first), 2 * self.weights.shape[1]), np.float32)
        weights[:, ::2] = self.weights
        return Axis(2 * self.first + offset, weights)


def axis(length: int, count: int, resample: Resample, *, shift: float = 0.0, multiple: int = 1) -> Axis:
    """
    Args:
        length: source samples.
        count: samples wanted, over the same span.
        resample: one of ``RESAMPLES``.
        shift: how far behind its place each is taken from, in source samples.
        multiple: the number of taps is rounded up to one of these.
    """
    support, curve = _FILTERS[resample]
    step = length / count
    stretch = max(step, 1.0)
    centres = np.clip((np.arange(count) + 0.5) * step + shift, 0, length)
    begin = np.maximum((centres - support * stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + support * stretch + 0.5).astype(np.int64), length)
    taps = -(-int((end - begin).max()) // multiple) * multiple
    places = begin[:, None] + np.arange(taps)
    weights = np.where(places < end[:, None], curve((places + 0.5 - centres[:, None]) / stretch), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return Axis(begin, weights.astype(np.float32))


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys 1981 with a = -0.5."""
    a, x = _CUBIC_A, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)


_FILTERS: Mapping[str, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
RESAMPLES = frozenset(_FILTERS)
"""What :func:`axis` takes; ``nearest`` is no weighting."""

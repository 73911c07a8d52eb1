"""Relative depth made metric by points whose distance is known.

A model of relative inverse depth gives ``d`` with ``1 / z = s d + t``, one of relative depth ``z = s d + t``. Both are
fitted in relative error, ``|z / z' - 1|`` and ``|z' / z - 1|``, because a point 10 m away is measured less exactly than
one at 1 m.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.core.limits import are_fractions

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import av
    from numpy.typing import NDArray

FARTHEST_ANCHOR_M = 1000
"""Of what is farther, a camera shows too little to measure; larger numbers are millimetres."""
_ANCHOR = re.compile(r"\s*([^,=]+),([^,=]+)=([^,=]+)")


@dataclass(frozen=True, slots=True)
class Anchor:
    """A point of the image whose depth is known.

    Attributes:
        x, y: in pixels of the image (the centre of the first pixel is 0, 0), or as fractions of its size.
        metres: depth along the optical axis, at most 1000.
        fraction: x and y are fractions, 0 = left or upper edge, 1 = right or lower edge.
    """

    x: float
    y: float
    metres: float
    fraction: bool = False

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.x, self.y, self.metres))) or self.metres <= 0:
            raise ValueError(f"an anchor needs a position and more than 0 metres, not {self}")
        if self.metres > FARTHEST_ANCHOR_M:
            raise ValueError(f"an anchor is at most {FARTHEST_ANCHOR_M} m away, not {self}; give metres")
        if self.fraction and not (0 <= self.x <= 1 and 0 <= self.y <= 1):
            raise ValueError(f"fractions lie between 0 and 1, not {self.x:g}, {self.y:g}")

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """``"320,240=1.5"`` in pixels, or ``"0.5,0.9=2.0"`` in fractions
        (:func:`~streamdepth.core.limits.are_fractions`).

        Raises:
            UsageError: anything else.
        """
        found = _ANCHOR.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            x, y, metres = map(float, found.groups())
            return cls(x, y, metres, fraction=are_fractions(x, y))
        except ValueError:
            raise UsageError(
                f"anchor {text!r}: not X,Y=METRES with 0 to {FARTHEST_ANCHOR_M} metres; "
                "give e.g. 320,240=1.5 or 0.5,0.9=2.0"
            ) from None

    @classmethod
    def parse_all(cls, value: Any) -> tuple[Anchor, ...]:
        """The anchors of an option: one or several, as text or parsed.

        Raises:
            ValueError: only one.
            UsageError: as :meth:`parse`.
        """
        many = value if isinstance(value, list | tuple) else [value]
        anchors = tuple(cls.parse(one) if isinstance(one, str) else one for one in many)
        if len(anchors) == 1:
            raise ValueError("one anchor cannot fix scale and shift; give two or more")
        return anchors

    def __str__(self) -> str:
        return f"{self.x:g},{self.y:g}={self.metres:g}"


_REACH = 10
"""Depth beyond this many times the farthest anchor, or beyond the horizon of the fit, is set to this limit."""
_PRIOR_ERROR, _PRIOR_COUNT = 0.14, 3
"""Relative error of a fitted model, and how many points this prior is worth. Chosen on 52 photographs of six places
with measured depth, each place with the same weight (``benchmarks/README.md``)."""
_PRIOR_STEPS = 20
"""Quantiles that stand for the prior."""
_ONE_SIGMA = 0.683
_OUTLIER = 0.35
"""Relative error from which a point is not believed."""
_LEAST_RATIO = 1.1
"""Of the farthest anchor to the nearest: nearer ones differ by less than the error of a model."""
_LEAST_SPAN = 0.05
"""Of the model's values at the anchors, as a share of those of the map (5th to 95th percentile). On the photographs
above, metres from less are wrong by 60 % (median) and more, beyond the stated error."""
_MAX_PAIRS = 300
_LIVE_SECONDS = 2.0
"""Time constant over which a live alignment follows the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """How one model's depth becomes metres; made by :func:`align`.

    Attributes:
        sense: of the depth it applies to.
        scale, shift: ``1 / z = scale * d + shift`` for relative inverse depth, else ``z = scale * d + shift``.
        residual: root mean square of the relative errors at the points that were used.
        used: for each point, whether it was used; False for outliers.
        farthest_m: largest depth it gives, 10 times that of the farthest anchor.
        covariance: of (scale, shift), float64 [2, 2].
    """

    sense: Sense
    scale: float
    shift: float
    residual: float
    used: tuple[bool, ...]
    farthest_m: float
    covariance: NDArray[np.float64]
    _spread: float

    def apply(self, depth: DepthMap) -> DepthMap:
        """The map in metres, at most ``farthest_m``, with the error of the fit as :attr:`DepthMap.anchor_error`.

        Raises:
            ValueError: the map has another sense than the one the alignment was made from.
        """
        if depth.sense is not self.sense:
            raise ValueError(f"this alignment is for depth that is {self.sense}, not {depth.sense}")
        metres = self._metres(depth.values)
        errors = self._error(depth.values[::8, ::8], metres[::8, ::8])
        known = np.isfinite(errors) & (True if depth.valid is None else depth.valid[::8, ::8])
        error = float(np.median(errors[known])) if known.any() else math.nan
        return replace(depth, values=metres, sense=Sense.METRIC_M, anchor_error=error)

    def relative_error(self, depth: DepthMap) -> NDArray[np.float32]:
        """Relative error of the metres at every pixel, float32 [h, w]: 68 % of the true depths ``z`` should have
        ``|z / metres - 1|`` within it.
        """
        return self._error(depth.values, self._metres(depth.values))

    def _metres(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        fitted = values * np.float32(self.scale) + np.float32(self.shift)
        if self.sense is Sense.RELATIVE_INVERSE:
            fitted = 1 / np.maximum(fitted, np.float32(1 / self.farthest_m))
        return np.asarray(np.clip(fitted, 1 / self.farthest_m, self.farthest_m), np.float32)

    def _error(self, values: NDArray[np.float32], metres: NDArray[np.float32]) -> NDArray[np.float32]:
        weight = metres if self.sense is Sense.RELATIVE_INVERSE else 1 / metres
        a, b, c = self.covariance[0, 0], self.covariance[0, 1], self.covariance[1, 1]
        variance = self._spread**2 + (a * values**2 + 2 * b * values + c) * weight**2
        return np.asarray(np.sqrt(variance), np.float32)


def align(
    depth: DepthMap, points: Iterable[Anchor | tuple[float, float, float]], *, size_px: tuple[int, int] | None = None
) -> Alignment:
    """Fit scale and shift of a relative depth map to points of known distance.

    With four points or more, those that contradict the others by 35 % or more are left out: RANSAC over pairs of
    points, then least squares over the consensus.

    Args:
        points: :class:`Anchor` or ``(x, y, metres)`` in pixels.
        size_px: (width, height) of the image that the pixels are counted in; None = the map's own.

    Raises:
        UsageError: a point outside the image.
        DataFormatError: the depth is metric already; there are fewer than two points; they lie on invalid depth, or all
            at one depth (within 10 %, or 5 % of the range of the model's values); they contradict the depth, or half of
            them the others.
    """
    if depth.sense is Sense.METRIC_M:
        raise DataFormatError("the depth is in metres already; anchors are for models of relative depth")
    anchors = [point if isinstance(point, Anchor) else Anchor(*point) for point in points]
    if len(anchors) < 2:
        raise DataFormatError(f"scale and shift need two or more anchors, not {len(anchors)}")
    width, height = size_px or (depth.width_px, depth.height_px)
    values = np.array([_value_at(depth, anchor, width, height) for anchor in anchors])
    metres = np.array([anchor.metres for anchor in anchors])
    weights = metres if depth.sense is Sense.RELATIVE_INVERSE else 1 / metres
    weighted = np.stack([values * weights, weights], axis=1)
    used = _consensus(weighted)
    rows = weighted[used]
    if len(anchors) >= 4 and 2 * len(rows) <= len(anchors):
        raise DataFormatError(
            f"only {len(rows)} of {len(anchors)} anchors agree with each other and the depth; "
            "check their places, and that all are in metres"
        )
    if metres[used].max() < _LEAST_RATIO * metres[used].min():
        raise DataFormatError(
            f"the anchors are all about {np.median(metres[used]):.3g} m away, which fixes a shift but no scale; "
            "give points of clearly different depth"
        )
    small = depth.values[::4, ::4]
    known = small[np.isfinite(small) & (True if depth.valid is None else depth.valid[::4, ::4])]
    if known.size and np.ptp(values[used]) < _LEAST_SPAN * np.ptp(np.percentile(known, (5, 95))):
        raise DataFormatError(
            "the model sees the anchors at nearly one depth, less than 5 % of its range apart, which fixes no scale; "
            "give points of clearly different depth"
        )
    fit, _, rank, _ = np.linalg.lstsq(rows, np.ones(len(rows)), rcond=1e-9)
    if rank < 2 or fit[0] <= 0:
        raise DataFormatError(
            "the anchors contradict the depth: points with a larger distance are not farther in the model's depth; "
            "give points of clearly different depth"
        )
    errors = rows @ fit - 1
    spread = _spread(weighted, fit, used)
    covariance = spread**2 * np.linalg.inv(rows.T @ rows)
    residual = math.sqrt(float(errors @ errors) / len(rows))
    flags = tuple(bool(flag) for flag in used)
    return Alignment(
        depth.sense,
        float(fit[0]),
        float(fit[1]),
        residual,
        flags,
        _REACH * float(metres.max()),
        covariance,
        spread,
    )


def _place(anchor: Anchor, width: int, height: int) -> tuple[float, float]:
    """As fractions of the image.

    Raises:
        UsageError: it is outside.
    """
    across, down = (anchor.x, anchor.y) if anchor.fraction else ((anchor.x + 0.5) / width, (anchor.y + 0.5) / height)
    if not (0 <= across <= 1 and 0 <= down <= 1):
        raise UsageError(f"anchor {anchor}: outside the image of {width}x{height}; give pixels of it, or fractions")
    return across, down


def _value_at(depth: DepthMap, anchor: Anchor, width: int, height: int) -> float:
    """Median of the 3x3 depth values around a point, so that one pixel of noise does not decide."""
    across, down = _place(anchor, width, height)
    x = min(int(across * depth.width_px), depth.width_px - 1)
    y = min(int(down * depth.height_px), depth.height_px - 1)
    window = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
    near = depth.values[window]
    known = near[np.isfinite(near) & (True if depth.valid is None else depth.valid[window])]
    if not known.size:
        raise DataFormatError(f"anchor {anchor} lies where the model gives no depth; choose another point")
    return float(np.median(known))


def _consensus(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The largest set of points that one scale and shift explains."""
    count = len(rows)
    if count < 4:
        return np.ones(count, bool)
    pairs = np.array(list(itertools.combinations(range(count), 2)))
    if len(pairs) > _MAX_PAIRS:
        pairs = np.random.default_rng(0).choice(pairs, _MAX_PAIRS, replace=False)
    one, other = rows[pairs[:, 0]], rows[pairs[:, 1]]
    determinant = one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = (other[:, 1] - one[:, 1]) / determinant
        shifts = (one[:, 0] - other[:, 0]) / determinant
        errors = np.abs(rows @ np.stack([scales, shifts]) - 1)
    inside = (errors < _OUTLIER) & (scales > 0)
    # Most points first, then the smallest sum of their errors.
    keys = inside.sum(0) - np.where(inside, errors, 0).sum(0) / (1 + count)
    best = int(np.argmax(keys))
    return inside[:, best] if inside[:, best].sum() >= 2 else np.ones(count, bool)


def _spread(rows: NDArray[np.float64], fit: NDArray[np.float64], used: NDArray[np.bool_]) -> float:
    """Relative error of the model that 68 % of its errors do not exceed.

    As in conformal prediction by leaving one out (Barber et al., "Predictive inference with the jackknife+", 2021),
    it is a quantile of the errors at the points, each as it is when the point takes no part in the fit, divided by
    the error that the fit has there. Points that were left out count as well: most are errors of the model. A
    quantile follows tails of any shape, and one wrong point does not decide. Few points are completed by those of
    the prior.
    """
    inverse = np.linalg.inv(rows[used].T @ rows[used])
    leverages = ((rows @ inverse) * rows).sum(1)
    scores = np.abs(rows @ fit - 1) / np.sqrt(np.where(used, np.maximum(1 - leverages, 1e-6), 1 + leverages))
    normal = NormalDist(sigma=_PRIOR_ERROR)
    prior = [normal.inv_cdf(0.5 + (step + 0.5) / (2 * _PRIOR_STEPS)) for step in range(_PRIOR_STEPS)]
    # Two points fix the two unknowns and say nothing about the error.
    weights = np.repeat([1 - 2 / len(rows), _PRIOR_COUNT / _PRIOR_STEPS], [len(rows), _PRIOR_STEPS])
    values = np.concatenate([scores, prior])
    order = np.argsort(values)
    weights = weights[order] / weights.sum()
    return float(np.interp(_ONE_SIGMA, np.cumsum(weights) - weights / 2, values[order]))


class Anchoring:
    """Applies anchors to the depth of one source, frame by frame. One thread.

    The alignment is that of the first frame of a shot and stays until the next cut; live it follows the model with a
    time constant of two seconds, because a live shot has no end.
    """

    def __init__(self, anchors: Sequence[Anchor], size_px: tuple[int, int], *, live: bool) -> None:
        self._anchors, self._size_px, self._live = anchors, size_px, live
        for anchor in anchors:
            _place(anchor, *size_px)
        self._alignment: Alignment | None = None
        self._seconds = 0.0
        self._unused: set[int] = set()
        self._cuts = 0

    @property
    def note(self) -> str:
        """Which anchors were not used in a shot, and cuts, after which the camera may show another place."""
        parts = []
        if self._unused:
            names = ", ".join(str(self._anchors[number]) for number in sorted(self._unused))
            parts.append(f"anchors that contradict the others were not used: {names}")
        if self._cuts:
            parts.append(f"anchors applied anew at cuts: {self._cuts}; their distances must hold there too")
        return "; ".join(parts)

    def update(
        self,
        depth: DepthMap,
        seconds: float,
        *,
        cut: bool,
        image: av.VideoFrame | None = None,  # noqa: ARG002 - for MotionScale
    ) -> DepthMap:
        """
        Args:
            seconds: media time of the frame.
            cut: the frame starts a shot.

        Raises:
            DataFormatError: see :func:`align`.
        """
        current = self._alignment
        if current is None or cut:
            self._cuts += current is not None
            current = align(depth, self._anchors, size_px=self._size_px)
            self._unused.update(number for number, used in enumerate(current.used) if not used)
        elif self._live and (new := self._new(depth)) is not None:
            step = 1 - math.exp(-max(0.0, seconds - self._seconds) / _LIVE_SECONDS)
            current = replace(
                new,
                scale=current.scale + step * (new.scale - current.scale),
                shift=current.shift + step * (new.shift - current.shift),
            )
        self._alignment, self._seconds = current, seconds
        return current.apply(depth)

    def _new(self, depth: DepthMap) -> Alignment | None:
        """The alignment of this frame; None where its depth allows none (a covered lens)."""
        try:
            return align(depth, self._anchors, size_px=self._size_px)
        except DataFormatError:
            return None

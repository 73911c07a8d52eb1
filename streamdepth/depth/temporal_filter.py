"""One step of the temporal filter: a frame, its neighbour along the optical flow, and their blend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.motion import sample, scaled_flow
from streamdepth.media.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

f32 = np.float32

_TREND_KEEP = 0.95
"""Share of the trend that remains after one frame."""
_TREND_NOISE = 0.003
"""Part of the trend, as a share of the range per frame, that is taken for noise and not followed."""
_STILL_LEVELS, _STILL_PX = 4.0, 0.5
"""Difference of the images in gray levels, and flow, from which a pixel is not still."""
_EDGE = 0.2
"""Sobel derivative of the frame's depth, as a share of its range, from which a pixel is an edge and the remaining
difference stays: edges are those of the frame."""
_STILL_EDGE = 0.6
"""Share of the smoothing that edges get where the image does not change."""
_GATE = 0.25
_PIXEL_GATE = 0.12
"""Difference of depth, as a share of its range, from which a pixel takes no part (Tukey's biweight)."""
_PHOTOMETRIC_LIMIT = 64.0
"""Difference of the images in gray levels, after a change of exposure, from which a pixel takes no part."""
_NOISE = 6.0
"""Gray levels of difference that may be noise. A larger one that is not much less than the contrast of the images means
that they show different scenes: a black frame, a flash, a missed cut."""
_MAX_EXPOSURE = 2.0
"""Largest change of contrast between neighbouring frames that is taken for a change of exposure."""
_STRIDE = 2
"""Reliability is computed at every second pixel: the search itself stops at a quarter of the resolution."""
_MAX_FLOW_ERROR_PX = 1.0
"""Maximum distance after following the flow there and back."""
_MIN_SHARE = 0.08
"""Share of agreeing pixels below which nothing is aligned."""
_MIN_METRIC_SPAN = 0.1
"""Smallest range of a metric frame, about 10 %, so that noise on a flat wall is not taken for contrast."""
_FITTED = 2048
"""Pixels used for the fit."""
_MAX_GAIN, _MAX_OFFSET = 0.1, 0.04
_LEAK = 0.3
"""Share of the fitted alignment that is not applied, so that a real change of scale or offset is followed."""


class Keep(NamedTuple):
    """Shares of the previous output per frame interval, and what low frequencies are.

    Attributes:
        low: in low frequencies.
        rest: in the remaining difference.
        still_low, still_rest: the same where the image does not change. Depth cannot change there either: no trend is
            followed.
        box: the box of the low-pass filter is this part of the shorter side.
        boxes: how often it is applied. Three times is near a Gaussian, which moves fewer edges for the same flicker.
    """

    low: float
    rest: float
    still_low: float
    still_rest: float
    box: float
    boxes: int


class Match(NamedTuple):
    """Correspondence from a frame to a neighbour.

    Attributes:
        flow: float32 [h, w, 2], to the neighbour.
        weight: float32 [h, w], 0..1, reliability.
        still: float32 [h, w], 0..1, where the image does not change.
    """

    flow: Values
    weight: Values
    still: Values


@dataclass(frozen=True, slots=True)
class FilterState:
    """One frame in the domain of the filter.

    Attributes:
        small: image for optical flow.
        seconds: presentation time.
        values: float32 [H, W], depth as given or, if metric, its logarithm; 0 where invalid.
        known: float32 [H, W], 1 where valid, else 0; None = valid everywhere.
        span: range of the values (2nd to 98th percentile).
        depth: as given.
    """

    small: NDArray[np.uint8]
    seconds: float
    values: Values
    known: Values | None
    span: float
    depth: DepthMap

    @classmethod
    def of(cls, small: NDArray[np.uint8], seconds: float, depth: DepthMap) -> FilterState:
        values = depth.values
        usable = np.isfinite(values)
        if depth.valid is not None:
            usable &= depth.valid
        if depth.sense is Sense.METRIC_M:
            usable &= values > 0
            values = np.log(values, out=np.zeros_like(values), where=usable)
        known = None
        if not usable.all():
            values, known = np.where(usable, values, np.float32(0)), usable.astype(np.float32)
        sampled = values[::2, ::2][usable[::2, ::2]]
        lo, hi = np.percentile(sampled, (2, 98)) if sampled.size else (0.0, 0.0)
        span = float(hi - lo)
        if depth.sense is Sense.METRIC_M:
            span = max(span, _MIN_METRIC_SPAN)
        return cls(small, seconds, values, known, span, depth)

    def matches(self, other: FilterState) -> bool:
        """True if both can be compared: sizes and models may change during a stream."""
        return (
            self.small.shape == other.small.shape
            and self.values.shape == other.values.shape
            and self.depth.sense is other.depth.sense
        )

    def result(self, values: Values) -> DepthMap:
        """Depth with filtered values in place of the valid ones."""
        if values is self.values:
            return replace(self.depth, stabilized=True)
        if self.depth.sense is Sense.METRIC_M:
            values = np.exp(values)
        if self.known is not None:
            values = np.where(self.known > 0, values, self.depth.values)
        return replace(self.depth, values=np.ascontiguousarray(values, np.float32), stabilized=True)


def match_images(small: NDArray[np.uint8], neighbour: NDArray[np.uint8], flow: Values, reverse: Values) -> Match:
    """Reliability of ``flow`` from ``small`` to ``neighbour``; ``reverse`` is the flow of the opposite direction."""
    import cv2

    shape = (small.shape[0] // _STRIDE, small.shape[1] // _STRIDE)
    difference, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    nowhere = np.zeros(shape, np.float32)
    sums = np.empty(5, np.float64)
    _consistent(small, neighbour, flow, reverse, difference, weight, sums)
    exposure = _exposure(*(float(one) for one in sums))
    if exposure is None:
        return Match(flow, nowhere, nowhere)
    gain, offset = exposure
    own = small[::_STRIDE, ::_STRIDE][: shape[0], : shape[1]]
    difference -= (np.float32(gain) * own + np.float32(offset)) * weight
    near: Values = np.asarray(cv2.blur(difference, (3, 3)), np.float32)
    near /= np.maximum(cv2.blur(weight, (3, 3)), np.float32(0.1))
    misfit = float((np.square(near) * weight).sum() / max(float(weight.sum()), 1.0))
    if misfit > _NOISE**2 and misfit > 0.5 * max(_contrast(small), _contrast(neighbour)):
        return Match(flow, nowhere, nowhere)
    weight *= _biweight(near, _PHOTOMETRIC_LIMIT)
    coarse = np.abs(flow[::_STRIDE, ::_STRIDE][: shape[0], : shape[1]])
    speed = np.asarray(cv2.max(coarse[..., 0], coarse[..., 1]), np.float32)
    still = weight * _biweight(near, _STILL_LEVELS) * _biweight(speed, _STILL_PX)
    return Match(flow, weight, np.asarray(cv2.erode(still, _NEIGHBOURS), np.float32))


_NEIGHBOURS = np.ones((3, 3), np.uint8)


def _contrast(image: NDArray[np.uint8]) -> float:
    """Variance without noise."""
    import cv2

    return float(cv2.blur(image[::_STRIDE, ::_STRIDE], (3, 3)).var())


@kernel
def _consistent(small, neighbour, flow, reverse, matched, weight, sums):  # type: ignore[no-untyped-def]
    """Set ``weight`` to 1 and ``matched`` to the neighbour's value where the flow is consistent.

    ``sums`` float64 [5] gets the number of these pixels, and for both images the sum of their values and of their
    squares.
    """
    height, width = small.shape
    rows, columns = weight.shape
    limit = f32(_MAX_FLOW_ERROR_PX**2)
    count, own_sum, own_squares, matched_sum, matched_squares = 0, 0.0, 0.0, 0.0, 0.0
    for j in range(rows):
        y = j * _STRIDE
        for i in range(columns):
            x = i * _STRIDE
            fx, fy = flow[y, x, 0], flow[y, x, 1]
            u, v = f32(x) + fx, f32(y) + fy
            if not (u >= f32(0) and u <= f32(width - 1) and v >= f32(0) and v <= f32(height - 1)):
                continue
            left, top = min(int(u), width - 2), min(int(v), height - 2)
            p, q = u - f32(left), v - f32(top)
            a, b, c, d = (f32(1) - p) * (f32(1) - q), p * (f32(1) - q), (f32(1) - p) * q, p * q
            above, below = reverse[top], reverse[top + 1]
            ex = fx + a * above[left, 0] + b * above[left + 1, 0] + c * below[left, 0] + d * below[left + 1, 0]
            ey = fy + a * above[left, 1] + b * above[left + 1, 1] + c * below[left, 1] + d * below[left + 1, 1]
            if ex * ex + ey * ey >= limit:
                continue
            upper, lower = neighbour[top], neighbour[top + 1]
            moved = a * f32(upper[left]) + b * f32(upper[left + 1]) + c * f32(lower[left]) + d * f32(lower[left + 1])
            weight[j, i] = f32(1)
            matched[j, i] = moved
            own = float(small[y, x])
            count += 1
            own_sum += own
            own_squares += own * own
            matched_sum += float(moved)
            matched_squares += float(moved) * float(moved)
    sums[0], sums[1], sums[2], sums[3], sums[4] = count, own_sum, own_squares, matched_sum, matched_squares


def _exposure(
    count: float, own_sum: float, own_squares: float, sums: float, squares: float
) -> tuple[float, float] | None:
    """Gain and offset from the values of an image to those of its neighbour, from their means and deviations.

    None where their contrast differs too much: a black frame, a flash.
    """
    if not count:
        return None
    own, mean = own_sum / count, sums / count
    gain = (max(squares / count - mean**2, _NOISE**2) / max(own_squares / count - own**2, _NOISE**2)) ** 0.5
    return (gain, mean - gain * own) if 1 / _MAX_EXPOSURE < gain < _MAX_EXPOSURE else None


def _biweight(difference: Values, limit: float) -> Values:
    return np.asarray(np.square(1 - np.minimum(np.square(difference * np.float32(1 / limit)), 1)), np.float32)


def _alignment(values: Values, target: Values, weight: Values, span: float) -> tuple[float, float]:
    """Gain and offset that move ``values`` towards ``target``: robust, regularised and bounded; (1, 0) if unclear."""
    use = weight > 0.5
    use &= np.abs(target - values) < _GATE * span
    places = np.flatnonzero(use)
    if len(places) < _MIN_SHARE * use.size:
        return 1.0, 0.0
    places = places[:: max(1, use.size // _FITTED)]
    x, y = (array.ravel()[places].astype(np.float64) for array in (values, target))
    gain, offset = 1.0, 0.0
    for _ in range(3):
        residual = np.abs(gain * x + offset - y)
        median = float(np.partition(residual, len(x) // 2)[len(x) // 2])
        scale = 1.5 * 1.4826 * median + 1e-9 * span
        robust = np.minimum(1, scale / np.maximum(residual, 1e-12 * span))
        prior = 0.05 * len(x)
        weighted = robust * x
        sx, sy, n = float(weighted.sum()), float(robust @ y), float(robust.sum()) + prior
        sxx, sxy = (float(weighted @ other) + prior * span**2 for other in (x, y))
        determinant = sxx * n - sx * sx
        gain, offset = (sxy * n - sx * sy) / determinant, (sxx * sy - sx * sxy) / determinant
    gain = min(max(gain, 1 - _MAX_GAIN), 1 + _MAX_GAIN)
    offset = min(max(offset, -_MAX_OFFSET * span), _MAX_OFFSET * span)
    return 1 + (1 - _LEAK) * (gain - 1), (1 - _LEAK) * offset


def filter_step(
    state: FilterState,
    previous: FilterState,
    output: Filtered,
    match: Match,
    keep: Keep,
    frames: float,
    *,
    trend: float = 0.0,
) -> Filtered:
    """One step of the filter.

    Args:
        state: the current frame.
        previous: the neighbour, which was filtered to ``output``.
        frames: distance in time, in frame intervals.
        trend: share of the low-frequency difference by which the trend is corrected; 0 = no trend.
    """
    import cv2

    shape = state.values.shape
    span = max(state.span, 1e-12)
    coordinates = scaled_flow(match.flow, shape)
    predicted = sample(output.values, coordinates)
    drift = None
    if output.trend is not None:
        drift = sample(output.trend, coordinates)
        noise = np.float32(_TREND_NOISE * span)
        predicted += np.float32(frames) * (drift - np.clip(drift, -noise, noise))
    weight, still = (
        np.asarray(cv2.resize(part, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
        for part in (match.weight, match.still)
    )
    for known in (state.known, None if previous.known is None else sample(previous.known, coordinates)):
        if known is not None:
            weight = weight * (known > 1 - 1e-3)
    values = state.values
    if state.depth.sense is not Sense.METRIC_M:
        gain, offset = _alignment(values, predicted, weight, span)
        if (gain, offset) != (1.0, 0.0):
            values = values * np.float32(gain) + np.float32(offset)
    difference = predicted - values
    gated = weight * _biweight(difference, _GATE * span)
    side = max(3, int(min(shape) * keep.box))
    if keep.boxes > 1:
        side |= 1  # an even box is half a pixel off, and several add up
    share = _blurred(gated, side, keep.boxes)
    low = _blurred(gated * difference, side, keep.boxes) / (share + np.float32(1e-4))
    low *= np.minimum(1, share / np.float32(0.3))
    values = np.asarray(values + _kept(keep.low, keep.still_low, still, frames) * low, np.float32)
    difference = predicted - values
    smoothed = np.maximum(_biweight(_edges(state.values), _EDGE * span), _STILL_EDGE * still)
    smoothed *= _kept(keep.rest, keep.still_rest, still, frames)
    values += smoothed * weight * _biweight(difference, _PIXEL_GATE * span) * difference
    if not trend:
        return Filtered(values)
    moving = 1 - still
    low *= np.float32(-trend / frames) * moving
    if drift is not None:
        low += np.float32(_TREND_KEEP**frames) * drift * moving * np.minimum(1, share / np.float32(0.3))
    return Filtered(values, low)


def _blurred(values: Values, side: int, times: int) -> Values:
    import cv2

    for _ in range(times):
        values = np.asarray(cv2.blur(values, (side, side)), np.float32)
    return values


def _kept(keep: float, still_keep: float, still: Values, frames: float) -> Values:
    """Share of the previous output after ``frames`` intervals."""
    kept = np.float32(keep) + np.float32(still_keep - keep) * still
    return kept if frames == 1 else np.asarray(kept ** np.float32(frames), np.float32)


def _edges(values: Values) -> Values:
    """Largest Sobel derivative within one pixel."""
    import cv2

    across, down = (cv2.Sobel(values, cv2.CV_32F, x, 1 - x) for x in (1, 0))
    return np.asarray(cv2.dilate(cv2.max(np.abs(across), np.abs(down)), _NEIGHBOURS), np.float32)


class Filtered(NamedTuple):
    """Result of a step.

    Attributes:
        values: float32 [H, W], filtered values of the frame.
        trend: float32 [H, W], its change per frame interval along the flow, in low frequencies; None = no change.
    """

    values: Values
    trend: Values | None = None

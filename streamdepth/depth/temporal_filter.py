"""One step of the temporal filter: a frame, its neighbour along the optical flow, and their blend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.motion import sample, scaled_flow
from streamdepth.media.numba_kernel import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

f32 = np.float32

_TREND_KEEP = 0.95
"""Share of the trend that remains after one frame."""
_TREND_NOISE = 0.003
"""Part of the trend, as a share of the range per frame, that is taken for noise and not followed."""
_PIXEL_KEEP = 0.55
"""Share of the previous output in the remaining difference per frame interval."""
_GATE = 0.25
_PIXEL_GATE = 0.12
"""Difference of depth, as a share of its range, from which a pixel takes no part (Tukey's biweight)."""
_PHOTOMETRIC_LIMIT = 64.0
"""Difference of the images in gray levels, without their mean (exposure), from which a pixel takes no part."""
_NOISE = 6.0
"""Gray levels of difference that may be noise. A larger one that is not much less than the contrast of the images means
that they show different scenes: a black frame, a flash, a missed cut."""
_STRIDE = 2
"""Reliability is computed at every second pixel: the search itself stops at a quarter of the resolution."""
_MAX_FLOW_ERROR_PX = 1.0
"""Maximum distance after following the flow there and back."""
_MIN_SHARE = 0.08
"""Share of agreeing pixels below which nothing is aligned."""
_LOW_PASS = 16
"""The box of the low-pass filter is 1/16 of the shorter side."""
_MIN_METRIC_SPAN = 0.1
"""Smallest range of a metric frame as a share of its median, so that noise on a flat wall is not taken for contrast."""
_FITTED = 2048
"""Pixels used for the fit."""
_MAX_GAIN, _MAX_OFFSET = 0.1, 0.04
_LEAK = 0.3
"""Share of the fitted alignment that is not applied, so that a real change of scale or offset is followed."""


class Match(NamedTuple):
    """Correspondence from a frame to a neighbour.

    Attributes:
        flow: float32 [h, w, 2], to the neighbour.
        weight: float32 [h, w], 0..1, reliability.
    """

    flow: Values
    weight: Values


@dataclass(frozen=True, slots=True)
class FilterState:
    """One frame in the domain of the filter.

    Attributes:
        small: image for optical flow.
        seconds: presentation time.
        values: float32 [H, W], inverse depth, 0 where invalid.
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
            values = np.divide(1, values, out=np.zeros_like(values), where=usable)
        known = None
        if not usable.all():
            values, known = np.where(usable, values, np.float32(0)), usable.astype(np.float32)
        sampled = values[::2, ::2][usable[::2, ::2]]
        lo, middle, hi = np.percentile(sampled, (2, 50, 98)) if sampled.size else (0.0, 0.0, 0.0)
        span = float(hi - lo)
        if depth.sense is Sense.METRIC_M:
            span = max(span, _MIN_METRIC_SPAN * float(middle))
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
            values = np.divide(1, values, out=self.depth.values.copy(), where=values > 0)
        if self.known is not None:
            values = np.where(self.known > 0, values, self.depth.values)
        return replace(self.depth, values=np.ascontiguousarray(values, np.float32), stabilized=True)


def match_images(small: NDArray[np.uint8], neighbour: NDArray[np.uint8], flow: Values, reverse: Values) -> Match:
    """Reliability of ``flow`` from ``small`` to ``neighbour``; ``reverse`` is the flow of the opposite direction."""
    import cv2

    shape = (small.shape[0] // _STRIDE, small.shape[1] // _STRIDE)
    difference, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    difference -= np.float32(_consistent(small, neighbour, flow, reverse, difference, weight)) * weight
    near: Values = np.asarray(cv2.blur(difference, (3, 3)), np.float32)
    near /= np.maximum(cv2.blur(weight, (3, 3)), np.float32(0.1))
    misfit = float((np.square(near) * weight).sum() / max(float(weight.sum()), 1.0))
    contrast = max(float(cv2.blur(image[::_STRIDE, ::_STRIDE], (3, 3)).var()) for image in (small, neighbour))
    if misfit > _NOISE**2 and misfit > 0.5 * contrast:
        return Match(flow, np.zeros(shape, np.float32))
    return Match(flow, weight * _biweight(near, _PHOTOMETRIC_LIMIT))


@kernel
def _consistent(small, neighbour, flow, reverse, difference, weight):  # type: ignore[no-untyped-def]
    """Set ``weight`` to 1 where the flow is consistent, and ``difference`` to that of the images; returns its mean."""
    height, width = small.shape
    rows, columns = weight.shape
    limit = f32(_MAX_FLOW_ERROR_PX**2)
    total, count = 0.0, 0
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
            difference[j, i] = moved - f32(small[y, x])
            total += difference[j, i]
            count += 1
    return total / max(count, 1)


def _biweight(difference: Values, limit: float) -> Values:
    return np.asarray(np.square(1 - np.minimum(np.square(difference * np.float32(1 / limit)), 1)), np.float32)


def _alignment(values: Values, target: Values, weight: Values, span: float) -> tuple[float, float]:
    """Gain and offset that move ``values`` towards ``target``: robust, regularised and bounded; (1, 0) if unclear."""
    use = weight > 0.5
    use &= np.abs(target - values) < _GATE * span
    if use.mean() < _MIN_SHARE:
        return 1.0, 0.0
    step = max(1, use.size // _FITTED)
    x, y = (array[use][::step].astype(np.float64) for array in (values, target))
    gain, offset = 1.0, 0.0
    for _ in range(3):
        residual = np.abs(gain * x + offset - y)
        scale = 1.5 * 1.4826 * float(np.median(residual)) + 1e-9 * span
        robust = np.minimum(1, scale / np.maximum(residual, 1e-12 * span))
        prior = 0.05 * len(x)
        sx, n = float((robust * x).sum()), float(robust.sum())
        normal = np.array([[float((robust * x * x).sum()) + prior * span**2, sx], [sx, n + prior]])
        right = np.array([float((robust * x * y).sum()) + prior * span**2, float((robust * y).sum())])
        gain, offset = (float(part) for part in np.linalg.solve(normal, right))
    gain = min(max(gain, 1 - _MAX_GAIN), 1 + _MAX_GAIN)
    offset = min(max(offset, -_MAX_OFFSET * span), _MAX_OFFSET * span)
    return 1 + (1 - _LEAK) * (gain - 1), (1 - _LEAK) * offset


def filter_step(
    state: FilterState,
    previous: FilterState,
    output: Filtered,
    match: Match,
    keep: float,
    frames: float,
    *,
    trend: float = 0.0,
) -> Filtered:
    """One step of the filter.

    Args:
        state: the current frame.
        previous: the neighbour, which was filtered to ``output``.
        keep: share of the prediction per frame interval.
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
    weight = np.asarray(cv2.resize(match.weight, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
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
    side = max(3, min(shape) // _LOW_PASS)
    share = np.asarray(cv2.blur(gated, (side, side)), np.float32)
    low = np.asarray(cv2.blur(gated * difference, (side, side)), np.float32) / (share + np.float32(1e-4))
    low *= np.minimum(1, share / np.float32(0.3))
    values = np.asarray(values + np.float32(keep**frames) * low, np.float32)
    difference = predicted - values
    values += np.float32(_PIXEL_KEEP**frames) * weight * _biweight(difference, _PIXEL_GATE * span) * difference
    if not trend:
        return Filtered(values)
    low *= np.float32(-trend / frames)
    if drift is not None:
        low += np.float32(_TREND_KEEP**frames) * drift * np.minimum(1, share / np.float32(0.3))
    return Filtered(values, low)


class Filtered(NamedTuple):
    """Result of a step.

    Attributes:
        values: float32 [H, W], filtered inverse depth.
        trend: float32 [H, W], its change per frame interval along the flow, in low frequencies; None = no change.
    """

    values: Values
    trend: Values | None = None

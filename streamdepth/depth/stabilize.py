"""Temporal stabilization: removes flicker of depth shapes by smoothing along the optical flow.

Each frame is compared with the previous output, warped along the flow. Pixels take part where the flow is consistent in
both directions, the images match, and depth agrees; elsewhere the result is the depth of the current frame. Three
steps:

1. Align scale and offset of the frame to the previous output by a robust fit (not for metric models).
2. Blend the low frequencies of the difference, so that detail and edges are those of the current frame.
3. Blend the rest per pixel, with a narrower gate.

Values are inverse depth: metric depth is filtered as 1 / depth; invalid and non-finite values pass through unchanged.
``CausalStabilizer`` uses past frames only and adds no frame of delay. ``TwoSidedStabilizer`` averages a forward and a
backward pass and delays frames by up to ``BLOCK_FRAMES + MARGIN_FRAMES``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from streamdepth.core.frame import DepthMap, Sense
from streamdepth.depth.flow import OpticalFlow, sample, scaled_flow
from streamdepth.media.numba_kernel import kernel

if TYPE_CHECKING:
    from fractions import Fraction

    from numpy.typing import NDArray

    Values = NDArray[np.float32]

T = TypeVar("T")
f32 = np.float32

BLOCK_FRAMES = 16
MARGIN_FRAMES = 8
"""The backward pass starts this many frames after the end of a block, as its first frames are not filtered yet."""

_CAUSAL_KEEP = 0.6
_TWO_SIDED_KEEP = 0.75
"""Share of the previous output in low frequencies per frame interval."""
_TREND = 0.04
"""Share of the low-frequency difference by which the trend is corrected. It reduces the lag on steady changes."""
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
_MAX_GAP_FRAMES = 8.0
"""Gap in time, in frame intervals, after which the filter restarts."""
_INTERVAL_GROWTH = 1.1


class _Match(NamedTuple):
    """Correspondence from a frame to a neighbour.

    Attributes:
        flow: float32 [h, w, 2], to the neighbour.
        weight: float32 [h, w], 0..1, reliability.
    """

    flow: Values
    weight: Values


@dataclass(frozen=True, slots=True)
class _State:
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
    def of(cls, small: NDArray[np.uint8], seconds: float, depth: DepthMap) -> _State:
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

    def matches(self, other: _State) -> bool:
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


def _match(small: NDArray[np.uint8], neighbour: NDArray[np.uint8], flow: Values, reverse: Values) -> _Match:
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
        return _Match(flow, np.zeros(shape, np.float32))
    return _Match(flow, weight * _biweight(near, _PHOTOMETRIC_LIMIT))


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


def _smoothed(
    state: _State, previous: _State, output: _Output, match: _Match, keep: float, frames: float, *, trend: float = 0.0
) -> _Output:
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
        return _Output(values)
    low *= np.float32(-trend / frames)
    if drift is not None:
        low += np.float32(_TREND_KEEP**frames) * drift * np.minimum(1, share / np.float32(0.3))
    return _Output(values, low)


class _Output(NamedTuple):
    """Result of a step.

    Attributes:
        values: float32 [H, W], filtered inverse depth.
        trend: float32 [H, W], its change per frame interval along the flow, in low frequencies; None = no change.
    """

    values: Values
    trend: Values | None = None


class _Intervals:
    """Distance of frames in units of the frame interval, from their time stamps."""

    def __init__(self, rate: Fraction | None) -> None:
        self._known = rate is not None
        self._interval = float(1 / rate) if rate else 0.0

    def frames(self, before: float, after: float) -> float:
        elapsed = after - before
        if not self._known and elapsed > 0:
            shortest = self._interval * _INTERVAL_GROWTH
            self._interval = min(elapsed, shortest) if shortest else elapsed
        return max(1.0, elapsed / self._interval) if self._interval else 1.0


class Stabilizer(Protocol[T]):
    """Stabilizes the frames of one stream in order. Used by one thread."""

    def append(
        self, item: T, small: NDArray[np.uint8], depth: DepthMap, seconds: float, *, cut: bool
    ) -> list[tuple[T, DepthMap]]:
        """Add the next frame; returns the frames that are complete, in order.

        Args:
            item: returned with the result.
            small: the image of ``OpticalFlow.small``.
            depth: its values are copied if they are needed after this call.
            seconds: presentation time.
            cut: True if a new shot starts with this frame.
        Returns:
            The items with their stabilized depth. Depth without history, as after a cut, is unchanged.
        """
        ...

    def flush(self) -> list[tuple[T, DepthMap]]:
        """Return the remaining frames: no more frames follow."""
        ...


class CausalStabilizer(Generic[T]):
    """Stabilizes each frame from past frames, without delay. See :class:`Stabilizer`.

    Args:
        rate: frame rate of the stream; None = estimated from time stamps.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        self.flow = OpticalFlow()
        self._intervals = _Intervals(rate)
        self._last: tuple[_State, _Output] | None = None

    def append(
        self, item: T, small: NDArray[np.uint8], depth: DepthMap, seconds: float, *, cut: bool
    ) -> list[tuple[T, DepthMap]]:
        state = _State.of(small, seconds, replace(depth, values=depth.values.copy()))
        result = _Output(state.values)
        if self._last is not None and not cut and state.matches(self._last[0]):
            previous, output = self._last
            frames = self._intervals.frames(previous.seconds, seconds)
            if frames <= _MAX_GAP_FRAMES:
                back = self.flow.calc(state.small, previous.small)
                forth = self.flow.calc(previous.small, state.small)
                match = _match(state.small, previous.small, back, forth)
                result = _smoothed(state, previous, output, match, _CAUSAL_KEEP, frames, trend=_TREND)
        self._last = state, result
        return [(item, state.result(result.values))]

    def flush(self) -> list[tuple[T, DepthMap]]:
        return []


@dataclass(slots=True)
class _Pending(Generic[T]):
    """A frame that waits for the backward pass.

    Attributes:
        item: returned with the result.
        forth: match from the previous frame; None for the first frame of a shot.
        frames: distance to the previous frame.
        forward: result of the forward pass.
    """

    item: T
    state: _State
    forth: _Match | None
    frames: float
    forward: _Output


class TwoSidedStabilizer(Generic[T]):
    """Stabilizes each frame from past and later frames of its shot. See :class:`Stabilizer`.

    The results depend only on the frames, not on batches or threads. Memory is bounded: at most ``BLOCK_FRAMES +
    MARGIN_FRAMES`` frames are pending.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        self.flow = OpticalFlow()
        self._intervals = _Intervals(rate)
        self._pending: deque[_Pending[T]] = deque()
        self._ahead: _Pending[T] | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def append(
        self, item: T, small: NDArray[np.uint8], depth: DepthMap, seconds: float, *, cut: bool
    ) -> list[tuple[T, DepthMap]]:
        state = _State.of(small, seconds, replace(depth, values=depth.values.copy()))
        complete: list[tuple[T, DepthMap]] = []
        last = self._ahead
        forth: _Match | None = None
        frames, result = 1.0, _Output(state.values)
        linked = last is not None and not cut and state.matches(last.state)
        if linked and last is not None:
            frames = self._intervals.frames(last.state.seconds, seconds)
            linked = frames <= _MAX_GAP_FRAMES
        if linked and last is not None:
            to_last = self.flow.calc(state.small, last.state.small)
            from_last = self.flow.calc(last.state.small, state.small)
            back = _match(state.small, last.state.small, to_last, from_last)
            forth = _match(last.state.small, state.small, from_last, to_last)
            result = _smoothed(state, last.state, last.forward, back, _TWO_SIDED_KEEP, frames)
        elif self._pending:
            complete = self._release(len(self._pending))
        self._ahead = _Pending(item, state, forth, frames, result)
        self._pending.append(self._ahead)
        if len(self._pending) >= BLOCK_FRAMES + MARGIN_FRAMES:
            complete += self._release(BLOCK_FRAMES)
        return complete

    def flush(self) -> list[tuple[T, DepthMap]]:
        return self._release(len(self._pending))

    def _release(self, count: int) -> list[tuple[T, DepthMap]]:
        """Run the backward pass over the pending frames; remove and return the first ``count``."""
        backward: list[_Output] = []
        later: _Pending[T] | None = None
        for entry in reversed(self._pending):
            result = _Output(entry.state.values)
            if later is not None and later.forth is not None:
                result = _smoothed(entry.state, later.state, backward[-1], later.forth, _TWO_SIDED_KEEP, later.frames)
            backward.append(result)
            later = entry
        complete = []
        for _ in range(count):
            entry = self._pending.popleft()
            forward, back = entry.forward.values, backward.pop().values
            mean = forward if forward is back else (forward + back) * np.float32(0.5)
            complete.append((entry.item, entry.state.result(mean)))
        return complete

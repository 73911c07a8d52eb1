"""Temporal stabilization: removes flicker of depth shapes by smoothing along the optical flow.

Each frame is compared with the previous output, warped along the flow. Pixels take part where the flow is consistent in
both directions, the images match, and depth agrees; elsewhere the result is the depth of the current frame. Three
steps:

1. Align scale and offset of the frame to the previous output by a robust fit (not for metric models).
2. Blend the low frequencies of the difference, so that detail and edges are those of the current frame.
3. Blend the rest per pixel, with a narrower gate, and not at edges.

Where the image does not change, both blends keep more of the previous output.

Depth is filtered as given; metric depth as its logarithm, so that a change of near depth moves far depth beside it by
the same ratio at most. Invalid and non-finite values pass through unchanged.
``CausalStabilizer`` uses past frames only and adds no frame of delay. ``TwoSidedStabilizer`` filters the
results of the forward pass once more backward, which removes its lag, and delays frames by up to ``BLOCK_FRAMES +
MARGIN_FRAMES``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from streamdepth.depth.motion import NeighbourFlow, OpticalFlow
from streamdepth.depth.temporal_filter import Filtered, FilterState, Keep, Match, filter_step, match_images

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.core.frame import DepthMap

T = TypeVar("T")

BLOCK_FRAMES = 16
MARGIN_FRAMES = 8
"""The backward pass starts this many frames after the end of a block, as it begins with the lag of the forward
pass."""
_CAUSAL_KEEP = Keep(0.45, 0.4, 0.85, 0.8, 1 / 16, boxes=1)
_TWO_SIDED_KEEP = Keep(0.55, 0.3, 0.98, 0.96, 1 / 17, boxes=3)
"""Measured with ``benchmarks/steadiness.py``: more smoothing where the image changes costs accuracy, edges and lag."""
_TREND = 0.04
"""Share of the low-frequency difference by which the trend is corrected. It reduces the lag on steady changes."""
_MAX_GAP_FRAMES = 8.0
"""Gap in time, in frame intervals, after which the filter restarts."""
_INTERVAL_GROWTH = 1.1


class _Intervals:
    """Distance of frames in units of the frame interval, from their time stamps.

    The interval is that of the frames that arrive: with a model slower than its camera, it is longer than the camera's.

    Attributes:
        seconds: the frame interval, 0 if unknown.
    """

    def __init__(self, rate: Fraction | None) -> None:
        self._shortest = float(1 / rate) if rate else 0.0
        self.seconds = 0.0

    def since(self, last: FilterState, state: FilterState, *, cut: bool) -> float | None:
        """From ``last`` to ``state``; None if the filter restarts with ``state``."""
        if cut or not state.matches(last):
            return None
        frames = self._frames(state.seconds - last.seconds)
        return frames if frames <= _MAX_GAP_FRAMES else None

    def _frames(self, elapsed: float) -> float:
        if elapsed <= 0:
            return 1.0
        followed = min(elapsed, self.seconds * _INTERVAL_GROWTH) if self.seconds else elapsed
        self.seconds = max(self._shortest, followed)
        return max(1.0, elapsed / self.seconds)


class Stabilizer(ABC, Generic[T]):
    """Stabilizes the frames of one stream in order. Used by one thread.

    Args:
        rate: frame rate of the stream, which the frames do not exceed; None = unknown.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        self.flow = OpticalFlow()
        self._intervals = _Intervals(rate)

    def append(
        self,
        item: T,
        small: NDArray[np.uint8],
        depth: DepthMap,
        seconds: float,
        *,
        cut: bool,
        flow: NeighbourFlow | None = None,
    ) -> list[tuple[T, DepthMap]]:
        """Add the next frame; returns the frames that are complete, in order.

        Args:
            item: returned with the result.
            small: the image of ``OpticalFlow.small``.
            depth: its values are copied if they are needed after this call.
            seconds: presentation time.
            cut: True if a new shot starts with this frame.
            flow: between this frame and the last one; what is None is computed.
        Returns:
            The items with their stabilized depth. Depth without history, as after a cut, is unchanged.
        """
        state = FilterState.of(small, seconds, replace(depth, values=depth.values.copy()))
        return self._append(item, state, flow, cut=cut)

    @abstractmethod
    def _append(
        self, item: T, state: FilterState, flow: NeighbourFlow | None, *, cut: bool
    ) -> list[tuple[T, DepthMap]]: ...

    def flush(self) -> list[tuple[T, DepthMap]]:
        """Return the remaining frames: no more frames follow."""
        return []


class CausalStabilizer(Stabilizer[T]):
    """Stabilizes each frame from past frames, without delay."""

    def __init__(self, rate: Fraction | None = None) -> None:
        super().__init__(rate)
        self._last: tuple[FilterState, Filtered] | None = None

    def _append(
        self, item: T, state: FilterState, flow: NeighbourFlow | None, *, cut: bool
    ) -> list[tuple[T, DepthMap]]:
        result = Filtered(state.values)
        if self._last is not None:
            previous, output = self._last
            frames = self._intervals.since(previous, state, cut=cut)
            if frames is not None:
                back, forth = self.flow.both(state.small, previous.small, flow)
                match = match_images(state.small, previous.small, back, forth)
                result = filter_step(state, previous, output, match, _CAUSAL_KEEP, frames, trend=_TREND)
        self._last = state, result
        return [(item, state.result(result.values))]


@dataclass(slots=True)
class _Pending(Generic[T]):
    """A frame that waits for the backward pass.

    Attributes:
        item: returned with the result.
        forth: match from the previous frame; None for the first frame of a shot.
        frames: distance to the previous frame.
        forward: result of the forward pass.
        interval: frame interval as known after this frame.
    """

    item: T
    state: FilterState
    forth: Match | None
    frames: float
    forward: Filtered
    interval: float


class Mark(NamedTuple, Generic[T]):
    """The earliest frame that waits for the backward pass. With it, a filter continues where another one ended.

    Attributes:
        item: given with the frame.
        interval: frame interval as known after this frame, in seconds.
        values: float32 [H, W], result of the forward pass.
    """

    item: T
    interval: float
    values: NDArray[np.float32]


class TwoSidedStabilizer(Stabilizer[T]):
    """Stabilizes each frame from past and later frames of its shot.

    The results depend only on the frames, not on batches or threads. Memory is bounded: at most ``BLOCK_FRAMES +
    MARGIN_FRAMES`` frames are pending.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        super().__init__(rate)
        self._pending: deque[_Pending[T]] = deque()
        self._ahead: _Pending[T] | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def _append(
        self, item: T, state: FilterState, flow: NeighbourFlow | None, *, cut: bool
    ) -> list[tuple[T, DepthMap]]:
        complete: list[tuple[T, DepthMap]] = []
        last = self._ahead
        forth: Match | None = None
        result = Filtered(state.values)
        frames = None if last is None else self._intervals.since(last.state, state, cut=cut)
        if last is not None and frames is not None:
            to_last, from_last = self.flow.both(state.small, last.state.small, flow)
            back = match_images(state.small, last.state.small, to_last, from_last)
            forth = match_images(last.state.small, state.small, from_last, to_last)
            result = filter_step(state, last.state, last.forward, back, _TWO_SIDED_KEEP, frames)
        elif self._pending:
            complete = self._release(len(self._pending))
        self._ahead = _Pending(item, state, forth, frames or 1.0, result, self._intervals.seconds)
        self._pending.append(self._ahead)
        if len(self._pending) >= BLOCK_FRAMES + MARGIN_FRAMES:
            complete += self._release(BLOCK_FRAMES)
        return complete

    def flush(self) -> list[tuple[T, DepthMap]]:
        return self._release(len(self._pending))

    def mark(self) -> Mark[T] | None:
        """The earliest frame whose result was not returned; None if there is none."""
        if not self._pending:
            return None
        first = self._pending[0]
        return Mark(first.item, first.interval, first.forward.values)

    def restore(self, mark: Mark[T], small: NDArray[np.uint8], depth: DepthMap, seconds: float) -> None:
        """Continue with the frame of ``mark`` in an empty filter. ``append`` takes the frames after it."""
        state = FilterState.of(small, seconds, replace(depth, values=depth.values.copy()))
        self._intervals.seconds = mark.interval
        self._ahead = _Pending(mark.item, state, None, 1.0, Filtered(mark.values), mark.interval)
        self._pending.append(self._ahead)

    def _release(self, count: int) -> list[tuple[T, DepthMap]]:
        """Run the backward pass over the results of the forward pass; remove and return the first ``count``."""
        backward: list[Filtered] = []
        later: _Pending[T] | None = None
        for entry in reversed(self._pending):
            result = Filtered(entry.forward.values)
            if later is not None and later.forth is not None:
                state = replace(entry.state, values=entry.forward.values)
                result = filter_step(state, later.state, backward[-1], later.forth, _TWO_SIDED_KEEP, later.frames)
            backward.append(result)
            later = entry
        complete = []
        for _ in range(count):
            entry = self._pending.popleft()
            complete.append((entry.item, entry.state.result(backward.pop().values)))
        return complete

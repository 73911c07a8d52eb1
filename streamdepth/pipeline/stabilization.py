"""The stabilization stage: between depth and range, on a separate thread."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from streamdepth.core.queues import BoundedQueue, Ended, Policy
from streamdepth.pipeline.keyframes import Estimated
from streamdepth.pipeline.stats import Timer

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap, Frame, StreamInfo
    from streamdepth.depth.motion import CutDetector, NeighbourFlow, OpticalFlow
    from streamdepth.depth.stabilize import Stabilizer

    Item = tuple[Frame, bool]

_CAPACITY = 4
_LIVE_CAPACITY = 1
_EARLY_FLOWS = 8
"""More than the frames of a live source in the model and behind it."""


class _EarlyFlow(NamedTuple):
    """Flow of a frame computed before its depth is known.

    Attributes:
        frame_index, last_index: of the frame, and of the one that ``flow`` leads to; -1 = none.
        small: the image of ``OpticalFlow.small``.
    """

    frame_index: int
    last_index: int
    small: NDArray[np.uint8]
    flow: NeighbourFlow | None


class StabilizeSwitch:
    """Turns stabilization on and off during a run. Thread-safe.

    Attributes:
        on: depth is stabilized from the next frame on.
    """

    def __init__(self, on: bool = False) -> None:
        self.on = on

    def set(self, on: bool) -> None:
        """Takes effect from the next frame.

        Raises:
            MissingDependencyError: OpenCV cannot be loaded; nothing changes.
        """
        if on:
            from streamdepth.depth.motion import OpticalFlow

            OpticalFlow()
        self.on = on


class Stabilization:
    """Filters depth over time: from past frames under ``latest``, from both sides under ``every``.

    ``run`` is the loop of one thread.

    Args:
        switch: while it is off, frames pass unchanged.
        take: returns the next frame with depth; raises ``Ended`` after the last one.

    Attributes:
        name: ``"causal"`` or ``"two-sided"``, ``"off"`` if no frame was filtered so far.
        ready: frames with stabilized depth, in order.
    """

    def __init__(self, switch: StabilizeSwitch, policy: Policy, take: Callable[[], Estimated], clock: Clock) -> None:
        self.switch = switch
        self.name = "off"
        self._two_sided = policy is Policy.EVERY
        self.timer = Timer()
        self.ready: BoundedQueue[Estimated] = BoundedQueue(_CAPACITY if self._two_sided else _LIVE_CAPACITY)
        self._take = take
        self._clock = clock
        self._pending = 0
        self._connection = 0
        self._cuts: CutDetector | None = None
        self._rate: Fraction | None = None
        self._filter: Stabilizer[Item] | None = None
        self._last_index = -1
        self._early_flow: OpticalFlow | None = None
        self._early: deque[_EarlyFlow] = deque(maxlen=_EARLY_FLOWS)

    def open(self, info: StreamInfo, cuts: CutDetector | None) -> None:
        """Load the filter if the switch is on.

        Args:
            cuts: used by the stabilization thread from now on, unless ``Estimated.cut`` is known; None if cuts cannot
                be detected.
        """
        self._cuts, self._rate = cuts, info.rate
        if self.switch.on:
            self._filter = self._new_filter()

    def compute_flow(self, frame: Frame) -> None:
        """Compute the flow of a live frame while the model runs on it. One thread calls this, in order."""
        if self._two_sided or not self.switch.on:
            return
        from streamdepth.depth.motion import NeighbourFlow, OpticalFlow

        self._early_flow = self._early_flow or OpticalFlow()
        small, last = self._early_flow.small(frame.image), self._early[-1] if self._early else None
        if last is None or last.small.shape != small.shape:
            self._early.append(_EarlyFlow(frame.index, -1, small, None))
            return
        flow = NeighbourFlow(*self._early_flow.both(small, last.small, None))
        self._early.append(_EarlyFlow(frame.index, last.frame_index, small, flow))

    def run(self) -> None:
        """The loop of the stabilization thread."""
        try:
            while True:
                if not self.switch.on:
                    self.ready.wait_for_consumer()  # Hold no frame, which would delay it.
                estimated = self._take()  # A live source among several opens before its first frame, not earlier.
                started_ns = self._clock.monotonic_ns()
                complete = self._append(estimated)
                if self._filter is not None:
                    self.timer.add(self._clock.monotonic_ns() - started_ns)
                self._pending += 1
                del estimated  # Its depth must not occupy the ring while this thread waits.
                self._emit(complete)
        except Ended:
            self._emit(self._flushed())
            self.ready.end()

    def abort(self) -> None:
        self.ready.abort()

    def __len__(self) -> int:
        return self._pending

    def _append(self, estimated: Estimated) -> list[tuple[Item, DepthMap]]:
        frame, cut, small = estimated.frame, estimated.cut, estimated.small
        if cut is None:
            cut = self._cuts is not None and self._cuts.is_cut(frame.image)
        if not self.switch.on:
            return [*self._flushed(), ((frame, cut), estimated.depth)]
        if self._filter is None:
            self._filter, self._last_index = self._new_filter(), -1
        flow = estimated.flow
        early = next((one for one in tuple(self._early) if one.frame_index == frame.index), None)
        if early is not None:
            small = early.small
            flow = early.flow if early.last_index == self._last_index else None
        if small is None:
            small = self._filter.flow.small(frame.image)
        self._last_index = frame.index
        restart = cut or frame.connection != self._connection
        self._connection = frame.connection
        return self._filter.append((frame, cut), small, estimated.depth, frame.seconds, cut=restart, flow=flow)

    def _new_filter(self) -> Stabilizer[Item]:
        from streamdepth.depth.stabilize import CausalStabilizer, TwoSidedStabilizer

        self.name = "two-sided" if self._two_sided else "causal"
        return TwoSidedStabilizer(self._rate) if self._two_sided else CausalStabilizer(self._rate)

    def _flushed(self) -> list[tuple[Item, DepthMap]]:
        """The frames that wait in the filter, which ends."""
        complete = [] if self._filter is None else self._filter.flush()
        self._filter = None
        return complete

    def _emit(self, complete: list[tuple[Item, DepthMap]]) -> None:
        for (frame, cut), depth in complete:
            self.ready.put(Estimated(frame, depth, cut))
            self._pending -= 1

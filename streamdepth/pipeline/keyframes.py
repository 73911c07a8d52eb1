"""Runs the model on key frames only; depth of the frames between them is propagated along the optical flow."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from streamdepth.core.queues import BoundedQueue, Ended, Policy
from streamdepth.pipeline.stats import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap, Frame
    from streamdepth.depth.motion import CutDetector, NeighbourFlow
    from streamdepth.depth.propagation import DepthPropagator, KnownDepth

_LIVE_CAPACITY = 1


@dataclass(frozen=True, slots=True)
class Estimated:
    """A frame and its depth.

    Attributes:
        cut: first frame of a shot; None if not determined yet.
        small: the image of ``OpticalFlow.small``, if it was computed.
        flow: between this frame and the last one, as far as it was computed.
    """

    frame: Frame
    depth: DepthMap
    cut: bool | None = None
    small: NDArray[np.uint8] | None = None
    flow: NeighbourFlow | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """A captured frame whose depth is not known yet.

    Attributes:
        key: True for a key frame, which also goes through the model.
        shot: index of the first frame of its shot.
    """

    frame: Frame
    key: bool
    shot: int


@dataclass(frozen=True, slots=True)
class _KeyDepth:
    """A key frame with its depth from the model."""

    index: int
    shot: int
    known: KnownDepth
    depth: DepthMap


class KeyframePropagation:
    """Selects key frames and gives the other frames propagated depth.

    ``submit`` is called on the capture thread; ``run`` is the loop of a separate thread. Under ``every``, a frame waits
    for the key frames before and after it and uses both. Under ``latest``, a frame does not wait: it uses the newest
    key frame whose depth is known, which may be the frame itself. A shot starts with a key frame; depth is not
    propagated across cuts.

    Args:
        every: distance from one key frame to the next, 2 or more.
        batch: key frames per model run.
        known: depth of the key frames in order, from the model.
        dropped: called with the cause for each dropped frame.

    Attributes:
        ready: every frame with its depth, in order.
        propagated: number of frames with propagated depth so far.
    """

    def __init__(
        self,
        every: int,
        *,
        policy: Policy,
        batch: int,
        known: BoundedQueue[Estimated],
        dropped: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.timer = Timer()
        self.ready: BoundedQueue[Estimated] = BoundedQueue(known.capacity)
        self.propagated = 0
        self._every = every
        self._blocking = policy is Policy.EVERY
        # Two batches of key frames in the model, one waiting, and the frames up to the next key frame.
        capacity = every * (3 * batch + 1) if self._blocking else _LIVE_CAPACITY
        self._pending: BoundedQueue[_Pending] = BoundedQueue(capacity, policy)
        self._known = known
        self._dropped = dropped
        self._clock = clock
        self._cuts: CutDetector | None = None
        self._opened_propagator: DepthPropagator | None = None
        self._since_key = every
        self._shot = 0
        self._shots: dict[int, int] = {}  # shot of each key frame in the model, by frame index
        self._size_px = (0, 0)
        self._model_shot = -1

    def open(self, cuts: CutDetector | None) -> None:
        """Load the optical flow.

        Args:
            cuts: used by the capture thread from now on; None if cuts cannot be detected.
        """
        from streamdepth.depth.propagation import DepthPropagator

        self._opened_propagator = DepthPropagator()
        self._cuts = cuts

    def submit(self, frame: Frame, to_model: Callable[[Frame], Frame | None]) -> None:
        """Queue a frame, and send it to the model if it is a key frame.

        Args:
            to_model: queues a frame for the model and returns the frame it replaced there, if any.
        Raises:
            Aborted: the pipeline was aborted.
        """
        size_px = (frame.width_px, frame.height_px)
        cut = self._cuts is not None and self._cuts.is_cut(frame.image)
        if cut or size_px != self._size_px:
            self._shot, self._size_px, self._since_key = frame.index, size_px, self._every
        key = self._since_key >= self._every
        self._since_key = 1 if key else self._since_key + 1
        if key:
            self._shots[frame.index] = self._shot
            replaced = to_model(frame)
            if replaced is not None:
                del self._shots[replaced.index]
        if self._pending.put(_Pending(frame, key, self._shot)) is not None:
            self._dropped("policy")

    def is_new_shot(self, frame: Frame) -> bool:
        """True if a key frame is the first of its shot that goes to the model. One thread asks, in order."""
        last, self._model_shot = self._model_shot, self._shots[frame.index]
        return self._model_shot != last

    def end(self) -> None:
        """No more frames follow."""
        self._pending.end()

    def run(self) -> None:
        """The loop of the propagation thread."""
        with contextlib.suppress(Ended):
            if self._blocking:
                self._between_keys()
            else:
                self._from_newest()
        self.ready.end()
        with contextlib.suppress(Ended):
            while True:  # Depth that arrives after the last frame: the model worker must not block on it.
                self._known.take()

    def abort(self) -> None:
        self._pending.abort()
        self.ready.abort()

    def __len__(self) -> int:
        return len(self._pending)

    # Policy every -------------------------------------------------------------------------------------------------

    def _between_keys(self) -> None:
        before: KnownDepth | None = None
        held: list[_Pending] = []
        shot: int | None = None
        while True:
            try:
                pending = self._pending.take()
            except Ended:
                self._emit(held, before, None)
                raise
            if not pending.key:
                held.append(pending)
                continue
            estimated = self._known.take()
            frame, depth = estimated.frame, estimated.depth
            del self._shots[frame.index]
            following = self._known_depth(frame, depth)
            forth = self._emit(held, before, following if pending.shot == shot else None)
            held.clear()
            cut = shot not in (None, pending.shot)
            self.ready.put(Estimated(frame, depth, cut, following.small, _neighbour_flow(forth=forth)))
            before, shot = following, pending.shot

    def _emit(
        self, held: list[_Pending], before: KnownDepth | None, after: KnownDepth | None
    ) -> NDArray[np.float32] | None:
        """Emit the frames between two key frames, or after the first one if there is no second.

        Returns:
            The flow from the last of them to the second key frame, if it was computed.
        """
        if before is None or not held:
            return None  # The first frame is a key frame, so no frame is held yet.
        propagator = self._propagator
        smalls = [propagator.flow.small(pending.frame.image) for pending in held]
        depths = propagator.between(smalls, before, after)
        for number, (pending, small) in enumerate(zip(held, smalls, strict=True)):
            depth = self._propagated(lambda: next(depths))
            flow = None if number else _neighbour_flow(back=propagator.after_key)
            self.ready.put(Estimated(pending.frame, depth, False, small, flow))
        return propagator.before_key

    # Policy latest ------------------------------------------------------------------------------------------------

    def _from_newest(self) -> None:
        newest: _KeyDepth | None = None
        shot: int | None = None
        last_index = -1
        while True:
            pending = self._pending.take()
            newest = self._newest(newest, pending.shot)
            if newest is None or newest.shot != pending.shot:
                # No depth of this shot follows: the run ends, or the model has already reached a later shot.
                self._dropped("stopped" if newest is None or newest.shot < pending.shot else "policy")
                continue
            depth, small, flow = newest.depth, newest.known.small, None
            if newest.index != pending.frame.index:
                small = self._propagator.flow.small(pending.frame.image)
                back = self._propagator.forward_flow(newest.known)
                depth = self._propagated(partial(self._propagator.forward, small, newest.known))
                if back is None and newest.index == last_index:  # the first one leads to the frame before
                    flow = _neighbour_flow(back=self._propagator.forward_flow(newest.known))
            self.ready.put(Estimated(pending.frame, depth, shot not in (None, pending.shot), small, flow))
            shot, last_index = pending.shot, pending.frame.index

    def _newest(self, newest: _KeyDepth | None, shot: int) -> _KeyDepth | None:
        """The newest key frame with depth; waits only if there is none of ``shot`` or a later one."""
        while True:
            outdated = newest is None or newest.shot < shot
            try:
                found = self._known.get(None if outdated else 0.0)
            except Ended:
                return newest
            if found is None:
                return newest
            frame, depth = found.frame, found.depth
            newest = _KeyDepth(frame.index, self._shots.pop(frame.index), self._known_depth(frame, depth), depth)

    # Both ---------------------------------------------------------------------------------------------------------

    @property
    def _propagator(self) -> DepthPropagator:
        assert self._opened_propagator is not None  # noqa: S101 - created in open()
        return self._opened_propagator

    def _known_depth(self, frame: Frame, depth: DepthMap) -> KnownDepth:
        from streamdepth.depth.propagation import KnownDepth

        return KnownDepth.of(self._propagator.flow.small(frame.image), depth)

    def _propagated(self, propagate: Callable[[], DepthMap]) -> DepthMap:
        started_ns = self._clock.monotonic_ns()
        depth = propagate()
        self.timer.add(self._clock.monotonic_ns() - started_ns)
        self.propagated += 1
        return depth


def _neighbour_flow(back: NDArray[np.float32] | None = None, forth: NDArray[np.float32] | None = None) -> NeighbourFlow:
    from streamdepth.depth.motion import NeighbourFlow

    return NeighbourFlow(back, forth)

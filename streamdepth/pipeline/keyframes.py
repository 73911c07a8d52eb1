"""Every Nth frame of a source through the model, and depth for those between them, propagated along their motion."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from streamdepth.core.queues import BoundedQueue, Ended, Policy
from streamdepth.pipeline.stats import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap, Frame
    from streamdepth.depth.cuts import CutDetector
    from streamdepth.depth.propagation import DepthPropagator, KnownDepth

_LIVE_FRAMES = 1


@dataclass(frozen=True, slots=True)
class Estimated:
    """A frame whose depth is known.

    Attributes:
        cut: it is the first of its shot that came this far; None where nobody has looked yet.
    """

    frame: Frame
    depth: DepthMap
    cut: bool | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A frame on its way past the model.

    Attributes:
        key: it went through the model as well.
        shot: index of the first frame of its shot.
    """

    frame: Frame
    key: bool
    shot: int


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the model said of a key frame."""

    index: int
    shot: int
    known: KnownDepth
    depth: DepthMap


class KeyframePropagation:
    """What goes past the model. ``admit`` on the capture thread, ``run`` on one of its own.

    Under ``every`` a frame waits for the key frames before and after it, and gets depth of both. Under ``latest`` a
    frame waits for nothing: its depth comes from the newest key frame that the model has answered for, its own
    included. A new shot begins with a key frame, and nothing is propagated across its beginning.

    Args:
        every: so many frames from one key frame to the next, 2 or more.
        batch: key frames of one model run.
        known: depth of the key frames, in their order, as the model gives it.
        dropped: told of each frame that is given up for a newer one.

    Attributes:
        ready: every frame with its depth, in order.
        propagated: frames whose depth was propagated so far.
    """

    def __init__(
        self,
        every: int,
        *,
        policy: Policy,
        batch: int,
        known: BoundedQueue[tuple[Frame, DepthMap]],
        dropped: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.timer = Timer()
        self.ready: BoundedQueue[Estimated] = BoundedQueue(known.capacity)
        self.propagated = 0
        self._every = every
        self._patient = policy is Policy.EVERY
        # two batches of key frames at work, one that waits, and the frames up to the next one
        capacity = every * (3 * batch + 1) if self._patient else _LIVE_FRAMES
        self._waiting: BoundedQueue[_Waiting] = BoundedQueue(capacity, policy)
        self._known = known
        self._dropped = dropped
        self._clock = clock
        self._cuts: CutDetector | None = None
        self._carrier: DepthPropagator | None = None
        self._since_key = every
        self._shot = 0
        self._shots: dict[int, int] = {}  # of the key frames at the model
        self._size_px = (0, 0)

    def open(self, cuts: CutDetector | None) -> None:
        """Load what it works with.

        Args:
            cuts: belongs to the capture thread from here on; None where shots cannot be told apart.
        """
        from streamdepth.depth.propagation import DepthPropagator

        self._carrier = DepthPropagator()
        self._cuts = cuts

    def admit(self, frame: Frame, to_model: Callable[[Frame], Frame | None]) -> None:
        """Send a frame on its way, through the model where it is a key frame.

        Args:
            to_model: takes a frame to the model and returns the one that it replaced, which the model will not see.
        Raises:
            Aborted: the pipeline stops at once.
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
        if self._waiting.put(_Waiting(frame, key, self._shot)) is not None:
            self._dropped("policy")

    def end(self) -> None:
        """No more frames will come."""
        self._waiting.end()

    def run(self) -> None:
        """The loop of its thread."""
        with contextlib.suppress(Ended):
            if self._patient:
                self._between_keys()
            else:
                self._from_newest()
        self.ready.end()
        with contextlib.suppress(Ended):
            while True:  # answers that come too late for any frame: the model must get rid of them
                self._known.take()

    def abort(self) -> None:
        self._waiting.abort()
        self.ready.abort()

    def __len__(self) -> int:
        return len(self._waiting)

    # Policy every -------------------------------------------------------------------------------------------------

    def _between_keys(self) -> None:
        before: KnownDepth | None = None
        held: list[_Waiting] = []
        shot: int | None = None
        while True:
            try:
                waiting = self._waiting.take()
            except Ended:
                self._hand_on(held, before, None)
                raise
            if not waiting.key:
                held.append(waiting)
                continue
            frame, depth = self._known.take()
            del self._shots[frame.index]
            following = self._known_depth(frame, depth)
            self._hand_on(held, before, following if waiting.shot == shot else None)
            held.clear()
            self.ready.put(Estimated(frame, depth, cut=shot not in (None, waiting.shot)))
            before, shot = following, waiting.shot

    def _hand_on(self, held: list[_Waiting], before: KnownDepth | None, after: KnownDepth | None) -> None:
        """The frames between two key frames; without the second one, those after the first."""
        if before is None:
            return  # the first frame is a key frame: nothing is held yet
        carrier = self._propagator
        depths = carrier.between([carrier.small(waiting.frame.image) for waiting in held], before, after)
        for waiting in held:
            self.ready.put(Estimated(waiting.frame, self._propagated(lambda: next(depths)), cut=False))

    # Policy latest ------------------------------------------------------------------------------------------------

    def _from_newest(self) -> None:
        newest: _Answer | None = None
        shot: int | None = None
        while True:
            waiting = self._waiting.take()
            newest = self._newest(newest, waiting.shot)
            if newest is None or newest.shot != waiting.shot:
                # no answer will come any more, or only for a shot that has begun since
                self._dropped("stopped" if newest is None or newest.shot < waiting.shot else "policy")
                continue
            own = newest.index == waiting.frame.index
            depth = newest.depth if own else self._propagated(partial(self._onward, waiting.frame, newest.known))
            self.ready.put(Estimated(waiting.frame, depth, cut=shot not in (None, waiting.shot)))
            shot = waiting.shot

    def _newest(self, newest: _Answer | None, shot: int) -> _Answer | None:
        """The model's newest answer; waits only for one of ``shot`` or later."""
        while True:
            outdated = newest is None or newest.shot < shot
            try:
                answer = self._known.get(None if outdated else 0.0)
            except Ended:
                return newest
            if answer is None:
                return newest
            frame, depth = answer
            newest = _Answer(frame.index, self._shots.pop(frame.index), self._known_depth(frame, depth), depth)

    # Both ---------------------------------------------------------------------------------------------------------

    @property
    def _propagator(self) -> DepthPropagator:
        assert self._carrier is not None  # noqa: S101 - made in open()
        return self._carrier

    def _known_depth(self, frame: Frame, depth: DepthMap) -> KnownDepth:
        from streamdepth.depth.propagation import KnownDepth

        return KnownDepth.of(self._propagator.small(frame.image), depth)

    def _onward(self, frame: Frame, before: KnownDepth) -> DepthMap:
        return self._propagator.onward(self._propagator.small(frame.image), before)

    def _propagated(self, propagate: Callable[[], DepthMap]) -> DepthMap:
        started_ns = self._clock.monotonic_ns()
        depth = propagate()
        self.timer.add(self._clock.monotonic_ns() - started_ns)
        self.propagated += 1
        return depth

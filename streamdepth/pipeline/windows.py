"""Models that take windows of frames: overlapping windows, joined to one sequence of depth."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import UsageError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.core.queues import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.models.spec import ModelSpec
    from streamdepth.pipeline.batching import Arrival, MultiSourceQueue

_OVERLAP = 10 / 32
"""Share of a window that the next one repeats, as in Video Depth Anything."""
_FITTED = 4096
_MIN_GAIN, _MAX_GAIN = 0.2, 5.0
"""Scales of neighbouring windows beyond this are taken for a failed fit."""


@dataclass(slots=True)
class Window:
    """Neighbouring frames of one shot of one source.

    Attributes:
        arrivals: in order, at most as many as the model takes.
        repeated: how many of the first were in the last window too.
        last: the shot ends here.
    """

    arrivals: list[Arrival] = field(default_factory=list)
    repeated: int = 0
    last: bool = False

    @property
    def source(self) -> int:
        return self.arrivals[0].source


class WindowBatcher:
    """Groups the frames of each source into windows. Used by one thread.

    A window ends one frame later than it is full, when it is known whether the shot goes on. A shot whose length is no
    multiple of the step ends with a shorter window.

    Args:
        frames: of one window.
        network_size: of an image of (width, height).
        is_restart: whether a frame of a source has no history.
    """

    def __init__(
        self,
        frame_queue: MultiSourceQueue,
        frames: int,
        network_size: Callable[[int, int], tuple[int, int]],
        is_restart: Callable[[Arrival], bool],
    ) -> None:
        self._frame_queue, self._frames = frame_queue, frames
        self._overlap = overlap_of(frames)
        self._network_size, self._is_restart = network_size, is_restart
        self._open: dict[int, Window] = {}
        self._ready: deque[Window] = deque()

    def next(self) -> tuple[tuple[int, int], Window]:
        """Network size (width, height) and the next window.

        Raises:
            Ended: all sources have ended. Aborted: the queue was aborted.
        """
        while not self._ready:
            try:
                arrival = self._frame_queue.take()
            except Ended:
                if not self._open:
                    raise
                self._ready.extend(replace(window, last=True) for window in self._open.values())
                self._open.clear()
                break
            assert arrival is not None  # noqa: S101 - take() waits
            self._add(replace(arrival, cut=self._is_restart(arrival)))
        window = self._ready.popleft()
        return self._size(window.arrivals[0]), window

    def _add(self, arrival: Arrival) -> None:
        window = self._open.get(arrival.source)
        if window is None:
            self._open[arrival.source] = Window([arrival])
            return
        if arrival.cut or self._size(arrival) != self._size(window.arrivals[0]):
            self._ready.append(replace(window, last=True))
            self._open[arrival.source] = Window([replace(arrival, cut=True)])
            return
        if len(window.arrivals) == self._frames:
            self._ready.append(window)
            window = Window(window.arrivals[-self._overlap :], self._overlap)
            self._open[arrival.source] = window
        window.arrivals.append(arrival)

    def _size(self, arrival: Arrival) -> tuple[int, int]:
        return self._network_size(arrival.frame.width_px, arrival.frame.height_px)


class WindowJoiner:
    """Joins the depth of overlapping windows: each is aligned to the one before by scale and shift, fitted to their
    common frames by least squares, and these are crossfaded. Metres are crossfaded only. Used by one thread.
    """

    def __init__(self) -> None:
        self._tails: dict[int, list[DepthMap]] = {}

    def join(self, window: Window, depths: list[DepthMap]) -> list[tuple[Arrival, DepthMap]]:
        """The frames whose depth is final, in order: all but those that the next window repeats.

        Args:
            depths: of the frames of ``window``.
        """
        tail = self._tails.pop(window.source, [])
        if window.repeated:
            depths = _aligned(depths, tail)
            depths[: len(tail)] = [
                _mixed(old, new, number / (len(tail) + 1))
                for number, (old, new) in enumerate(zip(tail, depths, strict=False), start=1)
            ]
        keep = 0 if window.last else overlap_of(len(depths))
        final = len(depths) - keep
        if keep:
            self._tails[window.source] = depths[final:]
        return list(zip(window.arrivals[:final], depths[:final], strict=True))


def overlap_of(frames: int) -> int:
    """Number of frames that a window repeats of the one before."""
    return max(1, round(frames * _OVERLAP))


def _aligned(depths: list[DepthMap], tail: list[DepthMap]) -> list[DepthMap]:
    """``depths`` with the scale and shift that fit the first of them to ``tail``; unchanged where the fit fails."""
    if depths[0].sense is Sense.METRIC_M:
        return list(depths)
    x, y = (np.concatenate([_sampled(one) for one in maps]) for maps in (depths[: len(tail)], tail))
    use = np.isfinite(x) & np.isfinite(y)
    if use.sum() < 2 or np.ptp(x[use]) <= 0:
        return list(depths)
    gain, offset = np.polynomial.polynomial.polyfit(x[use], y[use], 1)[::-1]
    if not _MIN_GAIN <= gain <= _MAX_GAIN:
        return list(depths)
    return [replace(one, values=one.values * np.float32(gain) + np.float32(offset)) for one in depths]


def _sampled(depth: DepthMap) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Values on a grid, NaN where invalid."""
    step = max(1, round((depth.values.size / _FITTED) ** 0.5))
    values = depth.values[::step, ::step].astype(np.float64)
    if depth.valid is not None:
        values[~depth.valid[::step, ::step]] = np.nan
    return values.ravel()


def _mixed(old: DepthMap, new: DepthMap, share: float) -> DepthMap:
    """``new`` with ``share`` of its own values, the rest from ``old`` where both are valid."""
    with np.errstate(invalid="ignore"):
        values = old.values + np.float32(share) * (new.values - old.values)
    use = np.isfinite(values)
    if old.valid is not None:
        use &= old.valid
    return replace(new, values=values if use.all() else np.where(use, values, new.values))


def check_windows(spec: ModelSpec, *, blocking: bool, model_every: int) -> None:
    """Refuse a model of windows where frames cannot wait for a whole window.

    Raises:
        UsageError: says what to change.
    """
    if not spec.window:
        return
    if not blocking:
        raise UsageError(f"{spec.video_only}, and a live run cannot wait for them; use a file and --policy every")
    if model_every > 1:
        raise UsageError(f"{spec.video_only}, which are neighbours in time; remove --model-every")

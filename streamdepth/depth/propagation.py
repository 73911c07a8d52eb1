"""Depth of a frame from the depth of key frames, propagated along the optical flow.

Depth is warped along the flow from the frame to each key frame. With two key frames, their depth is blended with
weights from the distance in time and the photometric residual, so that pixels occluded in one key frame come from the
other. Two flows, two warps and the blend cost about 1.5 ms of one core at 352x192.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamdepth.core.frame import DepthMap
from streamdepth.depth.motion import OpticalFlow, pixel_grid, resized, sample, scaled_flow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from streamdepth.core.frame import Sense

_RESIDUAL_SCALE = 8.0
"""Photometric residual in grey levels that reduces the weight of a key frame by the factor e."""
_RESIDUAL_WINDOW_PX = 5
_MIN_KNOWN = 0.5
"""A warped value is valid if at least this share of its interpolation weight comes from valid pixels."""


@dataclass(frozen=True, slots=True)
class KnownDepth:
    """A key frame: its image for optical flow, and its depth from the model.

    Attributes:
        small: uint8 [h, w], the image from :meth:`OpticalFlow.small`.
        values: float32 [H, W], depth, 0 where invalid.
        known: float32 [H, W], 1 where depth is valid, else 0; None = valid everywhere.
        sense: meaning of the values.
        masked: the model has a valid mask.
    """

    small: NDArray[np.uint8]
    values: NDArray[np.float32]
    known: NDArray[np.float32] | None
    sense: Sense
    masked: bool

    @classmethod
    def of(cls, small: NDArray[np.uint8], depth: DepthMap) -> KnownDepth:
        """References ``depth.values`` without a copy if all values are valid."""
        usable = np.isfinite(depth.values)
        if depth.valid is not None:
            usable &= depth.valid
        masked = depth.valid is not None
        if usable.all():
            return cls(small, depth.values, None, depth.sense, masked)
        return cls(small, np.where(usable, depth.values, np.float32(0)), usable.astype(np.float32), depth.sense, masked)

    def same_size(self, other: KnownDepth) -> bool:
        """True if both have the same sizes, which may change during a stream."""
        return self.small.shape == other.small.shape and self.values.shape == other.values.shape


class DepthPropagator:
    """Propagates depth from key frames. Used by one thread."""

    def __init__(self) -> None:
        self.flow = OpticalFlow()
        self.after_key: NDArray[np.float32] | None = None
        """Flow of the last call from the frame that follows a key frame to it; None if there is no such frame."""
        self.before_key: NDArray[np.float32] | None = None
        """Flow of the last call from the frame before the next key frame to it."""
        self._last: _FlowChain | None = None

    def between(
        self, smalls: Sequence[NDArray[np.uint8]], before: KnownDepth, after: KnownDepth | None
    ) -> Iterator[DepthMap]:
        """Depth of the frames between two key frames of one shot.

        Args:
            smalls: images of :meth:`OpticalFlow.small`, evenly spaced in time from ``before`` to ``after``.
            before: the key frame before them.
            after: the key frame after them; None at the end of a shot.

        Yields:
            New depth maps with ``propagated`` set. Where neither key frame has valid depth, the result is invalid: by
            the mask if the model has one, else NaN.
        """
        self.after_key = self.before_key = None
        if after is None or not before.same_size(after):
            for number, small in enumerate(smalls):
                depth = self.forward(small, before)
                if not number:
                    self.after_key = self.forward_flow(before)
                yield depth
            return
        flow_before, flow_after = self._chain(before), self._chain(after)
        flows = [flow_after.flow(small) for small in reversed(smalls)]
        self.before_key = flows[0] if flows else None
        for number, small in enumerate(smalls, start=1):
            near_flow = flow_before.flow(small)
            if number == 1:
                self.after_key = near_flow
            near = _warped(small, before, near_flow)
            far = _warped(small, after, flows.pop())
            yield _blended(near, far, before, share=number / (len(smalls) + 1))

    def forward_flow(self, before: KnownDepth) -> NDArray[np.float32] | None:
        """Flow of the last call of ``forward`` to this key frame; None before the first."""
        return self._last.last if self._last is not None and self._last.target is before else None

    def forward(self, small: NDArray[np.uint8], before: KnownDepth) -> DepthMap:
        """Depth of a frame from an earlier key frame; the flow of the last call is the initial estimate.

        Raises:
            ValueError: the image sizes differ.
        """
        if self._last is None or self._last.target is not before:
            self._last = self._chain(before)
        warped = _warped(small, before, self._last.flow(small))
        if warped.known is None:
            return DepthMap(warped.values, before.sense, None, propagated=True)
        return _with_holes(warped.values, warped.known > 0, before)

    def _chain(self, target: KnownDepth) -> _FlowChain:
        return _FlowChain(self.flow, target)


class _FlowChain:
    """Flow to one key frame from frames at increasing distance, each with the last flow as initial estimate.

    On the roller coaster video with ``model_every=16``, this reduces the error of forward propagation from 9.0 % to
    6.1 % of the range.
    """

    def __init__(self, optical_flow: OpticalFlow, target: KnownDepth) -> None:
        self.target = target
        self._optical_flow = optical_flow
        self.last: NDArray[np.float32] | None = None
        """The flow of the last call."""

    def flow(self, small: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The flow from ``small`` to the key frame, as :meth:`OpticalFlow.calc`."""
        self.last = self._optical_flow.calc(small, self.target.small, self.last)
        return self.last


class _Warped(NamedTuple):
    """Depth of a key frame warped to another frame.

    Attributes:
        values: float32 [H, W], warped depth.
        known: float32 [H, W], 0 where invalid; None = valid everywhere.
        residual: float32 [h, w], photometric residual in grey levels, outside the image increased.
    """

    values: NDArray[np.float32]
    known: NDArray[np.float32] | None
    residual: NDArray[np.float32]


def _warped(small: NDArray[np.uint8], key: KnownDepth, flow: NDArray[np.float32]) -> _Warped:
    import cv2

    height, width = small.shape
    coordinates = flow + pixel_grid(small.shape)
    levels = cv2.blur(cv2.absdiff(sample(key.small, coordinates), small), (_RESIDUAL_WINDOW_PX, _RESIDUAL_WINDOW_PX))
    residual: NDArray[np.float32] = levels.astype(np.float32)
    inside = cv2.inRange(coordinates, (-0.5, -0.5), (width - 0.5, height - 0.5))
    residual[inside == 0] += 4 * _RESIDUAL_SCALE

    coordinates = scaled_flow(flow, key.values.shape)
    values = sample(key.values, coordinates)
    if key.known is None:
        return _Warped(values, None, residual)
    known = sample(key.known, coordinates)
    filled = np.divide(values, known, out=np.zeros_like(values), where=known > 0)
    return _Warped(filled, np.where(known > _MIN_KNOWN, known, np.float32(0)), residual)


def _blended(near: _Warped, far: _Warped, before: KnownDepth, *, share: float) -> DepthMap:
    """Blend two warped key frames; ``share`` is the position in time from the first to the second, 0..1."""
    weight = resized(_near_weight(near.residual, far.residual, share), before.values.shape)
    if near.known is None and far.known is None:
        values = far.values + weight * (near.values - far.values)
        return DepthMap(values, before.sense, None, propagated=True)
    weights = (
        (weight if near.known is None else weight * near.known),
        ((1 - weight) if far.known is None else (1 - weight) * far.known),
    )
    known = weights[0] + weights[1]
    total = weights[0] * near.values + weights[1] * far.values
    return _with_holes(np.divide(total, known, out=np.zeros_like(total), where=known > 0), known > 0, before)


def _with_holes(values: NDArray[np.float32], known: NDArray[np.bool_], like: KnownDepth) -> DepthMap:
    """A depth map with invalid pixels: a mask if the model has masks, else NaN."""
    if like.masked:
        return DepthMap(values, like.sense, known, propagated=True)
    return DepthMap(np.where(known, values, np.float32("nan")), like.sense, None, propagated=True)


def _near_weight(
    residual: NDArray[np.float32], later_residual: NDArray[np.float32], share: float
) -> NDArray[np.float32]:
    """Weight of the earlier key frame, 0..1: logistic function of time and photometric residual."""
    # The mean residual is added: after a missed cut, single pixels match the wrong key frame by chance.
    balance = (later_residual - residual) + (float(later_residual.mean()) - float(residual.mean()))
    odds = np.exp(np.clip(balance / _RESIDUAL_SCALE, -30, 30)) * ((1 - share) / share)
    return np.asarray(odds / (1 + odds), dtype=np.float32)

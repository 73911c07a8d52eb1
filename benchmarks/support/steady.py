"""Measures of flicker, edges and accuracy of depth over time.

The optical flow is DIS with its medium preset at 480 px, not the flow that the filter uses. The range of depth is its
2nd to 98th percentile in a frame.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from support.walk import Walk

    Depth = NDArray[np.float32]

FLOW_WIDTH_PX = 480
AGREED_PX = 1.0
STILL_FRAMES, STILL_LEVELS = 15, 2.0
_GAINS = np.linspace(0.8, 1.25, 19)
_EDGE = 0.2
"""Sobel magnitude, as a share of the range, from which a pixel is an edge."""


class Pair(NamedTuple):
    """Coordinates float32 [h, w, 2] in the other frame, and where both flows agree, bool [h, w]."""

    back: Depth
    back_seen: NDArray[np.bool_]
    forth: Depth
    forth_seen: NDArray[np.bool_]


class Steadiness(NamedTuple):
    """Shares of the range, means over frames.

    Attributes:
        sf: frame-to-frame difference along the flow after the best gain (0.8 to 1.25) and offset.
        f2: second difference along the flow.
        still: standard deviation over 15 frames where the image changes by less than 2 levels; NaN if there is no such
            place.
    """

    sf: float
    f2: float
    still: float


def pairs(grays: Sequence[NDArray[np.uint8]]) -> list[Pair]:
    """The flow between neighbouring frames, uint8 [h, w]."""
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    height, width = grays[0].shape
    grid = np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), 2)

    def seen(there: Depth, back: Depth) -> NDArray[np.bool_]:
        place = grid + there
        returned = there + cv2.remap(back, place, None, cv2.INTER_LINEAR)
        inside = ((place >= 0) & (place <= np.array([width, height]) - 1)).all(2)
        return inside & (np.linalg.norm(returned, axis=2) < AGREED_PX)

    result = []
    for before, after in pairwise(grays):
        back, forth = dis.calc(after, before, None), dis.calc(before, after, None)
        result.append(Pair(grid + back, seen(back, forth), grid + forth, seen(forth, back)))
    return result


def span(depth: Depth) -> float:
    lo, hi = np.percentile(depth, (2, 98))
    return float(hi - lo) + 1e-9


def enlarged(depth: Depth, shape: tuple[int, ...]) -> Depth:
    return np.asarray(cv2.resize(depth, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))


def steadiness(
    depths: Sequence[Depth], grays: Sequence[NDArray[np.uint8]], flow: Sequence[Pair], cuts: set[int]
) -> Steadiness:
    """Measures of a video; ``cuts`` are the first frames of shots."""
    large = [enlarged(depth, grays[0].shape) for depth in depths]
    ranges = [span(depth) for depth in large]
    first, second = [], []
    for t in range(1, len(large)):
        pair = flow[t - 1]
        if t in cuts or pair.back_seen.mean() < 0.2:
            continue
        before = cv2.remap(large[t - 1], pair.back, None, cv2.INTER_LINEAR)
        new, old = large[t][pair.back_seen][::3].astype(np.float64), before[pair.back_seen][::3].astype(np.float64)
        residuals = (gain * new - old for gain in _GAINS)
        first.append(min(float(np.abs(r - np.median(r[::5])).mean()) for r in residuals) / ranges[t])
        if t + 1 < len(large) and t + 1 not in cuts:
            after = cv2.remap(large[t + 1], flow[t].forth, None, cv2.INTER_LINEAR)
            both = pair.back_seen & flow[t].forth_seen
            second.append(float(np.abs(after - 2 * large[t] + before)[both].mean()) / ranges[t])
    blurred = np.stack([cv2.blur(gray.astype(np.float32), (3, 3)) for gray in grays])
    still = []
    for t in range(0, len(large) - STILL_FRAMES + 1, STILL_FRAMES // 2):
        if any(t < cut < t + STILL_FRAMES for cut in cuts):
            continue
        quiet = np.abs(np.diff(blurred[t : t + STILL_FRAMES], axis=0)).max(0) < STILL_LEVELS
        if quiet.mean() > 0.02:
            still.append(float(np.stack(large[t : t + STILL_FRAMES]).std(0)[quiet].mean()) / ranges[t])
    return Steadiness(float(np.mean(first)), float(np.mean(second)), float(np.mean(still)) if still else float("nan"))


def edge_f1(depths: Sequence[Depth], reference: Sequence[Depth]) -> float:
    """Agreement of the edges with those of ``reference`` within one pixel, mean over frames."""

    def edges(depth: Depth) -> NDArray[np.uint8]:
        scaled = np.asarray(depth / span(depth), np.float32)
        magnitude = np.hypot(cv2.Sobel(scaled, cv2.CV_32F, 1, 0), cv2.Sobel(scaled, cv2.CV_32F, 0, 1))
        return np.asarray(magnitude > _EDGE, np.uint8)

    scores, near = [], np.ones((3, 3), np.uint8)
    for ours, theirs in ((edges(a), edges(b)) for a, b in zip(depths, reference, strict=True)):
        if theirs.sum() < 20:
            continue
        precision = (ours & cv2.dilate(theirs, near)).sum() / max(ours.sum(), 1)
        recall = (theirs & cv2.dilate(ours, near)).sum() / theirs.sum()
        scores.append(2 * precision * recall / max(precision + recall, 1e-9))
    return float(np.mean(scores)) if scores else float("nan")


def accuracy(depths: Sequence[Depth], truth: Walk) -> tuple[float, float]:
    """AbsRel and delta1 after a fit of scale and shift of inverse depth for each frame."""
    errors, shares = [], []
    for depth, inverse in zip(depths, truth.inverse, strict=True):
        valid = inverse > 1 / truth.cap_m
        p, g = enlarged(depth, inverse.shape)[valid].astype(np.float64), inverse[valid].astype(np.float64)
        a, b = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1), g, rcond=None)[0]
        estimate, real = 1 / np.maximum(a * p + b, 1 / truth.cap_m), 1 / g
        errors.append(float((np.abs(estimate - real) / real).mean()))
        shares.append(float((np.maximum(estimate / real, real / estimate) < 1.25).mean()))
    return float(np.mean(errors)), float(np.mean(shares))


def temporal_error(depths: Sequence[Depth], truth: Walk) -> float:
    """TAE: relative difference between the depth of a frame, moved by the true camera motion, and that of the next one.

    One scale and shift of inverse depth for the whole video.
    """
    shape = truth.inverse.shape[1:]
    large = [enlarged(depth, shape) for depth in depths]
    p, g = (np.stack(values)[:, ::4, ::4].ravel().astype(np.float64) for values in (large, truth.inverse))
    valid = g > 1 / truth.cap_m
    a, b = np.linalg.lstsq(np.stack([p[valid], np.ones(valid.sum())], 1), g[valid], rcond=None)[0]
    metres = [np.asarray(1 / np.maximum(a * depth + b, 1 / truth.cap_m), np.float32) for depth in large]
    height, width = shape
    x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    rays = np.stack([x / truth.focal_px, y / truth.focal_px, np.ones_like(x)], 2)

    def moved(t: int, z: NDArray[np.floating]) -> NDArray[np.float64]:
        eye, *axes = truth.cameras[t]
        following, *turned = truth.cameras[t + 1]
        return np.asarray((eye + z[..., None] * (rays @ np.stack(axes)) - following) @ np.stack(turned).T)

    errors = []
    for t in range(len(depths) - 1):
        real = 1 / np.maximum(truth.inverse[t], 1e-6)
        point = moved(t, real)
        place = point[..., :2] / point[..., 2:] * truth.focal_px + np.array([width, height]) / 2 - 0.5
        place = place.astype(np.float32)
        there = cv2.remap(1 / np.maximum(truth.inverse[t + 1], 1e-6), place, None, cv2.INTER_NEAREST)
        seen = (truth.inverse[t] > 1 / truth.cap_m) & (np.abs(there - point[..., 2]) < 0.05 * point[..., 2])
        seen &= ((place > 0) & (place < np.array([width, height]) - 1)).all(2)
        ours = cv2.remap(metres[t + 1], place, None, cv2.INTER_LINEAR)
        errors.append(float((np.abs(moved(t, metres[t])[..., 2] - ours) / np.maximum(ours, 1e-3))[seen].mean()))
    return float(np.mean(errors))

"""Relative depth made metric by the known motion of the camera.

Points are tracked from a frame back to an earlier one (pyramidal Lucas-Kanade). The essential matrix gives rotation and
direction of travel, the odometry the distance, so triangulation gives metres. Scale and shift of the model's depth are
fitted to these points and filtered over time by a Kalman filter with their covariance, until the next cut. The method
follows Han et al., PTC-Depth (arXiv 2604.01791).
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from streamdepth.core.errors import DataFormatError, UsageError
from streamdepth.core.frame import DepthMap, Sense, converted
from streamdepth.depth.alignment import FARTHEST_ANCHOR_M, Alignment, Anchor, align

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import av
    from numpy.typing import NDArray

    CameraFor = Callable[[int, int], "Camera"]
    """(width, height) of an image in pixels -> its camera."""

_SIDE_PX = 640
_POINTS, _FEWEST_POINTS = 400, 24
_FEWEST_KEPT = 0.25
"""Of the points; the others have left the image, or are hidden."""
_TRACK_ERROR_PX = 0.5
"""Standard deviation of a tracked position, and largest distance from the epipolar line."""
_FIRST_PARALLAX, _PARALLAX = 0.02, 0.03
"""Median displacement with the rotation removed, in normalized coordinates, from which a pair of frames is used: that
of the image for the first pair of a shot, and the expected one for the others."""
_VIEWS = 32
"""Frames that are kept to find one with enough parallax; of more, every second is forgotten."""
_LARGEST_DEPTH_ERROR = 0.15
"""Relative error of a triangulated depth up to which it is used."""
_POSE_ERROR, _PARALLAX_ERROR = 0.23, 0.006
"""Errors of a pair's scale, from the direction of travel that is found in the image: the relative one that stays (lens,
rolling shutter), and the one of the parallax, which other pairs average out. Chosen on a hand-held recording with
measured depth and poses (7-Scenes RedKitchen, 1000 frames), so that 68 % of the errors lie within."""
_DRIFT_PER_SECOND = 0.05
"""Relative standard deviation by which scale and shift of a model change in a second; measured on the same recording
with the built-in model."""


class Camera(Protocol):
    """What is needed of intrinsics."""

    @property
    def focal_px(self) -> float: ...

    def normalized(self, points_px: NDArray[np.float64], /) -> NDArray[np.float64]: ...


@dataclass(frozen=True, eq=False)
class KnownMotion:
    """Positions of the camera over time, and its intrinsics.

    Attributes:
        seconds: media time of each position, float64 [n], rising, at least two.
        positions_m: float64 [n, 3], metres in any fixed frame: only distances are used.
        camera: of an image of (width, height).
    """

    seconds: NDArray[np.float64]
    positions_m: NDArray[np.float64]
    camera: CameraFor

    @classmethod
    def read(cls, path: Path, camera: CameraFor) -> KnownMotion:
        """From CSV with the columns time, x, y, z (odometry), or time, speed (metres per second, e.g. of GPS).

        Raises:
            UsageError: no such file.
            DataFormatError: fewer than two rows, other columns, values that are no numbers, or times that do not rise.
        """
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row and not row[0].lstrip().startswith("#")]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"odometry {path}: {getattr(error, 'strerror', None) or 'not a text file'}") from error
        if rows and not _is_number(rows[0][0]):
            rows = rows[1:]
        try:
            table = np.array([[float(cell) for cell in row] for row in rows])
        except ValueError:
            table = np.empty(0)
        if table.ndim != 2 or table.shape[1] not in (2, 4) or len(table) < 2 or not np.isfinite(table).all():
            raise DataFormatError(f"odometry {path}: not two or more rows of time,x,y,z or time,speed in numbers")
        seconds = table[:, 0]
        if (np.diff(seconds) <= 0).any():
            raise DataFormatError(f"odometry {path}: the times do not rise; sort the rows, and remove repeated times")
        if table.shape[1] == 4:
            return cls(seconds, table[:, 1:], camera)
        steps = np.diff(seconds) * (table[1:, 1] + table[:-1, 1]) / 2
        along = np.concatenate([[0.0], np.cumsum(steps)])
        return cls(seconds, np.stack([along, 0 * along, 0 * along], axis=1), camera)

    def check(self, start: float, duration: float | None) -> None:
        """
        Args:
            start: media time of the beginning of a clip.
            duration: of the clip, None if unknown.

        Raises:
            DataFormatError: there is no odometry during the clip.
        """
        first, last = self.seconds[[0, -1]]
        if last <= start or (duration is not None and first >= start + duration):
            end = " s and later" if duration is None else f" to {start + duration:g} s"
            raise DataFormatError(
                f"odometry: its times are {first:g} to {last:g} s, those of the clip {start:g}{end}; "
                "give times in media time"
            )

    def distance_m(self, earlier: float, later: float) -> float:
        """Straight distance between the positions at two times in seconds; NaN outside the odometry."""
        if earlier < self.seconds[0] or later > self.seconds[-1]:
            return math.nan
        x, y, z = (np.interp((earlier, later), self.seconds, axis) for axis in self.positions_m.T)
        return math.hypot(x[1] - x[0], y[1] - y[0], z[1] - z[0])


_NO_POINTS = np.empty((0, 2))


class _View(NamedTuple):
    seconds: float
    gray: NDArray[np.uint8]


class MotionScale:
    """Applies known motion to the depth of one source, frame by frame. One thread.

    A frame before the first triangulation has no depth (every value invalid), and its ``anchor_error`` is NaN.
    """

    def __init__(self, motion: KnownMotion) -> None:
        self._motion = motion
        self._views: list[_View] = []
        self._alignment: Alignment | None = None
        self._seconds = 0.0
        self._without = 0

    @property
    def note(self) -> str:
        """How many frames have no metres."""
        return f"{self._without} frames have no metres: no motion was measured before them" if self._without else ""

    def update(self, depth: DepthMap, seconds: float, *, cut: bool, image: av.VideoFrame) -> DepthMap:
        """
        Args:
            seconds: media time of the frame.
            cut: the frame starts a shot: scale and shift are estimated anew.

        Raises:
            DataFormatError: the depth is metric already.
        """
        if depth.sense is Sense.METRIC_M:
            raise DataFormatError("the depth is in metres already; odometry is for models of relative depth")
        if cut:
            self._views.clear()
            self._alignment = None
        view = _View(seconds, _gray(image))
        new = self._measured(depth, view, (image.width, image.height))
        if new is not None:
            self._alignment, self._seconds = new, seconds
            self._views.clear()  # Pairs that overlap in time have the same errors.
        if len(self._views) == _VIEWS:
            del self._views[1::2]
        self._views.append(view)
        if self._alignment is None:
            invalid = np.zeros(depth.values.shape, bool)
            self._without += 1
            nothing = np.full(depth.values.shape, np.nan, np.float32)
            return replace(depth, values=nothing, valid=invalid, sense=Sense.METRIC_M, anchor_error=math.nan)
        fit = np.array([self._alignment.scale, self._alignment.shift])
        # Also while the camera stands, and after the end of the odometry.
        drift = _DRIFT_PER_SECOND**2 * (seconds - self._seconds)
        stated = self._alignment.covariance + (_POSE_ERROR**2 + drift) * np.outer(fit, fit)
        return replace(self._alignment, covariance=stated).apply(depth)

    def _measured(self, depth: DepthMap, view: _View, size_px: tuple[int, int]) -> Alignment | None:
        """The alignment from this frame and the oldest one that still shows the same points; None without parallax."""
        known = self._alignment
        nearness = math.inf if known is None else float(np.nanmedian(1 / known.apply(depth).values))
        camera = self._motion.camera(*size_px)
        ratio = size_px[0] / view.gray.shape[1]
        for earlier in tuple(self._views):
            distance_m = self._motion.distance_m(earlier.seconds, view.seconds)
            if distance_m * nearness < _PARALLAX:
                return None  # Asked of what is known before: pairs chosen by the parallax found have errors upwards.
            same_size = earlier.gray.shape == view.gray.shape
            here, there = tracked(view.gray, earlier.gray) if same_size and distance_m > 0 else (_NO_POINTS, _NO_POINTS)
            if len(here) >= _FEWEST_POINTS:
                break
            del self._views[0]
        else:
            return None
        # Positions in the full frame: the centre of the first pixel is 0 in both.
        full_here, full_there = ((points + 0.5) * ratio - 0.5 for points in (here, there))
        found = triangulated(
            camera.normalized(full_here), camera.normalized(full_there), distance_m, camera.focal_px / ratio
        )
        if found is None or (known is None and found.parallax < _FIRST_PARALLAX):
            return None
        use = found.exact & (found.metres <= FARTHEST_ANCHOR_M)
        points, metres = full_here[use], found.metres[use]
        anchors = [Anchor(float(x), float(y), float(z)) for (x, y), z in zip(points, metres, strict=True)]
        try:
            new = align(depth, anchors, size_px=size_px)
        except DataFormatError:  # points on invalid depth, or all at one depth
            return None
        return _fused(known, new, _PARALLAX_ERROR / found.parallax, depth, view.seconds - self._seconds)


def tracked(gray: NDArray[np.uint8], earlier: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corners of ``gray`` and their positions in ``earlier``, float64 [n, 2] each, in pixels.

    Tracked there and back; a point that does not return within half a pixel is left out. Empty if less than a quarter
    of the points is left.
    """
    import cv2

    corners: Any = cv2.goodFeaturesToTrack(gray, _POINTS, 0.01, 7)
    if corners is None:
        return _NO_POINTS, _NO_POINTS
    track: Any = cv2.calcOpticalFlowPyrLK  # its stubs do not allow None for the points to find
    there, found, _ = track(gray, earlier, corners, None)
    back, returned, _ = track(earlier, gray, there, None)
    close = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < _TRACK_ERROR_PX
    keep = close & (found.ravel() == 1) & (returned.ravel() == 1)
    if keep.mean() < _FEWEST_KEPT:
        return _NO_POINTS, _NO_POINTS
    return corners.reshape(-1, 2)[keep].astype(np.float64), there.reshape(-1, 2)[keep].astype(np.float64)


class Triangulation(NamedTuple):
    """Points seen in two images.

    Attributes:
        metres: depth in the first camera, float64 [n].
        exact: which of them are exact enough, bool [n].
        parallax: median displacement between the images with the rotation removed, in normalized coordinates.
    """

    metres: NDArray[np.float64]
    exact: NDArray[np.bool_]
    parallax: float


def triangulated(
    here: NDArray[np.float64], there: NDArray[np.float64], distance_m: float, focal_px: float
) -> Triangulation | None:
    """Depth of points seen in two images.

    With the rotated ray ``a = R (x, y, 1)`` and the translation ``c``, the point with inverse depth ``r`` is seen at
    ``(a + r c) / z``, which is linear in ``r``: least squares, and its variance from the error of the position.

    Args:
        here, there: normalized image coordinates, float64 [n, 2] each.
        distance_m: between the two cameras.
        focal_px: of the images that the points were tracked in.

    Returns:
        None without enough points that fit one motion.
    """
    import cv2

    essential, inside = cv2.findEssentialMat(
        here, there, np.eye(3), cv2.USAC_MAGSAC, prob=0.999, threshold=_TRACK_ERROR_PX / focal_px
    )
    if essential is None or essential.shape != (3, 3):
        return None
    count, rotation, direction, ahead = cv2.recoverPose(essential, here, there, np.eye(3), mask=inside.copy())
    if count < _FEWEST_POINTS:
        return None
    rays = np.column_stack([here, np.ones(len(here))]) @ rotation.T
    moved = direction.ravel() * distance_m
    gradient = moved[:2] - there * moved[2]
    change = there * rays[:, 2:] - rays[:, :2]
    power = (gradient**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = (gradient * change).sum(1) / power
        error = _TRACK_ERROR_PX / focal_px * rays[:, 2] / np.sqrt(power) / inverse
        keep = (ahead.ravel() > 0) & (inverse > 0) & (error < _LARGEST_DEPTH_ERROR)
        metres = 1 / inverse
        parallax = np.median(np.linalg.norm(change[keep] / rays[keep, 2:], axis=1)) if keep.any() else 0.0
    return Triangulation(metres, keep, float(parallax)) if keep.sum() >= _FEWEST_POINTS else None


def _fused(before: Alignment | None, new: Alignment, shared: float, depth: DepthMap, seconds: float) -> Alignment:
    """Kalman update of the logarithm of what the fit gives at two values of the model.

    An error of scale adds the same there to both. In scale and shift it is a factor, and the estimate would be too
    small (Peelle's pertinent puzzle).

    Args:
        shared: relative error that all points of the new alignment share.
        seconds: since the last update.
    """
    low_high = np.nanpercentile(np.where(True if depth.valid is None else depth.valid, depth.values, np.nan), (25, 75))
    rows = np.column_stack([low_high, np.ones(2)])
    fit = np.array([new.scale, new.shift])
    found = rows @ fit
    if not (found > 0).all() or low_high[0] == low_high[1]:
        return before or new
    jacobian = rows / found[:, None]
    measured = jacobian @ new.covariance @ jacobian.T + shared**2
    state, variance, farthest_m = np.log(found), measured, new.farthest_m
    if before is not None and (known := rows @ (before.scale, before.shift)).min() > 0:
        jacobian = rows / known[:, None]
        predicted = jacobian @ before.covariance @ jacobian.T + _DRIFT_PER_SECOND**2 * seconds * (1 + np.eye(2)) / 2
        gain = predicted @ np.linalg.inv(predicted + measured)
        state = np.log(known) + gain @ (state - np.log(known))
        variance = (np.eye(2) - gain) @ predicted
        farthest_m = max(before.farthest_m, new.farthest_m)
    back = np.linalg.inv(rows)
    scale, shift = back @ np.exp(state)
    if scale <= 0:
        return new
    to_fit = back * np.exp(state)
    return replace(
        new,
        scale=float(scale),
        shift=float(shift),
        covariance=to_fit @ variance @ to_fit.T,
        farthest_m=farthest_m,
    )


def _gray(image: av.VideoFrame) -> NDArray[np.uint8]:
    """The frame, at most 640 px wide, uint8 [h, w]."""
    width = min(_SIDE_PX, image.width)
    height = max(1, round(image.height * width / image.width))
    small = converted(image, width=width, height=height, format="gray", interpolation="AREA")
    return np.ascontiguousarray(small.to_ndarray(), np.uint8)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

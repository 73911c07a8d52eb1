"""The intrinsics of a pinhole camera, and what becomes of them when its image is resized, cropped, padded or turned.

Pixel coordinates are those of OpenCV and ROS: the centre of the first pixel is (0, 0), so the left edge of the image
is at -0.5. A resize by ``s`` therefore maps x to ``(x + 0.5) * s - 0.5``. Formats that count from the edge (COLMAP,
nerfstudio) differ by half a pixel; the readers and writers of those formats convert.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.media.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Distortion(StrEnum):
    """Lens distortion models, by their names in ROS. The coefficients are in OpenCV's order."""

    NONE = "none"
    PLUMB_BOB = "plumb_bob"
    """Brown-Conrady: k1, k2, p1, p2[, k3]."""
    RATIONAL_POLYNOMIAL = "rational_polynomial"
    """k1, k2, p1, p2, k3, k4, k5, k6."""
    EQUIDISTANT = "equidistant"
    """OpenCV's fisheye model: k1, k2, k3, k4."""


_COEFFICIENTS = {
    Distortion.NONE: (0,),
    Distortion.PLUMB_BOB: (4, 5),
    Distortion.RATIONAL_POLYNOMIAL: (8,),
    Distortion.EQUIDISTANT: (4,),
}


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera: a point (X, Y, Z) is seen at ``(fx * X / Z + cx, fy * Y / Z + cy)``.

    The camera frame is the optical frame of REP 103: x right, y down, z forward.

    Attributes:
        fx, fy: focal length in pixels.
        cx, cy: principal point in pixels; the centre of the first pixel is (0, 0).
        width_px, height_px: size of the image that the four values belong to.
        distortion: distortion model of the image's lens.
        coefficients: its coefficients, in OpenCV's order. They hold for normalized coordinates, so a resize or a crop
            leaves them as they are.

    Raises:
        ValueError: a value that no camera has.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width_px: int
    height_px: int
    distortion: Distortion = Distortion.NONE
    coefficients: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in (self.fx, self.fy, self.cx, self.cy, *self.coefficients)):
            raise ValueError("intrinsics must be finite numbers")
        if self.fx <= 0 or self.fy <= 0:
            raise ValueError(f"a focal length must be positive, not fx = {self.fx:g}, fy = {self.fy:g}")
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"the size must be at least 1x1 pixels, not {self.width_px}x{self.height_px}")
        if len(self.coefficients) not in _COEFFICIENTS[self.distortion]:
            counts = " or ".join(map(str, _COEFFICIENTS[self.distortion]))
            raise ValueError(f"{self.distortion} has {counts} coefficients, not {len(self.coefficients)}")

    @classmethod
    def from_fov(cls, degrees: float, width_px: int, height_px: int, *, pixel_aspect: float = 1.0) -> Intrinsics:
        """A camera with a horizontal field of view and the principal point in the centre of the image.

        Args:
            degrees: horizontal field of view, more than 0 and less than 180.
            pixel_aspect: width : height of one pixel.
        """
        if not 0 < degrees < 180:
            raise ValueError(f"a field of view must be between 0 and 180 degrees, not {degrees:g}")
        fx = width_px / (2 * math.tan(math.radians(degrees) / 2))
        return cls(fx, fx * pixel_aspect, (width_px - 1) / 2, (height_px - 1) / 2, width_px, height_px)

    @property
    def fov_degrees(self) -> float:
        """Horizontal field of view, lens distortion left aside."""
        left, right = (self.cx + 0.5) / self.fx, (self.width_px - 0.5 - self.cx) / self.fx
        return math.degrees(math.atan(left) + math.atan(right))

    @property
    def focal_px(self) -> float:
        """Mean of ``fx`` and ``fy``: the one focal length of models that take one."""
        return (self.fx + self.fy) / 2

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The camera matrix K, float64 [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width_px: int, height_px: int) -> Intrinsics:
        """Of the image resized to this size; the aspect ratio may change."""
        sx, sy = width_px / self.width_px, height_px / self.height_px
        return replace(
            self,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            width_px=width_px,
            height_px=height_px,
        )

    def cropped(self, left_px: int, top_px: int, width_px: int, height_px: int) -> Intrinsics:
        """Of the part of the image that starts at (``left_px``, ``top_px``); negative values add a border."""
        return replace(self, cx=self.cx - left_px, cy=self.cy - top_px, width_px=width_px, height_px=height_px)

    def letterboxed(self, width_px: int, height_px: int) -> Intrinsics:
        """Of the image scaled to fit inside this size and centred, with a border where the shapes differ.

        The scaled size and the border's width are rounded to whole pixels, so ``fx`` and ``fy`` may be scaled by
        slightly different factors.
        """
        ratio = min(width_px / self.width_px, height_px / self.height_px)
        inner_width = min(width_px, max(1, round(self.width_px * ratio)))
        inner_height = min(height_px, max(1, round(self.height_px * ratio)))
        left, top = (width_px - inner_width) // 2, (height_px - inner_height) // 2
        return self.resized(inner_width, inner_height).cropped(-left, -top, width_px, height_px)

    def oriented(self, *, transposed: bool = False, flip_x: bool = False, flip_y: bool = False) -> Intrinsics:
        """Of the image transposed, then flipped horizontally and vertically, as sources do with turned recordings."""
        turned = self
        tangential = self.distortion in (Distortion.PLUMB_BOB, Distortion.RATIONAL_POLYNOMIAL)
        p1, p2 = self.coefficients[2:4] if tangential else (0.0, 0.0)
        if transposed:
            turned = Intrinsics(self.fy, self.fx, self.cy, self.cx, self.height_px, self.width_px)
            p1, p2 = p2, p1
        if flip_x:
            turned = replace(turned, cx=turned.width_px - 1 - turned.cx)
            p2 = -p2
        if flip_y:
            turned = replace(turned, cy=turned.height_px - 1 - turned.cy)
            p1 = -p1
        coefficients = (*self.coefficients[:2], p1, p2, *self.coefficients[4:]) if tangential else self.coefficients
        return replace(turned, distortion=self.distortion, coefficients=coefficients)

    def for_size(self, width_px: int, height_px: int) -> Intrinsics:
        """Of the same camera's image at another resolution.

        Raises:
            ValueError: the shape differs by more than rounding explains, so the image was cropped, too.
        """
        if abs(self.width_px * height_px - self.height_px * width_px) > max(self.width_px, self.height_px):
            raise ValueError(
                f"intrinsics of {self.width_px}x{self.height_px} do not fit an image of {width_px}x{height_px}; "
                "give the intrinsics of this size"
            )
        return self.resized(width_px, height_px)

    def rays(self, width_px: int, height_px: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """``X / Z`` and ``Y / Z`` of every pixel of the image at this resolution, lens distortion removed.

        Returns:
            two float32 [height, width].
        """
        camera = self.resized(width_px, height_px)
        x = (np.arange(width_px) - camera.cx) / camera.fx
        y = (np.arange(height_px) - camera.cy) / camera.fy
        shape = (height_px, width_px)
        grid = np.broadcast_to(x.astype(np.float32), shape), np.broadcast_to(y.astype(np.float32)[:, None], shape)
        if any(self.coefficients):
            found = self._undistorted(np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1))
            grid = found[..., 0].astype(np.float32), found[..., 1].astype(np.float32)
        return grid

    def normalized(self, points_px: NDArray[np.float64], /) -> NDArray[np.float64]:
        """``X / Z`` and ``Y / Z`` of pixels, lens distortion removed; float64 [n, 2] -> float64 [n, 2]."""
        return self._undistorted((points_px - (self.cx, self.cy)) / (self.fx, self.fy))

    def _undistorted(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        if not any(self.coefficients):
            return points
        import cv2

        lens = cv2.fisheye if self.distortion is Distortion.EQUIDISTANT else cv2
        flat = np.ascontiguousarray(points.reshape(-1, 1, 2))
        found = lens.undistortPoints(flat, np.eye(3), np.array(self.coefficients))
        return np.asarray(found, np.float64).reshape(points.shape)

    def points(self, metres: NDArray[np.float32], valid: NDArray[np.bool_] | None = None, /) -> NDArray[np.float32]:
        """Unproject a depth map of the whole image, at any resolution.

        ``x = (u - cx) / fx * z``, ``y = (v - cy) / fy * z``; lens distortion is removed.

        Args:
            metres: float32 [h, w], depth along the optical axis (z), not along the ray.
            valid: bool [h, w]; False where ``metres`` means nothing.

        Returns:
            a new float32 [h, w, 3]: x right, y down, z forward, in metres. NaN where the depth is invalid, not finite
            or not positive.
        """
        height, width = metres.shape
        out = np.empty((height, width, 3), np.float32)
        _unproject(metres, *self.rays(width, height), out)
        if valid is not None:
            out[~valid] = np.nan
        return out


@kernel
def _unproject(
    metres: NDArray[np.float32], x: NDArray[np.float32], y: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """``out[v, u] = (x[v, u], y[v, u], 1) * metres[v, u]``; NaN where that is not positive and finite."""
    nan = np.float32(np.nan)
    for v in range(metres.shape[0]):
        for u in range(metres.shape[1]):
            z = metres[v, u]
            if not (z > 0 and z < np.inf):
                z = nan
            out[v, u, 0] = x[v, u] * z
            out[v, u, 1] = y[v, u] * z
            out[v, u, 2] = z

"""From the outputs of a run to depth: which outputs are bound, and how maps, validity and intrinsics are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError
from streamdepth.core.frame import Sense
from streamdepth.geometry import Intrinsics
from streamdepth.models.signature import covers, exceeds, one_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from streamdepth.inference.geometry import Geometry
    from streamdepth.models.spec import ModelSpec

_SKY, _MASK = 0.3, 0.5
_FAR_PERCENTILE = 99
_SOLVER_SIDE = 64
_SOLVER_STEPS = 50
_SOLVER_STARTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
"""Depth of the nearest point at the start, as a share of the range of depth."""


@dataclass(frozen=True, slots=True)
class RowExtra:
    """What a model gives for one image beside the map.

    Attributes:
        valid: bool [h, w], None = everywhere.
        focal_px: focal length in network pixels that the model estimated, None = not estimated.
        field_of_view_degrees: DepthPro's second output, None where the graph has none.
    """

    valid: NDArray[np.bool_] | None = None
    focal_px: float | None = None
    field_of_view_degrees: float | None = None


@dataclass(frozen=True, slots=True)
class RawDepth:
    """A network's output before it is cropped or converted.

    Attributes:
        values: float32 [h, w], covering the whole network input. Memory of a pool, as in a DepthMap.
        geometry: where the image is in it; None for a prepared tensor.
        extra: what the model gives beside the map.
    """

    values: NDArray[np.float32]
    geometry: Geometry | None
    extra: RowExtra

    @property
    def camera(self) -> Intrinsics | None:
        """The intrinsics of the image by the model's own estimate or the user's, None without either."""
        focal, shape = self.extra.focal_px, self.geometry
        if focal is None or shape is None or not focal > 0:
            return None
        fx = focal / shape.focal_scale
        size = shape.width_px, shape.height_px
        return Intrinsics(fx, fx, (size[0] - 1) / 2, (size[1] - 1) / 2, *size)


class HeadReader:
    """Reads depth from the outputs of a model's runs. Thread-safe.

    Args:
        camera: intrinsics of an image of (width, height); None = unknown.
    """

    def __init__(self, spec: ModelSpec, camera: Callable[[int, int], Intrinsics] | None = None) -> None:
        self._spec, self._head, self._camera = spec, spec.head, camera
        self.outputs = (spec.depth_output.name, *spec.head.outputs)
        """Names of the outputs to bind, the depth output first."""

    @property
    def direct(self) -> bool:
        """Whether the depth output is the map itself, so that it can be bound to the map's memory."""
        return self._head.kind == "map"

    def map_shape(self, shape: tuple[int, ...], rows: int, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the maps in a depth output of this shape.

        Args:
            rows: images of the run.
            size: (width, height) of the network's input.
        Raises:
            ModelError: not maps of the input.
        """
        frames = one_frame(shape, self._spec.window) if self._spec.window else shape
        sides = _sides(frames, 1 if self._spec.window else rows, points=not self.direct)
        images = f"{rows} images" if rows > 1 else "an image"
        what = (
            f"{self._spec.name}: output {self._spec.depth_output.name} has shape {list(shape)} for {images} of "
            f"{size[0]}x{size[1]}"
        )
        if sides is None:
            hint = ", or try --batch 1" if rows > 1 else "; choose another output with --output-name, or another model"
            raise ModelError(f"{what}; a depth model gives [batch, height, width]{hint}")
        if not covers(*sides, size[1], size[0]):
            raise ModelError(
                f"{what}; a depth map has the aspect ratio of the input; choose another output with --output-name, or "
                "another model"
            )
        if self._spec.origins.get("depth_output") == "default" and exceeds(*sides, size[1], size[0]):
            raise ModelError(
                f"{what}; an output larger than the input may not be depth; if it is depth, give --output-name "
                f"{self._spec.depth_output.name}"
            )
        return sides

    def read(
        self, outputs: Sequence[NDArray[Any]], part: NDArray[np.float32], geometries: Sequence[Geometry | None]
    ) -> list[RowExtra]:
        """Write the maps of a run and read what is beside them.

        Args:
            outputs: arrays in the order of ``outputs``; the first may be ``part`` itself.
            part: float32 [rows, h, w], written.
            geometries: of the rows that have an image; None for a prepared tensor.
        """
        rows = len(part)
        depth, named = outputs[0], dict(zip(self._head.outputs, outputs[1:], strict=True))
        points = None
        if self.direct:
            if depth is not part:
                np.copyto(part, depth.reshape(part.shape), casting="unsafe")
        else:
            points = _points(depth, part.shape)
            np.copyto(part, points[..., 2], casting="unsafe")
        return [
            self._row(part[row], None if points is None else points[row], _row_of(named, row, rows), geometry)
            for row, geometry in zip(range(rows), geometries, strict=False)
        ]

    def _row(
        self,
        values: NDArray[np.float32],
        points: NDArray[np.float32] | None,
        beside: dict[str, NDArray[Any]],
        geometry: Geometry | None,
    ) -> RowExtra:
        head = self._head
        focal = None
        if geometry is not None and self._camera is not None:
            focal = self._camera(geometry.width_px, geometry.height_px).focal_px * geometry.focal_scale
        estimated = None
        valid = None
        if head.mask:
            valid = _resized(beside[head.mask], values.shape) >= _MASK
        if points is not None and head.kind == "affine_points":
            estimated, shift = solve_focal_shift(points, valid, focal)
            scale = float(beside[head.metric_scale].reshape(-1)[0]) if head.metric_scale else 1.0
            np.copyto(values, (points[..., 2] + np.float32(shift)) * np.float32(scale))
            valid = (values > 0) if valid is None else valid & (values > 0)
        if head.intrinsics:
            estimated = float(beside[head.intrinsics].reshape(-1, 3, 3)[0, 0, 0])
        if head.focal_px:
            estimated = float(beside[head.focal_px].reshape(-1)[0])
            if focal is not None and estimated > 0:
                values *= np.float32(focal / estimated)
        if head.focal_divisor and focal is not None and self._spec.sense is Sense.METRIC_M:
            values *= np.float32(focal / head.focal_divisor)
        if head.sky:
            sky = _resized(beside[head.sky], values.shape) >= _SKY
            if sky.any() and not sky.all():
                values[sky] = np.percentile(values[~sky], _FAR_PERCENTILE)
            valid = ~sky if valid is None else valid & ~sky
        view = float(beside[head.field_of_view].reshape(-1)[0]) if head.field_of_view else None
        if view is not None and geometry is not None and self._camera is not None:
            view = self._camera(geometry.width_px, geometry.height_px).fov_degrees
        return RowExtra(valid, focal or estimated, view)


def solve_focal_shift(
    points: NDArray[np.float32], valid: NDArray[np.bool_] | None = None, focal_px: float | None = None
) -> tuple[float, float]:
    """The focal length in pixels and the shift along z with which points are projected onto their own pixels.

    Minimises sum |f * (x, y) / (z + shift) - (u, v)|^2 over a grid of at most 64x64 points, (u, v) being the pixel
    from the image's centre (MoGe, arXiv 2410.19115, section 3.1): for a shift the best focal length is linear least
    squares, and the shift is found by Gauss-Newton steps with a numeric derivative from the best of several starts, all
    of which put the points in front of the camera.

    Args:
        points: float32 [h, w, 3].
        valid: bool [h, w].
        focal_px: known focal length; only the shift is solved then.
    """
    height, width = points.shape[:2]
    step_y, step_x = max(height // _SOLVER_SIDE, 1), max(width // _SOLVER_SIDE, 1)
    grid = points[::step_y, ::step_x].astype(np.float64)
    u = (np.arange(width) + 0.5 - width / 2)[::step_x]
    v = (np.arange(height) + 0.5 - height / 2)[::step_y]
    pixels = np.stack(np.meshgrid(u, v), axis=-1)
    keep = np.isfinite(grid).all(axis=-1)
    if valid is not None and (keep & valid[::step_y, ::step_x]).any():
        keep &= valid[::step_y, ::step_x]
    grid, pixels = grid[keep], pixels[keep]
    if len(grid) < 2:
        return focal_px or float(max(width, height)), 0.0

    def fit(shift: float) -> tuple[float, NDArray[np.float64]]:
        depth = grid[:, 2] + shift
        rays = grid[:, :2] / np.where(np.abs(depth) < 1e-6, 1e-6, depth)[:, None]
        power = float((rays**2).sum())
        focal = focal_px or (float((rays * pixels).sum()) / power if power > 0 else 1.0)
        return focal, (focal * rays - pixels).ravel()

    def cost_of(shift: float) -> float:
        return float((fit(shift)[1] ** 2).sum())

    span, nearest = max(float(np.ptp(grid[:, 2])), 1e-6), float(grid[:, 2].min())
    starts = [part * span - nearest for part in _SOLVER_STARTS]
    shift, damping = min(starts, key=cost_of), 1e-3
    focal, residual = fit(shift)
    cost = float((residual**2).sum())
    for _ in range(_SOLVER_STEPS):
        step = span * 1e-4
        slope = (fit(shift + step)[1] - residual) / step
        power = float((slope**2).sum())
        if power <= 0 or not math.isfinite(power):
            break
        change = -float((slope * residual).sum()) / (power * (1 + damping))
        new_focal, new_residual = fit(shift + change)
        new_cost = float((new_residual**2).sum())
        if new_cost < cost and nearest + shift + change > 0:
            done = cost - new_cost < 1e-9 * cost
            shift, focal, residual, cost, damping = shift + change, new_focal, new_residual, new_cost, damping / 3
            if done:
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
    return focal, shift


def _sides(shape: tuple[int, ...], rows: int, *, points: bool) -> tuple[int, int] | None:
    """(height, width) of the ``rows`` maps in an output of this shape; None where it has another form.

    Maps are [h, w] (one row) or [rows, h, w], with axes of length 1 anywhere else; points have 3 channels first or
    last.
    """
    rest = list(shape)
    if len(rest) > 2 + points:
        if rest.pop(0) != rows:
            return None
    elif rows != 1:
        return None
    if points:
        while len(rest) > 3 and rest[0] == 1:
            rest.pop(0)
        if len(rest) != 3 or 3 not in (rest[0], rest[-1]):
            return None
        rest = rest[:-1] if rest[-1] == 3 else rest[1:]
    while len(rest) > 2 and 1 in (rest[0], rest[-1]):
        rest.pop(0 if rest[0] == 1 else -1)
    if len(rest) != 2 or min(rest) < 2:
        return None
    return rest[0], rest[1]


def _points(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 [rows, h, w, 3] from points with channels first or last."""
    rows, height, width = shape
    if array.shape[-1] == 3:
        return array.reshape(rows, height, width, 3).astype(np.float32, copy=False)
    return array.reshape(rows, 3, height, width).transpose(0, 2, 3, 1).astype(np.float32, copy=False)


def _row_of(named: dict[str, NDArray[Any]], row: int, rows: int) -> dict[str, NDArray[Any]]:
    batched = {name: array.ndim > 0 and array.shape[0] == rows for name, array in named.items()}
    return {name: np.asarray(array[row] if batched[name] else array) for name, array in named.items()}


def _resized(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A map beside the depth at its size."""
    found = np.squeeze(array).astype(np.float32)
    if found.shape == shape:
        return found
    import cv2

    return np.asarray(cv2.resize(found, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))

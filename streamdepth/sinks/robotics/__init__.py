"""Outputs in the formats of robotics and compositing, and what they share: packages, metres and their origin, edges."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import DataFormatError, MissingDependencyError, SinkError, install_command
from streamdepth.core.frame import Sense, converted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import DepthMap, Frame

_JPEG_QUALITY = 90


def package(module: str, output: str, extra: str, *, name: str = "") -> Any:
    """The module that an output is written with; ``name`` is that of its package, "" = the same.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = name or module.partition(".")[0]
        raise MissingDependencyError(f"{output}: needs the package {name}; {install_command(extra)}") from error


def metres_of(output: str, depth: DepthMap) -> NDArray[np.float32]:
    """The values, NaN where there is no depth; may share the map's memory.

    Raises:
        DataFormatError: they are not metres.
    """
    if depth.sense is not Sense.METRIC_M:
        raise DataFormatError(
            f"{output}: holds metres, but the model's depth is {depth.sense}; "
            "use a metric model, or make it metric with --anchor"
        )
    if depth.valid is None:
        return depth.values
    return np.where(depth.valid, depth.values, np.float32(np.nan))


def origin(anchor_error: float | None) -> str:
    """Where metres with this :attr:`DepthMap.anchor_error` come from, in words."""
    if anchor_error is None:
        return "measured by the model"
    return f"anchored, relative error {'unknown' if math.isnan(anchor_error) else f'{anchor_error:.3f}'}"


def colors_of(frame: Frame, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """The frame at this size, uint8 [height, width, 3] RGB."""
    small = converted(frame.image, width=width_px, height=height_px, format="rgb24", interpolation="AREA")
    return np.asarray(small.to_ndarray(), np.uint8)


EDGE = 0.05
"""Largest change of inverse depth from pixel to pixel, relative to the pixel's own, that counts as surface."""


def flying(metres: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels at depth edges, where a network's smooth output puts points between the front and the back.

    A pixel is one if inverse depth changes by more than 5 % from it to a neighbour left, right, above or below. Inverse
    depth is used because it is linear over a plane.

    Args:
        metres: float32 [h, w], NaN without depth.

    Returns:
        bool [h, w]; False where there is no depth.
    """
    inverse = 1 / metres
    found = np.zeros(metres.shape, bool)
    for axis in (0, 1):
        step = np.abs(np.diff(inverse, axis=axis))
        first, second = (slice(None, -1), slice(1, None))
        before = (first, slice(None)) if axis == 0 else (slice(None), first)
        after = (second, slice(None)) if axis == 0 else (slice(None), second)
        found[before] |= step > EDGE * inverse[before]
        found[after] |= step > EDGE * inverse[after]
    return found


def jpeg_of(frame: Frame) -> bytes:
    """The frame as JPEG."""
    import cv2

    done, content = cv2.imencode(".jpg", frame.to_rgb()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise SinkError(f"OpenCV cannot write a {frame.width_px}x{frame.height_px} JPEG; use smaller frames")
    return content.tobytes()

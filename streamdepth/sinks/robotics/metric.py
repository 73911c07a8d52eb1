"""What the outputs of this folder share: metres, the camera's intrinsics, and the frame as JPEG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import DataFormatError, SinkError, UsageError
from streamdepth.core.frame import Sense

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.core.frame import DepthMap, Frame, StreamInfo
    from streamdepth.geometry.intrinsics import Intrinsics
    from streamdepth.geometry.readers import IntrinsicsFor

_JPEG_QUALITY = 90


def camera_for(output: str, stream: StreamInfo, intrinsics: IntrinsicsFor | None) -> Intrinsics:
    """The camera of a stream.

    Raises:
        UsageError: there are no intrinsics, or they do not fit its size.
    """
    if intrinsics is None:
        raise UsageError(f"{output}: needs the camera's intrinsics; give --intrinsics or --fov")
    try:
        return intrinsics(stream.width_px, stream.height_px)
    except ValueError as error:
        raise UsageError(f"{output}: {error}") from error


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


def jpeg_of(frame: Frame) -> bytes:
    """The frame as JPEG."""
    import cv2

    done, content = cv2.imencode(".jpg", frame.to_rgb()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise SinkError(f"OpenCV cannot write a {frame.width_px}x{frame.height_px} JPEG; use smaller frames")
    return content.tobytes()

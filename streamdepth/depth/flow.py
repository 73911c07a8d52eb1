"""Dense optical flow between frames, by dense inverse search.

Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016; implemented in OpenCV.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import DataFormatError

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

_LONGER_SIDE_PX = 256
"""Size of images for optical flow. On a roller coaster video with ``model_every=4``, the error to the depth of the
model is 3.3 % of the range; 352 px take twice the time with the same error, 192 px give 3.4 %."""
_SHORTEST_SIDE_PX = 32
"""Minimum size of these images: four patches of 8 px. OpenCV 5.0 crashes on 256x16."""


class OpticalFlow:
    """Converts frames to small images and computes the flow between them. Used by one thread."""

    def __init__(self) -> None:
        import av.video.reformatter

        self._scaler = av.video.reformatter.VideoReformatter()
        self._search: Any = None
        self._search_shape: tuple[int, ...] = ()

    def small(self, image: av.VideoFrame) -> NDArray[np.uint8]:
        """The image for optical flow: luma, uint8 [h, w], longer side 256 px.

        Raises:
            DataFormatError: the pixel format cannot be converted.
        """
        import av

        scale = _LONGER_SIDE_PX / max(image.width, image.height)
        width, height = (max(_SHORTEST_SIDE_PX, round(side * scale)) for side in (image.width, image.height))
        try:
            gray = self._scaler.reformat(
                image, format="gray", width=width, height=height, interpolation="AREA", threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            raise DataFormatError(
                f"no optical flow for {image.width}x{image.height} {image.format.name} frames ({error}); "
                "remove --model-every and --stabilize"
            ) from error
        return np.asarray(gray.to_ndarray(), dtype=np.uint8)

    def calc(
        self, small: NDArray[np.uint8], target: NDArray[np.uint8], initial: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """float32 [h, w, 2]: displacement (x, y) in pixels from each pixel of ``small`` to its match in ``target``.

        Args:
            initial: an estimate of the flow, which is not modified.
        Raises:
            ValueError: the images differ in size.
        """
        import cv2

        if small.shape != target.shape:
            raise ValueError(f"optical flow needs images of one size, not {list(small.shape)} and {list(target.shape)}")
        if self._search_shape != target.shape:
            # One object per size: OpenCV 5.0 crashes on an initial flow after a change of size.
            # The next slower preset takes twice the time and does not reduce the error.
            self._search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
            self._search_shape = target.shape
        start = None if initial is None else initial.copy()  # OpenCV overwrites it
        return np.asarray(self._search.calc(small, target, start), np.float32)


@lru_cache(maxsize=4)
def pixel_grid(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """float32 [h, w, 2], read only: x and y of each pixel."""
    ys, xs = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    grid = np.dstack([xs, ys])
    grid.flags.writeable = False
    return grid


def sample(array: NDArray[Any], coordinates: NDArray[np.float32]) -> NDArray[Any]:
    """Bilinear samples of ``array`` at coordinates [h, w, 2] (x, y); edges are replicated."""
    import cv2

    remap: Any = cv2.remap  # the type stubs lack the form with one combined map
    return np.asarray(remap(array, coordinates, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def resized(array: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """``array`` scaled bilinearly to ``shape`` [h, w]."""
    import cv2

    return np.asarray(cv2.resize(array, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))


def scaled_flow(flow: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Sample coordinates [h, w, 2] at the resolution ``shape``, from a flow at another resolution."""
    height, width = flow.shape[:2]
    coordinates = resized(flow, shape)
    coordinates *= np.array([shape[1] / width, shape[0] / height], np.float32)
    coordinates += pixel_grid(shape)
    return coordinates

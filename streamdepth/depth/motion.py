"""Changes from frame to frame: cuts, and dense optical flow.

Cuts: the measure of PySceneDetect's content detector on small images, without the package, whose import takes 0.3 s of
CPU time. Flow: dense inverse search (Kroeger, Timofte, Dai and Van
Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016), implemented in OpenCV.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import av
import av.video.reformatter
import numpy as np

from streamdepth.core.errors import DataFormatError, MissingDependencyError
from streamdepth.core.host import install_system
from streamdepth.media.jit import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CUT_SIDE_PX = 128
"""PySceneDetect scales images down to about 256 px by default. 128 px gives the same cuts."""

_MIN_SHOT_FRAMES = 15
_THRESHOLD = 27.0
"""Default of PySceneDetect."""


class Candidate(NamedTuple):
    """A frame compared with the last one.

    Attributes:
        differs: its content differs by more than the threshold.
        reshaped: it has another size.
    """

    differs: bool
    reshaped: bool = False


class CutCandidates:
    """Detects for each frame in order whether its content differs enough from the last one to start a new shot.

    Depends on two neighbouring frames only, so parts of a clip can be examined separately. Used by one thread.
    """

    def __init__(self) -> None:
        self._hsv: NDArray[np.uint8] | None = None
        self._scaler = av.video.reformatter.VideoReformatter()

    def examine(self, image: av.VideoFrame) -> Candidate:
        """Compare ``image`` with the last one. The first image is no candidate."""
        scale = min(1.0, _CUT_SIDE_PX / max(image.width, image.height))
        small: NDArray[Any] = self._scaler.reformat(
            image,
            format="bgr24",
            width=max(1, round(image.width * scale)),
            height=max(1, round(image.height * scale)),
            interpolation="FAST_BILINEAR",
            threads=1,  # VideoFrame.reformat creates a scaler with one thread per core for every frame
        ).to_ndarray()
        last = self._hsv
        if last is not None and last.shape == small.shape:
            return Candidate(bool(_advance(small, last, *_quotients()) >= _THRESHOLD))
        self._hsv = np.zeros(small.shape, np.uint8)
        _advance(small, self._hsv, *_quotients())
        return Candidate(False, reshaped=last is not None)


_FRACTION_BITS = 12


@lru_cache(maxsize=1)
def _quotients() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """255 / n and 30 / n for n in 0..255 with 12 fraction bits, 0 for n = 0."""
    divisors = np.maximum(np.arange(256), 1)
    by_value, by_span = (np.rint((scale << _FRACTION_BITS) / divisors).astype(np.int32) for scale in (255, 30))
    by_value[0] = by_span[0] = 0
    return by_value, by_span


@kernel
def _advance(
    bgr: NDArray[np.uint8], hsv: NDArray[np.uint8], by_value: NDArray[np.int32], by_span: NDArray[np.int32]
) -> float:
    """Convert ``bgr`` [h, w, 3] to ``hsv`` in place, as OpenCV's COLOR_BGR2HSV; return the mean absolute change."""
    half = 1 << (_FRACTION_BITS - 1)
    total = 0
    for row in range(bgr.shape[0]):
        for column in range(bgr.shape[1]):
            pixel, last = bgr[row, column], hsv[row, column]
            blue, green, red = np.int32(pixel[0]), np.int32(pixel[1]), np.int32(pixel[2])
            value = max(blue, green, red)
            span = value - min(blue, green, red)
            if value == red:
                sixths = green - blue
            elif value == green:
                sixths = blue - red + 2 * span
            else:
                sixths = red - green + 4 * span
            hue = (sixths * by_span[span] + half) >> _FRACTION_BITS
            if hue < 0:
                hue += 180
            saturation = (span * by_value[value] + half) >> _FRACTION_BITS
            total += abs(hue - np.int32(last[0])) + abs(saturation - np.int32(last[1])) + abs(value - np.int32(last[2]))
            last[0], last[1], last[2] = hue, saturation, value
    return total / hsv.size


class CutFilter:
    """Selects cuts among the candidates, in order: a shot has at least ``_MIN_SHOT_FRAMES`` frames, unless the size of
    the image changes.

    Args:
        continues: the frames follow others of unknown shots, so that a cut may come at once.
    """

    def __init__(self, *, continues: bool = False) -> None:
        self._frames = _MIN_SHOT_FRAMES if continues else 0

    def is_cut(self, candidate: Candidate) -> bool:
        """True if a new shot starts with the frame of ``candidate``."""
        if candidate.reshaped:
            self._frames = 0
        cut = candidate.differs and self._frames >= _MIN_SHOT_FRAMES
        self._frames = 1 if cut else self._frames + 1
        return cut or candidate.reshaped


class CutDetector:
    """Detects for each frame in order whether a new shot starts with it. Used by one thread.

    Args:
        continues: see :class:`CutFilter`.
    """

    def __init__(self, *, continues: bool = False) -> None:
        self._candidates = CutCandidates()
        self._filter = CutFilter(continues=continues)

    def is_cut(self, image: av.VideoFrame) -> bool:
        """True if ``image`` starts a new shot or has another size than the last one; False for the first image."""
        return self._filter.is_cut(self._candidates.examine(image))


_FLOW_SIDE_PX = 256
"""Size of images for optical flow. On a roller coaster video with ``model_every=4``, the error to the depth of the
model is 3.3 % of the range; 352 px take twice the time with the same error, 192 px give 3.4 %."""
_SHORTEST_SIDE_PX = 32
"""Minimum size of these images: four patches of 8 px. OpenCV 5.0 crashes on 256x16."""


class NeighbourFlow(NamedTuple):
    """The optical flow between a frame and the one before it, as far as it was computed already.

    Attributes:
        back: float32 [h, w, 2], from the frame to the one before.
        forth: from the one before to the frame.
    """

    back: NDArray[np.float32] | None = None
    forth: NDArray[np.float32] | None = None


class OpticalFlow:
    """Converts frames to small images and computes the flow between them. Used by one thread.

    Raises:
        MissingDependencyError: OpenCV cannot be loaded.
    """

    def __init__(self) -> None:
        try:
            import cv2  # noqa: F401
        except ImportError as error:
            ways = " or ".join(filter(None, (install_system("opengl"), "pip install opencv-python")))
            raise MissingDependencyError(f"optical flow cannot be computed: {error}; {ways}") from error
        self._scaler = av.video.reformatter.VideoReformatter()
        self._search: Any = None
        self._guided_search: Any = None
        self._search_shape: tuple[int, ...] = ()

    def small(self, image: av.VideoFrame) -> NDArray[np.uint8]:
        """The image for optical flow: luma, uint8 [h, w], longer side 256 px.

        Raises:
            DataFormatError: the pixel format cannot be converted.
        """
        scale = _FLOW_SIDE_PX / max(image.width, image.height)
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
            # Another object for initial flows: a search without one that follows a search with one gives other results.
            preset = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
            self._search, self._guided_search = (cv2.DISOpticalFlow.create(preset) for _ in range(2))
            self._search_shape = target.shape
        if initial is None:
            return np.asarray(self._search.calc(small, target, None), np.float32)
        return np.asarray(self._guided_search.calc(small, target, initial.copy()), np.float32)  # overwritten

    def both(
        self, small: NDArray[np.uint8], before: NDArray[np.uint8], known: NeighbourFlow | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The flow from ``small`` to the image before it and back; only what is not ``known`` is computed."""
        known = known or NeighbourFlow()
        back = self.calc(small, before) if known.back is None else known.back
        forth = self.calc(before, small) if known.forth is None else known.forth
        return back, forth


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
    coordinates[..., 0] *= shape[1] / width
    coordinates[..., 1] *= shape[0] / height
    coordinates += pixel_grid(shape)
    return coordinates

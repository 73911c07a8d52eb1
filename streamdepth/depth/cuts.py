"""Cut detection with the content detector of PySceneDetect on small images."""

from __future__ import annotations

import contextlib
import threading
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import av

from streamdepth.core.errors import MissingDependencyError

_LONGER_SIDE_PX = 128
"""PySceneDetect scales images down to about 256 px by default. 128 px gives the same cuts and costs 0.17 ms per frame
at 960x540, scaling included."""

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


def load_ahead() -> None:
    """Import PySceneDetect on a background thread.

    The import runs FFmpeg once and waits for it (0.1 s), while the caller can load a model. ``CutDetector`` reports an
    import error.
    """

    def load() -> None:
        with contextlib.suppress(ImportError):
            import scenedetect  # noqa: F401

    with contextlib.suppress(ImportError):
        import cv2  # noqa: F401 - its import removes itself from sys.modules for a moment: not in parallel

        threading.Thread(target=load, name="streamdepth-load", daemon=True).start()


class CutCandidates:
    """Detects for each frame in order whether its content differs enough from the last one to start a new shot.

    Depends on two neighbouring frames only, so parts of a clip can be examined separately. Used by one thread.

    Raises:
        MissingDependencyError: PySceneDetect or its OpenCV cannot be loaded.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        # Imported here: scenedetect takes 0.4 s to load.
        try:
            from scenedetect.common import FrameTimecode
            from scenedetect.detectors import ContentDetector
        except ImportError as error:
            raise MissingDependencyError(
                f"cuts cannot be detected: {error}; apt-get install libgl1 libglib2.0-0, or pip install scenedetect"
            ) from error

        self._new_detector = partial(ContentDetector, threshold=_THRESHOLD, min_scene_len=0)
        self._detector = self._new_detector()
        self._shape: tuple[int, ...] | None = None
        self._timecode = FrameTimecode
        self._rate = float(rate or Fraction(25))
        self._count = 0
        self._scaler = av.video.reformatter.VideoReformatter()

    def examine(self, image: av.VideoFrame) -> Candidate:
        """Compare ``image`` with the last one. The first image is no candidate."""
        scale = min(1.0, _LONGER_SIDE_PX / max(image.width, image.height))
        small = self._scaler.reformat(
            image,
            format="bgr24",
            width=max(1, round(image.width * scale)),
            height=max(1, round(image.height * scale)),
            interpolation="FAST_BILINEAR",
            threads=1,  # VideoFrame.reformat creates a scaler with one thread per core for every frame
        ).to_ndarray()
        reshaped = self._shape not in (None, small.shape)
        self._shape = small.shape
        if reshaped:  # PySceneDetect requires images of one size
            self._detector = self._new_detector()
        cuts = self._detector.process_frame(self._timecode(self._count, self._rate), small)
        self._count += 1
        return Candidate(bool(cuts), reshaped)


class CutFilter:
    """Selects cuts among the candidates, in order: a shot has at least ``_MIN_SHOT_FRAMES`` frames, unless the size of
    the image changes."""

    def __init__(self) -> None:
        self._frames = 0

    def is_cut(self, candidate: Candidate) -> bool:
        """True if a new shot starts with the frame of ``candidate``."""
        if candidate.reshaped:
            self._frames = 0
        cut = candidate.differs and self._frames >= _MIN_SHOT_FRAMES
        self._frames = 1 if cut else self._frames + 1
        return cut or candidate.reshaped


class CutDetector:
    """Detects for each frame in order whether a new shot starts with it. Used by one thread.

    Raises:
        MissingDependencyError: PySceneDetect or its OpenCV cannot be loaded.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        self._candidates = CutCandidates(rate)
        self._filter = CutFilter()

    def is_cut(self, image: av.VideoFrame) -> bool:
        """True if ``image`` starts a new shot or has another size than the last one; False for the first image."""
        return self._filter.is_cut(self._candidates.examine(image))

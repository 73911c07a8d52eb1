"""Where one shot ends and the next begins, found by PySceneDetect's content detector on small images."""

from __future__ import annotations

import contextlib
import threading
from fractions import Fraction
from functools import partial

import av

from streamdepth.core.errors import MissingDependencyError

_LONGER_SIDE_PX = 128
"""PySceneDetect itself works on images scaled down to about 256 px; 128 finds the same cuts on its HSV means and
costs 0.17 ms a frame, scaling included, at 960x540."""

_MIN_SHOT_FRAMES = 15
_THRESHOLD = 27.0
"""PySceneDetect's own default."""


def load_ahead() -> None:
    """Import PySceneDetect on a thread of its own, for detectors to come, which wait for the rest of it.

    Its import starts FFmpeg to see whether there is one, and waits for it: 0.1 s of a start, in which a model can be
    loaded. What fails fails again where a detector is made, and is told there.
    """

    def load() -> None:
        with contextlib.suppress(ImportError):
            import scenedetect  # noqa: F401

    with contextlib.suppress(ImportError):
        import cv2  # noqa: F401 - takes itself out of the loaded modules for a moment, so not beside others

        threading.Thread(target=load, name="streamdepth-load", daemon=True).start()


class CutDetector:
    """Says for each frame in turn whether a new shot starts with it. Owned by one thread.

    Raises:
        MissingDependencyError: PySceneDetect or the OpenCV it works with cannot be loaded.
    """

    def __init__(self, rate: Fraction | None = None) -> None:
        # Imported here: scenedetect takes 0.4 s to load and only video with moving range control needs it.
        try:
            from scenedetect.common import FrameTimecode
            from scenedetect.detector import FlashFilter
            from scenedetect.detectors import ContentDetector
        except ImportError as error:
            raise MissingDependencyError(
                f"shots cannot be told apart: {error}; apt-get install libgl1 libglib2.0-0, or pip install scenedetect"
            ) from error

        # SUPPRESS decides about the frame at hand; the default, MERGE, waits for the frames after it.
        self._fresh = partial(
            ContentDetector,
            threshold=_THRESHOLD,
            min_scene_len=_MIN_SHOT_FRAMES,
            filter_mode=FlashFilter.Mode.SUPPRESS,
        )
        self._detector = self._fresh()
        self._shape: tuple[int, ...] | None = None
        self._timecode = FrameTimecode
        self._rate = float(rate or Fraction(25))
        self._count = 0
        self._scaler = av.video.reformatter.VideoReformatter()

    def is_cut(self, image: av.VideoFrame) -> bool:
        """True where ``image`` starts a new shot, as one of another shape does; never for the first."""
        scale = min(1.0, _LONGER_SIDE_PX / max(image.width, image.height))
        small = self._scaler.reformat(
            image,
            format="bgr24",
            width=max(1, round(image.width * scale)),
            height=max(1, round(image.height * scale)),
            interpolation="FAST_BILINEAR",
            threads=1,  # an image's own scaler is made, with a thread for each core, for every image anew
        ).to_ndarray()
        reshaped = self._shape not in (None, small.shape)
        self._shape = small.shape
        if reshaped:  # PySceneDetect compares images of one size
            self._detector = self._fresh()
        cuts = self._detector.process_frame(self._timecode(self._count, self._rate), small)
        self._count += 1
        return reshaped or bool(cuts)

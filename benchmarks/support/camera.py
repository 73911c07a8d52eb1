"""A camera that draws the frame number into the pixels, and a sink that reads it back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import av
import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.frame import ColorTags, Frame, ImageInfo, Result, StreamInfo
from streamdepth.core.look import Look, LookControl, View
from streamdepth.media.scene import Scene
from streamdepth.sources.pattern import draw_counter, read_counter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction

    from numpy.typing import NDArray

_SCENES = 12
_COLOR = ColorTags(matrix=1, range=1, primaries=1, transfer=1)


class CounterCamera:
    """Releases frame ``n`` at ``started_ns + n / rate`` of the monotonic clock.

    Skips numbers, as a camera does, when this process does not get enough CPU time to keep the rate.
    """

    def __init__(self, width_px: int, height_px: int, rate: Fraction, seconds: float) -> None:
        self.rate, self.count = rate, int(seconds * rate)
        self.started_ns = 0
        self._size = width_px, height_px
        self._stop = threading.Event()
        scene = Scene(width_px, height_px, 0)
        self._scenes = [_planes(scene.draw(index / 4)) for index in range(_SCENES)]
        self.taken = 0

    @property
    def id(self) -> str:
        return "counter"

    @property
    def live(self) -> bool:
        return True

    @property
    def dropped(self) -> Mapping[str, int]:
        return {}

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def open(self) -> StreamInfo:
        width, height = self._size
        return StreamInfo(self.id, width, height, "yuv420p", 1 / self.rate, self.rate, live=True, color=_COLOR)

    def due_ns(self, number: int) -> int:
        """Capture time of frame ``number``."""
        return self.started_ns + round(number * 1_000_000_000 / self.rate)

    def frames(self) -> Iterator[Frame]:
        self.started_ns = time.monotonic_ns() + 50_000_000
        number = 0
        while number < self.count:
            image = self.image(number)
            if self._stop.wait(max(0.0, (self.due_ns(number) - time.monotonic_ns()) / 1e9)):
                return
            self.taken += 1
            yield Frame(self.id, number, number, 1 / self.rate, self.due_ns(number), image)
            late_ns = time.monotonic_ns() - self.due_ns(number + 1)
            number += 1 + max(0, int(late_ns * self.rate) // 1_000_000_000)

    def image(self, number: int) -> av.VideoFrame:
        planes = self._scenes[number % _SCENES].copy()
        draw_counter(planes, number)
        image = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        _COLOR.apply(image)
        return image

    def again(self) -> None:
        return None

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()


def _planes(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB to YUV 4:2:0, uint8 [H * 3 / 2, W]."""
    image = av.VideoFrame.from_ndarray(rgb, format="rgb24")
    found = image.reformat(format="yuv420p", src_color_range=2, dst_colorspace=1, dst_color_range=1)
    return np.asarray(found.to_ndarray(), np.uint8)


def number_in(image: av.VideoFrame, view: View) -> int:
    """The number drawn into a view; in a side view the frame is the left half."""
    luma = np.frombuffer(image.planes[0], np.uint8).reshape(image.height, image.planes[0].line_size)
    width = image.width // 2 if view is View.SIDE else image.width
    return read_counter(luma[:, :width])


class NumberSink(BaseSink):
    """Records the arrival time of each number. Live, like a window or a stream."""

    def __init__(self, view: View = View.SIDE) -> None:
        super().__init__("numbers", LookControl(Look(view=view)))
        self._view = view
        self.arrivals: list[tuple[int, int]] = []
        self.unread = 0

    @property
    def live(self) -> bool:
        return True

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        pass

    def process(self, result: Result) -> None:
        now_ns = time.monotonic_ns()
        assert result.image is not None
        try:
            self.arrivals.append((number_in(result.image, self._view), now_ns))
        except ValueError:
            self.unread += 1

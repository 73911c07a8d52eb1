"""The newest frame of a run with its depth, for any number of viewers."""

from __future__ import annotations

import io
import threading
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.frame import converted
from streamdepth.media.images import encode_png

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import av

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap, DepthRange, Result, Sense

_LATENCIES = 2048
_HELD = 4
_PIECE_VALUES = 1 << 16


@dataclass(frozen=True, slots=True)
class Shown:
    """One frame as it is shown.

    Attributes:
        number: 1, 2, ... in order of arrival.
        image: the coloured view; read-only.
        frame: the source's frame; read-only.
        depth: a copy, at model resolution.
        range: the range of its colours.
        index: of the frame in its source.
        seconds: media time.
    """

    number: int
    image: av.VideoFrame
    frame: av.VideoFrame
    depth: DepthMap
    range: DepthRange
    index: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Probe:
    """Depth at one point: ``value`` in the model's units, ``nearness`` 0..1; None where there is no depth."""

    value: float | None
    nearness: float | None
    sense: Sense


class LiveFeed:
    """Holds the newest frame. Viewers take it when they can; a slow viewer sees fewer frames. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: Shown | None = None
        self._count = 0
        self._paused = False
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._latencies_ns: deque[int] = deque(maxlen=_LATENCIES)
        self._dropped: Counter[str] = Counter()
        self._held: OrderedDict[int, Shown] = OrderedDict()

    def put(self, result: Result) -> None:
        """Show a result that has an image; never blocks."""
        image = result.image
        if image is None:
            raise ValueError("the result has no image to show")
        self._latencies_ns.append(self._clock.monotonic_ns() - result.frame.captured_ns)
        if self._paused:
            self.count_dropped("paused")
            return
        depth = replace(result.depth, values=result.depth.values.copy())
        with self._lock:
            self._count += 1
            self._latest = Shown(
                number=self._count,
                image=image,
                frame=result.frame.image,
                depth=depth,
                range=result.range,
                index=result.frame.index,
                seconds=result.frame.seconds,
            )
        self._notify()

    def repaint(self, shown: Shown, image: av.VideoFrame, depth_range: DepthRange) -> None:
        """Show the same frame in another look, unless a newer one is shown."""
        with self._lock:
            if self._latest is not shown:
                return
            self._count += 1
            self._latest = replace(shown, number=self._count, image=image, range=depth_range)
        self._notify()

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every new frame, on the thread that puts it. It must not block."""
        self._listeners = (*self._listeners, listener)

    @property
    def latest(self) -> Shown | None:
        return self._latest

    @property
    def paused(self) -> bool:
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        self._paused = value

    @property
    def count(self) -> int:
        """Frames shown so far."""
        return self._count

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that some or all viewers did not see, by cause: ``paused``, ``slow viewer`` (once per viewer)."""
        with self._lock:
            return dict(self._dropped)

    def count_dropped(self, cause: str, count: int = 1) -> None:
        if count > 0:
            with self._lock:
                self._dropped[cause] += count

    def take_latencies_ms(self) -> list[float]:
        """Milliseconds from capture to :meth:`put` of the frames since the last call."""
        taken = []
        while self._latencies_ns:
            taken.append(self._latencies_ns.popleft() / 1e6)
        return taken

    def hold(self) -> Shown | None:
        """Keep the newest frame, to be fetched by number; the newest four are kept."""
        with self._lock:
            shown = self._latest
            if shown is not None:
                self._held[shown.number] = shown
                self._held.move_to_end(shown.number)
                while len(self._held) > _HELD:
                    self._held.popitem(last=False)
            return shown

    def held(self, number: int) -> Shown | None:
        with self._lock:
            return self._held.get(number)


def probe(shown: Shown, x: float, y: float, *, inverse: bool = True) -> Probe:
    """Depth at a point of the frame, ``x`` and ``y`` 0..1 from its top left corner; the nearest depth pixel.

    Args:
        inverse: whether nearness is linear in inverse depth, as the look has it.
    """
    depth = shown.depth
    column = min(max(int(x * depth.width_px), 0), depth.width_px - 1)
    row = min(max(int(y * depth.height_px), 0), depth.height_px - 1)
    value = float(depth.values[row, column])
    if not np.isfinite(value) or (depth.valid is not None and not depth.valid[row, column]):
        return Probe(None, None, depth.sense)
    scale, offset, floor = shown.range.nearness_terms(depth.sense, inverse=inverse)
    term = 1 / max(value, floor) if floor else value
    return Probe(value, min(max(scale * term + offset, 0.0), 1.0), depth.sense)


def png(image: av.VideoFrame) -> bytes:
    """A frame as RGB PNG."""
    return encode_png(np.asarray(converted(image, format="rgb24").to_ndarray(), np.uint8))


def jpeg(image: av.VideoFrame, quality: int) -> bytes:
    """A frame as JPEG."""
    import cv2

    done, data = cv2.imencode(
        ".jpg", converted(image, format="bgr24").to_ndarray(), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise ValueError("the frame cannot be encoded as JPEG")
    return data.tobytes()


def npy(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """An array as a ``.npy`` file."""
    return b"".join(npy_pieces(values))


def npy_pieces(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Iterator[bytes]:
    """An array [H, W] as a ``.npy`` file, in pieces of about 256 KiB."""
    values = np.ascontiguousarray(values)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(values))
    yield head.getvalue()
    rows = max(_PIECE_VALUES // values.shape[1], 1)
    for top in range(0, values.shape[0], rows):
        yield values[top : top + rows].tobytes()

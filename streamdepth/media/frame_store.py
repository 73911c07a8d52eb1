"""Pixels of decoded frames in a temporary file.

Writing a frame of 4:2:0 at 1280x720 and reading it again takes 0.6 ms of CPU time, decoding it 4 to 7 ms, and clearing
fresh memory for it 1 ms (Emerald Rapids). The file has no name, so nothing is left when the process is killed, and its
blocks are used again, so most of it never reaches the disk.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamdepth.core.host import temporary_folder

if TYPE_CHECKING:
    import av

    from streamdepth.core.clock import Clock

_FREE_SHARE = 4
"""At most one in this many of the free bytes of the disk are used, together with whatever else is written meanwhile:
other sources have a store each."""
_LEAST_BYTES_PER_SECOND = 100e6
_MOST_LATE_SECONDS = 1.0
"""Time for which writes may be slower than that in a run, before no more frames are stored: decoding is faster then."""


class FrameStore:
    """Pixels of frames of one size and format, at most ``budget_bytes``. Thread-safe.

    A frame is stored under a number, which is free for another frame after ``load`` or ``free``.
    """

    def __init__(self, budget_bytes: int, clock: Clock) -> None:
        self._budget_bytes = budget_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._form: _Form | None = None
        self._likeness: _Likeness | None = None
        self._frame_bytes = 0
        self._free: list[int] = []
        self._unused = 0
        self._most = 0
        """Frames that there is room for; 0 = no more are stored."""
        self._folder = ""
        self._least_free_bytes = 0
        self._late_ns = 0.0

    def add(self, image: av.VideoFrame) -> int | None:
        """Store the pixels of an image; returns its number.

        None: there is no room, the form is not that of the first image, or the disk is full or slow.
        """
        form = _form(image)
        with self._lock:
            if self._form is None:
                self._open(image, form)
            if form != self._form or not self._most or not (self._free or self._can_grow()):
                return None
            number = self._free.pop() if self._free else self._unused
            started_ns = self._clock.monotonic_ns()
            if not self._write(number, image):
                self._most = 0
                return None
            if number == self._unused:
                self._unused += 1
            spent_ns = self._clock.monotonic_ns() - started_ns
            self._late_ns = max(0.0, self._late_ns + spent_ns - self._frame_bytes / _LEAST_BYTES_PER_SECOND * 1e9)
            if self._late_ns > _MOST_LATE_SECONDS * 1e9:
                self._most = 0
            return number

    def load(self, number: int) -> av.VideoFrame:
        """A new image with the pixels of a stored one, and free the number.

        It has no side data, and times and colour tags of the first image. What else decides how pixels are converted
        (position of chroma samples, interlacing) is as in the stored image.

        Raises:
            OSError: the file cannot be read.
        """
        with self._lock:
            if self._file is None or self._likeness is None or self._form is None:
                raise OSError("the stored frames are closed")
            image = self._likeness.copy()
            self._file.seek(number * self._frame_bytes)
            for plane, line_size in zip(image.planes, self._form.line_sizes, strict=True):
                target = np.frombuffer(memoryview(plane), np.uint8)
                if plane.line_size == line_size:
                    _read(self._file, target)
                else:
                    stored = np.empty((plane.height, line_size), np.uint8)
                    _read(self._file, stored.reshape(-1))
                    same = min(line_size, plane.line_size)
                    target.reshape(plane.height, plane.line_size)[:, :same] = stored[:, :same]
            self._free.append(number)
        return image

    def free(self, number: int) -> None:
        """Forget a stored frame."""
        with self._lock:
            self._free.append(number)

    def close(self) -> None:
        """Delete the file. Idempotent."""
        with self._lock:
            file, self._file = self._file, None
            self._most = 0
            self._likeness = None
            if file is not None:
                file.close()

    def _open(self, image: av.VideoFrame, form: _Form) -> None:
        self._form = form
        self._frame_bytes = sum(plane.buffer_size for plane in image.planes)
        if any(line_size <= 0 for line_size in form.line_sizes):  # an image upside down in memory
            return
        self._folder = folder = temporary_folder()
        try:
            free = shutil.disk_usage(folder).free
            room = free // _FREE_SHARE
            self._least_free_bytes = free - room
            most = min(self._budget_bytes, room) // self._frame_bytes
            if most:
                self._file = tempfile.TemporaryFile(prefix="streamdepth-", dir=folder, buffering=0)  # noqa: SIM115
                self._likeness = _Likeness(image)
                self._most = most
        except OSError:
            pass  # frames are decoded again

    def _can_grow(self) -> bool:
        if self._unused >= self._most:
            return False
        try:
            return shutil.disk_usage(self._folder).free - self._frame_bytes >= self._least_free_bytes
        except OSError:
            return False

    def _write(self, number: int, image: av.VideoFrame) -> bool:
        assert self._file is not None  # noqa: S101 - there is room only with a file
        try:
            self._file.seek(number * self._frame_bytes)
            return all(self._file.write(memoryview(plane)) == plane.buffer_size for plane in image.planes)
        except OSError:
            return False


class _Form(NamedTuple):
    width_px: int
    height_px: int
    pix_fmt: str
    interlaced: bool
    line_sizes: tuple[int, ...]


def _form(image: av.VideoFrame) -> _Form:
    line_sizes = tuple(plane.line_size for plane in image.planes)
    return _Form(image.width, image.height, image.format.name, bool(image.interlaced_frame), line_sizes)


class _Likeness:
    """Makes images like one: PyAV cannot set the position of chroma samples, which conversions to RGB use."""

    def __init__(self, image: av.VideoFrame) -> None:
        from av.filter import Graph

        self._image = image
        self._graph = graph = Graph()
        source = graph.add_buffer(
            width=image.width, height=image.height, format=image.format, time_base=image.time_base or Fraction(1, 1000)
        )
        graph.link_nodes(source, graph.add("sidedata", "mode=delete"), graph.add("buffersink")).configure()

    def copy(self) -> av.VideoFrame:
        """A new image with its own pixels, which are to be replaced."""
        self._graph.vpush(self._image)
        image = self._graph.vpull()
        image.make_writable()
        return image


def _read(file: IO[bytes], target: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    if file.readinto(target.data) != target.size:  # type: ignore[attr-defined]  # a FileIO, which IO[bytes] hides
        raise OSError("a stored frame is incomplete")

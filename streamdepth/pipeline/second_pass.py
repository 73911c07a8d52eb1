"""Reads frames that did not fit in memory a second time."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from streamdepth.core.contracts import Resumable
from streamdepth.core.errors import SourceError
from streamdepth.core.queues import Aborted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import Frame
    from streamdepth.depth.shots import Stamp

_MIN_SEEK_FRAMES = 48
"""A seek decodes from the key frame before its target, half a group of pictures on average. The frames to read again
begin at a cut, where encoders place key frames."""


class SecondPass:
    """Finds frames of ``source`` again, in increasing order. Opens the source on the first request.

    Used by one thread; ``interrupt`` may be called and ``count`` read from any thread. Reads through a second source
    object; ``source`` itself is not touched.

    Attributes:
        count: frames read so far, including skipped ones.

    Raises:
        SourceError: it cannot be read a second time.
    """

    def __init__(self, source: Source) -> None:
        if source.again() is None:
            raise SourceError(f"{source.id} cannot be read twice, as --range shot needs; use --range ema")
        self.count = 0
        self._source = source
        self._lock = threading.Lock()
        self._interrupted = False
        self._reader: Source | None = None
        self._frames: Iterator[Frame] | None = None
        self._next_index = 0

    def find(self, stamp: Stamp) -> Frame:
        """The frame with this stamp.

        Raises:
            SourceError: the source no longer has this frame. Aborted: interrupted.
        """
        seeked = False
        if self._frames is None or stamp.index - self._next_index > _MIN_SEEK_FRAMES:
            seeked = self._start(stamp)
        frame = self._forward(stamp.pts)
        if seeked and (frame is None or frame.pts != stamp.pts):
            # Some files have time stamps that are only correct when read from the start.
            self._start(None)
            frame = self._forward(stamp.pts)
        if frame is None or frame.pts != stamp.pts:
            found = "its end" if frame is None else f"pts {frame.pts}"
            raise SourceError(
                f"{self._source.id} gave {found} instead of pts {stamp.pts} in the second pass (was it modified?); "
                "use --range ema, which reads it once"
            )
        self._next_index = stamp.index + 1
        return replace(frame, index=stamp.index, captured_ns=stamp.captured_ns)

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            reader = self._reader
        if reader is not None:
            reader.interrupt()

    def close(self) -> None:
        """Idempotent."""
        if self._reader is not None:
            self._reader.close()
        self._frames = None

    def _start(self, stamp: Stamp | None) -> bool:
        """Open a new reader, near ``stamp`` if the source can seek; True if it does."""
        reader = self._source.resume(stamp.pts) if stamp is not None and isinstance(self._source, Resumable) else None
        seeked = reader is not None
        reader = reader or self._source.again()
        assert reader is not None  # noqa: S101 - checked in the constructor
        self.close()
        with self._lock:
            self._reader = reader
            if self._interrupted:
                raise Aborted
        try:
            reader.open()
        except SourceError:
            self._check()
            raise
        self._frames = reader.frames()
        return seeked

    def _forward(self, pts: int) -> Frame | None:
        """The first frame at or after ``pts``; None at the end."""
        assert self._frames is not None  # noqa: S101 - opened in find()
        for frame in self._frames:
            self.count += 1
            if frame.pts >= pts:
                break
        else:
            frame = None
        self._check()
        return frame

    def _check(self) -> None:
        if self._interrupted:
            raise Aborted

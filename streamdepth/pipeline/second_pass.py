"""Frames of a source that were not kept, read once more."""

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

_WORTH_SEEKING_FRAMES = 48
"""A seek decodes from the key frame before its target, half a group of images on average; encoders put one at a cut,
where a stretch to be read again begins."""


class SecondPass:
    """Finds frames of ``source`` again, in rising order. Opens nothing before the first is asked for.

    Used by one thread; ``interrupt`` may be called and ``count`` read from any. The source itself is left alone.

    Attributes:
        count: frames read so far, those passed over included.

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
            SourceError: it is not there any more. Aborted: interrupted.
        """
        sought = False
        if self._frames is None or stamp.index - self._next_index > _WORTH_SEEKING_FRAMES:
            sought = self._start(stamp)
        frame = self._forward(stamp.pts)
        if sought and (frame is None or frame.pts != stamp.pts):
            # time stamps that only count from the start of the file
            self._start(None)
            frame = self._forward(stamp.pts)
        if frame is None or frame.pts != stamp.pts:
            found = "its end" if frame is None else f"pts {frame.pts}"
            raise SourceError(
                f"{self._source.id} gave {found} instead of pts {stamp.pts} when read again; it changed meanwhile? "
                "--range ema reads it once"
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
        """Begin a new reading, near ``stamp`` where the source can do that; True if so."""
        reader = self._source.resume(stamp.pts) if stamp is not None and isinstance(self._source, Resumable) else None
        sought = reader is not None
        reader = reader or self._source.again()
        assert reader is not None  # noqa: S101 - asked in the constructor
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
        return sought

    def _forward(self, pts: int) -> Frame | None:
        """The first frame at or after ``pts``; None at the end."""
        assert self._frames is not None  # noqa: S101 - find() has started a reading
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

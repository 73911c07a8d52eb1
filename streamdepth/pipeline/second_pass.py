"""What is read a second time: frames that did not fit in memory, and depth that an earlier run has stored."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np

from streamdepth.core.contracts import BaseSource, Resumable
from streamdepth.core.errors import DataFormatError, SourceError
from streamdepth.core.frame import DepthMap, Frame, StreamInfo
from streamdepth.core.queues import Aborted
from streamdepth.media.images import image_from_array
from streamdepth.sinks.depth import thumbnail, unlike
from streamdepth.sinks.depth.reader import DepthFrame, DepthReader, read_depth

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import av

    from streamdepth.core.contracts import Source
    from streamdepth.depth.shots import Stamp
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.model import Runner
    from streamdepth.models.spec import ModelSpec

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


_SAME_SECONDS = Fraction(1, 1000)
"""Largest distance of a frame and its depth: time stamps of some containers are milliseconds."""


class StoredDepthSource(BaseSource):
    """The frames of a clip that have stored depth, or black frames at the times of the depth.

    Frames and depth are matched by media time. Frames without depth count as dropped (``no_depth``). Each depth map is
    added to ``maps`` before its frame is yielded.

    Args:
        path: what ``--data`` wrote.
        clip: unopened source of the frames; None = black frames of the depth's size.
        maps: where the depth goes; None in a second pass, which needs frames only.
    """

    def __init__(self, path: str | Path, clip: Source | None = None, *, maps: deque[DepthMap] | None = None) -> None:
        super().__init__(clip.id if clip is not None else str(path))
        self._path, self._clip, self._maps = path, clip, maps
        self._reader: DepthReader | None = None
        self._without = 0
        self._ended = False

    @property
    def dropped(self) -> Mapping[str, int]:
        own = {"no_depth": self._without} if self._without else {}
        return MappingProxyType({**(self._clip.dropped if self._clip is not None else {}), **own})

    def open(self) -> StreamInfo:
        """
        Raises:
            SourceNotFoundError: there is no such depth data.
            DataFormatError: it is not depth data of streamdepth.
            SourceError: the clip cannot be opened.
        """
        self._reader = reader = read_depth(self._path)
        if self._clip is not None:
            return self._checked(self._clip.open(), reader)
        said = reader.metadata
        first = next(iter(reader), None)
        if first is None:
            raise DataFormatError(f"{self._path}: holds no frame; run the model again with --data")
        height, width = first.values.shape
        return StreamInfo(
            source_id=self.id,
            width_px=width,
            height_px=height,
            pix_fmt="gray",
            time_base=said.time_base,
            origin_seconds=said.origin_seconds,
        )

    def _checked(self, info: StreamInfo, reader: DepthReader) -> StreamInfo:
        """Raises ``DataFormatError``: the frames have another shape than those that the depth was computed from."""
        width, height = reader.metadata.frame_width_px, reader.metadata.frame_height_px
        if abs(width * info.height_px - height * info.width_px) > max(width, height):
            raise DataFormatError(
                f"{self.id}: is {info.width_px}x{info.height_px}, but the depth in {self._path} is of a clip of "
                f"{width}x{height}; name the clip that the depth was computed from"
            )
        return info

    def frames(self) -> Iterator[Frame]:
        reader = self._reader
        if reader is None:
            return
        stored = iter(reader)
        if self._clip is None:
            for index, one in enumerate(stored):
                if self._ended:
                    return
                image = image_from_array(np.zeros(one.values.shape, np.uint8), "hw_gray")
                self._keep(one)
                yield Frame(self.id, index, one.pts, one.time_base, self._clock.monotonic_ns(), image)
            return
        matched = next(stored, None)
        found = 0
        for frame in self._clip.frames():
            seconds = frame.pts * frame.time_base
            while matched is not None and matched.pts * matched.time_base < seconds - _SAME_SECONDS:
                matched = next(stored, None)
            if matched is None or matched.pts * matched.time_base > seconds + _SAME_SECONDS:
                self._without += 1
                continue
            if unlike(matched.thumbnail, thumbnail(frame.image) if matched.thumbnail else b""):
                raise DataFormatError(
                    f"{self.id}: frame {frame.index} is not the one that the depth in {self._path} was computed from; "
                    "name the clip that the depth belongs to"
                )
            self._keep(matched)
            found += 1
            yield frame
        if not self._ended and 2 * found < len(reader):
            raise DataFormatError(
                f"{self.id}: only {found} of the {len(reader)} depth frames of {self._path} have a frame at their "
                "times; name the clip that the depth was computed from"
            )

    def again(self) -> StoredDepthSource | None:
        clip = self._clip.again() if self._clip is not None else None
        if clip is None and self._clip is not None:
            return None
        return StoredDepthSource(self._path, clip)

    def interrupt(self) -> None:
        self._ended = True
        if self._clip is not None:
            self._clip.interrupt()

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        if self._clip is not None:
            self._clip.close()

    def _keep(self, one: DepthFrame) -> None:
        if self._maps is not None:
            error = one.anchor_error
            self._maps.append(DepthMap(one.values, one.sense, propagated=one.propagated, anchor_error=error))


class _Slot:
    def __init__(self, maps: deque[DepthMap]) -> None:
        self._maps = maps
        self.rows: list[DepthMap] = []

    def write(self, row: int, image: av.VideoFrame) -> None:  # noqa: ARG002 - the frame's depth is known
        self.rows.append(self._maps.popleft())


class StoredDepthModel:
    """Takes the place of a model in a pipeline whose only source is a :class:`StoredDepthSource`.

    Args:
        maps: the depth of the frames to come, in their order.
        name: of the model that made it, for statistics.
    """

    provider, batch, workers, note = "stored", 1, 1, ""

    def __init__(self, maps: deque[DepthMap], name: str) -> None:
        self._maps = maps
        self.spec = cast(
            "ModelSpec", SimpleNamespace(name=name, dtype="stored", notes=(), video_only="", states=(), window=0)
        )

    def engine(self, batch: int = 1, *, exact: bool | None = None, workers: int = 1) -> Engine:  # noqa: ARG002
        return cast("Engine", self)

    def live_engine(self, batch: int = 1) -> Runner:  # noqa: ARG002
        return cast("Runner", self)

    def network_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        return width_px, height_px

    def acquire(self, size: tuple[int, int]) -> _Slot:  # noqa: ARG002
        return _Slot(self._maps)

    def run(self, slot: _Slot, count: int) -> list[DepthMap]:
        return slot.rows[:count]

    def interrupt(self) -> None:
        """Nothing blocks."""

    def close(self) -> None:
        """Nothing is held."""

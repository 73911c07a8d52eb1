"""Shot spool: stores depth until its shot has ended, then returns it with the range of the shot.

The depth pass appends, the colour pass takes, one shot behind. Depth is stored on disk, one file per shot, so memory
does not grow. A shot larger than half the disk budget is split; the range of the next part is crossfaded from that of
the previous one. The pixels of frames are stored on disk too, up to a budget; the colour pass decodes the others
again. Where only depth is drawn, neither happens.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from dataclasses import dataclass, field, fields
from typing import IO, TYPE_CHECKING, Any

import av
import numpy as np

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import SinkError
from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Frame
from streamdepth.core.host import temporary_folder
from streamdepth.core.queues import AbortableCondition, Ended
from streamdepth.depth.range import PERCENTILES
from streamdepth.media.frame_store import FrameStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.core.clock import Clock
    from streamdepth.depth.range import Measurement

SPOOL_BYTES = 2 << 30
FRAME_CACHE_BYTES = 1 << 30
"""Disk space for decoded frames: 776 of 4:2:0 at 1280x720."""
_CROSSFADE_FRAMES = 48
_SAMPLES_PER_FRAME = 512
_FRAMES_SAMPLED = 2048
"""Frames of a shot sampled for its percentiles (4 MB). Of a longer shot only every 2nd, 4th, ... frame is sampled, so
memory does not grow with its length."""
_DEPTH_FIELDS = tuple(each.name for each in fields(DepthMap) if each.name not in ("values", "valid"))


@dataclass(frozen=True, slots=True)
class Stamp:
    """Identifies a frame of a source; fields as in ``Frame``."""

    index: int
    pts: int
    captured_ns: int


class Outline:
    """A frame without its pixels: size, format, colour tags and times."""

    def __init__(self, frame: Frame) -> None:
        image = frame.image
        self._fields = {each.name: getattr(frame, each.name) for each in fields(frame) if each.name != "image"}
        self._format = image.width, image.height, image.format.name
        self._tags = ColorTags.of(image)
        self._times = image.pts, image.time_base, image.duration
        self._pict_type = int(image.pict_type)

    def frame(self, image: av.VideoFrame | None = None) -> Frame:
        """The frame with the pixels of an image of its size and format; None = undefined pixels."""
        if image is None:
            image = av.VideoFrame(*self._format)
        image.pict_type = self._pict_type
        self._tags.apply(image)
        image.pts, time_base, image.duration = self._times
        if time_base is not None:
            image.time_base = time_base
        return Frame(image=image, **self._fields)


@dataclass(frozen=True, slots=True)
class Spooled:
    """One frame of the colour pass.

    Attributes:
        frame: None if its pixels were not stored; where they are used, the frame must be read again. A stored frame has
            size, format, colour tags and times of the decoded one, and no side data.
        outline: the frame without its pixels.
        depth: depth with a new array.
        range: range of the shot.
    """

    stamp: Stamp
    frame: Frame | None
    outline: Outline
    depth: DepthMap
    range: DepthRange


@dataclass(frozen=True, slots=True)
class _Record:
    """A frame whose depth is in the spool; ``depth`` has the fields of its map beside values and validity."""

    stamp: Stamp
    outline: Outline
    shape: tuple[int, int]
    depth: Mapping[str, Any]


class ShotSamples:
    """Samples of the frames of a shot, in bounded memory, for its range."""

    def __init__(self) -> None:
        self._samples: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
        self._frames = 0
        self._every = 1

    def __len__(self) -> int:
        """Number of frames sampled."""
        return len(self._samples)

    def add(self, measurement: Measurement) -> None:
        """Store samples of the next frame."""
        if self._frames % self._every == 0 and not measurement.flat:
            self._samples.append(sampled(measurement))
            if len(self._samples) >= _FRAMES_SAMPLED:
                del self._samples[1::2]
                self._every *= 2
        self._frames += 1

    def range(self) -> DepthRange:
        """Range of the frames so far; 0, 0 if all are flat."""
        if not self._samples:
            return DepthRange(0.0, 0.0)
        lo, hi = np.percentile(np.concatenate(self._samples), PERCENTILES)
        return DepthRange(float(lo), float(hi))


def sampled(measurement: Measurement) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The samples of a frame that count for its shot: float32 [n], n below 1,024. Idempotent."""
    step = max(1, measurement.samples.size // _SAMPLES_PER_FRAME)
    return measurement.samples[::step].copy()


def is_shot_full(size_bytes: int, frame_bytes: int, budget_bytes: int = SPOOL_BYTES) -> bool:
    """True if a shot of ``size_bytes`` of depth is split before a frame of ``frame_bytes``."""
    return size_bytes + frame_bytes > budget_bytes // 2


@dataclass(slots=True)
class _Shot:
    spool: IO[bytes]
    crossfade_from: DepthRange | None
    records: deque[_Record] = field(default_factory=deque)
    samples: ShotSamples = field(default_factory=ShotSamples)
    range: DepthRange | None = None
    size_bytes: int = 0
    stored: deque[int] = field(default_factory=deque)
    """Numbers of the stored frames: those of the last records, as many as fit."""
    taken: int = 0


class ShotSpool:
    """Passes depth from the depth pass to the colour pass, with the range of the whole shot.

    One thread appends, one takes. ``abort`` ends all waits. ``append`` blocks when ``budget_bytes`` of disk are used.
    When ``frame_cache_bytes`` are used, the first frames of the shot are forgotten, so that those to read again are
    contiguous and start at the cut, where encoders place key frames.

    Args:
        budget_bytes, frame_cache_bytes: disk space for depth and for the pixels of frames.
    """

    def __init__(
        self,
        budget_bytes: int = SPOOL_BYTES,
        frame_cache_bytes: int = FRAME_CACHE_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._frames = FrameStore(frame_cache_bytes, clock or SystemClock())
        self._changed = AbortableCondition()
        self._closed: deque[_Shot] = deque()
        self._reading: _Shot | None = None
        self._open: _Shot | None = None
        self._last_range: DepthRange | None = None
        self._used_bytes = 0
        self._ended = False
        self._shots = 0

    @property
    def shots(self) -> int:
        """Number of shots started so far."""
        return self._shots

    def __len__(self) -> int:
        """Number of frames in the spool."""
        with self._changed:
            shots = [*self._closed, *(shot for shot in (self._reading, self._open) if shot)]
            return sum(len(shot.records) for shot in shots)

    def append(
        self, frame: Frame, depth: DepthMap, measurement: Measurement, *, cut: bool, pixels: bool = True
    ) -> None:
        """Add a frame and its depth; ``cut`` if a new shot starts with it, ``pixels`` if its pixels will be used.

        Raises:
            SinkError: the spool file cannot be written (disk full).
            Aborted: the spool was aborted while waiting for room.
        """
        values = depth.values if depth.valid is None else np.where(depth.valid, depth.values, np.float32("nan"))
        with self._changed:
            if self._open is not None and (
                cut or is_shot_full(self._open.size_bytes, values.nbytes, self._budget_bytes)
            ):
                self._close_shot(crossfade=not cut)
            self._changed.wait_for(
                lambda: (
                    self._used_bytes + values.nbytes <= self._budget_bytes
                    or (not self._closed and self._reading is None)
                )
            )
            if self._open is None:
                self._shots += 1
                self._open = _Shot(spool_file(), None if cut else self._last_range)
            shot = self._open
        try:
            shot.spool.write(np.ascontiguousarray(values).data)
        except OSError as error:
            raise SinkError(
                f"depth cannot be spooled in {temporary_folder()}: {error.strerror}; free some space, set TMPDIR to "
                "another folder, or use --range ema, which needs no spool"
            ) from error
        self._store(shot, frame if pixels else None)
        with self._changed:
            stamp = Stamp(frame.index, frame.pts, frame.captured_ns)
            further = {name: getattr(depth, name) for name in _DEPTH_FIELDS}
            shot.records.append(_Record(stamp, Outline(frame), values.shape, further))
            shot.samples.add(measurement)
            shot.size_bytes += values.nbytes
            self._used_bytes += values.nbytes

    def end(self) -> None:
        """No more frames follow; the last shot is complete."""
        with self._changed:
            if self._open is not None:
                self._close_shot(crossfade=False)
            self._ended = True
            self._changed.notify_all()

    def take(self) -> Spooled:
        """The next frame; blocks until its shot is complete.

        Raises:
            Ended: all frames were taken. Aborted: the spool was aborted.
        """
        with self._changed:
            if self._reading is not None and not self._reading.records:
                self._discard(self._reading)
                self._reading = None
            self._changed.wait_for(lambda: self._reading or self._closed or self._ended)
            if self._reading is None:
                if not self._closed:
                    raise Ended
                self._reading = self._closed.popleft()
                self._reading.spool.seek(0)
            shot = self._reading
            number = shot.stored.popleft() if len(shot.stored) == len(shot.records) else None
            record = shot.records.popleft()
            shot.taken += 1
        height, width = record.shape
        values = np.empty((height, width), np.float32)
        shot.spool.readinto(values.data)  # type: ignore[attr-defined]  # a BufferedRandom, which IO[bytes] hides
        frame = None
        if number is not None:
            with contextlib.suppress(OSError):  # it is read again
                frame = record.outline.frame(self._frames.load(number))
        assert shot.range is not None  # noqa: S101 - set by _close_shot
        range_now = crossfaded(shot.range, shot.crossfade_from, shot.taken)
        return Spooled(record.stamp, frame, record.outline, DepthMap(values, **record.depth), range_now)

    def abort(self) -> None:
        self._changed.abort()

    def close(self) -> None:
        """Free the disk. Idempotent. Call it after both passes have ended."""
        with self._changed:
            for shot in (*self._closed, self._reading, self._open):
                if shot is not None:
                    self._discard(shot)
            self._closed.clear()
            self._reading = self._open = None
        self._frames.close()

    def _store(self, shot: _Shot, frame: Frame | None) -> None:
        """Store the pixels of the next frame of the open shot, in place of its first ones if there is no other room."""
        number = None if frame is None else self._frames.add(frame.image)
        while number is None and shot.stored:
            self._frames.free(shot.stored.popleft())
            number = None if frame is None else self._frames.add(frame.image)
        if number is not None:
            shot.stored.append(number)

    def _close_shot(self, *, crossfade: bool) -> None:
        shot, self._open = self._open, None
        assert shot is not None  # noqa: S101 - checked by the callers
        shot.range = shot.samples.range()
        shot.samples = ShotSamples()
        self._last_range = shot.range if crossfade else None
        self._closed.append(shot)
        self._changed.notify_all()

    def _discard(self, shot: _Shot) -> None:
        shot.spool.close()
        while shot.stored:
            self._frames.free(shot.stored.popleft())
        self._used_bytes -= shot.size_bytes
        shot.size_bytes = 0
        self._changed.notify_all()


def crossfaded(own: DepthRange, before: DepthRange | None, number: int) -> DepthRange:
    """The range of one frame of a shot; after a split, it moves from the range of the previous part to its own.

    Args:
        own: range of the shot.
        before: range of the previous part of a split shot, None at a cut.
        number: of the frame in its shot, from 1.
    """
    if before is None or number >= _CROSSFADE_FRAMES:
        return own
    share = number / _CROSSFADE_FRAMES
    return DepthRange(before.lo + share * (own.lo - before.lo), before.hi + share * (own.hi - before.hi))


def spool_file() -> IO[bytes]:
    """Raises ``SinkError``: no temporary file can be written."""
    try:
        return tempfile.TemporaryFile(prefix="streamdepth-", dir=temporary_folder())
    except OSError as error:
        raise SinkError(
            f"no temporary file for depth can be written ({error.strerror}); set TMPDIR to a writable folder, or use "
            "--range ema"
        ) from error

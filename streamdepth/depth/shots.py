"""One range for each shot: depth is spooled until its shot has ended, then handed on with the shot's range.

The depth pass appends, the colour pass takes, one shot behind. Depth waits on disk, a file a shot, so that memory stays
flat; a shot longer than half the spool's budget is closed early and the next stretch of it glides to its own range.
Decoded images wait in memory as far as a fixed budget goes: the colour pass reads the source again for the rest only.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import SinkError
from streamdepth.core.frame import DepthMap, DepthRange, Sense
from streamdepth.core.queues import Aborted, Ended
from streamdepth.depth.range import PERCENTILES

if TYPE_CHECKING:
    import av

    from streamdepth.core.frame import Frame
    from streamdepth.depth.range import Measurement

SPOOL_BYTES = 2 << 30
KEPT_BYTES = 256 << 20
"""Decoded images kept: 185 frames of 4:2:0 at 1280x720, 82 at 1920x1080, about a shot of a film. Keeping a
720p image instead of decoding it again saves 2 of 36 ms of CPU that a frame takes with the built-in model."""
_CROSSFADE_FRAMES = 48
_SAMPLES_PER_FRAME = 512
_FRAMES_SAMPLED = 2048
"""Frames of a shot whose values are kept for its percentiles (4 MB): a longer shot is looked at every 2nd, 4th, ...
frame instead, so that memory does not follow its length."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a frame from the others of its source; fields as in ``Frame``."""

    index: int
    pts: int
    captured_ns: int


@dataclass(frozen=True, slots=True)
class Spooled:
    """One frame as the colour pass gets it.

    Attributes:
        frame: None where its image was not kept and has to be read again.
        depth: a new array.
        range: of its whole shot.
    """

    stamp: Stamp
    frame: Frame | None
    depth: DepthMap
    range: DepthRange


@dataclass(frozen=True, slots=True)
class _Record:
    stamp: Stamp
    sense: Sense
    shape: tuple[int, int]
    propagated: bool


@dataclass(slots=True)
class _Shot:
    spool: IO[bytes]
    crossfade_from: DepthRange | None
    records: deque[_Record] = field(default_factory=deque)
    samples: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = field(default_factory=list)
    range: DepthRange | None = None
    size_bytes: int = 0
    frames: int = 0
    kept: deque[Frame] = field(default_factory=deque)
    """Frames of the last records, so many as there was room for."""
    every: int = 1
    taken: int = 0

    def sample(self, measurement: Measurement) -> None:
        """Keep some of a frame's values for the range of the whole shot."""
        if self.frames % self.every == 0 and not measurement.flat:
            step = max(1, measurement.samples.size // _SAMPLES_PER_FRAME)
            self.samples.append(measurement.samples[::step].copy())
            if len(self.samples) >= _FRAMES_SAMPLED:
                del self.samples[1::2]
                self.every *= 2
        self.frames += 1


class ShotSpool:
    """Hands depth from the depth pass to the colour pass, each frame with the range of its whole shot.

    One thread appends, one takes. Waits end by ``abort``. The disk used never passes ``budget_bytes`` by more than one
    frame: ``append`` then waits for the colour pass. Images kept never pass ``kept_bytes``: a shot gives up its first
    ones, so that what has to be read again is one stretch that begins with the shot, where encoders put key frames.
    """

    def __init__(self, budget_bytes: int = SPOOL_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
        self._budget_bytes = budget_bytes
        self._room_bytes = kept_bytes
        self._changed = threading.Condition()
        self._closed: deque[_Shot] = deque()
        self._reading: _Shot | None = None
        self._open: _Shot | None = None
        self._last_range: DepthRange | None = None
        self._used_bytes = 0
        self._ended = False
        self._aborted = False
        self._shots = 0

    @property
    def shots(self) -> int:
        """Shots begun so far."""
        return self._shots

    def __len__(self) -> int:
        """Frames waiting."""
        with self._changed:
            shots = [*self._closed, *(shot for shot in (self._reading, self._open) if shot)]
            return sum(len(shot.records) for shot in shots)

    def append(self, frame: Frame, depth: DepthMap, measurement: Measurement, *, cut: bool) -> None:
        """Add one frame and its depth; ``cut`` where it starts a new shot.

        Raises:
            SinkError: the spool cannot be written (a full disk).
            Aborted: the shot_spool was aborted while waiting for room.
        """
        values = depth.values if depth.valid is None else np.where(depth.valid, depth.values, np.float32("nan"))
        with self._changed:
            if self._open is not None and (cut or self._open.size_bytes + values.nbytes > self._budget_bytes // 2):
                self._close_shot(crossfade=not cut)
            self._changed.wait_for(
                lambda: (
                    self._aborted
                    or self._used_bytes + values.nbytes <= self._budget_bytes
                    or (not self._closed and self._reading is None)
                )
            )
            if self._aborted:
                raise Aborted
            if self._open is None:
                self._shots += 1
                self._open = _Shot(_spool_file(), None if cut else self._last_range)
            shot = self._open
        try:
            shot.spool.write(np.ascontiguousarray(values).data)
        except OSError as error:
            raise SinkError(
                f"depth cannot be spooled in {tempfile.gettempdir()}: {error.strerror}; free some space, point TMPDIR "
                "elsewhere, or use --range ema, which spools nothing"
            ) from error
        with self._changed:
            stamp = Stamp(frame.index, frame.pts, frame.captured_ns)
            shot.records.append(_Record(stamp, depth.sense, values.shape, depth.propagated))
            self._keep(shot, frame)
            shot.sample(measurement)
            shot.size_bytes += values.nbytes
            self._used_bytes += values.nbytes

    def end(self) -> None:
        """No more frames: the last shot is complete."""
        with self._changed:
            if self._open is not None:
                self._close_shot(crossfade=False)
            self._ended = True
            self._changed.notify_all()

    def take(self) -> Spooled:
        """The next frame, as soon as its shot is complete.

        Raises:
            Ended: all were taken. Aborted: the shot_spool was aborted.
        """
        with self._changed:
            if self._reading is not None and not self._reading.records:
                self._discard(self._reading)
                self._reading = None
            if self._reading is None:
                self._changed.wait_for(lambda: self._aborted or self._closed or self._ended)
                if self._aborted:
                    raise Aborted
                if not self._closed:
                    raise Ended
                self._reading = self._closed.popleft()
                self._reading.spool.seek(0)
            if self._aborted:
                raise Aborted
            shot = self._reading
            frame = self._let_go(shot) if len(shot.kept) == len(shot.records) else None
            record = shot.records.popleft()
            shot.taken += 1
        height, width = record.shape
        values = np.empty((height, width), np.float32)
        shot.spool.readinto(values.data)  # type: ignore[attr-defined]  # a BufferedRandom, which IO[bytes] hides
        assert shot.range is not None  # noqa: S101 - set when the shot was closed
        depth = DepthMap(values, record.sense, propagated=record.propagated)
        return Spooled(record.stamp, frame, depth, _crossfade(shot, shot.range))

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._changed.notify_all()

    def close(self) -> None:
        """Free disk and images. Idempotent; after both passes have ended."""
        with self._changed:
            for shot in (*self._closed, self._reading, self._open):
                if shot is not None:
                    self._discard(shot)
            self._closed.clear()
            self._reading = self._open = None

    def _keep(self, shot: _Shot, frame: Frame) -> None:
        shot.kept.append(frame)
        self._room_bytes -= _size_bytes(frame.image)
        while self._room_bytes < 0 and shot.kept:
            self._let_go(shot)

    def _let_go(self, shot: _Shot) -> Frame:
        frame = shot.kept.popleft()
        self._room_bytes += _size_bytes(frame.image)
        return frame

    def _close_shot(self, *, crossfade: bool) -> None:
        shot, self._open = self._open, None
        assert shot is not None  # noqa: S101 - the callers have looked
        if shot.samples:
            lo, hi = np.percentile(np.concatenate(shot.samples), PERCENTILES)
            shot.range = DepthRange(float(lo), float(hi))
        else:
            shot.range = DepthRange(0.0, 0.0)
        shot.samples.clear()
        self._last_range = shot.range if crossfade else None
        self._closed.append(shot)
        self._changed.notify_all()

    def _discard(self, shot: _Shot) -> None:
        shot.spool.close()
        shot.kept.clear()
        self._used_bytes -= shot.size_bytes
        shot.size_bytes = 0
        self._changed.notify_all()


def _crossfade(shot: _Shot, own: DepthRange) -> DepthRange:
    """The range of the frame just taken: its shot's, approached from the stretch before where the shot was divided."""
    if shot.crossfade_from is None or shot.taken >= _CROSSFADE_FRAMES:
        return own
    share = shot.taken / _CROSSFADE_FRAMES
    before = shot.crossfade_from
    return DepthRange(before.lo + share * (own.lo - before.lo), before.hi + share * (own.hi - before.hi))


def _size_bytes(image: av.VideoFrame) -> int:
    return sum(plane.buffer_size for plane in image.planes)


def _spool_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="streamdepth-")
    except OSError as error:
        raise SinkError(
            f"no temporary file for depth in {tempfile.gettempdir()}: {error.strerror}; point TMPDIR to a folder that "
            "can be written, or use --range ema"
        ) from error

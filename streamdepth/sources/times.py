"""Times of a source: its limits, time stamps of packets, read without decoding, and of frames, always increasing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from streamdepth.core import limits
from streamdepth.core.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.core.clock import MediaClock
    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import Frame, StreamInfo

_IDR, _SEI = 5, 6
"""``nal_unit_type`` of a slice of an IDR picture, and of supplemental messages."""
_RECOVERY_POINT = 6
"""``payloadType`` of a supplemental message."""
_STATELESS_FROM_KEY = frozenset(
    (
        *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mpeg1video"),
        *("mjpeg", "ffv1", "prores", "dnxhd", "rawvideo", "png", "huffyuv", "ffvhuff", "utvideo", "h263", "theora"),
    )
)
"""Decoders that need nothing from before a key frame for the frames displayed after it. An animated GIF does."""


class PacketStamp(NamedTuple):
    """A packet of the video.

    Attributes:
        pts, dts: in units of the stream's time base; None if the file has none.
        key: frames from this pts on are decoded without the packets before it.
    """

    pts: int | None
    dts: int | None
    key: bool


def packet_stamps(container: InputContainer, stream: VideoStream) -> Iterator[PacketStamp]:
    """The packets of ``stream`` in file order, without those that are not displayed."""
    codec = stream.codec_context
    is_key: Callable[[av.Packet[Any]], bool]
    if codec.name == "h264":
        is_key = partial(_starts_h264, extradata=codec.extradata or b"")
    elif codec.name in _STATELESS_FROM_KEY:
        is_key = _is_keyframe
    else:
        is_key = _never
    for packet in container.demux(stream):
        if packet.size and not packet.is_discard:
            yield PacketStamp(packet.pts, packet.dts, is_key(packet))


def _never(packet: av.Packet[Any]) -> bool:  # noqa: ARG001 - the signature of the others
    return False


def _is_keyframe(packet: av.Packet[Any]) -> bool:
    return packet.is_keyframe


def _starts_h264(packet: av.Packet[Any], extradata: bytes) -> bool:
    """True if a packet has an IDR slice or a recovery point without delay, which begins an open group of pictures.

    FFmpeg also flags the first packet of an intra refresh, after which frames are incomplete for a while.
    """
    if not packet.is_keyframe:
        return False
    return any(
        unit[0] & 31 == _IDR or (unit[0] & 31 == _SEI and _recovers_at_once(unit[1:]))
        for unit in _units(bytes(packet), extradata)
        if unit
    )


def _units(data: bytes, extradata: bytes) -> Iterator[bytes]:
    """The NAL units of a packet: each after its length if the extradata is an ``avcC``, else between start codes."""
    if extradata[:1] != b"\x01" or len(extradata) < 5:
        yield from data.split(b"\0\0\1")[1:]
        return
    length_bytes, at = (extradata[4] & 3) + 1, 0
    while at + length_bytes < len(data):
        start = at + length_bytes
        at = start + int.from_bytes(data[at:start])
        yield data[start:at]


def _recovers_at_once(messages: bytes) -> bool:
    """True if SEI messages contain a recovery point whose ``recovery_frame_cnt``, an Exp-Golomb code, is 0."""
    at = 0
    while at + 2 < len(messages):
        kind, size = messages[at], messages[at + 1]
        if kind == _RECOVERY_POINT:
            return messages[at + 2] & 0x80 != 0
        if 255 in (kind, size):  # longer codes: user data, which x264 writes into a unit of its own
            return False
        at += 2 + size
    return False


_JITTER_FRAMES = 4
"""A time stamp that goes back by fewer frame durations is an error of that frame, by more a jump of the clock."""


class Timeline:
    """Makes the pts of decoded frames strictly increasing. One per run of a source; not thread-safe.

    If no frame has a pts (AVI), the decoding time is used, as in FFmpeg. A frame with neither (raw streams), or one
    without pts among others, follows its predecessor by that frame's duration or by the frame rate; it counts as
    repaired unless a later pts confirms the place.
    A pts less than four frame durations before its predecessor is jitter: the frame is placed one tick after its
    predecessor, and later frames keep their own times. A larger jump back is a new time line (joined recordings, a
    wrapped clock): all later frames are shifted, so that the first of them follows by one frame. If the clock then
    returns to the old time line, the shift ends.

    Args:
        clock: gets the shift of every jump.

    Attributes:
        repaired: how many frames got another pts, by cause: ``missing_pts``, ``backward_pts``, ``time_jump``.
        step: duration of a frame at the frame rate, in ticks.
    """

    def __init__(
        self, time_base: Fraction, rate: Fraction | None, first_pts: int = 0, clock: MediaClock | None = None
    ) -> None:
        self._time_base = time_base
        self.step = max(1, round(1 / (rate or Fraction(25)) / time_base))
        self._jitter = min(max(1, round(1 / time_base)), _JITTER_FRAMES * self.step)
        self._first = first_pts
        self._last: int | None = None
        self._last_step = self.step
        self._offset = self._old_offset = 0
        self._has_pts = False
        self._untimed = 0
        self._regular = False
        self._clock = clock
        self.repaired: Counter[str] = Counter()

    def place(self, pts: int | None, dts: int | None = None, duration: int | None = None) -> int:
        """The pts for the next frame, from the decoder's pts, dts and duration."""
        expected = self._first if self._last is None else self._last + self._last_step
        self._has_pts = self._has_pts or pts is not None
        if pts is None and not self._has_pts:
            pts = dts
        if pts is None:
            self._untimed += 1
            self.repaired["missing_pts"] += not self._regular
            placed = expected
        else:
            placed = pts + self._offset
            self._check_untimed(regular=abs(placed - expected) <= 1)
            if self._last is not None:
                placed = self._after(self._last, placed, pts, expected)
        self._last = placed
        self._last_step = duration if duration is not None and duration > 0 else self.step
        return placed

    def _check_untimed(self, *, regular: bool) -> None:
        """Frames without pts are no fault if the next pts is where the frame rate puts it: MPEG program streams have
        few."""
        if self._untimed and regular != self._regular:
            self.repaired["missing_pts"] += -self._untimed if regular else self._untimed
            self._regular = regular
        self._untimed = 0

    def _after(self, last: int, placed: int, pts: int, expected: int) -> int:
        if self._offset != self._old_offset and last < pts + self._old_offset <= expected + self._jitter:
            # A single wrong time stamp, not a new time line.
            self._shift(self._old_offset)
            return pts + self._offset
        if placed > last:
            return placed
        if last - placed < self._jitter:
            self.repaired["backward_pts"] += 1
            return last + 1
        self.repaired["time_jump"] += 1
        self._old_offset = self._offset
        self._shift(self._offset + expected - placed)
        return expected

    def _shift(self, offset: int) -> None:
        self._offset = offset
        if self._clock is not None:
            self._clock.add_shift(offset * self._time_base)


@dataclass(frozen=True, slots=True)
class Limits:
    """The part of a source that is read. Times are in seconds from the beginning of the source.

    Attributes:
        start_seconds: the first frame is the first one at or after this time.
        duration_seconds: from the start; None = to the end.
        max_frames: largest number of frames; None = all.
    """

    start_seconds: Fraction = Fraction(0)
    duration_seconds: Fraction | None = None
    max_frames: int | None = None

    @classmethod
    def of(
        cls,
        start_seconds: float | Fraction = 0,
        duration_seconds: float | Fraction | None = None,
        max_frames: int | None = None,
    ) -> Limits:
        """Raises ``UsageError``: a time that is negative or not finite, or a limit that no frame can meet."""
        if not (math.isfinite(start_seconds) and start_seconds >= 0):
            raise UsageError(f"start must be 0 seconds or more, not {start_seconds}")
        if duration_seconds is not None and not (math.isfinite(duration_seconds) and duration_seconds > 0):
            raise UsageError(f"duration must be more than 0 seconds, not {duration_seconds}")
        if max_frames is not None:
            limits.MAX_FRAMES.check("max-frames", max_frames)
        return cls(_exact(start_seconds), None if duration_seconds is None else _exact(duration_seconds), max_frames)

    def __bool__(self) -> bool:
        return self != Limits()

    @property
    def end_seconds(self) -> Fraction | None:
        return None if self.duration_seconds is None else self.start_seconds + self.duration_seconds

    def describe(self, info: StreamInfo) -> StreamInfo:
        """The description of the limited stream, from that of the whole one.

        Raises:
            SourceError: the source ends before the start time.
        """
        duration = info.duration_seconds
        if self.start_seconds and duration is not None and duration <= self.start_seconds:
            raise SourceError(
                f"{info.source_id}: lasts {duration:.3f} s, so there is no frame at or after "
                f"{float(self.start_seconds):g} s; choose an earlier start",
                source=info.source_id,
            )
        rest = None if duration is None else duration - float(self.start_seconds)
        if self.duration_seconds is not None:
            rest = float(self.duration_seconds) if rest is None else min(rest, float(self.duration_seconds))
        count = info.frame_count
        if (self.start_seconds or self.duration_seconds is not None) and rest is not None and info.rate is not None:
            count = max(1, round(rest * float(info.rate)))
        if self.max_frames is not None:
            count = self.max_frames if count is None else min(count, self.max_frames)
        end = self.end_seconds
        return replace(
            info,
            frame_count=count,
            duration_seconds=rest,
            origin_seconds=info.origin_seconds + self.start_seconds,
            end_seconds=None if end is None else info.origin_seconds + end,
        )

    def cut(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Frames until the end of the limits, counted from pts 0. The start is not applied."""
        end = self.end_seconds
        for given, frame in enumerate(frames, start=1):
            if end is not None and frame.pts * frame.time_base >= end:
                return
            yield frame
            if given == self.max_frames:
                return


class LimitedSource:
    """A part of another source that has no limits of its own.

    Times count from the source's pts 0. Frames keep their pts. Frames before the start are read and discarded, and the
    first frame given has index 0. ``FileSource`` seeks instead.

    Raises:
        UsageError: a limit that no frame can meet, or a start for a live source.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        if source.live and limits.start_seconds:
            raise UsageError(f"{source.id}: a live source has no start time; omit --start")
        self._dropped_before: dict[str, int] = {}

    @property
    def id(self) -> str:
        return self._source.id

    @property
    def live(self) -> bool:
        return self._source.live

    @property
    def dropped(self) -> Mapping[str, int]:
        counted = {cause: count - self._dropped_before.get(cause, 0) for cause, count in self._source.dropped.items()}
        return {cause: count for cause, count in counted.items() if count}

    @property
    def notes(self) -> tuple[str, ...]:
        return self._source.notes

    def open(self) -> StreamInfo:
        return self._limits.describe(self._source.open())

    def frames(self) -> Iterator[Frame]:
        return self._limits.cut(self._from_start())

    def _from_start(self) -> Iterator[Frame]:
        skipped = 0
        for frame in self._source.frames():
            if frame.pts * frame.time_base < self._limits.start_seconds:
                skipped = frame.index + 1
                self._dropped_before = dict(self._source.dropped)
                continue
            yield replace(frame, index=frame.index - skipped) if skipped else frame

    def again(self) -> LimitedSource | None:
        source = self._source.again()
        return None if source is None else LimitedSource(source, self._limits)

    def interrupt(self) -> None:
        self._source.interrupt()

    def close(self) -> None:
        self._source.close()


def _exact(seconds: float | Fraction) -> Fraction:
    """Seconds as people write them: 0.04 is 1/25, not the nearest double."""
    return Fraction(seconds).limit_denominator(1_000_000)

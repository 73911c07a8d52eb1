"""Time stamps of a video: of its packets, read without decoding, and of its frames, always increasing."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.core.clock import MediaClock

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

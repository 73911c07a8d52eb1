"""Time stamps of the packets of a video, read without decoding."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

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

"""Encoding to H.264, packetizing as RTP, and the description of the stream (SDP)."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import SinkError
from streamdepth.core.frame import ColorTags
from streamdepth.sinks.encoder_settings import stream_options

if TYPE_CHECKING:
    import av
    from av.video.codeccontext import VideoCodecContext

CLOCK_RATE = 90_000
TIME_BASE = Fraction(1, CLOCK_RATE)
PAYLOAD_TYPE = 96
_PACKET_BYTES = 1400
_DELIMITER = b"\x00\x00\x00\x01\x09\xf0"
"""Any slice type may follow."""
_LOW_BUFFER_SECONDS, _BUFFER_SECONDS = 0.25, 1.0
_PARAMS = "repeat-headers=1:annexb=1:slices=1"
_NTP_EPOCH_SECONDS = 2_208_988_800

_Shape = tuple[tuple[int, int], ColorTags]


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """One encoded frame as RTP packets.

    Attributes:
        packets: complete RTP packets in order: those of the frame, the last one with the marker bit, then the delimiter
            of the next frame if the encoder announces it.
        key: a decoder can start here.
        rtp_time: RTP time stamp of the frame's packets, 0..2**32-1.
    """

    packets: tuple[bytes, ...]
    key: bool
    rtp_time: int


class Encoder:
    """Encodes frames of any size and format for RTP: x264, zero latency, one slice per frame. One thread at a time.

    Some players do not depacketize an IDR of several slices correctly, and the ``zerolatency`` tune makes a slice for
    each thread, so one thread is used. A frame of another size starts a new encoder within the same RTP stream, with
    its parameter sets in band (RFC 6184 8.4).

    Args:
        rate: nominal frames per second; actual times may differ.
        bitrate: target in bits per second, exceeded only briefly; None = constant quality.
        gop_seconds: largest distance between key frames.
        preset: x264's speed preset, or ``auto``.
        low_latency: with a bit rate, limit the rate control buffer to a quarter second, so that key frames are no large
            bursts; False = one second, which gives key frames more bits.
        announce: send the access unit delimiter (ITU-T H.264 7.3.2.4) of the next frame after each frame, with the time
            stamp of the next one. FFmpeg's RTSP reader, and players based on it, detect the end of a frame by the start
            of the next: without the delimiter they show every frame one interval late (measured: 33 ms at 30 fps).
    """

    def __init__(
        self,
        *,
        rate: Fraction,
        bitrate: int | None,
        gop_seconds: float,
        preset: str,
        low_latency: bool = True,
        announce: bool = True,
    ) -> None:
        self._rate = rate
        self._announce = announce
        self._bitrate = bitrate
        self._gop = max(1, round(float(rate) * gop_seconds))
        self._preset, self._params = stream_options(preset, low_latency=low_latency)
        self._buffer_seconds = _LOW_BUFFER_SECONDS if low_latency else _BUFFER_SECONDS
        self._codec: VideoCodecContext | None = None
        self._shape: _Shape | None = None
        self._step = max(1, round(CLOCK_RATE / rate))
        self._packetizer = _Packetizer()
        self._last_pts = -1
        self._announced_pts: int | None = None
        self.sps = b""
        self.pps = b""

    @property
    def ssrc(self) -> int:
        return self._packetizer.ssrc

    def encode(self, image: av.VideoFrame, pts: int, *, key: bool) -> AccessUnit:
        """Encode one frame.

        Args:
            pts: in units of 1/90000 s. An announced time within two intervals of it replaces it; a value that does not
                rise is replaced by the last one plus one.
            key: make it a key frame.
        Raises:
            SinkError: x264 rejects the frame.
        """
        from av.error import FFmpegError
        from av.video.frame import PictureType

        size = (max(image.width & ~1, 2), max(image.height & ~1, 2))
        try:
            shape = (size, _color_of(image))
            codec = self._codec if self._codec is not None and shape == self._shape else self._start(shape)
            frame = _own(image, size)
            self._last_pts = max(self._stamp(pts), self._last_pts + 1)
            frame.pts, frame.time_base = self._last_pts, TIME_BASE
            frame.pict_type = PictureType.I if key else PictureType.NONE
            packets = codec.encode(frame)
        except FFmpegError as exc:
            raise SinkError(
                f"H.264 encoder: cannot encode {size[0]}x{size[1]} ({exc.strerror}); use another size"
            ) from None
        if len(packets) != 1:
            raise SinkError(f"H.264 encoder: {len(packets)} packets for one frame; this is a bug of streamdepth")
        is_key = bool(packets[0].is_keyframe)
        if is_key:
            self._keep_parameter_sets(bytes(packets[0]))
        rtp = self._packetizer.packetize(packets[0])
        if self._announce:
            # Based on the actual time: a time stamp has the jitter of one interval, which must not add up.
            self._announced_pts = max(pts + self._step, self._last_pts + 1)
            rtp += self._packetizer.delimit(self._announced_pts)
        return AccessUnit(
            packets=rtp,
            key=is_key,
            rtp_time=int.from_bytes(rtp[0][4:8], "big"),
        )

    def close(self) -> None:
        self._packetizer.close()

    def _stamp(self, pts: int) -> int:
        announced = self._announced_pts
        return pts if announced is None or abs(pts - announced) > 2 * self._step else announced

    def _start(self, shape: _Shape) -> VideoCodecContext:
        import av

        size, color = shape

        codec: VideoCodecContext = av.CodecContext.create("libx264", "w")
        codec.width, codec.height = size
        codec.pix_fmt = "yuv420p"
        codec.time_base = TIME_BASE
        codec.framerate = self._rate
        codec.gop_size = self._gop
        codec.thread_count = 1
        params = ":".join(filter(None, (_PARAMS, self._params)))
        options = {"preset": self._preset, "tune": "zerolatency", "x264-params": params}
        if self._bitrate is None:
            options["crf"] = "23"
        else:
            codec.bit_rate = self._bitrate
            options |= {"maxrate": str(self._bitrate), "bufsize": str(round(self._bitrate * self._buffer_seconds))}
        codec.options = options
        codec.color_range, codec.colorspace = color.range, color.matrix
        codec.color_primaries, codec.color_trc = color.primaries, color.transfer
        self._codec, self._shape = codec, shape
        return codec

    def _keep_parameter_sets(self, annex_b: bytes) -> None:
        for unit in split_annex_b(annex_b):
            kind = unit[0] & 0x1F
            if kind == 7:
                self.sps = unit
            elif kind == 8:
                self.pps = unit


def _own(image: av.VideoFrame, size: tuple[int, int]) -> av.VideoFrame:
    """A yuv420p copy: pts and picture type must not be written to a frame that other sinks use."""
    import av

    frame = image.reformat(width=size[0], height=size[1], format="yuv420p")
    if frame is not image:
        return frame
    copy = av.VideoFrame(size[0], size[1], "yuv420p")
    for target, source in zip(copy.planes, image.planes, strict=True):
        if target.line_size == source.line_size and target.buffer_size == source.buffer_size:
            target.update(bytes(source))
            continue
        rows = np.frombuffer(bytes(source), np.uint8)[: source.line_size * source.height].reshape(source.height, -1)
        padded = np.zeros((target.buffer_size // target.line_size, target.line_size), np.uint8)
        padded[: source.height, : source.width] = rows[:, : source.width]
        target.update(padded.tobytes())
    return copy


def _color_of(image: av.VideoFrame) -> ColorTags:
    """Colour tags of the encoder's input: swscale converts RGB to limited BT.601 by default."""
    if image.format.is_rgb:
        return ColorTags(matrix=6, range=1)
    tags = ColorTags.of(image)
    return replace(tags, range=2) if image.format.name.startswith("yuvj") else tags


def split_annex_b(data: bytes) -> list[bytes]:
    """NAL units of an Annex B byte stream (ITU-T H.264 B.1), without start codes, empty ones left out."""
    # A third zero before a start code is padding; a NAL unit never ends in zero.
    return [unit for part in data.split(b"\x00\x00\x01") if (unit := part.rstrip(b"\x00"))]


class _Sink:
    """The output of libav's muxer: every write is one RTP packet."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []

    def write(self, data: Any) -> int:
        self.packets.append(bytes(data))
        return len(self.packets[-1])


class _Packetizer:
    def __init__(self) -> None:
        self.ssrc = secrets.randbits(31)
        self._sink = _Sink()
        self._container: Any = None
        self._stream: Any = None

    def packetize(self, packet: av.Packet[Any]) -> tuple[bytes, ...]:
        if self._container is None:
            self._open()
        packets = self._mux(packet)
        if not packets:
            raise SinkError("RTP packetizer: no packets for a frame; this is a bug of streamdepth")
        return packets

    def delimit(self, pts: int) -> tuple[bytes, ...]:
        """The access unit delimiter of the next frame, in a packet without marker bit: the frame itself has it."""
        import av

        delimiter = av.Packet(_DELIMITER)
        delimiter.pts = delimiter.dts = pts
        delimiter.time_base = TIME_BASE
        return tuple(one[:1] + bytes((one[1] & 0x7F,)) + one[2:] for one in self._mux(delimiter))

    def _mux(self, packet: av.Packet[Any]) -> tuple[bytes, ...]:
        packet.stream = self._stream
        self._container.mux_one(packet)
        packets, self._sink.packets = tuple(self._sink.packets), []
        return packets

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        import av

        # Sender reports are sent per viewer: libav's would count frames that a viewer skipped.
        options = {
            "payload_type": str(PAYLOAD_TYPE),
            "ssrc": str(self.ssrc),
            "seq": str(secrets.randbits(15)),
            "rtpflags": "skip_rtcp",
        }
        self._container = av.open(self._sink, "w", format="rtp", options=options, buffer_size=_PACKET_BYTES)
        self._stream = self._container.add_mux_stream("h264", rate=25, width=16, height=16)


def sdp(*, address: str, sps: bytes, pps: bytes, rate: Fraction, control: str) -> str:
    """Describe the stream (RFC 4566, RFC 6184 8.1).

    Args:
        address: of the server, IPv4 or IPv6 in text.
        control: value of the stream's control attribute.
    """
    family = "IP6" if ":" in address else "IP4"
    unspecified = "::" if family == "IP6" else "0.0.0.0"  # noqa: S104 - a field of SDP, nothing binds to it
    sets = ",".join(base64.b64encode(unit).decode() for unit in (sps, pps))
    lines = (
        "v=0",
        f"o=- 0 0 IN {family} {address}",
        "s=streamdepth",
        f"c=IN {family} {unspecified}",
        "t=0 0",
        "a=control:*",
        "a=range:npt=now-",
        f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
        f"a=rtpmap:{PAYLOAD_TYPE} H264/{CLOCK_RATE}",
        f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;profile-level-id={sps[1:4].hex()};sprop-parameter-sets={sets}",
        f"a=framerate:{float(rate):.6g}",
        f"a=control:{control}",
    )
    return "\r\n".join(lines) + "\r\n"


def sender_report(ssrc: int, wall_seconds: float, rtp_time: int, packets: int, octets: int) -> bytes:
    """An RTCP sender report without report blocks (RFC 3550 6.4.1), and the CNAME that has to go with it.

    Args:
        wall_seconds: Unix time that ``rtp_time`` belongs to.
    """
    ntp = int((wall_seconds + _NTP_EPOCH_SECONDS) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF
    words = (ssrc, ntp >> 32, ntp & 0xFFFFFFFF, rtp_time & 0xFFFFFFFF, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
    report = b"\x80\xc8\x00\x06" + b"".join(word.to_bytes(4, "big") for word in words)
    name = b"streamdepth"
    item = b"\x01" + bytes((len(name),)) + name
    item += b"\x00" * (4 - len(item) % 4)
    return report + b"\x81\xca" + (1 + len(item) // 4).to_bytes(2, "big") + ssrc.to_bytes(4, "big") + item


def goodbye(ssrc: int) -> bytes:
    """An RTCP BYE (RFC 3550 6.6): the stream is over."""
    return b"\x81\xcb\x00\x01" + ssrc.to_bytes(4, "big")

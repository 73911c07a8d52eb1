"""Output of a network stream: its rate and pacing, and encoding to H.264."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamdepth.core import limits
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.frame import ColorTags, converted
from streamdepth.sinks.encoding import AUTO, PRESETS, stream_options
from streamdepth.sinks.rtsp.delivery import CLOCK_RATE, TIME_BASE, AccessUnit, Packetizer

if TYPE_CHECKING:
    import av
    from av.video.codeccontext import VideoCodecContext

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import ImageInfo, StreamInfo


_DEFAULT_RATE = Fraction(25)
_FASTEST_DEFAULT = Fraction(30)
_PATIENCE = Fraction(3, 2)
_EARLY = Fraction(9, 10)
_NS = 1_000_000_000


class Due(NamedTuple):
    """A frame to send now; ``fresh`` if it was not sent before."""

    image: av.VideoFrame
    now_ns: int
    fresh: bool


class Pace:
    """Holds the newest frame; returns it when it is new, and again when ``1.5 / rate`` has passed without a new one.

    A frame is sent as soon as it arrives, gaps are filled at the output rate, and faster input is reduced to about that
    rate (at least ``0.9 / rate`` apart, which tolerates jitter). ``take`` from one thread, the rest from any.
    """

    def __init__(self, rate: Fraction, clock: Clock) -> None:
        self._clock = clock
        self._repeat_ns = round(_NS / rate * _PATIENCE)
        self._shortest_ns = round(_NS / rate * _EARLY)
        self._step_ns = round(_NS / rate)
        self._changed = threading.Condition()
        self._newest: av.VideoFrame | None = None
        self._fresh = False
        self._closed = False
        self._due_ns = 0
        self._given_ns: int | None = None
        self.superseded = 0
        self.repeated = 0

    def submit(self, image: av.VideoFrame) -> None:
        """Never blocks; a frame that was not taken yet is replaced and counted."""
        with self._changed:
            if self._fresh:
                self.superseded += 1
            self._newest, self._fresh = image, True
            self._changed.notify_all()

    def replace(self, image: av.VideoFrame) -> None:
        """Change the repeated frame, without counting."""
        with self._changed:
            self._newest = image

    def hurry(self) -> None:
        """Repeat the frame now, for a new viewer."""
        with self._changed:
            self._due_ns = 0
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_drained(self, timeout_seconds: float) -> bool:
        """Wait until no new frame waits; False after the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not self._fresh, timeout_seconds)

    def take(self, timeout_seconds: float) -> Due | None:
        """The frame to send now; None after the timeout and when closed."""
        with self._changed:
            give_up_ns = self._clock.monotonic_ns() + round(timeout_seconds * _NS)
            while not self._closed:
                now_ns = self._clock.monotonic_ns()
                wait_ns = self._wait_ns(now_ns)
                if self._newest is not None and wait_ns <= 0:
                    return self._give(self._newest, now_ns)
                if now_ns >= give_up_ns:
                    return None
                self._changed.wait(max(min(wait_ns, give_up_ns - now_ns), 1_000_000) / _NS)
            return None

    def _wait_ns(self, now_ns: int) -> int:
        if self._newest is None:
            return _NS
        if self._given_ns is None:
            return 0
        return (self._given_ns + self._shortest_ns if self._fresh else self._due_ns) - now_ns

    def _give(self, image: av.VideoFrame, now_ns: int) -> Due:
        fresh = self._fresh
        if fresh:
            self._due_ns = now_ns + self._repeat_ns
        else:
            self.repeated += 1
            # Relative to the last due time, so that late wake-ups do not add up; at most one step behind.
            self._due_ns = max(self._due_ns + self._step_ns, now_ns + self._shortest_ns)
        self._fresh = False
        self._given_ns = now_ns
        self._changed.notify_all()
        return Due(image, now_ns, fresh)


def output_rate(rate: Fraction | float | None, stream: StreamInfo) -> Fraction:
    """The output rate in frames per second: the given one, else the source's, at most 30, else 25."""
    if rate is not None:
        return Fraction(rate).limit_denominator(1001)
    return min(stream.rate or _DEFAULT_RATE, _FASTEST_DEFAULT)


def check_encoding(*, rate: Fraction | float | None, bitrate: int | None, gop_seconds: float, preset: str) -> None:
    """Validate encoding options.

    Raises:
        UsageError: names the option, its values, and what was given.
    """
    if rate is not None:
        limits.STREAM_RATE.check("stream rate", rate)
    if bitrate is not None:
        limits.BITRATE_KBITS.check("bitrate", bitrate / 1000)
    limits.GOP_SECONDS.check("gop", gop_seconds)
    if preset not in (AUTO, *PRESETS):
        raise UsageError(f"preset is one of {', '.join((AUTO, *PRESETS))}, not {preset!r}")


def black(image: ImageInfo) -> av.VideoFrame:
    """A black frame of the size and colour of the stream."""
    import av

    width_px, height_px = max(image.width_px & ~1, 2), max(image.height_px & ~1, 2)
    planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
    planes[:height_px] = 16
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    image.color.apply(frame)
    return frame


_LOW_BUFFER_SECONDS, _BUFFER_SECONDS = 0.25, 1.0
_PARAMS = "repeat-headers=1:annexb=1:slices=1"

_Shape = tuple[tuple[int, int], ColorTags]


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
        self._packetizer = Packetizer()
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
            raise SinkError(f"H.264 encoder: {len(packets)} packets for one frame; report this bug of streamdepth")
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

    frame = converted(image, width=size[0], height=size[1], format="yuv420p")
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

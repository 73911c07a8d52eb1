"""Video files: every frame in is a frame out, at its own time."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.media.filters import Letterbox, has_alpha
from streamdepth.media.hwaccel import HwAccel, encoder, upload_device
from streamdepth.media.planes import depth_bits
from streamdepth.sinks.encoding import (
    Encoding,
    check_crf,
    check_preset,
    container_of,
    container_options,
    encoder_threads,
    encoding_for,
    key_interval,
    odd_chroma,
    with_hdr,
)
from streamdepth.sinks.files import MuxedFile, OutputFile, last_packets, reason
from streamdepth.sinks.packets import PacketCopier
from streamdepth.sinks.tracks import AUDIO_MODES, AudioMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import av
    from av.container import OutputContainer
    from av.video.stream import VideoStream

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl
    from streamdepth.sinks.tracks import AnyPacket

_HEVC = ("libx265", "hevc_nvenc", "hevc_vaapi")
# The largest timescale FFmpeg's MP4 muxer accepts is a signed 32-bit integer.
_MAX_TICKS = 2**31 - 1


class VideoSink(BaseSink):
    """Encodes frames into MKV, MP4, MOV or WebM, chosen by the suffix.

    Time: every frame keeps its pts; MP4 and MOV keep it exactly, Matroska and WebM round it to a millisecond (the time
    base of their muxer). The origin of a trimmed source becomes 0.

    Audio and subtitles of the input are copied packet by packet. Text subtitles that the container cannot hold are
    converted; other streams that it cannot hold are omitted. ``note`` names both.

    The file is written as ``NAME.partial.SUFFIX`` and gets its name when it is complete. While it is being written, it
    plays up to the last second (MP4, MOV: two): clusters in Matroska/WebM, fragments in MP4/MOV, which become one
    ordinary indexed file on ``close``. So a crash, a kill, a full disk or a run that is stopped before the end of its
    file leaves a playable partial file. A run without frames leaves none.

    Frames of another size than the first are letterboxed into it and counted as ``resized``.

    Args:
        path: file to write; missing folders are created.
        control: the look of the frames.
        overwrite: replace an existing file.
        codec: FFmpeg encoder; None = libx264 (WebM: VP9), for a transparent look one that carries alpha.
        hwaccel: ``auto | cuda | vaapi | none``: hardware encoder, if no codec is named.
        crf, preset: the encoder's quality and speed. ``auto`` and None = chosen by view and encoder
            (:mod:`streamdepth.sinks.encoding`); crf beside a named preset of x264: 20. They are translated for
            a hardware encoder that replaces x264.
        threads: encoder threads; 0 = by frame size, so that the file does not depend on the machine.
        options: further FFmpeg encoder options; an unknown one is an error.
        copy_sound: copy audio, subtitles, tags, chapters and attachments.
        audio: ``auto`` = copy audio, or encode it if the container cannot hold it; ``copy`` = omit it then; ``none``.

    Raises:
        UsageError: suffix, codec or preset unknown, or a transparent look in a container that cannot carry alpha.
    """

    reads_pixels = False

    def __init__(
        self,
        path: str | Path,
        *,
        control: LookControl,
        overwrite: bool = False,
        codec: str | None = None,
        hwaccel: HwAccel | str = HwAccel.NONE,
        crf: float | None = None,
        preset: str | None = None,
        threads: int = 0,
        options: Mapping[str, str] | None = None,
        copy_sound: bool = True,
        audio: AudioMode = "auto",
    ) -> None:
        super().__init__(str(path), control)
        self._path = Path(path)
        self._container = container_of(self._path.suffix)
        if threads < 0:
            raise UsageError(f"encoder threads must be 0 (by frame size) or more, not {threads}")
        self._transparent, self._view = control.look.transparent, control.look.view
        self._codec = codec or (self._container.alpha_codec if self._transparent else self._container.codec)
        if self._transparent and self._container.alpha_codec is None:
            raise UsageError(f"{self._path}: {self._path.suffix} cannot carry transparency; use .webm or .mov")
        self._hwaccel = HwAccel.parse(hwaccel) if codec is None else HwAccel.NONE
        self._overwrite = overwrite
        self._threads = threads
        self._options = dict(options or {})
        if crf is not None:
            check_crf(self._codec, crf)
            self._options["crf"] = f"{crf:g}"
        if preset is not None:
            if self._hwaccel is HwAccel.NONE:
                check_preset(self._codec, preset)
            self._options["preset"] = preset
        self._copy_sound = copy_sound
        if audio not in AUDIO_MODES:
            raise UsageError(f"audio must be one of {', '.join(AUDIO_MODES)}, not {audio!r}")
        self._audio: AudioMode = audio
        self._muxed: MuxedFile | None = None
        self._stream: VideoStream | None = None
        self._copier: PacketCopier | None = None
        self._letterbox: Letterbox | None = None
        self._info: StreamInfo | None = None
        self._time_base = Fraction(1, 1000)
        self._origin = Fraction(0)
        self._flushed = self._closed = self._interrupted = self._complete = False
        self._frames = 0
        self._last_pts = 0
        self._last_duration = Fraction(0)
        self._notes: list[str] = []

    @property
    def note(self) -> str:
        return "; ".join(self._notes + (self._copier.notes if self._copier is not None else []))

    @property
    def counts(self) -> Mapping[str, int]:
        resized = self._letterbox.resized if self._letterbox is not None else 0
        return MappingProxyType({"resized": resized} if resized else {})

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """
        Raises:
            UsageError: the output is the input, or an option is unknown to the encoder.
            OutputExistsError: the file exists and ``overwrite`` is False.
            SinkError: it cannot be written, or the encoder refuses this size.
        """
        if image is None or self._codec is None:
            raise UsageError(f"{self.name}: a video file needs images")
        view = self._view
        encoding = encoding_for(
            image, codec=self._codec, transparent=self._transparent, view=view, options=self._options
        )
        chosen = encoder(self._hwaccel, encoding.codec, encoding.pix_fmt, image.width_px, image.height_px)
        if chosen.value != encoding.codec:
            encoding = encoding_for(image, codec=chosen.value, transparent=False, view=view, options=self._options)
        self._notes = [chosen.note] if chosen.note else []
        self._notes += _losses(image, encoding, transparent=self._transparent)
        if stream.hdr is not None:
            plain, encoding = encoding, with_hdr(encoding, stream.hdr)
            if encoding is plain:
                self._notes.append(f"HDR10 metadata is omitted: {encoding.codec} cannot write it; use --codec libx265")
        self._notes += [f"omitted: {', '.join(stream.omitted)}"] if stream.omitted else []
        self._info = stream
        file = OutputFile(self._path, overwrite=self._overwrite, media_path=stream.media_path)
        self._time_base, self._origin = output_time(stream)
        options = container_options(self._container, self._time_base.denominator)
        self._muxed = MuxedFile(file, self._container.muxer, options)
        try:
            self._open_output(self._muxed.container, stream, image, encoding)
            if self._copier is not None:
                self._muxed.cover = self._copier.cover
        except BaseException:
            self.close()
            raise

    def process(self, result: Result) -> None:
        if self._stream is None or self._letterbox is None or result.image is None:
            raise SinkError(f"{self.name}: not open, or no image to write")
        image = self._letterbox(result.image)
        seconds = result.frame.pts * result.frame.time_base - self._origin
        pts = _nearest(seconds / self._time_base)
        duration = (result.frame.image.duration or 0) * result.frame.time_base
        if not duration and self._frames:
            duration = (pts - self._last_pts) * self._time_base
        self._last_duration = duration or Fraction(1) / (self._info.rate or 25 if self._info else 25)
        image.pts, image.time_base = pts, self._time_base
        self._last_pts = pts
        self._encode(image)
        self._frames += 1

    def flush(self) -> None:
        """Write the delayed frames of the encoder, and the rest of the sound: the output is complete."""
        clock = None if self._info is None else self._info.media_clock
        self._complete = clock is None or clock.finished
        self._finish()

    def _finish(self) -> None:
        if self._flushed or self._muxed is None or self._muxed.broken or not self._frames:
            return
        self._flushed = True
        self._encode(None)
        if self._copier is not None:
            self._copy(self._copier.until(self._sound_end()))
            self._copy(self._copier.finish())

    def interrupt(self) -> None:
        """Ends the wait for the sound of an input that stalls or does not open; the video continues without it."""
        self._interrupted = True
        if self._copier is not None:
            self._copier.interrupt()

    def close(self) -> None:
        """Raises ``SinkError``: the trailer could not be written; what was written stays readable."""
        if self._closed:
            return
        self._closed = True
        try:
            self._finish()
        finally:
            if self._copier is not None:
                self._copier.close()
            muxed, self._muxed, self._stream = self._muxed, None, None
            if muxed is not None:
                try:
                    muxed.close(empty=not self._frames, complete=self._complete)
                finally:
                    self._notes += [muxed.note] if muxed.note else []

    def _open_output(self, output: OutputContainer, stream: StreamInfo, image: ImageInfo, encoding: Encoding) -> None:
        try:
            video = cast(
                "VideoStream",
                output.add_stream(
                    encoding.codec, rate=stream.rate or Fraction(25), hwaccel=upload_device(encoding.codec)
                ),
            )
        except ValueError as exc:
            raise UsageError(
                f"{self.name}: {self._path.suffix} cannot hold {encoding.codec} video; "
                f"use {self._container.codec} or another container"
            ) from exc
        self._stream = video
        video.width, video.height, video.pix_fmt = image.width_px, image.height_px, encoding.pix_fmt
        context = video.codec_context
        if stream.rate is None:
            context.framerate = Fraction(0)  # without a rate players use the time stamps
        context.time_base = video.time_base = self._time_base
        context.color_range, context.colorspace = encoding.color.range, encoding.color.matrix
        context.color_primaries, context.color_trc = encoding.color.primaries, encoding.color.transfer
        if encoding.codec in _HEVC and self._container.muxer in ("mp4", "mov"):
            context.codec_tag = "hvc1"  # players of Apple refuse FFmpeg's default, hev1
        context.sample_aspect_ratio = stream.sample_aspect_ratio
        if self._muxed is not None:
            self._muxed.set_aspect(video, stream.sample_aspect_ratio, image.width_px, image.height_px)
        context.thread_count = self._threads or encoder_threads(image.width_px, image.height_px)
        # PyAV's default, slices, lets x264's threads wait for each other: 1.5 of two cores are busy instead of 1.85
        context.thread_type = "AUTO"
        interval = key_interval(encoding.codec, stream.rate)
        context.options = ({} if interval is None else {"g": str(interval)}) | dict(encoding.options)
        self._open_encoder(encoding, image)
        self._letterbox = Letterbox(image.width_px, image.height_px, encoding.pix_fmt, encoding.color)
        if self._copy_sound and stream.media_path is not None:
            self._copier = PacketCopier(stream, self._audio)
            if self._interrupted:
                self._copier.interrupt()
            self._copier.open(output, self._container.muxer, video)

    def _open_encoder(self, encoding: Encoding, image: ImageInfo) -> None:
        import av

        assert self._stream is not None  # noqa: S101 - for the type checker
        context = self._stream.codec_context
        size = f"{image.width_px}x{image.height_px}"
        try:
            context.open()
        except (av.FFmpegError, ValueError) as exc:
            given = "".join(f" {key}={value}" for key, value in self._options.items())
            raise SinkError(
                f"{self.name}: the encoder {encoding.codec} refuses {size} {encoding.pix_fmt}{given} ({reason(exc)}); "
                f"choose another --codec, options or size"
            ) from exc
        for left in context.options:
            if left in self._options:
                name = encoding.codec
                raise UsageError(
                    f"{self.name}: the encoder {name} has no option {left!r}; "
                    f"omit it, or choose another --codec (ffmpeg -h encoder={name} lists the options)"
                )

    def _encode(self, image: av.VideoFrame | None) -> None:
        import av

        assert self._stream is not None and self._muxed is not None  # noqa: S101, PT018 - for the type checker
        try:
            packets = self._stream.encode(image)
        except (av.FFmpegError, ValueError) as exc:
            self._muxed.broken = True
            raise SinkError(f"{self.name}: the encoder failed ({reason(exc)}); choose another --codec") from exc
        if image is None:
            packets = last_packets(packets, self._frames)
        for packet in packets:
            if image is None and packet.pts == self._last_pts:
                # Muxers take the end of a frame from the next one; the last one needs its duration.
                packet.duration = _nearest(self._last_duration / packet.time_base)
        self._muxed.mux(packets)
        last = packets[-1] if packets else None
        if last is not None and last.dts is not None and self._copier is not None:
            self._copy(self._copier.until(last.dts * last.time_base))

    def _copy(self, packets: Iterable[AnyPacket]) -> None:
        if self._copier is not None and self._muxed is not None:
            self._muxed.copy(packets, self._copier.drop_packet)

    def _sound_end(self) -> Fraction | None:
        """End of copied sound: that of the input if the source was read to its end, else that of the video."""
        assert self._info is not None  # noqa: S101 - for the type checker
        clock = self._info.media_clock
        if clock is not None and clock.ended:
            return None
        return self._last_pts * self._time_base + self._last_duration


def _losses(image: ImageInfo, encoding: Encoding, *, transparent: bool) -> list[str]:
    """Notes about what the encoder cannot keep of the frames."""
    notes = []
    bits = depth_bits(image.pix_fmt), depth_bits(encoding.pix_fmt)
    if bits[1] < bits[0]:
        notes.append(f"{bits[0]}-bit frames are written with {bits[1]} bits, the most that {encoding.codec} supports")
    odd = odd_chroma(image, encoding)
    chroma = "" if odd else next((kind for kind in ("4:2:2", "4:4:4") if kind.replace(":", "") in encoding.pix_fmt), "")
    rare = [*([f"{bits[1]}-bit"] if bits[1] > 8 else []), *([chroma] if chroma else [])]
    if rare and encoding.codec.startswith(("libx264", "h264_")):
        way = ".webm does" if chroma else "--codec libx265 or .webm does"
        notes.append(f"{' '.join(rare)} H.264 does not play in browsers; {way}")
    if has_alpha(image.pix_fmt) and not transparent:
        notes.append("alpha of the input is omitted; --transparent keeps it")
    if odd:
        notes.append(
            f"{image.width_px}x{image.height_px} has an odd side and is written as {odd}, which browsers and "
            "QuickTime do not play; .webm plays in browsers"
        )
    return notes


def output_time(stream: StreamInfo) -> tuple[Fraction, Fraction]:
    """Time base of the output and media time of its 0: those of the input, refined to make the origin a whole tick."""
    base, origin = stream.time_base, stream.origin_seconds
    refined = base / (origin / base).denominator
    # 1/ticks: MP4 keeps ticks per second as an integer.
    ticks = Fraction(1, refined.denominator)
    return (ticks, origin) if ticks.denominator <= _MAX_TICKS else (Fraction(1, 90000), origin)


def _nearest(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)

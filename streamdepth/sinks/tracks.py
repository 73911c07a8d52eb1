"""Audio and subtitle streams of an input in an output: copied, or converted where the container cannot hold them."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.audio.codeccontext import AudioCodecContext
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.subtitles.codeccontext import SubtitleCodecContext
    from av.subtitles.stream import SubtitleStream

    AnyPacket = Packet[Stream]

AudioMode = Literal["auto", "copy", "none"]
"""``auto``: copy, or encode what the container cannot hold; ``copy``: omit that; ``none``: no audio."""
AUDIO_MODES: tuple[str, ...] = get_args(AudioMode)

# By FFmpeg's names of decoders and encoders.
_TEXT = frozenset({"mov_text", "srt", "subrip", "webvtt", "ass", "ssa"})
_TEXT_CODEC = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_AUDIO_CODEC = {"mp4": "aac", "mov": "aac", "matroska": "flac", "webm": "libopus"}
_OPUS_RATE = 48_000
_STEREO = "stereo"
_CHANNELS = {1: "mono", 2: _STEREO, 4: "quad", 6: "5.1", 8: "7.1"}
_MILLISECONDS = Fraction(1, 1000)
# An event of FFmpeg's decoders: eight fields before the text, which may contain commas.
_TEXT_FIELD = 8


class Track(Protocol):
    """Writes one stream of the input. Used by one thread at a time.

    Attributes:
        stream: the stream of the output.
        note: how it is converted, empty for a copy.
    """

    stream: Stream
    note: str

    def write(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        """Packets to mux for a packet of the input, whose times are those of the output."""
        ...

    def flush(self) -> Iterator[AnyPacket]: ...


def track_for(stream: Stream, output: OutputContainer, muxer: str, audio: AudioMode) -> Track | str:
    """The track that writes ``stream``, or why it is omitted (empty without a reason worth a note)."""
    import av

    name = codec_name(stream)
    if stream.type == "audio" and audio == "none":
        return ""
    try:
        if _takes(muxer, stream):
            return CopyTrack(stream, output)
        if stream.type == "subtitle" and name in _TEXT and muxer in _TEXT_CODEC:
            return TextTrack(cast("SubtitleStream", stream), output, muxer)
        if stream.type == "audio" and stream.codec_context is not None and audio == "auto" and muxer in _AUDIO_CODEC:
            return AudioTrack(cast("AudioStream", stream), output, muxer)
    except (av.FFmpegError, ValueError) as exc:
        return f"{stream.type} stream {stream.index} ({name}) omitted: cannot be converted ({exc})"
    return f"{stream.type} stream {stream.index} ({name}) omitted: {muxer} cannot hold it"


def codec_name(stream: Stream) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "unknown codec"


class CopyTrack:
    """Copies packets unchanged."""

    note = ""

    def __init__(self, source: Stream, output: OutputContainer) -> None:
        self.stream = _add_copy(source, output)

    def write(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        packet.stream = self.stream
        yield packet

    def flush(self) -> Iterator[AnyPacket]:
        yield from ()


class TextTrack:
    """Decodes and encodes text subtitles: mov_text in MP4, SubRip in Matroska, WebVTT in WebM.

    Raises:
        av.FFmpegError: the decoder or the encoder cannot be opened.
    """

    def __init__(self, source: SubtitleStream, output: OutputContainer, muxer: str) -> None:
        self._decoder = source.codec_context
        self._decoder.open()
        codec = _TEXT_CODEC[muxer]
        self.stream: Stream = output.add_stream(codec)
        self._encoder = cast("SubtitleCodecContext", self.stream.codec_context)
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = _MILLISECONDS
        self._encoder.open()
        self.note = f"subtitle stream {source.index} ({codec_name(source)}) written as {codec}"

    def write(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        line = self._convert(packet)
        if line is not None:
            yield line

    def flush(self) -> Iterator[AnyPacket]:
        yield from ()

    def _convert(self, packet: AnyPacket) -> AnyPacket | None:
        """The same subtitle at the same time for the output; None if it is empty or cannot be decoded."""
        import av
        from av.subtitles.subtitle import SubtitleSet

        try:
            found = self._decoder.decode2(packet)
            events: list[Any] = [] if found is None else list(found)
            event = b"\\N".join(
                one.ass if not index else one.ass.split(b",", _TEXT_FIELD)[-1] for index, one in enumerate(events)
            )
            if not event:
                return None
            shown_ms = round((packet.duration or 0) * packet.time_base / _MILLISECONDS)
            line = cast(
                "AnyPacket", self._encoder.encode_subtitle(SubtitleSet.create(text=event, start=0, end=shown_ms))
            )
        except (av.FFmpegError, ValueError):
            return None
        line.stream, line.time_base = self.stream, packet.time_base
        line.pts, line.dts, line.duration = packet.pts, packet.dts, packet.duration
        return line


class AudioTrack:
    """Decodes and encodes audio: AAC in MP4, Opus in WebM, FLAC in Matroska.

    Raises:
        av.FFmpegError: the decoder or the encoder cannot be opened.
    """

    def __init__(self, source: AudioStream, output: OutputContainer, muxer: str) -> None:
        from av.audio.resampler import AudioResampler

        if not source.channels:
            raise ValueError("its channels are unknown")
        codec = _AUDIO_CODEC[muxer]
        self._decoder = source.codec_context
        rate = _OPUS_RATE if codec == "libopus" else source.codec_context.sample_rate
        layout = next(name for name in _layouts(source) if name == _STEREO or _opens(codec, rate, name))
        stream = output.add_stream(codec, rate=rate)
        self._encoder = cast("AudioCodecContext", stream.codec_context)
        self._encoder.layout = layout
        self._encoder.time_base = Fraction(1, rate)
        self._encoder.open()
        self.stream: Stream = stream
        self._end = Fraction(0)
        self._resampler = AudioResampler(
            format=self._encoder.format,
            layout=self._encoder.layout,
            rate=rate,
            frame_size=self._encoder.frame_size or None,
        )
        self.note = f"audio stream {source.index} ({codec_name(source)}) encoded as {codec.removeprefix('lib')}"

    def write(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        import av

        try:
            frames: list[Any] = self._decoder.decode(cast("Any", packet))
        except av.FFmpegError:
            return  # one damaged packet is a gap
        for frame in frames:
            yield from self._encode(frame)

    def flush(self) -> Iterator[AnyPacket]:
        import av

        with contextlib.suppress(av.FFmpegError):
            for frame in cast("list[Any]", self._decoder.decode(None)):
                yield from self._encode(frame)
        with contextlib.suppress(av.FFmpegError):
            yield from self._encode(None)
            yield from self._stamped(self._encoder.encode(None))

    def _encode(self, frame: Any) -> Iterator[AnyPacket]:
        if frame is not None:
            # WMA holds frames without pts back until the flush. AVI counts ADPCM in blocks of up to 21 ms, a unit too
            # coarse for frames of another length.
            start = self._end if frame.pts is None else frame.pts * frame.time_base
            frame.pts, frame.time_base = round(start * frame.sample_rate), Fraction(1, frame.sample_rate)
            self._end = start + Fraction(frame.samples, frame.sample_rate)
        for resampled in self._resampler.resample(frame):
            yield from self._stamped(self._encoder.encode(resampled))

    def _stamped(self, packets: Any) -> Iterator[AnyPacket]:
        for packet in packets:
            if packet.size and packet.pts is not None:  # FLAC ends with one that holds only its new header
                packet.stream = self.stream
                yield packet


def _add_copy(source: Stream, output: OutputContainer) -> Stream:
    """A stream of ``output`` with the codec parameters of ``source``.

    FFmpeg's list of codecs for Matroska omits those with a tag of WAV (WMA, ADPCM), which its muxer also writes. PyAV
    refuses what is not listed, but a filter can overwrite the parameters of a stream; those of a stream added to an AVI
    do not have the tag of the input.

    Raises:
        ValueError: the container does not hold this codec.
    """
    import av
    from av.bitstream import BitStreamFilterContext

    try:
        return output.add_stream_from_template(source)
    except ValueError:
        if source.type != "audio" or output.format.name != "matroska" or not cast("AudioStream", source).channels:
            raise
    stream = output.add_mux_stream("flac")
    untagged = av.open(io.BytesIO(), "w", format="avi").add_stream_from_template(source)
    BitStreamFilterContext("null", in_stream=untagged, out_stream=stream)
    stream.time_base = cast("Fraction", source.time_base)
    return stream


def merged(one: AnyPacket, other: AnyPacket) -> AnyPacket:
    """Two mov_text samples as one: 16-bit length and text, the styles after it are dropped."""
    import av

    texts = [bytes(part)[2 : 2 + int.from_bytes(bytes(part)[:2], "big")] for part in (one, other)]
    text = b"\n".join(texts)
    packet: AnyPacket = av.Packet(len(text).to_bytes(2, "big") + text)
    packet.stream, packet.time_base = one.stream, one.time_base
    packet.pts, packet.dts = one.pts, one.dts
    packet.duration = max(one.duration or 0, other.duration or 0)
    return packet


def _layouts(source: AudioStream) -> tuple[str, ...]:
    """Channel layouts to encode with, in order of preference. ASF and AVI name only the number of channels."""
    layout = source.codec_context.layout
    return (layout.name, _CHANNELS.get(layout.nb_channels, _STEREO), _STEREO)


def _opens(codec: str, rate: int, layout: str) -> bool:
    import av

    try:
        encoder = cast("AudioCodecContext", av.CodecContext.create(codec, "w"))
        encoder.sample_rate, encoder.layout, encoder.time_base = rate, layout, Fraction(1, rate)
        if encoder.codec.audio_formats:
            encoder.format = encoder.codec.audio_formats[0]
        encoder.open()
    except (av.FFmpegError, ValueError):
        return False
    return True


def empty_text(last: AnyPacket, stream: Stream) -> AnyPacket:
    """An empty mov_text sample of one tick at the end of ``last``."""
    import av

    packet: AnyPacket = av.Packet(bytes(2))
    packet.stream, packet.time_base = stream, last.time_base
    packet.pts = packet.dts = (last.pts or 0) + (last.duration or 0)
    packet.duration = 1
    return packet


def _takes(muxer: str, stream: Stream) -> bool:
    """Whether the muxer can write a header with this stream; its codec tables are incomplete.

    MP4 with PCM (ISO/IEC 23003-5) is not played by browsers and QuickTime, and FFmpeg cannot write it in fragments.
    """
    import av

    if muxer == "mp4" and codec_name(stream).startswith("pcm_"):
        return False

    trial = av.open(io.BytesIO(), "w", format=muxer)
    try:
        _add_copy(stream, trial)
        trial.start_encoding()
    except (av.FFmpegError, ValueError, OSError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, ValueError, OSError):
            trial.close()
    return True

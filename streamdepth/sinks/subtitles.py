"""Text subtitles converted for another container: mov_text in MP4, SubRip in Matroska, WebVTT in WebM."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.subtitles.codeccontext import SubtitleCodecContext
    from av.subtitles.stream import SubtitleStream

    _AnyPacket = Packet[Stream]

# By FFmpeg's names of decoders and encoders.
_TEXT = frozenset({"mov_text", "srt", "subrip", "webvtt", "ass", "ssa"})
_WRITTEN_AS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
_MILLISECONDS = Fraction(1, 1000)
# An event of FFmpeg's decoders: eight fields before the text, which may contain commas.
_TEXT_FIELD = 8


class LineConverter:
    """Decodes and encodes the subtitles of one stream. Used by one thread at a time.

    Args:
        source: the input's stream.
        output: gets a stream for the subtitles; its header must not have been written.
        muxer: FFmpeg's name of the output format, for which ``converts`` is true.

    Raises:
        av.FFmpegError: the decoder or the encoder cannot be opened.
    """

    def __init__(self, source: SubtitleStream, output: OutputContainer, muxer: str) -> None:
        self._decoder = source.codec_context
        self._decoder.open()
        self.codec = _WRITTEN_AS[muxer]
        self.stream: Stream = output.add_stream(self.codec)
        self._encoder = cast("SubtitleCodecContext", self.stream.codec_context)
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = _MILLISECONDS
        self._encoder.open()

    def __call__(self, packet: _AnyPacket) -> _AnyPacket | None:
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
                "_AnyPacket", self._encoder.encode_subtitle(SubtitleSet.create(text=event, start=0, end=shown_ms))
            )
        except (av.FFmpegError, ValueError):
            return None
        line.stream, line.time_base = self.stream, packet.time_base
        line.pts, line.dts, line.duration = packet.pts, packet.dts, packet.duration
        return line


def converts(muxer: str, stream: Stream) -> bool:
    """True if ``stream`` is text for which the container has a codec."""
    context = stream.codec_context
    return stream.type == "subtitle" and context is not None and context.name in _TEXT and muxer in _WRITTEN_AS

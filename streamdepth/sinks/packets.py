"""Audio and subtitle packets copied from the input to the output beside new video."""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from typing import TYPE_CHECKING, cast

from streamdepth.net.abandonable import AbandonableCalls, InterruptedCall
from streamdepth.sinks.subtitles import LineConverter, converts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from av.bitstream import BitStreamFilterContext
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.subtitles.stream import SubtitleStream

    _AnyPacket = Packet[Stream]

_QUEUE_PACKETS = 256
_OPEN_SECONDS = 10.0
_STALL_SECONDS = 20.0


class PacketCopier:
    """Reads packets to copy on a separate thread, with a bounded queue, and returns them by time.

    The input may be a URL, and opening or reading it must not block the encoder: every wait for it can be interrupted
    and has a limit. ``interrupt`` may be called from any thread and at any time.

    Args:
        media_path: file or URL to copy from.
        options: FFmpeg's, to open it with.
        origin_seconds: media time that becomes 0; audio before it is omitted, subtitles across it are shortened.
        end_seconds: media time of the end, None = the end of the input.
    """

    def __init__(
        self,
        media_path: str,
        *,
        options: Mapping[str, str],
        origin_seconds: Fraction,
        end_seconds: Fraction | None,
    ) -> None:
        self._path = media_path
        self._options = options
        self._origin = origin_seconds
        self._end = end_seconds
        self._detached = AbandonableCalls("streamdepth-copy")
        self._input: InputContainer | None = None
        self._packets: Iterator[_AnyPacket] | None = None
        self._streams: dict[int, Stream] = {}
        self._filters: dict[int, BitStreamFilterContext] = {}
        self._converters: dict[int, LineConverter] = {}
        self._lead_in = False
        self._head: _AnyPacket | None = None
        self._ended = False
        self.notes: list[str] = []

    def open(self, output: OutputContainer, muxer: str) -> None:
        """Open the input and add a stream to ``output`` for each one that the container can hold. A fault of the input
        is a note and not an error: video without sound is better than none."""
        import av
        from av.bitstream import BitStreamFilterContext

        self._lead_in = muxer in ("mp4", "mov")
        try:
            source = self._detached.call(
                lambda: av.open(self._path, options=dict(self._options), timeout=(_OPEN_SECONDS, _OPEN_SECONDS)),
                dispose=lambda late: late.close(),
                timeout_seconds=_OPEN_SECONDS,  # FFmpeg's own limit does not cover name resolution
            )
        except (av.FFmpegError, OSError, InterruptedCall) as exc:
            why = "interrupted" if isinstance(exc, InterruptedCall) else "the input could not be opened a second time"
            self.notes.append(f"sound not copied: {why}")
            self._ended = True
            return
        self._input = source
        for stream in source.streams:
            if stream.type not in ("audio", "subtitle"):
                continue
            name = _codec_name(stream)
            if _takes(muxer, stream):
                copy = output.add_stream_from_template(stream)
            elif (converter := _converter(stream, output, muxer)) is not None:
                self._converters[stream.index], copy = converter, converter.stream
                self.notes.append(f"subtitle stream {stream.index} ({name}) written as {converter.codec}")
            else:
                self.notes.append(f"{stream.type} stream {stream.index} ({name}) omitted: {muxer} cannot hold it")
                continue
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            self._streams[stream.index] = copy
            if muxer in ("mp4", "mov") and name == "aac" and not stream.codec_context.extradata:
                # AAC of a transport stream has its header in every packet; MP4 needs it once.
                self._filters[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream)
        if not self._streams:
            self._ended = True
            source.close()
            self._input = None

    def until(self, seconds: Fraction | None) -> Iterator[_AnyPacket]:
        """Packets up to output time ``seconds`` (None = all), with output time stamps and streams."""
        while True:
            if self._head is None:
                self._head = self._next()
            packet = self._head
            if packet is None or (seconds is not None and _seconds(packet) > seconds):
                return
            self._head = None
            yield packet

    def drop_stream(self, packet: _AnyPacket, why: str) -> None:
        """Stop copying the stream of a packet that the muxer refused."""
        for index, stream in list(self._streams.items()):
            if stream.index == packet.stream_index:
                del self._streams[index]
                self.notes.append(f"{stream.type} stream {index} omitted from {float(_seconds(packet)):.1f} s: {why}")

    def interrupt(self) -> None:
        """End every wait: ``open`` and ``until`` continue without the input."""
        self._detached.interrupt()

    def close(self) -> None:
        self._detached.interrupt()
        if self._input is not None and self._packets is None:
            self._input.close()  # a reader that has started closes it
        self._input = None
        self._ended = True

    def _next(self) -> _AnyPacket | None:
        if self._ended or self._input is None:
            return None
        if self._packets is None:
            self._packets = self._read_ahead(self._input)
        for packet in self._packets:
            if packet.stream_index in self._streams:
                converter = self._converters.get(packet.stream_index)
                # Not packet.stream: the reader may have closed the input and its streams.
                packet.stream = self._streams[packet.stream_index]
                converted = packet if converter is None else converter(packet)
                if converted is not None:
                    return converted
        self._ended = True
        return None

    def _read_ahead(self, source: InputContainer) -> Iterator[_AnyPacket]:
        import av

        try:
            yield from self._detached.iterate(
                self._read(source), depth=_QUEUE_PACKETS, finished=source.close, timeout_seconds=_STALL_SECONDS
            )
        except av.FFmpegError as exc:
            self.notes.append(f"sound ends early: {exc.strerror or type(exc).__name__}")
        except TimeoutError:
            self.notes.append(f"sound ends early: no data from the input for {_STALL_SECONDS:.0f} s")

    def _read(self, source: InputContainer) -> Iterator[_AnyPacket]:
        """Runs on the reader's thread."""
        import av

        chosen = [source.streams[index] for index in self._streams]
        chosen_kind = {stream.index: stream.type for stream in chosen}
        if self._origin > 0:
            with contextlib.suppress(av.FFmpegError, OSError):  # not seekable: read from the start
                source.seek(int(self._origin * av.time_base))
        for packet in source.demux(chosen):
            if not packet.size:
                continue
            index = packet.stream_index
            filtered = self._filters[index].filter(packet) if index in self._filters else [packet]
            for whole in filtered:
                if self._restamp(whole, chosen_kind[index]):
                    yield whole

    def _restamp(self, packet: _AnyPacket, kind: str) -> bool:
        """Shift a packet to output time; False if it is outside.

        Audio that starts before 0 is written to MP4 and MOV only, whose edit lists hide it: the decoder needs it for
        the samples at 0. Matroska has no edit lists and would shift everything instead (measured: 128 ms of AAC priming
        delayed every video frame by 128 ms).
        """
        base = packet.time_base
        pts = packet.pts if packet.pts is not None else packet.dts
        if base is None or pts is None:
            return False
        if self._end is not None and pts * base >= self._end:
            return False
        lead = packet.dts - pts if packet.dts is not None else 0
        pts -= round(self._origin / base)
        duration = packet.duration or 0
        if pts < 0 and kind == "subtitle":
            if pts + duration <= 0:
                return False
            packet.duration, pts = pts + duration, 0
        elif pts < 0 and not (self._lead_in and duration and pts + duration >= 0):
            return False
        packet.pts = pts
        packet.dts = pts + lead if kind == "audio" else max(0, pts + lead)
        return True


def _seconds(packet: _AnyPacket) -> Fraction:
    if packet.pts is None or packet.time_base is None:
        return Fraction(0)
    return packet.pts * packet.time_base


def _codec_name(stream: Stream) -> str:
    return stream.codec_context.name if stream.codec_context is not None else "unknown codec"


def _converter(stream: Stream, output: OutputContainer, muxer: str) -> LineConverter | None:
    """A converter of a text stream for the container, None if there is none."""
    import av

    if not converts(muxer, stream):
        return None
    try:
        return LineConverter(cast("SubtitleStream", stream), output, muxer)
    except (av.FFmpegError, ValueError):
        return None


def _takes(muxer: str, stream: Stream) -> bool:
    """Whether the muxer can write a header with this stream; its codec tables are incomplete."""
    import av

    trial = av.open(io.BytesIO(), "w", format=muxer)
    try:
        trial.add_stream_from_template(stream)
        trial.start_encoding()
    except (av.FFmpegError, ValueError, OSError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, ValueError, OSError):
            trial.close()
    return True

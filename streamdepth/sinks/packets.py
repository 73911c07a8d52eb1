"""Audio and subtitles of the input beside new video, and what else its container carries."""

from __future__ import annotations

import contextlib
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING

from streamdepth.net.calls import AbandonableCalls, InterruptedCall
from streamdepth.sinks.extras import copy_extras
from streamdepth.sinks.tracks import TextTrack, codec_name, empty_text, merged, track_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.bitstream import BitStreamFilterContext
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

    from streamdepth.core.frame import StreamInfo
    from streamdepth.sinks.tracks import AnyPacket, AudioMode, Track

_QUEUE_PACKETS = 256
_OPEN_SECONDS = 10.0
_STALL_SECONDS = 20.0
_UNKNOWN_SECONDS = 2**32 // 1000
"""FFmpeg's duration of a bitmap subtitle that lasts until the next one."""
_MILLISECOND = Fraction(1, 1000)
_JUMP_SECONDS = Fraction(1, 10)
"""A clock that goes back by more starts a new time line."""


class PacketCopier:
    """Reads packets to copy on a separate thread, with a bounded queue, and returns them by time.

    The input may be a URL, and opening or reading it must not block the encoder: every wait for it can be interrupted
    and has a limit. ``interrupt`` may be called from any thread and at any time.

    Where the clock of the input jumps back, packets get the shift that the source gave the video at the same jump.

    Args:
        stream: names the input, and the part of it: audio before its origin is omitted, subtitles across it are
            shortened, as are those that end after the input.
        audio: what to do with audio.
    """

    def __init__(self, stream: StreamInfo, audio: AudioMode = "auto") -> None:
        self._info = stream
        self._audio = audio
        self._origin = stream.origin_seconds
        self._detached = AbandonableCalls("streamdepth-copy")
        self._input: InputContainer | None = None
        self._packets: Iterator[AnyPacket] | None = None
        self._tracks: dict[int, Track] = {}
        self._kinds: dict[int, str] = {}
        self._filters: dict[int, BitStreamFilterContext] = {}
        self._keeps_start: set[int] = set()
        self._exclusive: dict[int, Stream] = {}
        self._jumps: dict[int, int] = {}
        self._last: dict[int, Fraction] = {}
        self._last_shift: dict[int, Fraction] = {}
        self._written: dict[int, Fraction] = {}
        self._lead_in = False
        self._pending: AnyPacket | None = None
        self._ready: deque[AnyPacket] = deque()
        self._ended = False
        self.notes: list[str] = []
        self.cover = b""

    def open(self, output: OutputContainer, muxer: str, video: VideoStream) -> None:
        """Open the input, add a stream to ``output`` for each one that the container can hold, and copy tags, chapters,
        attachments and cover. A fault of the input is a note and not an error: video without sound is better than
        none."""
        import av
        from av.bitstream import BitStreamFilterContext

        self._lead_in = muxer in ("mp4", "mov")
        path, options = str(self._info.media_path), dict(self._info.media_options)
        try:
            source = self._detached.call(
                lambda: av.open(
                    path, options=options, timeout=(_OPEN_SECONDS, _OPEN_SECONDS), metadata_errors="replace"
                ),
                dispose=lambda late: late.close(),
                timeout_seconds=_OPEN_SECONDS,  # FFmpeg's own limit does not cover name resolution
            )
        except (av.FFmpegError, OSError, InterruptedCall) as exc:
            why = "interrupted" if isinstance(exc, InterruptedCall) else "the input could not be opened a second time"
            self.notes.append(f"audio and subtitles not copied: {why}")
            self._ended = True
            return
        self._input = source
        for stream in source.streams:
            if stream.type not in ("audio", "subtitle"):
                continue
            track = track_for(stream, output, muxer, self._audio)
            if isinstance(track, str):
                self.notes += [track] if track else []
                continue
            self.notes += [track.note] if track.note else []
            track.stream.metadata.update(stream.metadata)
            track.stream.disposition = stream.disposition
            self._tracks[stream.index], self._kinds[stream.index] = track, stream.type
            if self._lead_in and (isinstance(track, TextTrack) or codec_name(stream) == "mov_text"):
                self._exclusive[track.stream.index] = track.stream
                # FFmpeg compares the end of a line with time stamps of other streams without regard to their units, and
                # ends lines at once in coarse ones.
                track.stream.time_base = Fraction(1, 1_000_000)
            name = codec_name(stream)
            if name in ("opus", "libopus") and not track.note:
                self._keeps_start.add(stream.index)
            if muxer in ("mp4", "mov") and name == "aac" and not stream.codec_context.extradata:
                # AAC of a transport stream has its header in every packet; MP4 needs it once.
                self._filters[stream.index] = BitStreamFilterContext("aac_adtstoasc", stream)
        notes, self.cover = copy_extras(source, output, muxer, video, self._info)
        self.notes += notes
        if not self._tracks:
            self._ended = True
            source.close()
            self._input = None

    def until(self, seconds: Fraction | None) -> Iterator[AnyPacket]:
        """Packets up to output time ``seconds`` (None = all), with output time stamps and streams."""
        while True:
            while self._ready:
                if seconds is not None and _seconds(self._ready[0]) > seconds:
                    return
                stream = self._exclusive.get(self._ready[0].stream_index)
                followed = stream is not None and self._end_before_next()
                packet = self._ready.popleft()
                yield packet
                if stream is not None and not followed:
                    # FFmpeg would end the line with an empty sample as long as the line, past the end of the video.
                    yield empty_text(packet, stream)
            if not self._advance(final=seconds is None):
                return

    def finish(self) -> Iterator[AnyPacket]:
        """What tracks hold back, after the last packet."""
        for track in self._tracks.values():
            yield from track.flush()

    def drop_packet(self, packet: AnyPacket, why: str) -> None:
        """Note a packet that the muxer refused."""
        note = f"packets of audio or subtitles omitted from {float(_seconds(packet)):.1f} s on: {why}"
        if not any(earlier.startswith("packets of") for earlier in self.notes):
            self.notes.append(note)

    def interrupt(self) -> None:
        """End every wait: ``open`` and ``until`` continue without the input."""
        self._detached.interrupt()

    def close(self) -> None:
        self._detached.interrupt()
        if self._input is not None and self._packets is None:
            self._input.close()  # a reader that has started closes it
        self._input = None
        self._ended = True

    def _advance(self, *, final: bool) -> bool:
        """Convert the next packet into ``_ready``; False if there is none, or not yet."""
        if self._pending is None:
            self._pending = self._next()
        packet = self._pending
        if packet is None:
            return False
        shift = self._shift(packet, final=final)
        if shift is None:
            return False
        self._pending = None
        index = packet.stream_index
        if self._restamp(packet, shift, self._kinds[index], keep_start=index in self._keeps_start):
            self._ready.extend(self._tracks[index].write(packet))
        return True

    def _end_before_next(self) -> bool:
        """End the subtitle at the head before the next one of its stream: samples of an MP4 cannot overlap.

        Reads on until the next one or the end of this one. Two that start together become one. Returns True if the next
        one starts where this one ends.
        """
        head = self._ready[0]
        end = _seconds(head) + (head.duration or 0) * (head.time_base or 0)
        while True:
            number = next((n for n, one in enumerate(self._ready) if n and one.stream_index == head.stream_index), 0)
            if number:
                other = self._ready[number]
                gap = int((_seconds(other) - _seconds(head)) / (head.time_base or 1))
                if gap > 0:
                    head.duration = min(head.duration or gap, gap)
                    return head.duration == gap
                self._ready[0] = head = merged(head, other)
                del self._ready[number]
            elif (len(self._ready) > 1 and _seconds(self._ready[-1]) > end) or not self._advance(final=False):
                return False

    def _next(self) -> AnyPacket | None:
        if self._ended or self._input is None:
            return None
        if self._packets is None:
            self._packets = self._read_ahead(self._input)
        for packet in self._packets:
            if packet.stream_index in self._tracks:
                return packet
        self._ended = True
        return None

    def _read_ahead(self, source: InputContainer) -> Iterator[AnyPacket]:
        import av

        try:
            yield from self._detached.iterate(
                self._read(source), depth=_QUEUE_PACKETS, finished=source.close, timeout_seconds=_STALL_SECONDS
            )
        except av.FFmpegError as exc:
            self.notes.append(f"audio and subtitles end early: {exc.strerror or type(exc).__name__}")
        except TimeoutError:
            self.notes.append(f"audio and subtitles end early: no data from the input for {_STALL_SECONDS:.0f} s")

    def _read(self, source: InputContainer) -> Iterator[AnyPacket]:
        """Runs on the reader's thread."""
        import av

        chosen = [source.streams[index] for index in self._tracks]
        start = source.start_time or 0
        if self._origin * av.time_base > start:
            with contextlib.suppress(av.FFmpegError, OSError):  # not seekable: read from the start
                source.seek(int(self._origin * av.time_base))
        while True:
            try:
                for packet in source.demux(chosen):
                    if packet.size:
                        yield from self._filtered(packet)
                return
            except av.error.InvalidDataError:
                continue  # a damaged part; the demuxer can go on after it

    def _filtered(self, packet: AnyPacket) -> Iterator[AnyPacket]:
        import av

        if packet.stream_index not in self._filters:
            yield packet
            return
        with contextlib.suppress(av.FFmpegError):  # one damaged packet
            yield from self._filters[packet.stream_index].filter(packet)

    def _shift(self, packet: AnyPacket, *, final: bool) -> Fraction | None:
        """Seconds to add to a packet for jumps of the clock; None if the video has not reached the jump."""
        index, base = packet.stream_index, packet.time_base
        pts = packet.pts if packet.pts is not None else packet.dts
        clock = self._info.media_clock
        if base is None or pts is None or clock is None:
            return Fraction(0)
        at, last = pts * base, self._last.get(index)
        jumps = self._jumps.get(index, 0)
        jumped = last is not None and at < last - _JUMP_SECONDS
        if jumped:
            jumps += 1
        shift = clock.shift(jumps) if jumps else Fraction(0)
        if shift is None:
            if not final:
                return None
            # The video ended before the jump: the stream continues from where it was.
            shift = self._last_shift.get(index, Fraction(0)) + (last - at if last is not None else 0)
        self._jumps[index], self._last[index], self._last_shift[index] = jumps, at, shift
        return shift

    def _restamp(self, packet: AnyPacket, shift: Fraction, kind: str, *, keep_start: bool) -> bool:
        """Move a packet to output time; False if it is outside.

        Audio that starts before 0 is written to MP4 and MOV, whose edit lists hide it: the decoder needs it for the
        samples at 0. Matroska has no edit lists and would delay everything instead (measured: 128 ms of AAC priming
        delayed every video frame by 128 ms), except for Opus, whose delay its header names. There a packet that starts
        before 0 in the input, too, and reaches past 0, starts at 0.
        """
        base = packet.time_base
        pts = packet.pts if packet.pts is not None else packet.dts
        if base is None or pts is None:
            return False
        end = self._info.end_seconds
        if end is not None and pts * base + shift >= end:
            return False
        lead = packet.dts - pts if packet.dts is not None else 0
        start = pts * base + shift
        pts += round((shift - self._origin) / base)
        duration = packet.duration or 0
        if kind == "subtitle":
            if duration * base >= _UNKNOWN_SECONDS:
                duration = 0
            limit = self._info.duration_seconds
            last = pts + duration if limit is None else min(pts + duration, int(Fraction(limit) / base))
            pts = max(0, pts)
            if last <= pts and duration:
                return False
            packet.duration = last - pts
        elif pts < 0 and not self._lead_in and not keep_start:
            if start >= 0 or pts + duration <= 0:
                return False
            pts = 0
        elif pts < 0 and not (duration and pts + duration >= 0):
            return False
        packet.pts = pts
        packet.dts = pts + lead if kind == "audio" else max(0, pts + lead)
        if kind == "audio":
            # At a joint of recordings the audio of the second one may begin a little before the first one's end.
            # Matroska and encoders take equal times, as those of TrueHD (0.8 ms per packet) are in milliseconds.
            after = self._written.get(packet.stream_index)
            strict = self._lead_in and not self._tracks[packet.stream_index].note
            if after is not None and (packet.dts * base < after or (strict and packet.dts * base == after)):
                packet.pts = packet.dts = int((after + (_MILLISECOND if strict else 0)) / base) + 1
            self._written[packet.stream_index] = packet.dts * base
        return True


def _seconds(packet: AnyPacket) -> Fraction:
    if packet.pts is None or packet.time_base is None:
        return Fraction(0)
    return packet.pts * packet.time_base

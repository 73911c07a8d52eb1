"""Joins the parts of a video or of depth data without encoding again."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import SinkError
from streamdepth.sinks.encoding import CONTAINERS, container_of, container_options
from streamdepth.sinks.files import MuxedFile, OutputFile, reason
from streamdepth.sinks.packets import PacketCopier
from streamdepth.sinks.video import output_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from av.packet import Packet
    from av.video.stream import VideoStream

    from streamdepth.core.frame import StreamInfo
    from streamdepth.sinks.tracks import AudioMode

_MILLISECOND = Fraction(1, 1000)
_HEVC = ("hevc", "libx265")
_HEVC_TAG = "hvc1"


def join_video(
    parts: Sequence[Path],
    path: Path,
    info: StreamInfo,
    times: Sequence[Fraction],
    *,
    whole: bool = True,
    audio: AudioMode = "auto",
) -> list[str]:
    """Write the packets of all parts, in order, and the sound and subtitles of the input to ``path``.

    The parts were written by :class:`~streamdepth.sinks.video.VideoSink` with equal settings, from the same stream.

    Args:
        parts: local files.
        path: file to write; its suffix selects the container.
        info: description of the whole source.
        times: time of every frame in the output, in seconds.
        whole: the parts reach the end of the input, and so does its sound; otherwise sound ends with the video.
        audio: what to do with audio.

    Returns:
        Notes about sound and subtitles that could not be copied.

    Raises:
        SinkError: the parts do not fit together, or ``path`` does not contain every frame at its time.
    """
    container = container_of(path.suffix)
    file = OutputFile(path, overwrite=True)
    ticks = output_time(info)[0].denominator
    muxed = MuxedFile(file, container.muxer, container_options(container, ticks))
    copier: PacketCopier | None = None
    written = False
    try:
        stream = _stream_like(muxed, parts[0], info.rate)
        if container.muxer in ("mp4", "mov"):
            stream.codec_context.codec_tag = _HEVC_TAG if stream.codec_context.name in _HEVC else "\0\0\0\0"
        muxed.set_aspect(stream, info.sample_aspect_ratio, stream.width, stream.height)
        if info.media_path is not None:
            copier = PacketCopier(info, audio)
            copier.open(muxed.container, container.muxer, stream)
            muxed.cover = copier.cover
        end = Fraction(0)
        for packet in _rising(_packets(parts, stream), path):
            base = packet.time_base or _MILLISECOND
            decoded, end = packet.dts, max(end, ((packet.pts or 0) + (packet.duration or 0)) * base)
            muxed.mux(packet)
            written = True
            if copier is not None and decoded is not None:
                muxed.copy(copier.until(decoded * base), copier.drop_packet)
        if copier is not None:
            muxed.copy(copier.until(None if whole else end), copier.drop_packet)
            muxed.copy(copier.finish(), copier.drop_packet)
    except BaseException:
        muxed.broken = True
        raise
    finally:
        if copier is not None:
            copier.close()
        muxed.close(empty=muxed.broken or not written, complete=True)
    check_times(path, times)
    return copier.notes if copier is not None else []


def join_depth(parts: Sequence[Path], path: Path, info: StreamInfo, times: Sequence[Fraction]) -> None:
    """Write depth data and frame records of all parts, in order, to ``path``.

    The parts were written by :class:`~streamdepth.sinks.depth.sink.DepthVideoSink`; arguments and errors as of
    :func:`join_video`.
    """
    import av

    file = OutputFile(path, overwrite=True)
    options = container_options(CONTAINERS[".mkv"], _MILLISECOND.denominator)
    muxed = MuxedFile(file, "matroska", options)
    written = False
    try:
        with av.open(str(parts[0])) as first:
            muxed.container.metadata.update(first.metadata)
            depth = first.streams.video[0]
            video = muxed.container.add_stream_from_template(depth)
            _set_times(video, depth, info.rate)
            muxed.set_aspect(video, Fraction(depth.sample_aspect_ratio or 1), depth.width, depth.height)
            records = muxed.container.add_mux_stream("subrip")
            records.time_base = _MILLISECOND
            records.metadata.update(first.streams.subtitles[0].metadata)
            private = bytes(depth.codec_context.extradata or b"")
        for part in parts:
            with av.open(str(part)) as source:
                _check_same(part, bytes(source.streams.video[0].codec_context.extradata or b""), private)
                for packet in source.demux():
                    if not packet.size:
                        continue
                    packet.stream = records if packet.stream.type == "subtitle" else video
                    muxed.mux(packet)
                    written = True
    except av.FFmpegError as error:
        muxed.broken = True
        raise SinkError(f"{path}: its parts cannot be read ({reason(error)}); run again without --resume") from error
    except BaseException:
        muxed.broken = True
        raise
    finally:
        muxed.close(empty=muxed.broken or not written, complete=True)
    check_times(path, times)


def check_times(path: Path, times: Sequence[Fraction]) -> None:
    """Check that a video has exactly the frames at ``times``, in seconds, within the time base of its container.

    Raises:
        SinkError: it has not.
    """
    import av

    try:
        with av.open(str(path)) as source:
            video = source.streams.video[0]
            base = video.time_base or _MILLISECOND
            found = sorted(packet.pts for packet in source.demux(video) if packet.size and packet.pts is not None)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise SinkError(f"{path}: cannot be read back ({reason(error)}); run again without --resume") from error
    if len(found) != len(times):
        raise SinkError(f"{path}: contains {len(found)} frames instead of {len(times)}; run again without --resume")
    for pts, seconds in zip(found, times, strict=True):
        if abs(pts * base - seconds) > base:
            raise SinkError(
                f"{path}: a frame is at {float(pts * base):.6f} s instead of {float(seconds):.6f} s; run again "
                "without --resume"
            )


def _stream_like(muxed: MuxedFile, part: Path, rate: Fraction | None) -> VideoStream:
    import av

    with av.open(str(part)) as source:
        template = source.streams.video[0]
        stream = muxed.container.add_stream_from_template(template)
        _set_times(stream, template, rate)
        return stream


def _set_times(stream: Any, template: Any, rate: Fraction | None) -> None:
    if template.time_base is not None:
        stream.time_base = template.time_base
    stream.codec_context.framerate = rate or Fraction(0)  # without a rate players use the time stamps


def _packets(parts: Sequence[Path], stream: VideoStream) -> Iterator[Packet[Any]]:
    import av

    private: bytes | None = None
    for part in parts:
        try:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                found = bytes(video.codec_context.extradata or b"")
                private = found if private is None else private
                _check_same(part, found, private)
                for packet in source.demux(video):
                    # A real packet may lack a decoding time; the one that ends the stream is empty.
                    if packet.size:
                        packet.stream = stream
                        yield packet
        except av.FFmpegError as error:
            raise SinkError(f"{part}: cannot be read ({reason(error)}); run again without --resume") from error


def _rising(packets: Iterator[Packet[Any]], path: Path) -> Iterator[Packet[Any]]:
    """Packets with rising decoding times. Encoders derive the first ones of a part from the distance of its frames,
    which may differ from that of the previous part."""
    last: int | None = None
    for packet in packets:
        if packet.dts is not None:
            if last is not None and packet.dts <= last:
                packet.dts = last + 1
            last = packet.dts
            if packet.pts is not None and packet.dts > packet.pts:
                raise SinkError(f"{path}: its parts overlap in time; run again without --resume")
        yield packet


def _check_same(part: Path, found: bytes, first: bytes) -> None:
    if found != first:
        raise SinkError(f"{part}: was encoded with other settings than the first part; run again without --resume")

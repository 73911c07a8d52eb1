"""What a container carries beside streams: tags, chapters, attachments, cover and timecode."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import redact

if TYPE_CHECKING:
    from av.container import InputContainer, OutputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.stream import VideoStream

    from streamdepth.core.frame import StreamInfo

    AnyPacket = Packet[Stream]


# Tags that describe the input file itself.
_TECHNICAL = frozenset(
    {
        *("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "handler_name", "vendor_id"),
        *("software", "creation_time", "bps", "number_of_frames", "number_of_bytes", "rotate"),
    }
)


_COVER_SUFFIXES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}


def copy_extras(
    source: InputContainer, output: OutputContainer, muxer: str, video: VideoStream, info: StreamInfo
) -> tuple[list[str], bytes]:
    """Copy what the output can hold. Returns notes about the rest, and the cover image to add to an MP4 at its end."""
    notes: list[str] = []
    output.metadata.update(_tags(source.metadata))
    chosen = source.streams.best("video")
    if chosen is not None:
        video.metadata.update(_tags({key: text for key, text in chosen.metadata.items() if key.lower() == "language"}))
    timecode = _timecode(source)
    if timecode and info.end_seconds is None and info.origin_seconds == _start(source):
        video.metadata["timecode"] = timecode
    elif timecode:
        notes.append("timecode omitted: the output starts at another time")
    _copy_chapters(source, output, info)
    lost = []
    attachments = [stream for stream in source.streams if stream.type == "attachment"]
    for stream in attachments:
        if muxer == "matroska":
            output.add_stream_from_template(stream)
        else:
            lost.append(str(stream.metadata.get("filename", "attachment")))
    cover = b""
    for name, mimetype, content in _covers(source):
        if muxer == "matroska":
            output.add_attachment(name, mimetype, content)
        elif muxer == "mp4" and not cover:
            cover = content
        else:
            lost.append("cover image")
    other = [stream for stream in source.streams if stream.type == "data" and not _is_part_of_header(stream)]
    lost += [f"data stream {stream.index}" for stream in other]
    more = [
        stream
        for stream in source.streams.video
        if chosen is not None and stream.index != chosen.index and not _is_cover(stream)
    ]
    lost += [f"video stream {stream.index}" for stream in more]
    if lost:
        notes.append(f"omitted: {', '.join(dict.fromkeys(lost))}")
    return notes, cover


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    return {key: redact(text) for key, text in metadata.items() if key.lower() not in _TECHNICAL}


def _start(source: InputContainer) -> Fraction:
    return Fraction(max(0, source.start_time or 0), 1_000_000)


def _timecode(source: InputContainer) -> str:
    for metadata in (source.metadata, *(stream.metadata for stream in source.streams)):
        for key, text in metadata.items():
            if key.lower() == "timecode":
                return text
    return ""


def _is_part_of_header(stream: Any) -> bool:
    """True for a timecode, and for the chapters of an MP4, which the demuxer discards after reading them."""
    return stream.discard.name == "all" or any(key.lower() == "timecode" for key in stream.metadata)


def _copy_chapters(source: InputContainer, output: OutputContainer, info: StreamInfo) -> None:
    """Chapters inside the output, in milliseconds of its time."""
    limit = info.duration_seconds
    chapters = []
    for chapter in source.chapters():
        base = Fraction(chapter["time_base"] or 1)
        start, end = (max(Fraction(0), chapter[edge] * base - info.origin_seconds) for edge in ("start", "end"))
        if limit is not None:
            end = min(end, Fraction(limit))
        if end > start:
            times = {"start": round(start * 1000), "end": round(end * 1000), "time_base": Fraction(1, 1000)}
            chapters.append({"id": chapter["id"], "metadata": _tags(chapter["metadata"]), **times})
    if chapters:
        output.set_chapters(chapters)  # type: ignore[arg-type]


def _is_cover(stream: Any) -> bool:
    import av.stream

    return bool(int(stream.disposition) & int(av.stream.Disposition.attached_pic))


def _covers(source: InputContainer) -> list[tuple[str, str, bytes]]:
    """Name, type and content of cover images, which FFmpeg gives as video streams of one packet."""
    import av

    found = []
    for stream in source.streams.video:
        if not _is_cover(stream):
            continue
        codec = stream.codec_context.name if stream.codec_context is not None else ""
        name, mimetype = _COVER_SUFFIXES.get(codec, ("", ""))
        if not name:
            continue
        with contextlib.suppress(av.FFmpegError, StopIteration, OSError):
            packet = next(packet for packet in source.demux(stream) if packet.size)
            found.append((str(stream.metadata.get("filename", name)), mimetype, bytes(packet)))
            source.seek(0)
    return found

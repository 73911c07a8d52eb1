"""Fields of MP4 and Matroska headers that PyAV cannot read or write: ISO base media boxes and EBML elements."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from fractions import Fraction
    from io import FileIO
    from pathlib import Path

_HEADER_BYTES = 16 << 20
"""A larger header is not read: its crop is ignored."""
_EBML_PATH = (0x18538067, 0x1654AE6B, 0xAE)
"""Segment, Tracks, TrackEntry."""
VIDEO, NAME = 0xE0, 0x536E
_VOID, _DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT = 0xEC, 0x54B0, 0x54BA, 0x54B2
_RATIO = 3
"""A display unit: width and height are those of the shape, not pixels."""
ASPECT_PLACEHOLDER = "streamdepth-aspect-ratio"
"""Name of the video track that :func:`set_display_aspect` replaces."""
_JPEG, _PNG = 13, 14
"""Well-known types of values in ``ilst``."""
_ADDITION_MAPPING, _ADDITION_TYPE, _ADDITION_DATA = 0x41E4, 0x41E7, 0x41ED
_DOLBY_VISION = (b"dvcC", b"dvvC", b"dvwC")
_CROP_BOTTOM, _CROP_TOP, _CROP_LEFT, _CROP_RIGHT = 0x54AA, 0x54BB, 0x54CC, 0x54DD


class Crop(NamedTuple):
    """Pixels to remove at each side of a decoded frame."""

    left: int
    top: int
    right: int
    bottom: int


class Element(NamedTuple):
    """One element of a buffer: its kind, where its header starts, and where its content starts and ends."""

    kind: int | bytes
    at: int
    start: int
    end: int


class TrackHeader(NamedTuple):
    """What FFmpeg does not give of the header of a video track.

    Attributes:
        crop: see :func:`track_header`.
        dolby_vision: the profile of Dolby Vision, None without it.
    """

    crop: Crop | None = None
    dolby_vision: int | None = None


def track_header(path: Path, container: str, track_id: int, index: int, size_px: tuple[int, int]) -> TrackHeader:
    """The crop in a local MP4 (``clap``, ISO/IEC 14496-12, 12.1.4) or Matroska file (``PixelCrop``, RFC 9559), and the
    Dolby Vision configuration.

    Args:
        container: FFmpeg's name of the demuxer.
        track_id: ``id`` of the stream; names the track of an MP4.
        index: of the stream; FFmpeg makes one per track of a Matroska file, in order.
        size_px: width and height of the decoded frames.
    """
    width_px, height_px = size_px
    try:
        with path.open("rb") as file:
            if container.startswith("mov"):
                crop, configuration = _mp4_track(file, track_id, width_px, height_px)
            elif container.startswith("matroska"):
                crop, configuration = _matroska_track(file, index)
            else:
                return TrackHeader()
    except (OSError, ValueError, struct.error, LookupError, StopIteration):
        return TrackHeader()
    profile = configuration[2] >> 1 if len(configuration) > 2 else None
    if crop is None or min(crop) < 0 or not any(crop):
        return TrackHeader(None, profile)
    fits = crop.left + crop.right < width_px and crop.top + crop.bottom < height_px
    return TrackHeader(crop if fits else None, profile)


def is_cut_off(path: Path, container: str) -> bool:
    """True if a local file ends inside an element that holds its media. False for formats without lengths.

    Args:
        container: FFmpeg's name of the demuxer.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _media_end(file, container, size) > size
    except (OSError, ValueError, struct.error, LookupError):
        return False


def _media_end(file: BinaryIO, container: str, size: int) -> int:
    """Where the media end by the lengths in the file; 0 if there are none."""
    end = 0
    if container.startswith("mov"):
        for at in _top_level(file, b"mdat"):
            file.seek(at)
            length, _, long = struct.unpack(">I4sQ", file.read(16))
            end = at + (long if length == 1 else length)
    elif container == "avi":
        while (head := file.read(8))[:4] == b"RIFF":
            end += 8 + struct.unpack("<4xI", head)[0]
            file.seek(end)
    elif container.startswith("matroska"):
        data = file.read(4096)
        first = next(elements(data, 0, len(data)))
        _, at = _vint(data, first.end, keep_marker=True)
        length, start = _vint(data, at, keep_marker=False)
        unknown = length == (1 << 7 * (start - at)) - 1
        end = 0 if unknown else start + length
    elif container == "asf":
        (end,) = struct.unpack("<16xQ", file.read(24))
        file.seek(end)
        end += struct.unpack("<16xQ", file.read(24))[0]
    elif container == "flv":
        # The length of the last tag is repeated at the end.
        file.seek(size - 4)
        (length,) = struct.unpack(">I", file.read(4))
        file.seek(max(0, size - 4 - length))
        whole = length == 11 + int.from_bytes(file.read(4)[1:], "big")
        end = size if whole else size + 1
    return end


def set_display_aspect(path: Path, aspect: Fraction) -> None:
    """Write the display aspect of the video track of a Matroska file into its header, in place.

    PyAV cannot set the pixel aspect of a stream, which the muxer reads. The elements replace the name of the track, if
    that is :data:`ASPECT_PLACEHOLDER`.

    Args:
        aspect: width : height of the shown frame.
    """
    with path.open("r+b", buffering=0) as file:
        data = file.read(_HEADER_BYTES)
        try:
            for entry in tracks(data):
                parts = list(elements(data, entry.start, entry.end))
                if any(data[one.start : one.end] == ASPECT_PLACEHOLDER.encode() for one in parts if one.kind == NAME):
                    file.seek(entry.start)
                    file.write(_with_aspect(data, entry, parts, aspect))
        except (ValueError, IndexError):
            return


def add_cover(path: Path, image: bytes) -> bool:
    """Add a JPEG or PNG image as the cover of an MP4 file that ends with its header, as FFmpeg writes it.

    FFmpeg's muxer adds a track without a codec beside the cover if it writes fragments.

    Returns:
        False if the file has another structure; it is unchanged then.
    """
    with path.open("r+b", buffering=0) as file:
        *_, moov_at = [0, *_top_level(file, b"moov")]
        file.seek(moov_at)
        data = bytearray(file.read(_HEADER_BYTES))
        end, start, ancestors = len(data), 0, []
        for kind in (b"moov", b"udta", b"meta", b"ilst"):
            found = next((box for box in boxes(data, start, end) if box.kind == kind), None)
            if found is None:
                return False
            ancestors.append(found.at)
            start, end = found.start + (4 if kind == b"meta" else 0), found.end
        if ancestors[0] or not file.tell() == moov_at + len(data) == path.stat().st_size:
            return False
        content = struct.pack(">4sII", b"data", _JPEG if image.startswith(b"\xff\xd8") else _PNG, 0) + image
        cover = struct.pack(">I4sI", len(content) + 12, b"covr", len(content) + 4) + content
        for at in ancestors:
            struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(cover))
        file.seek(moov_at)
        file.write(bytes(data[:end]) + cover + bytes(data[end:]))
    return True


def _with_aspect(data: bytes, entry: Element, parts: list[Element], aspect: Fraction) -> bytes:
    """The content of a track entry with the display aspect instead of the name, of the same length."""
    content = b""
    for one in parts:
        if one.kind == VIDEO:
            kept = b"".join(
                data[part.at : part.end]
                for part in elements(data, one.start, one.end)
                if part.kind not in (_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT)
            )
            sizes = ((_DISPLAY_WIDTH, aspect.numerator), (_DISPLAY_HEIGHT, aspect.denominator), (_DISPLAY_UNIT, _RATIO))
            kept += b"".join(
                _element(kind, value.to_bytes((value.bit_length() + 7) // 8, "big")) for kind, value in sizes
            )
            content += _element(VIDEO, kept)
        elif one.kind not in (NAME, _VOID):
            content += data[one.at : one.end]
    rest = entry.end - entry.start - len(content)
    if rest < 9:
        raise ValueError("no room for the aspect")
    return content + _VOID.to_bytes(1, "big") + (1 << 56 | rest - 9).to_bytes(8, "big") + bytes(rest - 9)


def _element(kind: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([0x80 | size]) if size < 0x7F else (0x4000 | size).to_bytes(2, "big")
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big") + length + content


def boxes(data: bytes | bytearray, start: int, end: int) -> Iterator[Element]:
    """Boxes of a part of an ISO base media file."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        stop = end if size == 0 else start + size
        if stop < start + head or stop > end:
            return
        yield Element(kind, start, start + head, stop)
        start = stop


def elements(data: bytes, start: int, end: int) -> Iterator[Element]:
    """EBML elements of a part of a Matroska file. One of unknown or truncated size ends with the part."""
    while start < end:
        kind, at = _vint(data, start, keep_marker=True)
        size, body = _vint(data, at, keep_marker=False)
        unknown = size == (1 << 7 * (body - at)) - 1
        stop = end if unknown else min(end, body + size)
        yield Element(kind, start, body, stop)
        start = stop


def tracks(data: bytes) -> Iterator[Element]:
    """The ``TrackEntry`` elements of the beginning of a Matroska file."""
    spans = [(0, len(data))]
    for kind in _EBML_PATH:
        found = [one for start, end in spans for one in elements(data, start, end) if one.kind == kind]
        spans = [(one.start, one.end) for one in found]
    yield from found


def number(data: bytes, element: Element) -> int:
    """The content of an unsigned integer element."""
    return int.from_bytes(data[element.start : element.end], "big")


def _vint(data: bytes, at: int, *, keep_marker: bool) -> tuple[int, int]:
    """A variable-length integer and the position after it (RFC 8794, 4)."""
    first = data[at]
    length = 9 - first.bit_length()
    if not 1 <= length <= 8 or at + length > len(data):
        raise ValueError("not an EBML number")
    value = int.from_bytes(data[at : at + length], "big")
    return (value if keep_marker else value & (1 << 7 * length) - 1), at + length


def _matroska_track(file: BinaryIO, index: int) -> tuple[Crop, bytes]:
    """The crop and the Dolby Vision configuration of a track."""
    data = file.read(_HEADER_BYTES)
    entry = list(tracks(data))[index]
    parts = list(elements(data, entry.start, entry.end))
    video = next(one for one in parts if one.kind == VIDEO)
    values = {one.kind: number(data, one) for one in elements(data, video.start, video.end)}
    sides = (_CROP_LEFT, _CROP_TOP, _CROP_RIGHT, _CROP_BOTTOM)
    configuration = b""
    for mapping in (one for one in parts if one.kind == _ADDITION_MAPPING):
        found = {one.kind: data[one.start : one.end] for one in elements(data, mapping.start, mapping.end)}
        if found.get(_ADDITION_TYPE, b"")[-4:] in _DOLBY_VISION:
            configuration = found.get(_ADDITION_DATA, b"")
    return Crop(*(values.get(side, 0) for side in sides)), configuration


def _mp4_track(file: BinaryIO, track_id: int, width_px: int, height_px: int) -> tuple[Crop | None, bytes]:
    """The crop and the Dolby Vision configuration of a track."""
    for trak in boxes(moov := _moov(file), 0, len(moov)):
        if trak.kind != b"trak":
            continue
        parts = {one.kind: one for one in boxes(moov, trak.start, trak.end)}
        header = parts[b"tkhd"].start
        if struct.unpack_from(">I", moov, header + (20 if moov[header] else 12))[0] != track_id:
            continue
        part = parts[b"mdia"]
        for kind in (b"minf", b"stbl", b"stsd"):
            part = next(one for one in boxes(moov, part.start, part.end) if one.kind == kind)
        # A full box with a count of entries, then the first VisualSampleEntry with 78 bytes before its boxes.
        entry = next(boxes(moov, part.start + 8, part.end))
        found = {one.kind: moov[one.start : one.end] for one in boxes(moov, entry.start + 78, entry.end)}
        configuration = next((found[kind] for kind in _DOLBY_VISION if kind in found), b"")
        return _clap(found.get(b"clap", b""), width_px, height_px), configuration
    return None, b""


def _clap(content: bytes, width_px: int, height_px: int) -> Crop | None:
    if not content:
        return None
    wide, wide_d, high, high_d, x, x_d, y, y_d = struct.unpack_from(">4IiIiI", content)
    if not (wide_d and high_d and x_d and y_d):
        return None
    width, height = round(wide / wide_d), round(high / high_d)
    left = round((width_px - width) / 2 + x / x_d)
    top = round((height_px - height) / 2 + y / y_d)
    return Crop(left, top, width_px - width - left, height_px - height - top)


def _moov(file: BinaryIO) -> bytes:
    """The content of the ``moov`` box, empty if there is none."""
    for at in _top_level(file, b"moov"):
        file.seek(at)
        data = file.read(_HEADER_BYTES)
        size = int.from_bytes(data[:4], "big")
        body = 16 if size == 1 else 8
        size = int.from_bytes(data[8:16], "big") if size == 1 else size
        return data[body : size or None]
    return b""


def _top_level(file: BinaryIO | FileIO, kind: bytes) -> Iterator[int]:
    """Where the boxes of a kind begin in an ISO base media file."""
    at = 0
    while True:
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        size, found = struct.unpack_from(">I4s", head)
        if size == 1:
            (size,) = struct.unpack_from(">Q", head, 8)
        if found == kind:
            yield at
        if size < 8:
            return
        at += size

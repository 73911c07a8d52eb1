"""Small media files with the faults of public bug reports."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.media import write_clip
from tests.support.paths import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def shared_case(name: str) -> Path:
    """A file of the shared cases. Skips the test where it is absent."""
    path = SHARED / "cases" / "media" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def write_packets(path: Path, codec: str, contents: Sequence[bytes], size: tuple[int, int] = (64, 48)) -> Path:
    """Mux ready packets, 25 per second; an empty one stands for a repeated frame."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_mux_stream(codec, rate=25, width=size[0], height=size[1])
        stream.time_base = Fraction(1, 25)
        for index, content in enumerate(contents):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = index
            packet.duration, packet.is_keyframe = 1, True
            out.mux(packet)
    return path


def jpeg(index: int, *, orientation: int | None = None, size: tuple[int, int] = (64, 48)) -> bytes:
    """A JPEG whose left half is bright; with EXIF where an orientation is given."""
    rgb = np.zeros((size[1], size[0], 3), np.uint8)
    rgb[:, : size[0] // 2] = 200 + index
    content = io.BytesIO()
    more: dict[str, Any] = {}
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x010F] = "camera"
        more["exif"] = exif
    Image.fromarray(rgb).save(content, "JPEG", **more)
    return content.getvalue()


def add_to_sample_entry(path: Path, codec: bytes, *more: bytes) -> None:
    """Append boxes to the sample entry of the only track of an MP4 whose index is at its end."""
    data, content = bytearray(path.read_bytes()), b"".join(more)
    end = 0
    for parent in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", codec):
        start = data.find(parent, data.find(b"moov")) - 4
        (size,) = struct.unpack_from(">I", data, start)
        struct.pack_into(">I", data, start, size + len(content))
        end = start + size
    data[end:end] = content
    path.write_bytes(data)


def add_clap(path: Path, width: int, height: int) -> None:
    """Write a centred clean aperture into an MP4 of H.264."""
    add_to_sample_entry(path, b"avc1", box(b"clap", struct.pack(">8i", width, 1, height, 1, 0, 1, 0, 1)))


def add_pixel_crop(path: Path, *, top: int, bottom: int) -> None:
    """Replace the Colour element of a Matroska file by PixelCropTop and PixelCropBottom and padding."""
    data = bytearray(path.read_bytes())
    at = data.find(b"\x55\xb0")
    size = (data[at + 2] & 0x7F) + 3
    crop = b"\x54\xbb\x81" + bytes([top]) + b"\x54\xaa\x81" + bytes([bottom])
    rest = size - len(crop)
    assert rest >= 2, "the Colour element is too short"
    data[at : at + size] = crop + bytes([0xEC, 0x80 | (rest - 2)]) + bytes(rest - 2)
    path.write_bytes(data)


def joined_ts(path: Path, parts: Sequence[dict[str, Any]]) -> Path:
    """Transport streams one after the other: the clock jumps back at each joint."""
    content = b""
    for number, part in enumerate(parts):
        content += write_clip(path.with_name(f"part{number}.ts"), **part).read_bytes()
    path.write_bytes(content)
    return path


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def full_box(kind: bytes, version: int, flags: int, *content: bytes) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *content)


def write_tiled_heic(path: Path, colors: Sequence[tuple[int, int, int]], side: int = 64) -> Path:
    """One row of separately coded HEVC tiles under a grid item, as phones write them (ISO/IEC 23008-12)."""
    tiles, header = [], b""
    for color in colors:
        context: Any = av.CodecContext.create("libx265", "w")
        context.width, context.height, context.pix_fmt = side, side, "yuv420p"
        context.time_base = Fraction(1)
        context.flags |= int(av.codec.context.Flags.global_header.value)
        context.options = {"x265-params": "log-level=none", "crf": "10"}
        image = av.VideoFrame.from_ndarray(np.full((side, side, 3), color, np.uint8), format="rgb24")
        packets = [*context.encode(image.reformat(format="yuv420p")), *context.encode(None)]
        header = header or _hvcc(bytes(context.extradata))
        tiles.append(b"".join(_length_prefixed(bytes(packet)) for packet in packets))
    count, width = len(tiles), side * len(tiles)
    grid = struct.pack(">BBBBHH", 0, 0, 0, count - 1, width, side)
    items = range(2, 2 + count)
    entries = full_box(b"infe", 2, 0, struct.pack(">HH", 1, 0), b"grid\0")
    entries += b"".join(full_box(b"infe", 2, 1, struct.pack(">HH", item, 0), b"hvc1\0") for item in items)
    properties = box(b"hvcC", header) + full_box(b"ispe", 0, 0, struct.pack(">II", side, side))
    properties += full_box(b"ispe", 0, 0, struct.pack(">II", width, side))
    links = struct.pack(">HBB", 1, 1, 3) + b"".join(struct.pack(">HBBB", item, 2, 0x81, 2) for item in items)
    contents = [grid, *tiles]

    def meta(offsets: Sequence[int]) -> bytes:
        places = b"".join(
            struct.pack(">HHHII", item, 0, 1, offset, len(content))
            for item, offset, content in zip([1, *items], offsets, contents, strict=True)
        )
        return full_box(
            b"meta",
            0,
            0,
            full_box(b"hdlr", 0, 0, bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", 0, 0, struct.pack(">H", 1)),
            full_box(b"iloc", 0, 0, b"\x44\0", struct.pack(">H", count + 1), places),
            full_box(b"iinf", 0, 0, struct.pack(">H", count + 1), entries),
            full_box(b"iref", 0, 0, box(b"dimg", struct.pack(f">HH{count}H", 1, count, *items))),
            box(b"iprp", box(b"ipco", properties), full_box(b"ipma", 0, 0, struct.pack(">I", count + 1), links)),
        )

    start = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    at = len(start) + len(meta([0] * (count + 1))) + 8
    offsets = []
    for content in contents:
        offsets.append(at)
        at += len(content)
    path.write_bytes(start + meta(offsets) + box(b"mdat", *contents))
    return path


def _units(annex_b: bytes) -> list[bytes]:
    """NAL units between start codes."""
    return [unit.rstrip(b"\0") for unit in annex_b.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]]


def _length_prefixed(annex_b: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in _units(annex_b))


def _hvcc(annex_b: bytes) -> bytes:
    """A decoder configuration record of the parameter sets (ISO/IEC 14496-15, 8.3.3)."""
    sets = [unit for unit in _units(annex_b) if unit[0] >> 1 in (32, 33, 34)]
    sequence = next(unit for unit in sets if unit[0] >> 1 == 33)
    profile = sequence.replace(b"\0\0\3", b"\0\0")[3:15]
    record = b"\1" + profile + b"\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f" + bytes([len(sets)])
    for unit in sets:
        record += bytes([0x80 | unit[0] >> 1]) + struct.pack(">HH", 1, len(unit)) + unit
    return record

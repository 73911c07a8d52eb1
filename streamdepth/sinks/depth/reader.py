"""Reads what ``--data`` wrote: float32 depth with exact time stamps."""

from __future__ import annotations

import json
from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, overload

import numpy as np

from streamdepth.core.errors import DataFormatError, SourceNotFoundError
from streamdepth.media.images import open_raster, undecodable
from streamdepth.sinks.depth import INDEX_NAME, DepthMetadata, FrameRecord
from streamdepth.sinks.files import reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer
    from numpy.typing import NDArray

    from streamdepth.core.frame import Sense
    from streamdepth.sinks.depth import Coding

_NOT_DEPTH = "not depth data of streamdepth; write it with --data OUT.mkv or --data FOLDER/"


class DepthFrame(NamedTuple):
    """One frame of depth.

    Attributes:
        pts: presentation time in ``time_base`` units.
        time_base: seconds per pts unit.
        values: float32 [H, W], NaN without depth.
        sense: what a value means; ``unit`` is ``"m"`` if it is metres, else empty.
        thumbnail: of the frame, as :func:`streamdepth.sinks.depth.thumbnail` makes it; empty for most frames.
        propagated: propagated from neighbouring frames (``--model-every``), not computed by the model for this frame.
        anchor_error: as in :class:`streamdepth.DepthMap`; NaN = unknown.
    """

    pts: int
    time_base: Fraction
    values: NDArray[np.float32]
    sense: Sense
    propagated: bool = False
    thumbnail: bytes = b""
    anchor_error: float | None = None

    @property
    def seconds(self) -> float:
        return float(self.pts * self.time_base)

    @property
    def unit(self) -> str:
        return self.sense.unit

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"<DepthFrame {width}x{height} {self.sense.value} at {self.seconds:.3f} s>"


class CodedFrame(NamedTuple):
    """One frame as stored: uint16 [H, W], 0 = no depth, and the coding of its codes."""

    pts: int
    codes: NDArray[np.uint16]
    coding: Coding


class _Store(Protocol):
    metadata: DepthMetadata

    def count(self) -> int: ...

    def frames(self) -> Iterator[tuple[FrameRecord, NDArray[np.float32]]]: ...

    def coded(self) -> Iterator[CodedFrame]: ...

    def frame(self, index: int) -> tuple[FrameRecord, NDArray[np.float32]]: ...

    def close(self) -> None: ...


class DepthReader:
    """Frames of a depth file or folder, by iteration (repeatable) and by index.

    ``len`` and the first access by index scan a video once without decoding it. Files of an interrupted run are read
    up to the last complete frame. Not thread-safe. Use it as a context manager, or call ``close``.

    Attributes:
        metadata: scale, offset, sense, model, version, size.
    """

    def __init__(self, store: _Store) -> None:
        self._store = store
        self.metadata = store.metadata

    def __len__(self) -> int:
        return self._store.count()

    def __iter__(self) -> Iterator[DepthFrame]:
        for pts, values in self._store.frames():
            yield self._frame(pts, values)

    def coded(self) -> Iterator[CodedFrame]:
        """Frames as stored, without converting codes to depth.

        Raises:
            DataFormatError: an NPY folder has no codes.
        """
        return self._store.coded()

    @overload
    def __getitem__(self, index: int) -> DepthFrame: ...

    @overload
    def __getitem__(self, index: slice) -> list[DepthFrame]: ...

    def __getitem__(self, index: int | slice) -> DepthFrame | list[DepthFrame]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"frame {index} of {len(self)}")
        return self._frame(*self._store.frame(number))

    def close(self) -> None:
        self._store.close()

    def _frame(self, record: FrameRecord, values: NDArray[np.float32]) -> DepthFrame:
        base, sense = self.metadata.time_base, self.metadata.sense
        return DepthFrame(record.pts, base, values, sense, record.propagated, record.thumbnail, record.anchor_error)

    def __enter__(self) -> DepthReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_depth(path: str | Path) -> DepthReader:
    """Open depth data written by ``--data``, :class:`DepthVideoSink` or :class:`DepthFolderSink`.

    Raises:
        SourceNotFoundError: no such file or folder.
        DataFormatError: not depth data.
    """
    path = Path(path)
    if not path.exists():
        raise SourceNotFoundError(f"{path}: no such file or folder; name a depth .mkv or a folder with {INDEX_NAME}")
    if path.is_dir() or path.name == INDEX_NAME:
        return DepthReader(_Folder(path if path.is_dir() else path.parent))
    return DepthReader(_Video(path))


class _Video:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._input = self._open()
        try:
            decoder = next((stream.codec_context for stream in self._input.streams.video), None)
            if decoder is None or decoder.pix_fmt != "gray16le":
                raise DataFormatError(f"{path}: {_NOT_DEPTH}")
            self.metadata = DepthMetadata.from_tags(self._input.metadata)
        except DataFormatError:
            self.close()
            raise
        except (KeyError, ValueError) as exc:
            self.close()
            newer = f": {exc}" if isinstance(exc, ValueError) else ""
            raise DataFormatError(f"{path}: {_NOT_DEPTH}{newer}") from exc
        self._table: list[tuple[int, FrameRecord]] | None = None

    def close(self) -> None:
        self._input.close()

    def count(self) -> int:
        return len(self._records())

    def frames(self) -> Iterator[tuple[FrameRecord, NDArray[np.float32]]]:
        for record, codes in self._stored():
            yield record, record.coding.decode(codes)

    def coded(self) -> Iterator[CodedFrame]:
        for record, codes in self._stored():
            yield CodedFrame(record.pts, codes, record.coding)

    def _stored(self) -> Iterator[tuple[FrameRecord, NDArray[np.uint16]]]:
        import av

        with self._open() as source:
            images: deque[tuple[int, NDArray[np.uint16]]] = deque()
            records: deque[FrameRecord] = deque()
            video = source.streams.video[0]
            text = source.streams.subtitles[0] if source.streams.subtitles else None
            coding = self.metadata.coding
            try:
                for packet in source.demux([video] if text is None else [video, text]):
                    if packet.stream is text:
                        if packet.size:
                            records.append(FrameRecord.from_json(bytes(packet), coding))
                            coding = records[-1].coding
                    else:
                        images.extend(_codes(packet))
                    while images and (records or text is None):
                        stamp, codes = images.popleft()
                        record = records.popleft() if text is not None else self._stand_in(stamp)
                        yield record, codes
            except (av.FFmpegError, ValueError):
                return  # the truncated end of an interrupted run

    def frame(self, index: int) -> tuple[FrameRecord, NDArray[np.float32]]:
        records = self._records()
        stamp, record = records[index]
        # Frames closer than a millisecond share a stamp. A seek may land on any of them: it goes to the stamp before.
        first = next(number for number in range(index, -1, -1) if number == 0 or records[number - 1][0] != stamp)
        video = self._input.streams.video[0]
        self._input.seek(records[first - 1][0] if first else 0, stream=video)
        found = 0
        for packet in self._input.demux(video):
            for at, codes in _codes(packet):
                if at == stamp:
                    if found == index - first:
                        return record, record.coding.decode(codes)
                    found += 1
        raise DataFormatError(f"{self._path}: frame {index} is damaged; iterate to read the frames before it")

    def _records(self) -> list[tuple[int, FrameRecord]]:
        if self._table is None:
            self._table = self._scan()
        return self._table

    def _scan(self) -> list[tuple[int, FrameRecord]]:
        import av

        stamps: list[int] = []
        records: list[FrameRecord] = []
        coding = self.metadata.coding
        with self._open() as source:
            text = source.streams.subtitles[0] if source.streams.subtitles else None
            video = source.streams.video[0]
            try:
                for packet in source.demux([video] if text is None else [video, text]):
                    if not packet.size or packet.pts is None:
                        continue
                    if packet.stream is text:
                        records.append(FrameRecord.from_json(bytes(packet), coding))
                        coding = records[-1].coding
                    else:
                        stamps.append(packet.pts)
                        if text is None:
                            records.append(self._stand_in(packet.pts))
            except (av.FFmpegError, ValueError):
                pass  # the truncated end of an interrupted run
        return list(zip(stamps, records, strict=False))

    def _stand_in(self, stamp: int) -> FrameRecord:
        """The record of a frame in a file whose records another program removed: the time stamp of the container."""
        seconds = Fraction(stamp, 1000) + self.metadata.origin_seconds
        return FrameRecord(round(seconds / self.metadata.time_base), self.metadata.coding)

    def _open(self) -> InputContainer:
        import av

        try:
            return av.open(str(self._path), metadata_errors="replace")
        except (av.FFmpegError, OSError) as exc:
            raise DataFormatError(f"{self._path}: {_NOT_DEPTH} ({reason(exc)})") from exc


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            lines = (folder / INDEX_NAME).read_text(encoding="utf-8").splitlines()
            head = json.loads(lines[0])
            self.metadata = DepthMetadata.parse(head)
            self._kind = head["kind"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
            raise DataFormatError(f"{folder}: {_NOT_DEPTH}") from exc
        self._records: list[FrameRecord] = []
        coding = self.metadata.coding
        for line in lines[1:]:
            try:
                record = FrameRecord.from_json(line, coding)
            except (ValueError, KeyError):
                break  # the truncated end of an interrupted run
            coding = record.coding
            self._records.append(record)

    def close(self) -> None:
        pass

    def count(self) -> int:
        return len(self._records)

    def frames(self) -> Iterator[tuple[FrameRecord, NDArray[np.float32]]]:
        for index in range(len(self._records)):
            yield self.frame(index)

    def coded(self) -> Iterator[CodedFrame]:
        for record in self._records:
            yield CodedFrame(record.pts, self._read_codes(record), record.coding)

    def frame(self, index: int) -> tuple[FrameRecord, NDArray[np.float32]]:
        record = self._records[index]
        if self._kind == "npy":
            return record, self._read_values(record)
        return record, record.coding.decode(self._read_codes(record))

    def _read_values(self, record: FrameRecord) -> NDArray[np.float32]:
        path = self._folder / Path(record.file).name
        try:
            values = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as exc:
            raise DataFormatError(f"{path} cannot be read ({reason(exc)}); write the folder again") from exc
        return np.asarray(values, np.float32)

    def _read_codes(self, record: FrameRecord) -> NDArray[np.uint16]:
        from PIL import UnidentifiedImageError

        path = self._folder / Path(record.file).name
        if self._kind == "npy":
            raise DataFormatError(f"{self._folder} holds depth as floats, which have no codes; iterate over it instead")
        try:
            # Not by OpenCV, whose libpng prints errors. Only verify() checks the checksums of chunks.
            with open_raster(path) as image:
                image.verify()
            with open_raster(path) as image:
                codes = np.asarray(image)
        except undecodable() as exc:
            what = "not an image" if isinstance(exc, UnidentifiedImageError) else reason(exc)
            raise DataFormatError(f"{path} cannot be read ({what}); write the folder again") from exc
        if codes.dtype != np.uint16 or codes.ndim != 2:
            raise DataFormatError(f"{path} is not a 16-bit gray PNG; write the folder again")
        return codes


def _codes(packet: object) -> list[tuple[int, NDArray[np.uint16]]]:
    from av.packet import Packet

    if not isinstance(packet, Packet):
        return []
    return [
        (int(frame.pts or 0), np.asarray(frame.to_ndarray(format="gray16le"), np.uint16)) for frame in packet.decode()
    ]

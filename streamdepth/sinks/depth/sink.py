"""Depth as data: 16-bit codes in a lossless video, or one file per frame."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.geometry.readers import camera_for
from streamdepth.sinks.depth import (
    INDEX_NAME,
    Coding,
    CodingState,
    DepthMetadata,
    FrameRecord,
    span_of,
    thumbnail_due,
)
from streamdepth.sinks.encoding import CONTAINERS, container_options
from streamdepth.sinks.files import MuxedFile, OutputFile, claim_folder, reason, write_failed, write_whole
from streamdepth.sinks.names import SOURCE_NAMES, FrameNames

if TYPE_CHECKING:
    from collections.abc import Mapping

    from av.stream import Stream
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

    from streamdepth.core.frame import DepthMap, ImageInfo, Result, StreamInfo
    from streamdepth.geometry import Intrinsics
    from streamdepth.geometry.readers import IntrinsicsFor

Size = Literal["source", "model"]
_MILLISECONDS = 1000


class DepthSinkOptions(TypedDict, total=False):
    """Keyword arguments of :class:`DepthVideoSink` and :class:`DepthFolderSink`."""

    overwrite: bool
    """Replace an existing file."""
    size: Size
    """``"source"`` = the size of the frame (a video: of the first frame, others are letterboxed), ``"model"`` = that of
    the model."""
    model: str
    """Recorded with the data, like ``model_revision``."""
    model_revision: str
    intrinsics: IntrinsicsFor | None
    """Gives the camera of an image of (width, height). Recorded, for the size of the depth."""


class _DepthSink(BaseSink):
    """Size, coding and metadata of every depth output."""

    def __init__(self, path: str | Path, options: DepthSinkOptions) -> None:
        super().__init__(str(path))
        self._path, self._overwrite = Path(path), options.get("overwrite", False)
        self._size: Size = options.get("size", "source")
        self._model, self._model_revision = options.get("model", ""), options.get("model_revision", "")
        self._intrinsics = options.get("intrinsics")
        if self._size not in ("source", "model"):
            raise UsageError(f"size of depth data must be 'source' or 'model', not {self._size!r}")
        self._info: StreamInfo | None = None
        self._state = CodingState()
        self._recoded = self._resized = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """``recoded``: changes of the scale; ``resized``: frames of another size."""
        counts = {"recoded": self._recoded, "resized": self._resized}
        return MappingProxyType({cause: count for cause, count in counts.items() if count})

    @property
    def _coding(self) -> Coding | None:
        return self._state.coding

    def _size_px(self, result: Result) -> tuple[int, int]:
        if self._size == "model":
            return result.depth.width_px, result.depth.height_px
        return result.frame.width_px, result.frame.height_px

    def _camera(self, info: StreamInfo) -> Intrinsics | None:
        """Raises ``UsageError``: the intrinsics do not fit the frames."""
        return None if self._intrinsics is None else camera_for(self.name, info, self._intrinsics)

    def _metadata(self, depth: DepthMap, coding: Coding, size_px: tuple[int, int]) -> DepthMetadata:
        info = self._info
        if info is None:
            raise SinkError(f"{self.name}: not open")
        camera = self._camera(info)
        return DepthMetadata(
            sense=depth.sense,
            anchor_error=depth.anchor_error,
            intrinsics=None if camera is None else camera.resized(*size_px),
            scale=coding.scale,
            offset=coding.offset,
            width_px=size_px[0],
            height_px=size_px[1],
            frame_width_px=info.width_px,
            frame_height_px=info.height_px,
            time_base=info.time_base,
            origin_seconds=info.origin_seconds,
            model=self._model,
            model_revision=self._model_revision,
            source=info.source_id,
            stabilized=depth.stabilized,
        )

    def _record(self, result: Result, pts: int, coding: Coding, file: str = "") -> FrameRecord:
        depth = result.depth
        return FrameRecord(pts, coding, file, depth.propagated, thumbnail_due(result.frame), depth.anchor_error)

    def _encode(self, depth: DepthMap, size_px: tuple[int, int], box_px: tuple[int, int]) -> NDArray[np.uint16]:
        """Codes [H, W] of ``box_px``, the depth at ``size_px`` centred; changes to a wider coding if necessary."""
        from streamdepth.colorize.resize import resize_to_uint16

        values = known_values(depth)
        before = self._coding
        self._state = self._state.after(depth.sense, span_of(values))
        coding = self._coding
        assert coding is not None  # noqa: S101 - set by the first frame
        self._recoded += before is not None and coding != before
        width, height = size_px
        codes = np.empty((height, width), np.uint16)
        resize_to_uint16(values, width, height, coding.scale, coding.offset, codes)
        return boxed(codes, box_px, np.uint16(0))

    def _fit(self, size_px: tuple[int, int], box_px: tuple[int, int]) -> tuple[int, int]:
        if size_px == box_px:
            return box_px
        self._resized += 1
        ratio = min(Fraction(box_px[0], size_px[0]), Fraction(box_px[1], size_px[1]))
        return max(1, round(size_px[0] * ratio)), max(1, round(size_px[1] * ratio))


class DepthVideoSink(_DepthSink):
    """Depth as FFV1 ``gray16le`` in Matroska: lossless, seekable, and readable by anything with FFmpeg.

    ``value = offset + scale * code``, code 0 = no depth; scale, offset, sense, model and version are tags of the file.
    Metric models use millimetres. For relative ones the first frame decides, with margins on both sides. Values of a
    later frame are never clipped: the coding changes from that frame on (counted as ``recoded``). A second track holds
    the exact pts of each frame (Matroska's time base is a millisecond) and such changes, as JSON text.
    :func:`streamdepth.read_depth` reads both.

    The file is written as ``NAME.partial.mkv``, is playable meanwhile, and gets its name when it is complete.

    Args:
        path: file to write, ``.mkv``.
        continues: the file is a later part of a stream; the state after the frames before it.
        options: see :class:`DepthSinkOptions`.
    """

    def __init__(
        self, path: str | Path, *, continues: CodingState | None = None, **options: Unpack[DepthSinkOptions]
    ) -> None:
        super().__init__(path, options)
        self._state = continues or CodingState()
        if self._path.suffix.lower() != ".mkv":
            raise UsageError(f"{self._path}: depth video is written to .mkv only; use .mkv, or a folder/")
        self._file: OutputFile | None = None
        self._closed = self._flushed = self._complete = False
        self._note = ""
        self._muxed: MuxedFile | None = None
        self._video: VideoStream | None = None
        self._records: Stream | None = None
        self._written: Coding | None = None
        self._box = (0, 0)
        self._frames = 0

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            UsageError: the output is the input.
            OutputExistsError: the file exists and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        self._camera(stream)
        self._file = OutputFile(self._path, overwrite=self._overwrite, media_path=stream.media_path)
        self._info = stream

    def process(self, result: Result) -> None:
        import av

        info = self._info
        if info is None:
            raise SinkError(f"{self.name}: not open")
        size = self._size_px(result)
        self._box = self._box if self._frames else size
        codes = self._encode(result.depth, self._fit(size, self._box), self._box)
        if self._coding is None:
            return
        if self._muxed is None:
            self._begin(info, result.depth, self._coding)
        if self._muxed is None or self._video is None or self._records is None:
            raise SinkError(f"{self.name}: closed")
        seconds = result.frame.pts * result.frame.time_base - info.origin_seconds
        stamp = int(seconds * _MILLISECONDS + Fraction(1, 2))
        pts = int(result.frame.pts * result.frame.time_base / info.time_base)
        # The record first, so that a truncated file has no frame without the coding of its codes.
        record = av.Packet(self._record(result, pts, self._coding).to_json(self._written))
        record.stream, record.time_base = self._records, Fraction(1, _MILLISECONDS)
        record.pts = record.dts = stamp
        record.duration = 1
        self._muxed.mux(record)
        self._written = self._coding
        image = av.VideoFrame.from_ndarray(codes, format="gray16le")
        image.pts, image.time_base = stamp, Fraction(1, _MILLISECONDS)
        self._muxed.mux(self._video.encode(image))
        self._frames += 1

    @property
    def note(self) -> str:
        return self._note

    def flush(self) -> None:
        clock = None if self._info is None else self._info.media_clock
        self._complete = clock is None or clock.finished
        self._finish()

    def _finish(self) -> None:
        if self._flushed or self._muxed is None or self._video is None or self._muxed.broken:
            return
        self._flushed = True
        self._muxed.mux(self._video.encode(None))

    def close(self) -> None:
        """Raises ``SinkError``: the trailer could not be written; what was written stays readable."""
        if self._closed:
            return
        self._closed = True
        try:
            self._finish()
        finally:
            muxed, self._muxed = self._muxed, None
            if muxed is not None:
                try:
                    muxed.close(empty=not self._frames, complete=self._complete)
                finally:
                    self._note = muxed.note
            elif self._file is not None:
                self._file.discard()

    def _begin(self, info: StreamInfo, depth: DepthMap, coding: Coding) -> None:
        import av

        options = container_options(CONTAINERS[".mkv"], _MILLISECONDS)
        assert self._file is not None  # noqa: S101 - open() made it
        self._muxed = muxed = MuxedFile(self._file, "matroska", options)
        output = muxed.container
        output.metadata.update(self._metadata(depth, coding, self._box).tags())
        video = output.add_stream("ffv1", rate=info.rate or Fraction(25))
        video.width, video.height, video.pix_fmt = *self._box, "gray16le"
        context = video.codec_context
        if info.rate is None:
            context.framerate = Fraction(0)
        context.time_base = video.time_base = Fraction(1, _MILLISECONDS)
        context.sample_aspect_ratio = info.sample_aspect_ratio if self._size == "source" else Fraction(1)
        muxed.set_aspect(video, context.sample_aspect_ratio or Fraction(1), *self._box)
        context.color_range = 2
        # Checksums in every slice detect damage, four slices decode in parallel, and g=1 makes every frame a key frame.
        context.options = {"level": "3", "slices": "4", "slicecrc": "1", "g": "1"}
        try:
            context.open()
        except (av.FFmpegError, ValueError) as exc:
            size = f"{self._box[0]}x{self._box[1]}"
            raise SinkError(f"{self.name}: FFV1 refuses {size} ({reason(exc)}); use --data FOLDER/ instead") from exc
        records = output.add_mux_stream("subrip")
        records.time_base = Fraction(1, _MILLISECONDS)
        records.metadata["title"] = "frame records (JSON)"
        records.metadata["language"] = "zxx"  # ISO 639-2: no linguistic content
        self._video, self._records = video, records


class DepthFolderSink(_DepthSink):
    """Depth as one file per frame, with one line per completed file in ``depth.jsonl``.

    PNG: 16-bit gray, the same codes as :class:`DepthVideoSink`. NPY: float32 [H, W], exact, NaN without depth. Every
    frame has its own size. A file is complete or absent, so an interrupted run leaves a readable folder.

    Args:
        folder: created if missing; must be empty without ``overwrite``.
        pattern: file names, see :class:`~streamdepth.sinks.names.FrameNames`; the suffix .png or .npy chooses the
            format.
        options: see :class:`DepthSinkOptions`.
    """

    def __init__(self, folder: str | Path, *, pattern: str = SOURCE_NAMES, **options: Unpack[DepthSinkOptions]) -> None:
        super().__init__(folder, options)
        self._names = FrameNames(self._path, pattern, suffixes=(".png", ".npy"))
        self._as_floats = self._names.suffix == ".npy"
        self._index: io.BufferedWriter | None = None
        self._written: Coding | None = None

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        self._camera(stream)
        claim_folder(self._path, overwrite=self._overwrite)
        self._info = stream

    def process(self, result: Result) -> None:
        size = self._size_px(result)
        if self._as_floats:
            self._state = CodingState(Coding(1.0))
            content: bytes | memoryview = _npy(resized(known_values(result.depth), size))
        else:
            content = _png(self._encode(result.depth, size, size))
        if self._coding is None or self._info is None:
            raise SinkError(f"{self.name}: not open")
        if self._index is None:
            self._index = self._begin(self._metadata(result.depth, self._coding, size))
        path = self._names(result.frame)
        write_whole(path, content)
        pts = int(result.frame.pts * result.frame.time_base / self._info.time_base)
        self._append(self._record(result, pts, self._coding, path.name).to_json(self._written))
        self._written = self._coding

    def close(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _begin(self, metadata: DepthMetadata) -> io.BufferedWriter:
        import json

        try:
            self._index = (self._path / INDEX_NAME).open("wb")
        except OSError as exc:
            raise write_failed(self._path / INDEX_NAME, exc) from exc
        fields = metadata.fields() | {"kind": "npy" if self._as_floats else "png"}
        self._append(json.dumps({name: text for name, text in fields.items() if text}).encode())
        return self._index

    def _append(self, line: bytes) -> None:
        if self._index is None:
            raise SinkError(f"{self.name}: closed")
        try:
            self._index.write(line + b"\n")
            self._index.flush()
        except OSError as exc:
            raise write_failed(self._path / INDEX_NAME, exc) from exc


def known_values(depth: DepthMap) -> NDArray[np.float32]:
    """The values, NaN without depth; shares the memory of the map if all values are valid."""
    if depth.valid is None or depth.valid.all():
        return depth.values
    return np.where(depth.valid, depth.values, np.float32(np.nan))


def resized(values: NDArray[np.float32], size_px: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear, as in coloured frames; no depth if the nearest value has none."""
    from streamdepth.colorize.resize import resize_bilinear

    return resize_bilinear(values, *size_px)


def boxed(codes: NDArray[np.uint16], box_px: tuple[int, int], border: np.uint16) -> NDArray[np.uint16]:
    """[h, w] centred in [H, W] filled with ``border``."""
    width, height = box_px
    if codes.shape == (height, width):
        return codes
    box = np.full((height, width), border, np.uint16)
    top, left = (height - codes.shape[0]) // 2, (width - codes.shape[1]) // 2
    box[top : top + codes.shape[0], left : left + codes.shape[1]] = codes
    return box


def _png(codes: NDArray[np.uint16]) -> bytes:
    import cv2

    # Level 1: a third of the time of the default for files a tenth larger (smooth 16-bit depth).
    done, content = cv2.imencode(".png", codes, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise SinkError(f"OpenCV cannot write a {codes.shape[1]}x{codes.shape[0]} PNG; use .npy instead")
    return bytes(content.data)


def _npy(values: NDArray[np.float32]) -> memoryview:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    return content.getbuffer()

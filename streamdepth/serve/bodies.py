"""Request and answer bodies, bounded in size, in time and, all together, in memory; accepted videos."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager, contextmanager
from email.message import Message
from email.parser import BytesHeaderParser
from typing import TYPE_CHECKING, Any

from aiohttp import web

from streamdepth.core.errors import SourceError
from streamdepth.core.frame import ImageInfo
from streamdepth.serve.api import ApiError, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from streamdepth.serve.api import Handler
    from streamdepth.serve.options import WebSettings

_MAX_PARTS = 64
_MAX_PART_HEAD_BYTES = 8192
_SMALL_BODY_BYTES = 65_536
_SMALL_ANSWER_BYTES = 65_536
_MAX_JSON_VALUES = 100_000
"""Commas and opening brackets outside long lists of numbers: what the parser handles in about 50 ms."""
_TOO_MANY = f"the JSON has more than {_MAX_JSON_VALUES:,} values outside lists of numbers"
_PIECE_BYTES = 65_536
_LONG_LIST_BYTES = 256
_OPEN = re.compile(rb"[\[{]")
_VALUES = re.compile(rb"[-+0-9.eE,\s]+")
_ITEMS = re.compile(rb"[-+0-9.eE,\s\":]+")
"""What ``JSON.stringify`` makes of a typed array: ``{"0": 0.5, "1": 0.25, ...}``."""
_KEY_0 = re.compile(rb"\{\s*\"0\"\s*:")
_INDEX = re.compile(rb"\"[0-9]+\"\s*:")


class Buffer:
    """One body in memory; its bytes count towards the limit of all bodies of a :class:`BodyReader`."""

    def __init__(self, reader: BodyReader, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.data = bytearray()
        self._reader = reader

    def add(self, chunk: bytes) -> None:
        """Raises ``ApiError``: the body is too long (413), or all bodies together are (503)."""
        if len(self.data) + len(chunk) > self.limit_bytes:
            raise ApiError(413, f"the body has more than {self.limit_bytes:,} bytes")
        self._reader.reserve(len(chunk))
        self.data += chunk


class BodyReader:
    """Reads request bodies. Belongs to one event loop.

    Bodies in memory together hold at most ``settings.max_buffered_bytes``; a request that would exceed this is answered
    503. A client that sends nothing for ``settings.stall_seconds`` is answered 408.
    """

    def __init__(self, settings: WebSettings) -> None:
        self._settings = settings
        self._reserved_bytes = 0

    @contextmanager
    def buffer(self, limit_bytes: int) -> Iterator[Buffer]:
        """An empty buffer for one body, released at the end of the block."""
        made = Buffer(self, limit_bytes)
        try:
            yield made
        finally:
            self._reserved_bytes -= len(made.data)
            made.data = bytearray()

    def reserve(self, count: int) -> None:
        if self._reserved_bytes + count > self._settings.max_buffered_bytes:
            raise ApiError(503, "too many large requests at once; try again later", retry_after_seconds=5)
        self._reserved_bytes += count

    async def read(self, request: web.Request, buffer: Buffer) -> None:
        """Read the whole body within ``settings.body_seconds``.

        Raises:
            ApiError: too long (413) or too slow (408).
        """
        if (request.content_length or 0) > buffer.limit_bytes:
            raise ApiError(413, f"the body has {request.content_length:,} bytes; the limit is {buffer.limit_bytes:,}")
        async with self._body_deadline():
            async for chunk in self.chunks(request.content.readany):
                buffer.add(chunk)

    async def json_object(self, request: web.Request) -> dict[str, Any]:
        """A body of at most 64 KiB that is one JSON object.

        Raises:
            ApiError: another media type (415), no such object (400), too long (413) or too slow (408).
        """
        if request.content_type != "application/json":
            raise ApiError(415, f"send application/json, not {request.content_type}")
        with self.buffer(_SMALL_BODY_BYTES) as buffer:
            await self.read(request, buffer)
            content = parse_json(bytes(buffer.data))
        if not isinstance(content, dict):
            raise ApiError(400, "the body is not a JSON object")
        return content

    async def chunks(
        self, read: Callable[[], Awaitable[bytes]], *, least_bytes_per_second: float = 0
    ) -> AsyncIterator[bytes]:
        """Chunks of a body until its end.

        Args:
            least_bytes_per_second: average rate that is required after the first ``settings.stall_seconds``.
        Raises:
            ApiError: nothing came for ``settings.stall_seconds``, or the body comes too slowly (408).
        """
        loop = asyncio.get_running_loop()
        started, count = loop.time(), 0
        while chunk := await self._timed(read):
            count += len(chunk)
            if count < (loop.time() - started - self._settings.stall_seconds) * least_bytes_per_second:
                raise ApiError(408, f"the body arrives at less than {least_bytes_per_second:,.0f} bytes per second")
            yield chunk

    def _body_deadline(self) -> Any:
        seconds = self._settings.body_seconds
        return _deadline(seconds, f"the body did not arrive within {seconds:g} s")

    async def _timed(self, read: Callable[[], Awaitable[Any]]) -> Any:
        seconds = self._settings.stall_seconds
        async with _deadline(seconds, f"no data received for {seconds:g} s"):
            try:
                return await read()
            except web.RequestPayloadError:
                raise ApiError(400, "the body does not match its Transfer-Encoding; send it again") from None


@asynccontextmanager
async def _deadline(seconds: float, message: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ApiError(408, message) from None


def form_file(data: bytes, content_type: str) -> bytes:
    """The first file of a ``multipart/form-data`` body (RFC 7578). Takes time in proportion to the length of the body;
    aiohttp's parser takes tens of seconds of the event loop for thousands of parts or lines.

    Args:
        content_type: the whole header.
    Raises:
        ApiError: not such a form, or no file in its first parts (400).
    """
    header = Message()
    header["Content-Type"] = content_type
    boundary = (header.get_boundary() or "").encode("ascii", "replace")
    if not boundary:
        raise ApiError(400, "the header Content-Type of the form has no boundary; let the HTTP client set it")
    delimiter = b"\r\n--" + boundary
    data = b"\r\n" + data
    start = data.find(delimiter)
    for _ in range(_MAX_PARTS):
        start += len(delimiter)
        if start < len(delimiter) or data[start : start + 2] != b"\r\n":  # not found, or the final delimiter
            break
        head_end = data.find(b"\r\n\r\n", start, start + _MAX_PART_HEAD_BYTES)
        end = data.find(delimiter, start)
        if head_end < 0 or end < head_end + 2:
            raise ApiError(400, "a part of the form is cut off or has no valid header; send the form again")
        head = BytesHeaderParser().parsebytes(data[start + 2 : head_end])
        if head.get_param("filename", header="Content-Disposition") is not None:
            return data[head_end + 4 : end]
        start = end
    raise ApiError(400, f"the form holds no file in its first {_MAX_PARTS} parts; send the image as a file")


def parse_json(data: bytes) -> Any:
    """Parse a JSON body in steps that hold the GIL for some 10 ms, so that the event loop is not blocked.

    Lists of numbers, and typed arrays as objects of numbers, are parsed in pieces of 64 KiB; both give a list.

    Raises:
        ApiError: not JSON (400), or too many values (413).
    """
    brackets = data.count(b"[") + data.count(b"{")
    if brackets > _MAX_JSON_VALUES:
        raise ApiError(413, _TOO_MANY)
    key = "numbers"
    while key.encode() in data:  # a key that marks where each list was must not be in the body
        key += "_"
    lists: list[list[Any]] = []
    rest, end = [], 0

    def restored(value: dict[str, Any]) -> Any:
        return lists[value[key]] if value.keys() == {key} else value

    try:
        for start, stop in _number_lists(data):
            rest += [data[end:start], b'{"%s":%d}' % (key.encode(), len(lists))]
            lists.append(_parse_numbers(data, start, stop))
            end = stop
        text = b"".join([*rest, data[end:]]) if rest else data
        if brackets + text.count(b",") > _MAX_JSON_VALUES:
            raise ApiError(413, _TOO_MANY)
        return json.loads(text.decode(json.detect_encoding(text)), object_hook=restored if lists else None)
    except UnicodeDecodeError:
        raise ApiError(400, "the body is not JSON (it is not text in UTF-8)") from None
    except RecursionError:
        raise ApiError(400, "the JSON is nested too deeply; send an image, a list of them, or an object") from None
    except ValueError as exc:
        # Python limits the digits of a number, with an error that names a function of Python.
        reason = "a number has too many digits" if "int_max_str_digits" in str(exc) else " ".join(str(exc).split())
        raise ApiError(400, f"the body is not JSON ({reason})") from None


def _number_lists(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of each long list of numbers."""
    start = 0
    while start < len(data):
        found = _OPEN.search(data, start, start + _PIECE_BYTES)
        if found is None:
            start += _PIECE_BYTES
            continue
        start, inside = found.start(), _VALUES if found[0] == b"[" else _ITEMS
        end = start + 1
        while (piece := inside.match(data, end, end + _PIECE_BYTES)) is not None and piece.end() > end:
            end = piece.end()
        close = b"]" if inside is _VALUES else b"}" if _KEY_0.match(data, start) else b"no list"
        if end - start > _LONG_LIST_BYTES and data[end : end + 1] == close:
            yield start, end + 1
            end += 1
        start = end


def _parse_numbers(data: bytes, start: int, stop: int) -> list[Any]:
    is_object = data[start : start + 1] == b"{"
    values: list[Any] = []
    first, start, stop = start + 1, start + 1, stop - 1
    while start <= stop:
        end = data.find(b",", min(start + _PIECE_BYTES, stop), stop)
        end = stop if end < 0 else end
        piece = data[start:end]
        if is_object:
            piece, count = _INDEX.subn(b"", piece)
            if count != piece.count(b",") + 1:
                raise ValueError("an object has a value without a key")
        if start > first and not piece.strip():
            raise ValueError("a list ends with a comma")
        values += json.loads(b"[" + piece + b"]")
        start = end + 1
    return values


def sends_in_time(settings: WebSettings) -> Any:
    """A middleware that ends an answer which the client reads at less than ``least_bytes_per_second``."""

    @web.middleware
    async def send(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        size = 0
        if isinstance(answer, web.FileResponse):
            try:
                size = (await asyncio.to_thread(answer._path.stat)).st_size
            except OSError:
                return failure(404, "the file was deleted in the meantime; results are kept for a limited time")
        elif isinstance(answer, web.Response) and isinstance(answer.body, bytes | bytearray):
            size = len(answer.body)
        if size > _SMALL_ANSWER_BYTES:
            try:
                async with asyncio.timeout(settings.stall_seconds + size / settings.least_bytes_per_second):
                    await answer.prepare(request)
                    await answer.write_eof()
            except TimeoutError:
                drop(request)
        return answer

    return send


def drop(request: web.Request) -> None:
    """Close a request's connection at once, unsent data included."""
    if request.transport is not None:
        request.transport.abort()


_DEMUXERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "gif", "ivf", "h264", "hevc"),
    *("mjpeg", "m4v", "nut", "mxf", "apng", "yuv4mpegpipe", "dv"),
)
"""Accepted containers. Playlists and scripts (hls, concat, dash) are not: they name other files."""


def check_container(path: Path, name: str, max_pixels: int) -> ImageInfo | None:
    """Accept plain video files only: playlists and scripts would make FFmpeg open other files.

    Returns:
        Size and format of its frames, None where only decoding tells the format.
    Raises:
        SourceError: not such a file, or its frames have more than ``max_pixels``.
    """
    import av

    try:
        # FFmpeg checks the list after probing and before it opens anything else.
        options = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file", "max_pixels": str(max_pixels)}
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise SourceError(f"{name}: has no video stream; send MP4, MOV, MKV, WebM, AVI or MPEG-TS")
            video = next((one for one in container.streams.video if one.codec_context is not None), None)
            if video is None:
                raise SourceError(f"{name}: no decoder for its video codec; send H.264, H.265, VP9 or AV1")
            if not 0 < video.width * video.height <= max_pixels:  # 0: larger than the option max_pixels, or unknown
                raise SourceError(f"{name}: its frames have no size, or more than {max_pixels:,} pixels; scale it down")
            if not video.pix_fmt:
                return None
            return ImageInfo(video.width, video.height, video.pix_fmt)
    except (av.FFmpegError, OSError) as exc:
        if isinstance(exc, SourceError):
            raise
        raise SourceError(f"{name}: not a video file; send MP4, MOV, MKV, WebM, AVI or MPEG-TS") from None


def codec_for_browsers(image: ImageInfo | None) -> str | None:
    """The encoder of a result that browsers play; None = the default of the container, x264.

    Browsers decode H.264 only with 4:2:0 and 8 bits, which x264 does not use for odd sides, finer chroma or more bits.
    They decode VP9 in all of these.
    """
    from streamdepth.sinks.encoding import encoding_for

    if image is None or encoding_for(image, codec="libx264", transparent=False).pix_fmt == "yuv420p":
        return None
    return "libvpx-vp9"

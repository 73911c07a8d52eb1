"""Output files: what may be written where, containers being written, and the messages of failures."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import OutputExistsError, SinkError, UsageError, redact
from streamdepth.core.host import file_key, lock, remove, rename, written_whole
from streamdepth.media.boxes import ASPECT_PLACEHOLDER, add_cover, set_display_aspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from fractions import Fraction

    from av.packet import Packet
    from av.stream import Stream
    from typing_extensions import Buffer

_WRITE_BYTES = 1 << 16
_NAME_BYTES = 255
"""The longest file name on common file systems."""
_SHORT_FRAMES = 2
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def reason(exc: BaseException) -> str:
    """The message of the operating system or FFmpeg, without paths or addresses."""
    text = getattr(exc, "strerror", None)
    return str(text or exc or type(exc).__name__)


def is_disk_error(exc: BaseException) -> bool:
    """True if the storage failed, False if the content was refused."""
    return getattr(exc, "errno", None) in _DISK_ERRORS


def write_failed(path: Path, exc: BaseException, partial: Path | None = None) -> SinkError:
    """The error of an output that can no longer be written.

    Args:
        partial: the file that has what was written so far, if it has another name.
    """
    if getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kept = f" as {partial.name}" if partial else ""
        return SinkError(
            f"{path}: no space left on the device; what was written is kept{kept}; free some space and run again"
        )
    return SinkError(f"{path}: cannot be written ({reason(exc)}); choose another output")


def is_same_file(path: Path, other: str | None) -> bool:
    """True if both names refer to one existing file. ``other`` may be a URL or None."""
    if not other:
        return False
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def check_output(path: Path, *, overwrite: bool, media_path: str | None = None) -> None:
    """Make sure that ``path`` may be written; creates missing folders.

    Raises:
        UsageError: it is the input.
        OutputExistsError: the file exists and ``overwrite`` is False.
        SinkError: it is a folder or a device, or not writable.
    """
    if is_same_file(path, media_path):
        raise UsageError(f"{path}: is the input; choose another name for the output")
    try:
        if path.is_dir():
            raise SinkError(f"{path}: is a folder; name a file, or end the name with / to write a file per frame")
        if path.exists():
            if not path.is_file():
                raise SinkError(f"{path}: is not a regular file; name a file to create")
            if not overwrite:
                raise OutputExistsError(f"{path}: already exists; --overwrite replaces it")
            path.open("r+b").close()
        make_folder(path.parent)
    except SinkError:
        raise
    except OSError as exc:
        raise write_failed(path, exc) from exc


def partial_path(path: Path) -> Path:
    """The name of a file while it is written: ``out.partial.mkv`` for ``out.mkv``. A long name is shortened to what
    file systems allow."""
    end = f".partial{path.suffix}"
    stem = os.fsencode(path.stem)[: _NAME_BYTES - len(os.fsencode(end))].decode(errors="ignore")
    return path.with_name(f"{stem}{end}")


def scheme_of(output: str) -> str:
    """``"rtsp"`` of ``rtsp://...``, ``"null"`` of ``null:``; empty for paths, also ``C:\\...``."""
    head, colon, rest = output.partition(":")
    if not colon or not head.replace("+", "").isalnum() or len(head) == 1:
        return ""
    known = head.lower() in ("null", "virtualcam")
    return head.lower() if rest.startswith("//") or known else ""


def check_distinct(outputs: Iterable[str]) -> None:
    """Raises ``UsageError``: two outputs are the same file or folder."""
    seen: dict[str, str] = {}
    for output in outputs:
        if scheme_of(output) in ("null", "virtualcam"):
            continue
        key = output if scheme_of(output) else file_key(output)
        if key in seen:
            raise UsageError(f"{redact(output)} is named twice; give each output its own name")
        seen[key] = output
    for output in seen.values():
        partial = "" if scheme_of(output) or not PurePath(output).name else partial_path(Path(output))
        if partial and (other := seen.get(file_key(partial))):
            raise UsageError(f"{other}: is the name of {output} while it is written; choose another name")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        SinkError: a parent is a file, or not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        known = {FileExistsError: "a file has its name", NotADirectoryError: "a parent is a file"}
        why = known.get(type(exc)) or reason(exc)
        raise SinkError(f"{folder}: cannot be created ({why}); choose another folder") from exc


class OutputFile(io.RawIOBase):
    """A file that is written as ``NAME.partial.SUFFIX`` and gets its name when it is complete.

    Errors are those of the operating system, and the file can be closed before a muxer so that no trailer is written.
    An existing file stays until ``commit``. Not thread-safe.

    Args:
        path: the name when it is complete; missing folders are created.
        overwrite: replace an existing file.
        media_path: the input.

    Raises:
        UsageError: ``path`` is the input.
        OutputExistsError: the file exists and ``overwrite`` is False, or another process is writing it.
        SinkError: it is a folder or a device, or not writable.
    """

    def __init__(self, path: Path, *, overwrite: bool, media_path: str | None = None) -> None:
        check_output(path, overwrite=overwrite, media_path=media_path)
        self._path = path
        self.partial = partial_path(path)
        try:
            binary = getattr(os, "O_BINARY", 0)
            self._raw = os.fdopen(os.open(self.partial, os.O_RDWR | os.O_CREAT | binary, 0o666), "r+b", buffering=0)
        except OSError as exc:
            raise write_failed(path, exc) from exc
        if not lock(self._raw):
            self._raw.close()
            raise OutputExistsError(f"{self.partial}: another process is writing it; choose another output")
        self._raw.truncate(0)  # what an interrupted run left
        self.name = str(self.partial)

    def failed(self, exc: BaseException) -> SinkError:
        """The error of this file, which can no longer be written."""
        return write_failed(self._path, exc, self.partial)

    def commit(self) -> None:
        """Close the complete file and give it its name.

        Raises:
            SinkError: it cannot be renamed; the partial file stays.
        """
        self.close()
        try:
            rename(self.partial, self._path)
        except OSError as exc:
            raise write_failed(self._path, exc) from exc

    def discard(self) -> None:
        """Close and remove the partial file."""
        self.close()
        remove(self.partial)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        view = memoryview(data)
        size = len(view)
        while view:
            view = view[self._raw.write(view) :]
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self._raw.close()
        super().close()


def claim_folder(folder: Path, *, overwrite: bool, taken: Callable[[str], object] = bool) -> None:
    """Make sure that files can be created in ``folder``; creates it if it is missing.

    With ``overwrite`` files of the same names are replaced; nothing else in the folder is touched.

    Args:
        taken: true for names of files that the folder must not have without ``overwrite``.

    Raises:
        OutputExistsError: the folder has such a file and ``overwrite`` is False.
        SinkError: it is a file, or not writable.
    """
    try:
        if folder.exists() and not folder.is_dir():
            if folder.is_file():
                raise SinkError(f"{folder}: is a file; name a folder to write into")
            raise SinkError(f"{folder}: is a device; the output null: discards frames")
        make_folder(folder)
        if not overwrite and any(taken(path.name) for path in folder.iterdir()):
            what = "is not empty" if taken is bool else "has files with names of the output"
            raise OutputExistsError(f"{folder}: {what}; --overwrite writes into it")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except SinkError:
        raise
    except OSError as exc:
        raise write_failed(folder, exc) from exc


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a small file under a temporary name and rename it.

    Raises:
        SinkError: no space or no permission; ``path`` is then unchanged.
    """
    try:
        with written_whole(path, path.with_name(f".{path.name}.part")) as partial:
            partial.write_bytes(content)
    except OSError as exc:
        raise write_failed(path, exc) from exc


def last_packets(packets: list[Packet[Any]], frames: int) -> list[Packet[Any]]:
    """What an encoder gives when it is flushed after a number of frames.

    The decoding times of libx265 are uninitialised memory in a stream of one or two frames. Such frames are not
    reordered: the presentation times are right.
    """
    if frames <= _SHORT_FRAMES:
        for packet in packets:
            packet.dts = packet.pts
    return packets


class MuxedFile:
    """Muxes packets into an :class:`OutputFile`. Not thread-safe.

    Attributes:
        note: names the partial file of an incomplete output, else empty.
        cover: JPEG or PNG image to add to an MP4 file when it is closed.
    """

    def __init__(self, file: OutputFile, muxer: str, options: Mapping[str, str]) -> None:
        import av

        self._file = file
        self.note = ""
        self.container = av.open(
            self._file, "w", format=muxer, container_options=dict(options), buffer_size=_WRITE_BYTES
        )
        self.broken = False
        self._closed = False
        self._aspect: Fraction | None = None
        self.cover = b""

    def set_aspect(self, stream: Stream, pixel_aspect: Fraction, width_px: int, height_px: int) -> None:
        """Make the container name the pixel aspect of the video, which some codecs do not carry. Call it before the
        first packet; the header gets it when the file is closed."""
        if pixel_aspect != 1 and self.container.format.name in ("matroska", "webm"):
            stream.metadata["title"] = ASPECT_PLACEHOLDER
            self._aspect = pixel_aspect * width_px / height_px

    def mux(self, packets: Packet[Any] | Iterable[Packet[Any]]) -> None:
        """Raises ``SinkError``: the file can no longer be written."""
        import av

        try:
            self.container.mux(packets)  # type: ignore[arg-type]
        except (av.FFmpegError, OSError, ValueError) as exc:
            self.broken = True
            raise self._file.failed(exc) from exc

    def copy(self, packets: Iterable[Packet[Any]], refused: Callable[[Packet[Any], str], None]) -> None:
        """Mux packets of sound and subtitles; ``refused`` is called with each that the muxer refuses, and the reason.

        Raises:
            SinkError: the file can no longer be written.
        """
        import av

        for packet in packets:
            try:
                self.container.mux(packet)
            except (av.FFmpegError, OSError, ValueError) as exc:
                if is_disk_error(exc):
                    self.broken = True
                    raise self._file.failed(exc) from exc
                refused(packet, reason(exc))

    def close(self, *, empty: bool, complete: bool) -> None:
        """Write the trailer, unless the file is broken, and give the file its name if it is ``complete``. An ``empty``
        file is removed.

        Raises:
            SinkError: the end could not be written; what came before stays readable.
        """
        import av

        if self._closed:
            return
        self._closed = True
        partial = self._file.partial
        try:
            if self.broken or empty:
                # Closed before the muxer, so that it writes no trailer: after an error the trailer would overwrite the
                # readable part.
                self._file.close()
            try:
                self.container.close()
            except (av.FFmpegError, OSError, ValueError) as exc:
                if not (self.broken or empty):
                    self.broken = True
                    raise self._file.failed(exc) from exc
        finally:
            self._file.close()
            if self._aspect is not None and not empty:
                with contextlib.suppress(OSError):
                    set_display_aspect(partial, self._aspect)
            if self.cover and not (empty or self.broken):
                with contextlib.suppress(OSError):
                    self.cover = b"" if add_cover(partial, self.cover) else self.cover
                self.note = "omitted: cover image" if self.cover else ""
            if empty:
                self._file.discard()
            elif complete and not self.broken:
                self._file.commit()
            else:
                self.note = f"incomplete: kept as {partial.name}"

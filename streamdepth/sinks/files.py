"""Output files: what may be written where, containers being written, and the messages of failures."""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import OutputExistsError, SinkError, UsageError
from streamdepth.core.host import rename
from streamdepth.media.boxes import ASPECT_PLACEHOLDER, set_display_aspect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from fractions import Fraction
    from pathlib import Path

    from av.packet import Packet
    from av.stream import Stream
    from typing_extensions import Buffer

_WRITE_BYTES = 1 << 16
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def reason(exc: BaseException) -> str:
    """The message of the operating system or FFmpeg, without paths or addresses."""
    text = getattr(exc, "strerror", None)
    return str(text or exc or type(exc).__name__)


def is_disk_error(exc: BaseException) -> bool:
    """True if the storage failed, False if the content was refused."""
    return getattr(exc, "errno", None) in _DISK_ERRORS


def write_failed(path: Path, exc: BaseException) -> SinkError:
    """The error of an output that can no longer be written."""
    if getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SinkError(
            f"{path}: no space left on the device; what was written is kept; free some space and run again"
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


def claim_file(path: Path, *, overwrite: bool, media_path: str | None = None) -> bool:
    """Make sure that ``path`` can be written; creates missing folders. Returns True if the file was created (empty).

    An existing file keeps its content until the first byte is written.

    Raises:
        UsageError: it is the file being read.
        OutputExistsError: the file exists and ``overwrite`` is False.
        SinkError: it is a folder or a device, or not writable.
    """
    if is_same_file(path, media_path):
        raise UsageError(f"{path}: is the input; choose another name for the output")
    try:
        if path.is_dir():
            raise SinkError(f"{path}: is a folder; name a file, or end the name with / to write images into it")
        if path.exists():
            if not path.is_file():
                raise SinkError(f"{path}: is not a regular file; name a file to create")
            if not overwrite:
                raise OutputExistsError(f"{path}: already exists; --overwrite replaces it")
            path.open("r+b").close()
            return False
        make_folder(path.parent)
        path.open("xb").close()
        return True
    except SinkError:
        raise
    except FileExistsError as exc:
        raise OutputExistsError(f"{path}: already exists; --overwrite replaces it") from exc
    except OSError as exc:
        raise write_failed(path, exc) from exc


def make_folder(folder: Path) -> None:
    """Create a folder and its parents.

    Raises:
        SinkError: a parent is a file, or not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SinkError(f"{folder}: cannot be created ({reason(exc)}); choose another folder") from exc


class OutputFile(io.RawIOBase):
    """A claimed file for a muxer. Errors are those of the operating system, and the file can be closed before the muxer
    so that no trailer is written. The first write truncates it. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("r+b", buffering=0)
        self._untouched = True
        self.name = str(path)

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        if self._untouched:
            self._raw.truncate(0)
            self._untouched = False
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


def claim_folder(folder: Path, *, overwrite: bool) -> None:
    """Make sure that files can be created in ``folder``; creates it if it is missing.

    With ``overwrite`` files of the same names are replaced; nothing else in the folder is touched.

    Raises:
        OutputExistsError: the folder is not empty and ``overwrite`` is False.
        SinkError: it is a file, or not writable.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise SinkError(f"{folder}: is a file; name a folder to write into")
        make_folder(folder)
        if not overwrite and any(folder.iterdir()):
            raise OutputExistsError(f"{folder}: is not empty; --overwrite writes into it")
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
    partial = path.with_name(f".{path.name}.part")
    try:
        try:
            partial.write_bytes(content)
            rename(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise write_failed(path, exc) from exc


class MuxedFile:
    """Muxes packets into a claimed file. Not thread-safe.

    Args:
        path: a file claimed by ``claim_file``; its old content is kept until the first packet.
        created: ``claim_file`` created it, so it is removed if nothing is written.
    """

    def __init__(self, path: Path, muxer: str, options: Mapping[str, str], *, created: bool) -> None:
        import av

        self._path = path
        self._created = created
        self._file = OutputFile(path)
        self.container = av.open(
            self._file, "w", format=muxer, container_options=dict(options), buffer_size=_WRITE_BYTES
        )
        self.broken = False
        self._closed = False
        self._aspect: Fraction | None = None

    def set_aspect(self, stream: Stream, pixel_aspect: Fraction, width_px: int, height_px: int) -> None:
        """Make the container name the pixel aspect of the video, which some codecs do not carry. Call it before the
        first packet; the header gets it when the file is closed."""
        if pixel_aspect != 1 and self.container.format.name in ("matroska", "webm"):
            stream.metadata["title"] = ASPECT_PLACEHOLDER
            self._aspect = pixel_aspect * width_px / height_px

    def mux(self, packets: Packet[Any] | Iterable[Packet[Any]]) -> None:
        """
        Raises:
            SinkError: the file can no longer be written.
        """
        import av

        try:
            self.container.mux(packets)  # type: ignore[arg-type]
        except (av.FFmpegError, OSError, ValueError) as exc:
            self.broken = True
            raise write_failed(self._path, exc) from exc

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
                    raise write_failed(self._path, exc) from exc
                refused(packet, reason(exc))

    def close(self, *, empty: bool) -> None:
        """Write the trailer, unless the file is broken; remove the file if it is ``empty`` and was created.

        Raises:
            SinkError: the end could not be written; what came before stays readable.
        """
        import av

        if self._closed:
            return
        self._closed = True
        try:
            if self.broken or empty:
                # Closed before the muxer, so that it writes no trailer: after an error the trailer would overwrite the
                # readable part.
                self._file.close()
            try:
                self.container.close()
            except (av.FFmpegError, OSError, ValueError) as exc:
                if not (self.broken or empty):
                    raise write_failed(self._path, exc) from exc
        finally:
            self._file.close()
            if self._aspect is not None and not empty:
                with contextlib.suppress(OSError):
                    set_display_aspect(self._path, self._aspect)
            if self._created and empty:
                with contextlib.suppress(OSError):
                    self._path.unlink()

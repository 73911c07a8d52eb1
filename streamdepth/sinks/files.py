"""Claiming outputs on disk: one place that decides what may be written where, and words the refusals."""

from __future__ import annotations

import errno
import io
import tempfile
from typing import TYPE_CHECKING

from streamdepth.core.errors import OutputExistsError, SinkError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


def reason(exc: BaseException) -> str:
    """The operating system's or FFmpeg's own words, without paths or addresses."""
    text = getattr(exc, "strerror", None)
    return str(text or exc or type(exc).__name__)


def is_disk_error(exc: BaseException) -> bool:
    """True where the storage failed, False where the content was refused."""
    return getattr(exc, "errno", None) in _DISK_ERRORS


def write_failed(path: Path, exc: BaseException) -> SinkError:
    """The error of an output that could not be written any further."""
    if getattr(exc, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return SinkError(f"{path}: no space left to write; what was written is kept, free some space and run again")
    return SinkError(f"{path}: cannot be written ({reason(exc)}); choose another output")


def is_same_file(path: Path, other: str | None) -> bool:
    """True where both names lead to one existing file. ``other`` may be a URL or None."""
    if not other:
        return False
    try:
        return path.samefile(other)
    except (OSError, ValueError):
        return False


def claim_file(path: Path, *, overwrite: bool, media_path: str | None = None) -> bool:
    """Make sure ``path`` can be written, creating missing folders. Returns True where the file was created (empty).

    An existing file keeps its content until its first new byte is written.

    Raises:
        UsageError: it is the file being read.
        OutputExistsError: it is there and ``overwrite`` is False.
        SinkError: it is a folder or a device, or may not be written.
    """
    if is_same_file(path, media_path):
        raise UsageError(f"{path} is the input; choose another name for the output")
    try:
        if path.is_dir():
            raise SinkError(f"{path} is a folder; name a file, or end the name with / to write images into it")
        if path.exists():
            if not path.is_file():
                raise SinkError(f"{path} is not a regular file; name a file to create")
            if not overwrite:
                raise OutputExistsError(f"{path} is already there; --overwrite replaces it")
            path.open("r+b").close()
            return False
        make_folder(path.parent)
        path.open("xb").close()
        return True
    except SinkError:
        raise
    except FileExistsError as exc:
        raise OutputExistsError(f"{path} is already there; --overwrite replaces it") from exc
    except OSError as exc:
        raise write_failed(path, exc) from exc


def make_folder(folder: Path) -> None:
    """Create a folder and what leads to it.

    Raises:
        SinkError: something on the way is a file, or may not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SinkError(f"{folder} cannot be created ({reason(exc)}); choose another place") from exc


class OutputFile(io.RawIOBase):
    """A claimed file, written through Python so that its errors are the system's own and it can be closed under a
    muxer that must write no end. Emptied by the first write, not before. Not thread-safe."""

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
    """Make sure files can be created in ``folder``, creating it where it is missing.

    With ``overwrite`` files of the same names are replaced; nothing else in the folder is touched.

    Raises:
        OutputExistsError: it holds something and ``overwrite`` is False.
        SinkError: it is a file, or may not be written.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise SinkError(f"{folder} is a file; name a folder to write into")
        make_folder(folder)
        if not overwrite and any(folder.iterdir()):
            raise OutputExistsError(f"{folder} is not empty; --overwrite writes into it")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except SinkError:
        raise
    except OSError as exc:
        raise write_failed(folder, exc) from exc


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a small file so that nobody ever sees half of it under its own name.

    Raises:
        SinkError: no space, no permission; ``path`` is then as it was before.
    """
    partial = path.with_name(f".{path.name}.part")
    try:
        try:
            partial.write_bytes(content)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise write_failed(path, exc) from exc

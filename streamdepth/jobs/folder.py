"""The work folder of a clip: files that are complete or absent, and the journal."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.core.host import rename
from streamdepth.sinks.files import make_folder, write_failed

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEMPORARY = "tmp-"


class WorkFolder:
    """Files of one clip. A file appears under its name when it is complete. Thread-safe; processes may share it.

    Args:
        location: path of the folder, which need not exist.
    """

    def __init__(self, location: str) -> None:
        self._path = Path(location)

    def names(self) -> set[str]:
        """Names of the complete files."""
        if not self._path.is_dir():
            return set()
        return {path.name for path in self._path.iterdir() if not path.name.startswith(_TEMPORARY)}

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        """A local file with the content of ``name``, valid in the block."""
        yield self._path / name

    def read(self, name: str) -> bytes:
        with self.reading(name) as path:
            return path.read_bytes()

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write; the file gets its name at the end of the block, unless an exception ends it.

        Raises:
            SinkError: it cannot be written.
        """
        make_folder(self._path)
        partial = self._path / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}-{name}"
        try:
            yield partial
            publish(partial, self._path / name)
        finally:
            partial.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        with self.writing(name) as path:
            path.write_bytes(content)

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder with all its files."""
        shutil.rmtree(self._path, ignore_errors=True)

    def sweep(self) -> None:
        """Remove unfinished files of an interrupted run."""
        if self._path.is_dir():
            for path in self._path.glob(f"{_TEMPORARY}*"):
                path.unlink(missing_ok=True)


def publish(partial: Path, path: Path) -> None:
    """Give a complete file its name, so that it survives a crash of the machine.

    Raises:
        SinkError: no space or no permission.
    """
    try:
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        rename(partial, path)
        if os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise write_failed(path, error) from error

"""Video files in object storage, downloaded before they are decoded."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError
from streamdepth.net.objects import ObjectStore, explained
from streamdepth.sources.file import FileSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamdepth.core.frame import Frame, StreamInfo

_CHUNK_BYTES = 1 << 20


class ObjectSource(BaseSource):
    """A video file named by ``s3://``, ``gs://`` or ``az://``. ``open`` downloads it to a temporary file.

    Args:
        url: of the object.
        options: of :class:`~streamdepth.sources.file.FileSource`.

    Thread-safety: ``interrupt`` from any thread; a download ends within the time of one request.
    """

    def __init__(self, url: str, *, source_id: str | None = None, **options: Any) -> None:
        super().__init__(source_id or PurePosixPath(url).name)
        self._url = url
        self._options = options
        self._folder: str | None = None
        self._file: FileSource | None = None

    @property
    def url(self) -> str:
        """URL of the object."""
        return self._url

    @property
    def dropped(self) -> Mapping[str, int]:
        return {} if self._file is None else self._file.dropped

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self._file is None else self._file.notes

    def open(self) -> StreamInfo:
        """
        Raises:
            SourceError: the object cannot be read, or is no video.
            MissingDependencyError: the package for the service is not installed.
        """
        if self._file is None:
            self._file = FileSource(self._download(), source_id=self._id, **self._options)
        return self._file.open()

    def frames(self) -> Iterator[Frame]:
        if self._file is None:
            raise SourceError(f"{self._id}: call open() before frames()", source=self._id)
        return self._file.frames()

    def again(self) -> ObjectSource:
        """Reads the same download, which this source removes when it is closed."""
        return self._sharing(None if self._file is None else self._file.again())

    def resume(self, pts: int) -> ObjectSource | None:
        resumed = None if self._file is None else self._file.resume(pts)
        return None if resumed is None else self._sharing(resumed)

    def interrupt(self) -> None:
        super().interrupt()
        if self._file is not None:
            self._file.interrupt()

    def close(self) -> None:
        super().close()
        if self._file is not None:
            self._file.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _sharing(self, file: FileSource | None) -> ObjectSource:
        other = ObjectSource(self._url, source_id=self._id, **self._options)
        other._file = file
        return other

    def _download(self) -> Path:
        with explained(self._url, SourceError, "cannot be read"):
            store = ObjectStore(self._url)
            self._folder = tempfile.mkdtemp(prefix="streamdepth-")
            path = Path(self._folder) / PurePosixPath(self._url).name
            with store.open() as source, path.open("wb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    if self._stop.is_set():
                        raise SourceError(f"{self._id}: interrupted while opening", source=self._id)
                    target.write(chunk)
        return path

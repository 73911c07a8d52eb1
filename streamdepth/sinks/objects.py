"""Outputs in object storage: written to a temporary file, uploaded when it is complete."""

from __future__ import annotations

import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import OutputExistsError, SinkError, UsageError, redact
from streamdepth.net.objects import ObjectStore, explained

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl


class ObjectSink(BaseSink):
    """Writes a file with another sink and uploads it when the run has ended.

    After an error nothing is uploaded. The object appears under its name only when all of it has arrived.

    Args:
        url: of the object; its suffix chooses the format.
        make: gives the sink that writes a local file of the same suffix.
        overwrite: replace an existing object.

    Raises:
        UsageError: the URL contains credentials.
        MissingDependencyError: the package for the service is not installed.
    """

    def __init__(self, url: str, make: Callable[[str], Sink], *, overwrite: bool) -> None:
        super().__init__(redact(url))
        self._url = url
        self._overwrite = overwrite
        self._store = ObjectStore(url)
        self._folder = tempfile.TemporaryDirectory(prefix="streamdepth-", ignore_cleanup_errors=True)
        self._path = Path(self._folder.name) / PurePosixPath(url).name
        self._sink = make(str(self._path))
        self._complete = self._closed = False

    @property
    def control(self) -> LookControl | None:
        return self._sink.control

    @property
    def note(self) -> str:
        return self._sink.note.replace(str(self._path), self.name)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._sink.counts

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """
        Raises:
            OutputExistsError: the object exists and ``overwrite`` is False.
            SinkError: the service cannot be reached, or the file cannot be written.
        """
        with explained(self._url, SinkError, "cannot be written"):
            exists = self._store.exists()
        if exists and not self._overwrite:
            raise OutputExistsError(f"{self.name}: already exists; --overwrite replaces it")
        self._sink.open(stream, image)

    def process(self, result: Result) -> None:
        self._sink.process(result)

    def idle(self) -> None:
        self._sink.idle()

    def flush(self) -> None:
        self._sink.flush()
        self._complete = True

    def interrupt(self) -> None:
        self._sink.interrupt()

    def close(self) -> None:
        """
        Raises:
            SinkError: the file could not be completed or uploaded.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._sink.close()
            if self._complete and self._path.exists():
                with explained(self._url, SinkError, "cannot be uploaded"):
                    self._store.put(str(self._path))
        finally:
            self._folder.cleanup()


def uploaded(url: str, files: Mapping[str, Callable[[str, Any], Sink]], options: Mapping[str, Any]) -> ObjectSink:
    """The sink for a URL of object storage.

    Args:
        files: by suffix, gives the sink that writes a local file.
        options: of that sink.

    Raises:
        UsageError: there is no sink for the suffix of the URL.
    """
    suffix = PurePosixPath(url).suffix.lower()
    make = files.get(suffix)
    if make is None:
        raise UsageError(f"{redact(url)}: cannot be uploaded as {suffix!r}; name one file, {', '.join(files)}")
    return ObjectSink(url, lambda path: make(path, options), overwrite=options.get("overwrite", False))

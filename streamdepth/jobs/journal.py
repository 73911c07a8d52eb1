"""What is stored beside the outputs of a clip: the work folder, whose files are complete or absent, and the journal."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from streamdepth.core.errors import SinkError, SourceError
from streamdepth.core.host import lock, remove, written_whole
from streamdepth.jobs import ClipPlan, ClipSettings
from streamdepth.net.url import ObjectStore, explained, is_object_url
from streamdepth.sinks.files import make_folder, reason, write_failed
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TEMPORARY = "tmp-"
_HASHED_BYTES = 1 << 20
JOURNAL = "journal.json"


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
            with contextlib.suppress(OSError):  # missing, or the folder is read-only
                partial.unlink()

    def write(self, name: str, content: bytes) -> None:
        """Raises ``SinkError``: it cannot be written."""
        with self.writing(name) as path:
            try:
                path.write_bytes(content)
            except OSError as error:
                raise write_failed(path.with_name(name), error) from error

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the folder with all its files."""
        shutil.rmtree(self._path, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Lock a file against other processes in the block; False if another one has locked it.

        Always True in object storage, in a read-only folder and on systems without ``flock``.

        Raises:
            SinkError: the folder cannot be created.
        """
        make_folder(self._path)
        try:
            file = (self._path / name).open("ab")
        except OSError:
            yield True
            return
        free = lock(file)
        try:
            yield free
        finally:
            file.close()
            if free:
                remove(self._path / name)

    def sweep(self) -> None:
        """Remove unfinished files of an interrupted run."""
        if self._path.is_dir():
            for path in self._path.glob(f"{_TEMPORARY}*"):
                path.unlink(missing_ok=True)


class ObjectFolder(WorkFolder):
    """As :class:`WorkFolder`, in object storage. An object appears when all of it has arrived.

    Args:
        location: URL of the folder.
    """

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self._url = location.rstrip("/")

    def names(self) -> set[str]:
        with explained(self._url, SinkError, "cannot be listed"):
            return {PurePosixPath(url).name for url in ObjectStore(f"{self._url}/").find(missing_ok=True)}

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="streamdepth-") as folder:
            yield download(f"{self._url}/{name}", folder)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="streamdepth-") as folder:
            path = Path(folder) / name
            yield path
            upload(path, f"{self._url}/{name}")

    def remove(self, name: str) -> None:
        with explained(self._url, SinkError, "cannot be removed"):
            ObjectStore(f"{self._url}/{name}").remove()

    def clear(self) -> None:
        for name in self.names():
            self.remove(name)

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:  # noqa: ARG002 - nothing to lock
        yield True

    def sweep(self) -> None:
        """Unfinished uploads are no objects."""


def folder_at(location: str) -> WorkFolder:
    """The work folder of a path or a URL of object storage."""
    return ObjectFolder(location) if is_object_url(location) else WorkFolder(location)


def download(url: str, folder: str) -> Path:
    """A copy of an object in a local folder.

    Raises:
        SourceError: it cannot be read.
    """
    path = Path(folder) / PurePosixPath(url).name
    with explained(url, SourceError, "cannot be read"):
        ObjectStore(url).get(str(path))
    return path


def upload(path: Path, url: str) -> None:
    """Raises ``SinkError``: it cannot be uploaded; there is no part of it then."""
    with explained(url, SinkError, "cannot be uploaded"):
        ObjectStore(url).put(str(path))


def publish(partial: Path, path: Path) -> None:
    """Give a complete file its name, so that it survives a crash of the machine.

    Raises:
        SinkError: no space or no permission.
    """
    try:
        with written_whole(path, partial, durable=True):
            pass
    except OSError as error:
        raise write_failed(path, error) from error


class Fingerprint(BaseModel):
    """Identifies the content of a file without reading all of it.

    Attributes:
        size_bytes: of the file.
        modified: time of the last change, as the storage states it.
        head_tail_sha256: of the first and the last MiB.
    """

    model_config = ConfigDict(frozen=True)

    size_bytes: int
    modified: str
    head_tail_sha256: str


_GROUPS = {
    "version": "the version of streamdepth",
    "input": "the clip",
    "source": "the clip",
    "source_id": "the clip",
    "model_file": "the model",
    "model_identity": "the model",
    "intrinsics_file": "the file of --intrinsics",
    "model_name": "the model",
    "model_revision": "the model",
    "videos": "the outputs",
    "depths": "the outputs",
    "events": "the outputs",
}
_FLAGS = {
    "start_seconds": "start",
    "duration_seconds": "duration",
    "segment_seconds": "segment",
    "metres_per_unit": "depth_scale",
    "fov_degrees": "fov",
    "anchors": "anchor",
}
"""Settings whose option has another name."""


class Key(BaseModel):
    """Everything the outputs of a clip depend on.

    Attributes:
        model_file: of a model given by its path, None for others.
        model_identity: name, revision, numeric type and provider of the model that runs.
        intrinsics_file: the file that the intrinsics are read from, None for others.
    """

    model_config = ConfigDict(frozen=True)

    version: str = __version__
    input: Fingerprint
    model_file: Fingerprint | None = None
    model_identity: str
    intrinsics_file: Fingerprint | None = None
    settings: ClipSettings

    def changes(self, other: Key) -> list[str]:
        """What differs from an earlier key, for people: ``--style``, ``the clip``."""
        ours, theirs = dict(_flat(self.model_dump(mode="json"))), dict(_flat(other.model_dump(mode="json")))
        names = (name.split(".") for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
        return list(dict.fromkeys(_shown(name) for name in names))


class Journal(BaseModel):
    """State of a clip. The files in the work folder say which segments are done.

    Attributes:
        finished: all outputs are complete, and the work folder was removed.
        frames: number of frames in the outputs, once finished.
    """

    model_config = ConfigDict(frozen=True)

    key: Key
    plan: ClipPlan
    finished: bool = False
    frames: int = 0

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, content: bytes) -> Journal | None:
        """None if it is damaged or of another version."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None


def fingerprint(location: str) -> Fingerprint:
    """
    Args:
        location: path, or URL of object storage.

    Raises:
        SourceError: the file cannot be read.
    """
    if is_object_url(location):
        with explained(location, SourceError, "cannot be read"):
            store = ObjectStore(location)
            with store.open() as file:
                return _fingerprint(file, store.modified())
    path = Path(location)
    try:
        with path.open("rb") as file:
            return _fingerprint(file, str(path.stat().st_mtime_ns))
    except OSError as error:
        raise SourceError(f"{path.name}: cannot be read ({reason(error)}); check the file") from error


def _fingerprint(file: BinaryIO, modified: str) -> Fingerprint:
    digest = hashlib.sha256(file.read(_HASHED_BYTES))
    size = file.seek(0, 2)
    file.seek(max(0, size - _HASHED_BYTES))
    digest.update(file.read(_HASHED_BYTES))
    return Fingerprint(size_bytes=size, modified=modified, head_tail_sha256=digest.hexdigest())


def _shown(name: Sequence[str]) -> str:
    group, *settings = name
    if group != "settings":
        return _GROUPS[group]
    if settings[0] in _GROUPS:
        return _GROUPS[settings[0]]
    option = settings[-1] if settings[0] in ("look", "model") else settings[0]
    return f"--{_FLAGS.get(option, option).replace('_', '-')}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else key)
    else:
        yield name, value

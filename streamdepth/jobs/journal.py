"""What a clip's outputs were made from, stored beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from streamdepth.core.errors import SourceError
from streamdepth.jobs.values import ClipPlan, ClipSettings
from streamdepth.sinks.files import reason
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

_HASHED_BYTES = 1 << 20
JOURNAL = "journal.json"


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


class Key(BaseModel):
    """Everything the outputs of a clip depend on.

    Attributes:
        model_file: of a model given by its path, None for others.
        model_identity: name, revision, numeric type and provider of the model that runs.
    """

    model_config = ConfigDict(frozen=True)

    version: str = __version__
    input: Fingerprint
    model_file: Fingerprint | None = None
    model_identity: str
    settings: ClipSettings

    def changes(self, other: Key) -> list[str]:
        """What differs from an earlier key, for people: ``look.style``, ``input.size_bytes``."""
        ours, theirs = dict(_flat(self.model_dump(mode="json"))), dict(_flat(other.model_dump(mode="json")))
        names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        return [name.removeprefix("settings.") for name in names]


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


def fingerprint(path: str) -> Fingerprint:
    """
    Raises:
        SourceError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            digest = hashlib.sha256(file.read(_HASHED_BYTES))
            size = file.seek(0, 2)
            file.seek(max(0, size - _HASHED_BYTES))
            digest.update(file.read(_HASHED_BYTES))
        return Fingerprint(
            size_bytes=size, modified=str(Path(path).stat().st_mtime_ns), head_tail_sha256=digest.hexdigest()
        )
    except OSError as error:
        raise SourceError(f"{Path(path).name}: cannot be read ({reason(error)}); check the file") from error


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else key)
    else:
        yield name, value

"""Files that are expensive to make, kept in the user's cache folder: comparisons of providers, graphs, engines."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from streamdepth.core.host import cache_root, written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from streamdepth.models.spec import ModelSpec

_READ_BYTES = 1 << 20


def digest(key: str, length: int = 24) -> str:
    """A file name for a key: the first ``length`` hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:length]


def content_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files in order, hexadecimal."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                found.update(block)
    return found.hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, even where two processes write it at once.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, path.with_name(f"{uuid.uuid4().hex}.part")) as partial:
        partial.write_bytes(content)


def with_regular_files(spec: ModelSpec) -> ModelSpec:
    """The same model with hard links instead of symbolic links, where its weights are external.

    The Hub's cache links a graph and its weights to files of other names in another folder. ONNX Runtime refuses
    external weights that resolve to another folder for a graph in memory, and OpenVINO refuses them always. The hard
    links are in the cache folder, or beside the Hub's files if that is on another file system. The model is returned
    unchanged if none can be made.
    """
    files = (spec.path, *spec.external_data)
    if not spec.external_data or not any(path.is_symlink() for path in files):
        return spec
    real = [path.resolve() for path in files]
    name = digest(repr([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in real]))
    for folder in (cache_root() / "linked" / name, real[0].parent.parent / "streamdepth" / name):
        links = [folder / path.relative_to(spec.path.parent) for path in files]
        with contextlib.suppress(OSError):
            for source, link in zip(real, links, strict=True):
                link.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.link(source, link)
            return replace(spec, path=links[0], external_data=tuple(links[1:]))
    return spec


def prune(folder: Path, most_bytes: int) -> None:
    """Delete the least recently used files of a folder until at most ``most_bytes`` are left."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may prune the folder too
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    left_bytes = most_bytes
    for _, size_bytes, path in sorted(found, reverse=True):
        left_bytes -= size_bytes
        if left_bytes < 0:
            with contextlib.suppress(OSError):
                path.unlink()

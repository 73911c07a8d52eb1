"""What a text stands for as a source: a camera, a URL, a file, a folder or a pattern."""

from __future__ import annotations

import difflib
import glob
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError, redact
from streamdepth.net.url import LIVE_SCHEMES, OBJECT_SCHEMES, ObjectStore, explained, names_several
from streamdepth.sources.file import FileSource, is_url
from streamdepth.sources.images import files_in, files_matching, is_image
from streamdepth.sources.medium import nearest_name, shown

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


VIDEO_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("264", "265", "3g2", "3gp", "apng", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "h265", "hevc"),
        *("ivf", "m1v", "m2ts", "m2v", "m4v", "mjpeg", "mjpg", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mts", "mxf"),
        *("nut", "obu", "ogm", "ogv", "qt", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m"),
    )
)
"""Suffixes of videos in a folder. A file that is named directly may have any suffix."""


@dataclass(frozen=True, slots=True)
class Found:
    """One source that a text stands for.

    Attributes:
        kind: the kind of source, a key of :data:`streamdepth.sources.select.SOURCES`.
        value: camera index, URL or path.
        paths: the images, if they are several files.
    """

    kind: str
    value: str | int
    paths: tuple[str, ...] = ()


def find(text: str, patterns: Mapping[str, str]) -> list[Found]:
    """The sources that ``text`` stands for: those of the first pattern that matches, else files, else a camera.

    Args:
        patterns: regular expression of each kind, case ignored; empty = recognised as a path.
    Raises:
        UsageError: an empty or invalid text, or an unknown protocol.
        SourceNotFoundError: no such file, camera or folder, or an empty folder.
    """
    if not text.strip():
        raise UsageError("an empty source; name a file, a folder, a camera (0), a URL or test:")
    if "\0" in text:
        raise UsageError("a source's name cannot contain a NUL character; check the program that made it")
    for kind, pattern in patterns.items():
        if pattern and re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL):
            if kind == "object" and names_several(text):
                return _find_objects(text)
            return [Found(kind, int(text) if kind == "camera" and text.isdecimal() else text)]
    if is_url(text):
        return _find_other_url(text, patterns)
    path = Path(text)
    if path.is_dir():
        return _find_in_folder(path)
    if _exists(path):
        return [Found("images" if is_image(path) else "file", text)]
    if glob.has_magic(text):
        return _find_glob(text)
    return [_find_camera(text, path)]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        # It exists but may not be read: opening it gives the error.
        return True
    except (OSError, ValueError):
        return False
    return True


def _find_other_url(text: str, patterns: Mapping[str, str]) -> list[Found]:
    scheme = text.partition("://")[0].lower()
    if scheme == "file":
        from urllib.parse import unquote, urlsplit
        from urllib.request import url2pathname

        path = url2pathname(unquote(urlsplit(text).path)) if os.name == "nt" else unquote(urlsplit(text).path)
        return find(path, patterns)
    known = (*sorted(LIVE_SCHEMES), *OBJECT_SCHEMES, "file")
    near = difflib.get_close_matches(scheme, known, n=1)
    hint = f"did you mean {near[0]}://?" if near else f"use {', '.join(f'{name}://' for name in known)}"
    raise UsageError(f"{redact(text)}: unknown protocol {scheme!r}; {hint}")


def _find_objects(url: str) -> list[Found]:
    with explained(url, SourceError, "cannot be listed"):
        found = [one for one in ObjectStore(url).find() if PurePosixPath(one).suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise SourceNotFoundError(f"{redact(url)}: contains no videos; check bucket and prefix", source=redact(url))
    return [Found("object", one) for one in found]


def _find_in_folder(folder: Path) -> list[Found]:
    files = files_in(folder)
    images = [path for path in files if is_image(path)]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not images and not videos:
        what = "contains neither videos nor images" if files else "is empty"
        raise SourceNotFoundError(
            f"{shown(folder)} {what}; name a folder with videos or images directly in it, or a file",
            source=shown(folder),
        )
    _refuse_mixture(str(folder), images, videos, shown(folder / "*.mp4"))
    return [Found("images", str(folder))] if images else [Found("file", str(video)) for video in videos]


def _find_glob(pattern: str) -> list[Found]:
    files = files_matching(pattern)
    images = [path for path in files if is_image(path)]
    videos = [path for path in files if not is_image(path)]
    _refuse_mixture(pattern, images, videos, "*.mp4")
    if images:
        return [Found("images", pattern, tuple(map(str, images)))]
    return [Found("file", str(video)) for video in videos]


def _refuse_mixture(text: str, images: list[Path], videos: list[Path], example: str) -> None:
    if images and videos:
        raise UsageError(
            f"{shown(text)}: contains {len(images)} images and {len(videos)} videos; select one kind with a pattern "
            f"such as {example!r}"
        )


def _find_camera(text: str, path: Path) -> Found:
    from streamdepth.sources.cameras import find_camera, list_cameras

    is_path = bool(path.suffix) or len(path.parts) > 1
    cameras = () if is_path else list_cameras()
    camera = find_camera(text, cameras)
    if camera is not None:
        return Found("camera", camera.index)
    hints = [
        hint
        for hint in (
            nearest_name(path) if path.parent.is_dir() else f"there is no folder {shown(path.parent)}",
            f"cameras here: {', '.join(f'{camera.index} ({camera.name})' for camera in cameras)}" if cameras else "",
        )
        if hint
    ]
    what = "no such file" if is_path else "no such file or camera"
    hint = "; ".join(hints) or "check the spelling and the folder it is in"
    raise SourceNotFoundError(f"{shown(text)}: {what}; {hint}", source=shown(text))


def unique_names(found: list[Found]) -> list[str]:
    """Unique names of sources: files of the same name in different folders are called by folder and name."""
    own = [_own_name(one) for one in found]
    longer = [
        shown(os.path.join(*Path(str(one.value)).absolute().parts[-2:]))  # noqa: PTH118 - text, not a path to follow
        if one.kind in ("file", "images") and own.count(name) > 1
        else name
        for one, name in zip(found, own, strict=True)
    ]
    counts = [longer[:at].count(name) for at, name in enumerate(longer)]
    return [f"{name}#{count + 1}" if count else name for name, count in zip(longer, counts, strict=True)]


def _own_name(found: Found) -> str:
    if found.kind == "test":
        return "test:"
    text = str(found.value)
    return redact(text) if found.kind in ("web", "live", "camera") else shown(Path(text).name or text)

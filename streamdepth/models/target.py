"""What a model's name means: the package's own, a file, a folder, or a Hub repository."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from streamdepth.core.errors import ModelError, ModelNotFoundError, UsageError
from streamdepth.core.redact import redact
from streamdepth.models.table import known_models

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILT_IN = "built-in"
HUB_SCHEME = "hf://"
_BUILT_IN_NAMES = frozenset({BUILT_IN, "builtin", "built_in"})
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A model's folder has its graph at its root, in onnx/, or in one folder a variant: no need to walk a whole disk.
_FOLDER_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Target:
    """What a name means, before anything is opened.

    Attributes:
        kind: where to look.
        name: as the user wrote it, redacted.
        path: of a file or folder.
        repository: ``org/name`` on the Hub.
        file: one file of the repository, empty = to be chosen.
        note: said where the name could have meant something else.
    """

    kind: Literal["built-in", "file", "folder", "hub"]
    name: str
    path: Path = field(default_factory=Path)
    repository: str = ""
    file: str = ""
    note: str = ""


def target_of(model: str | Path, base_url: str = "https://huggingface.co") -> Target:
    """Decide what a name means.

    ``built-in``; then anything that exists on disk as an ``.onnx`` file or as a folder with a model in it; then
    ``org/name`` on the Hub. ``hf://org/name[/file.onnx]`` and the Hub's own web address always mean the Hub,
    ``./org/name`` and absolute paths always mean the disk.

    Raises:
        UsageError: empty, or an address of something else.
        ModelNotFoundError: neither a path that exists nor a Hub name.
    """
    text = os.fspath(model).strip() if isinstance(model, str) else os.fspath(model)
    name = redact(text)
    if not text:
        raise UsageError(f"model: empty; give {BUILT_IN}, a path or a Hub name (org/name)")
    if isinstance(model, str):
        if text in _BUILT_IN_NAMES:
            return Target("built-in", BUILT_IN)
        if "://" in text:
            return _remote(text, name, base_url)
    path = Path(text).expanduser()
    hub_like = isinstance(model, str) and bool(_HUB_NAME.fullmatch(text)) and not text.lower().endswith(".onnx")
    try:
        if path.is_file():
            return Target("file", name, path)
        if path.is_dir() and (not hub_like or any(onnx_files(path))):
            note = f"{name}: the local folder, not the Hub's (that is {HUB_SCHEME}{text})" if hub_like else ""
            return Target("folder", name, path, note=note)
    except OSError as exc:
        raise ModelError(f"{name}: cannot be read ({exc.strerror}); check the path") from exc
    if hub_like:
        return Target("hub", name, repository=text)
    raise ModelNotFoundError(f"{name}: no such file or folder{_hint(text)}")


def _remote(text: str, name: str, base_url: str) -> Target:
    if text.startswith(HUB_SCHEME):
        rest = text.removeprefix(HUB_SCHEME)
    else:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https") or parts.hostname not in (
            "huggingface.co",
            urlsplit(base_url).hostname,
        ):
            raise UsageError(f"model {name}: not a Hub address; download the file and give its path")
        rest = parts.path
    segments = rest.strip("/").split("/")
    # a page's address goes on with /tree/main, /blob/main/onnx/model.onnx and the like
    repository, rest_segments = "/".join(segments[:2]), segments[2:]
    if rest_segments[:1] in (["tree"], ["blob"], ["resolve"]):
        rest_segments = rest_segments[2:]
    file = "/".join(rest_segments)
    if not _HUB_NAME.fullmatch(repository) or (file and not file.lower().endswith(".onnx")):
        raise UsageError(f"model {name}: give {HUB_SCHEME}org/name or {HUB_SCHEME}org/name/path/file.onnx")
    return Target("hub", name, repository=repository, file=file)


def _hint(text: str) -> str:
    """The way out for a name that is nothing: the known model it looks like, or the forms there are."""
    by_last = {m.name.split("/")[1].lower(): m.name for m in known_models()}
    near = difflib.get_close_matches(text.lower(), by_last, n=1, cutoff=0.75)
    if near:
        return f"; did you mean {by_last[near[0]]}?"
    return f"; give {BUILT_IN}, a path that exists, or a Hub name (org/name)"


def onnx_files(folder: Path) -> Iterator[str]:
    base = len(folder.parts)
    for root, folders, names in os.walk(folder):
        here = Path(root)
        folders[:] = [] if len(here.parts) - base >= _FOLDER_DEPTH else sorted(f for f in folders if f[0] != ".")
        yield from ((here / n).relative_to(folder).as_posix() for n in sorted(names) if n.lower().endswith(".onnx"))

"""Names of outputs: the fields in them, and what is valid as a file name."""

from __future__ import annotations

import re
import string
from itertools import chain, count
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from streamdepth.core.errors import UsageError, nearest
from streamdepth.sinks.encoding import CONTAINERS
from streamdepth.sinks.files import is_same_file, scheme_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamdepth.core.frame import Frame

SOURCE_NAMES = "{image}.png"
"""Images keep the names of their source images; frames of a video are numbered."""

_RESERVED_CHARACTERS = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')
_ENDS = '<>:"/\\|?* '
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_FIELDS = ("image", "index", "pts")
_PRINTF = re.compile(r"%(?:(%)|(0\d+)?d)")
NAME = "{name}"
"""Field of an output that is replaced by the name of the source."""


class Output(NamedTuple):
    """What the name of an output stands for.

    Attributes:
        path: a file, a folder or a URL.
        pattern: names of the files in the folder ``path``, empty for one file or URL.
    """

    path: str
    pattern: str = ""

    def exists(self) -> bool:
        """True for a file, and for a folder that has a file of such a name."""
        path = Path(self.path)
        if not path.is_dir():
            return path.is_file()
        taken = name_matcher(self.pattern) if self.pattern else bool
        return any(taken(one.name) for one in path.iterdir())


def name_matcher(pattern: str) -> Callable[[str], object]:
    """A function that is true for the names that ``pattern`` can give."""
    parts = string.Formatter().parse(_as_fields(pattern))
    found = {None: "", "image": ".+"}
    names = "".join(f"{re.escape(literal)}{found.get(field, '-?[0-9]+')}" for literal, field, _, _ in parts)
    return re.compile(names, re.DOTALL).fullmatch


def _as_fields(pattern: str) -> str:
    """``pattern`` with ``{index:06d}`` for ``%06d``."""
    return _PRINTF.sub(lambda found: found[1] or f"{{index:{found[2] or ''}d}}", pattern)


def output_of(text: str, suffixes: Iterable[str], name: str | None = None) -> Output:
    """Read the name of an output.

    Args:
        suffixes: those of single files, and those that need a pattern.
        name: replaces ``{name}``; its own characters are never fields. None = ``text`` has no such field.
    """
    path = filled(text, name)
    if scheme_of(text):
        return Output(path)
    if text.endswith(("/", "\\")):
        return Output(path, SOURCE_NAMES)
    shape = PurePath(text if name is None else text.replace(NAME, "name"))
    if _PRINTF.search(shape.name) or ("{" in shape.name and "}" in shape.name):
        own = NAME if name is None else re.sub("[%{}]", r"\g<0>\g<0>", safe_name(name))
        return Output(str(PurePath(path).parent), PurePath(text).name.replace(NAME, own))
    if shape.suffix.lower() in suffixes:
        return Output(path)
    is_folder = not shape.suffix or shape.suffix == shape.name or Path(path).is_dir()
    return Output(path, SOURCE_NAMES if is_folder else "")


def filled(output: str, name: str | None) -> str:
    """``output`` with ``{name}`` replaced, as far as files or URLs allow its characters."""
    if name is None:
        return output
    url = re.sub(r"[^\w.-]+", "_", name).strip("_.") or "source"
    return output.replace(NAME, url if "://" in output else safe_name(name))


def safe_name(text: str) -> str:
    """``text`` as the name of a file on every system: without characters and names that Windows reserves."""
    name = _RESERVED_CHARACTERS.sub("_", text.strip(_ENDS)).rstrip(". ") or "_"
    return f"{name}_" if PurePath(name).stem.upper() in _DEVICES else name


class UniqueNames:
    """Makes names unique: the second ``a`` becomes ``a-2``. Case is ignored, as on some file systems."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        candidates = chain([name], (f"{name}-{number}" for number in count(2)))
        free = next(one for one in candidates if one.casefold() not in self._taken)
        self._taken.add(free.casefold())
        return free


class FrameNames:
    """Paths in ``folder`` for frames. Call it once per frame.

    ``{image}`` is the name of the frame's image file (``a-2`` for the second ``a``), or the index in six digits if
    there is none; ``{index}`` and ``{pts}`` take format specs. ``%06d`` means ``{index:06d}``; ``%%``, ``{{`` and
    ``}}`` mean one character.

    Attributes:
        taken: true for names of existing files that keep frames out of ``folder``: all if frames have no names of their
            own, else those that frames could get.

    Raises:
        UsageError: all frames would get one name, an unknown field, a path, or a suffix not in ``suffixes``; from a
            call: the frame's file is in ``folder``, where ``a.jpg`` could be replaced by depth before it is read.
    """

    def __init__(self, folder: Path, pattern: str, *, suffixes: tuple[str, ...]) -> None:
        self._folder = folder
        self._pattern = _as_fields(pattern)
        self._unique_names = UniqueNames()
        self._elsewhere: set[Path] = set()
        self.suffix = PurePath(pattern).suffix.lower()
        unfillable = f"{pattern!r}: cannot be filled in; use fields such as {{index:06d}} or {{pts}}"
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(self._pattern) if field is not None}
        except ValueError as exc:
            raise UsageError(unfillable) from exc
        unknown = sorted(fields.difference(_FIELDS))
        if unknown:
            raise UsageError(
                f"{pattern!r}: unknown field {{{unknown[0]}}}; use {{image}}, {{index}}, {{pts}} or %06d, "
                "and {name} for the name of the source"
            )
        if self.suffix not in suffixes:
            ends = " or ".join(suffixes)
            if self.suffix in CONTAINERS:
                raise UsageError(f"{pattern!r}: a video is one file; omit the number, or use the suffix {ends}")
            raise UsageError(
                f"{pattern!r}: unknown image suffix {self.suffix!r}{nearest(self.suffix, suffixes)}; use {ends}"
            )
        if pattern != PurePath(pattern).name:
            raise UsageError(
                f"{pattern!r}: a name pattern cannot contain folders; put them into the path of the output"
            )
        try:
            example = self._fill("0", 0, 0)
        except (ValueError, KeyError, IndexError) as exc:
            raise UsageError(unfillable) from exc
        if not fields or example == self._fill("1", 1, 1):
            raise UsageError(f"{pattern!r}: gives every frame the same name; add {{index:06d}}")
        self.taken: Callable[[str], object] = bool if pattern == SOURCE_NAMES else name_matcher(pattern)

    def __call__(self, frame: Frame) -> Path:
        own = frame.path
        if own is not None and own.parent not in self._elsewhere:
            if is_same_file(self._folder, str(own.parent)):
                raise UsageError(
                    f"{self._folder}: contains the images that are read; choose another folder for the output"
                )
            self._elsewhere.add(own.parent)
        image = f"{frame.index:06d}" if own is None else self._unique_names(own.stem)
        return self._folder / self._fill(image, frame.index, frame.pts)

    def _fill(self, image: str, index: int, pts: int) -> str:
        return self._pattern.format(image=image, index=index, pts=pts)

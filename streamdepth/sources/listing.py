"""Which files a folder or a pattern stands for, in the order people expect."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from streamdepth.core.errors import SourceError, SourceNotFoundError
from streamdepth.media.pillow import IMAGE_SUFFIXES
from streamdepth.sources.explain import nearest_name, shown


def natural_key(path: str | os.PathLike[str]) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``img2`` before ``img10``, whatever the case of letters."""
    parts = re.split(r"(\d+)", os.fspath(path))
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts if part)


def is_image(path: str | os.PathLike[str]) -> bool:
    """True where a name ends as an image's does."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def files_in(folder: Path) -> list[Path]:
    """Files directly in a folder, hidden ones left out, in natural order.

    Raises:
        SourceError: it may not be listed.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        raise SourceError(f"{shown(folder)} may not be listed; check its permissions", source=shown(folder)) from error
    return sorted(found, key=natural_key)


def files_matching(pattern: str) -> list[Path]:
    """Files that match a glob, in natural order.

    Raises:
        SourceNotFoundError: none does.
    """
    found = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]  # noqa: PTH207 - "/a/*"
    if not found:
        path = Path(pattern)
        hint = nearest_name(path) if path.parent.is_dir() else f"there is no folder {shown(path.parent)}"
        raise SourceNotFoundError(
            f"{shown(pattern)} matches no file; {hint or 'check the pattern, and quote it so that it arrives whole'}",
            source=shown(pattern),
        )
    return sorted(found, key=natural_key)


def images_at(text: str | os.PathLike[str]) -> list[Path]:
    """The images that a folder, a glob or a file's name stands for; a file is not looked at.

    Raises:
        SourceNotFoundError: a folder without images, or a glob that matches nothing.
        SourceError: a folder that may not be listed.
    """
    path = Path(text)
    if path.is_dir():
        found = [file for file in files_in(path) if is_image(file)]
        if not found:
            raise SourceNotFoundError(
                f"{shown(path)} holds no images; give a folder with PNG, JPEG, TIFF, WebP or the like in it",
                source=shown(path),
            )
        return found
    return [path] if path.exists() or not glob.has_magic(os.fspath(text)) else files_matching(os.fspath(text))

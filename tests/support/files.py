"""Video files as their source gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdepth.sources.file import FileSource

if TYPE_CHECKING:
    from pathlib import Path

    from streamdepth.core.frame import Frame, StreamInfo


def read(path: Path | str, **options: object) -> tuple[StreamInfo, list[Frame], FileSource]:
    """All of a file, and its source, closed."""
    source = FileSource(path, **options)  # type: ignore[arg-type]
    info = source.open()
    frames = list(source.frames())
    source.close()
    return info, frames, source

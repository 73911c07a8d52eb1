"""File names of pictures in a folder."""

from __future__ import annotations

import re
import string
from pathlib import PurePath
from typing import TYPE_CHECKING

from streamdepth.errors import UsageError
from streamdepth.sinks.hints import nearest

if TYPE_CHECKING:
    from streamdepth.frame import Frame

_PRINTF = re.compile(r"%(0\d+)?d")


def is_pattern(name: str) -> bool:
    """True where a file name stands for many: it holds ``%d``, ``%06d`` or a ``{field}``."""
    return bool(_PRINTF.search(name)) or ("{" in name and "}" in name)


class FrameNames:
    """Names files after frames: ``{index}`` and ``{pts}`` take format specs, ``%06d`` means ``{index:06d}``.

    Raises:
        UsageError: no field that tells frames apart, an unknown field, a path, or a suffix not in ``suffixes``.
    """

    def __init__(self, pattern: str, *, suffixes: tuple[str, ...]) -> None:
        self._pattern = _PRINTF.sub(lambda found: f"{{index:{found[1] or ''}d}}", pattern)
        self.suffix = PurePath(pattern).suffix.lower()
        if self.suffix not in suffixes:
            raise UsageError(
                f"{pattern!r}: pictures of this kind end in {' or '.join(suffixes)}{nearest(self.suffix, suffixes)}"
            )
        if pattern != PurePath(pattern).name:
            raise UsageError(f"{pattern!r}: a name pattern has no folders in it; put them into the output's path")
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(self._pattern) if field is not None}
            example = self._fill(0, 0)
        except (ValueError, KeyError, IndexError, AttributeError) as exc:
            raise UsageError(f"{pattern!r}: cannot be filled in; use fields such as {{index:06d}} or {{pts}}") from exc
        if not fields & {"index", "pts"} or example == self._fill(1, 1):
            raise UsageError(f"{pattern!r}: every picture would have the same name; add {{index:06d}}")

    def __call__(self, frame: Frame) -> str:
        return self._fill(frame.index, frame.pts)

    def _fill(self, index: int, pts: int) -> str:
        return self._pattern.format(index=index, pts=pts)

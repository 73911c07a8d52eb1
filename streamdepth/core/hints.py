"""The nearest known word to one nobody knows."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


_ALIKE = 0.7
"""A slip in a word of four letters is 0.75, ``.mp5`` as well; words that only share letters lie below (``nope`` and
``copper``: 0.6)."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'X'?"``, or an empty string where nothing is near."""
    found = difflib.get_close_matches(word, [one for one in known if one != word], n=1, cutoff=_ALIKE)
    return f", did you mean {found[0]!r}?" if found else ""

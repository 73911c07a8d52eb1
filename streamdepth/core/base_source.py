"""Defaults for the source contract."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class BaseSource:
    """What a source says of itself: a name, that it waits for its reader, and that nothing was dropped or repaired.

    See :class:`streamdepth.core.contracts.Source` for the rest, and who calls what when.
    """

    def __init__(self, source_id: str) -> None:
        self._id = source_id

    @property
    def id(self) -> str:
        return self._id

    @property
    def live(self) -> bool:
        return False

    @property
    def dropped(self) -> Mapping[str, int]:
        return MappingProxyType({})

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

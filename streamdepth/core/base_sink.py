"""Defaults for the sink contract."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl


class BaseSink(ABC):
    """A sink that takes depth only, runs on its own thread, loses nothing and has nothing to clean up.

    See :class:`streamdepth.core.contracts.Sink` for who calls what and when.
    """

    def __init__(self, name: str, control: LookControl | None = None) -> None:
        self._name = name
        self._control = control

    @property
    def name(self) -> str:
        return self._name

    @property
    def control(self) -> LookControl | None:
        return self._control

    @property
    def live(self) -> bool:
        return False

    @property
    def lasting(self) -> bool:
        return not self.live

    @property
    def on_caller_thread(self) -> bool:
        return False

    @property
    def note(self) -> str:
        """One line for people about what was left out or converted, empty if nothing is worth saying."""
        return ""

    @property
    def counts(self) -> Mapping[str, int]:
        """What happened to images on the way out besides being written, by cause (``"resized"``, ``"late"``, ...)."""
        return MappingProxyType({})

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: B027 - a default, not abstract
        pass

    @abstractmethod
    def process(self, result: Result) -> None: ...

    def idle(self) -> None:  # noqa: B027
        pass

    def flush(self) -> None:  # noqa: B027
        pass

    def interrupt(self) -> None:  # noqa: B027
        pass

    def close(self) -> None:  # noqa: B027
        pass

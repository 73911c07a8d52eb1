"""What a run needs of whatever runs its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from streamdepth.core.frame import DepthMap
    from streamdepth.inference.slots import Slot
    from streamdepth.models.spec import ModelSpec


class Runner(Protocol):
    """An :class:`~streamdepth.inference.engine.Engine`, or two of them one after the other."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def provider(self) -> str:
        """The provider that runs the model now."""
        ...

    @property
    def batch(self) -> int:
        """Rows of a slot."""
        ...

    @property
    def workers(self) -> int:
        """Threads that may call ``run`` at once."""
        ...

    @property
    def note(self) -> str:
        """What was assumed, left out or fallen back from, until now; may be empty."""
        ...

    def network_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """(width, height) of the network's input for an image. Thread-safe."""
        ...

    def acquire(self, size: tuple[int, int]) -> Slot:
        """A free slot for network size (width, height). Thread-safe."""
        ...

    def run(self, slot: Slot, count: int) -> list[DepthMap]:
        """Depth of the first ``count`` rows of a slot."""
        ...

    def interrupt(self) -> None:
        """End the run in progress and refuse all later ones. Thread-safe, idempotent."""
        ...

    def close(self) -> None:
        """Give everything back. Idempotent."""
        ...

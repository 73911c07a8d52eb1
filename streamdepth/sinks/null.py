"""A sink that takes everything and keeps nothing: for measuring what comes before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSink

if TYPE_CHECKING:
    from streamdepth.core.frame import Result
    from streamdepth.core.look import LookControl


class NullSink(BaseSink):
    """Forgets every result.

    Args:
        control: a look, where the cost of colouring belongs to the measurement; None = depth only.
    """

    def __init__(self, *, control: LookControl | None = None) -> None:
        super().__init__("null:", control)

    def process(self, result: Result) -> None:
        pass

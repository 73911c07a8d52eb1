"""Sinks without an output: a callback, and one that discards results for measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSink

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.frame import DepthMap, Frame, Result
    from streamdepth.core.look import LookControl


class CallbackSink(BaseSink):
    """Calls ``function(frame, depth)`` for each result, on the sink's thread, in order.

    The memory of the depth is reused: copy ``depth.values`` to use it after the call. An exception of the function
    ends the run and is raised to the caller with the name of the function; ``StopPipeline`` ends it normally.

    Args:
        live: True = a slow function drops old frames (counted by the pipeline) instead of blocking the source.
        on_caller_thread: True = call the function on the thread that runs the pipeline.
    """

    def __init__(
        self,
        function: Callable[[Frame, DepthMap], object],
        *,
        live: bool = False,
        on_caller_thread: bool = False,
        name: str = "",
    ) -> None:
        called = getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")
        super().__init__(name or f"callback {called}")
        self._function = function
        self._live = live
        self._on_caller_thread = on_caller_thread

    @property
    def live(self) -> bool:
        return self._live

    @property
    def on_caller_thread(self) -> bool:
        return self._on_caller_thread

    def process(self, result: Result) -> None:
        self._function(result.frame, result.depth)


class NullSink(BaseSink):
    """Discards every result.

    Args:
        control: a look, to include colouring in the measurement; None = depth only.
    """

    def __init__(self, *, control: LookControl | None = None) -> None:
        super().__init__("null:", control)

    def process(self, result: Result) -> None:
        pass

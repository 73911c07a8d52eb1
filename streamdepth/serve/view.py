"""One source on the page: its look, its range mode, and the frame shown now."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from streamdepth.core.errors import SinkError
from streamdepth.core.look import Look, LookControl, View
from streamdepth.serve.feed import LiveFeed
from streamdepth.serve.stats import StatsSampler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Source
    from streamdepth.core.frame import StreamInfo
    from streamdepth.depth.range import RangeSwitch


@runtime_checkable
class HasStatus(Protocol):
    """A source or sink with a connection, such as :class:`~streamdepth.sources.live.source.LiveSource`."""

    @property
    def status(self) -> Mapping[str, str | int]: ...


class LiveView:
    """The live view of one source. Any thread.

    Args:
        name: how clients select the view; empty until the source is known.
        control: the look; None = frame and depth side by side.
        range_switch: the range mode that clients may change; None = they cannot.

    Attributes:
        feed: the frames to show.
        sampler: statistics of the run that feeds the view.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "",
        control: LookControl | None = None,
        range_switch: RangeSwitch | None = None,
    ) -> None:
        self.control = control or LookControl(Look(view=View.SIDE))
        self.range_switch = range_switch
        self.feed = LiveFeed(clock)
        self.sampler = StatsSampler(self.feed, clock)
        self._name = name
        self._lock = threading.Lock()
        self._stream: StreamInfo | None = None
        self._source: Source | None = None
        self._painting = threading.Lock()
        self._colorizer: Colorizer | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def stream(self) -> StreamInfo | None:
        """The stream that is shown; None while no run feeds the view."""
        return self._stream

    @property
    def source_status(self) -> Mapping[str, str | int]:
        """State and counters of the source's connection; empty if it has none."""
        source = self._source
        return source.status if isinstance(source, HasStatus) else {}

    def attach(self, source: Source | None) -> None:
        """Show the connection state of a source that has not opened yet."""
        self._source = source

    def begin(self, stream: StreamInfo, source: Source | None = None) -> None:
        """A run starts to feed the view.

        Raises:
            SinkError: another run feeds it.
        """
        from streamdepth.colorize.colorizer import Colorizer

        with self._lock:
            if self._stream is not None:
                raise SinkError(f"the page already shows {self._stream.source_id}; use another port for the second run")
            self._stream, self._source = stream, source
            self._name = self._name or stream.source_id
        with self._painting:
            self._colorizer = Colorizer(stream)

    def end(self) -> None:
        """The run has ended; its last frame stays visible. Idempotent."""
        with self._lock:
            self._stream = self._source = None
        self.sampler.watch(None)

    def repaint(self) -> None:
        """Apply the current look to the frame that stays visible while paused or after the run."""
        shown = self.feed.latest
        if shown is None or not (self.feed.paused or self._stream is None):
            return
        fixed = self.range_switch.spec.fixed if self.range_switch is not None else None
        depth_range = fixed or shown.range
        with self._painting:
            if self._colorizer is None:
                return
            image = self._colorizer.render(shown.frame, shown.depth, depth_range, self.control.look)
        self.feed.repaint(shown, image, depth_range)

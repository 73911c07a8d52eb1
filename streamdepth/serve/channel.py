"""A live view on the server's event loop: new frames, the shared JPEG encoder, samples, and points."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from streamdepth.core.frame import Sense
from streamdepth.serve.api import LOGGER, look_state
from streamdepth.serve.feed import jpeg, probe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from concurrent.futures import Executor

    from streamdepth.serve.feed import Shown
    from streamdepth.serve.view import LiveView


class LiveChannel:
    """Belongs to one event loop; the view's feed is filled from another thread.

    Attributes:
        sample: the newest sample of statistics.
        closed: the view is no longer shown.
    """

    def __init__(self, view: LiveView, encoder: Executor, jpeg_quality: int) -> None:
        self.view = view
        self.sample: dict[str, Any] = {}
        self.closed = False
        self._encoder = encoder
        self._jpeg_quality = jpeg_quality
        self._loop = asyncio.get_running_loop()
        self._new_frame = asyncio.Event()
        self._news = asyncio.Event()
        self._waking = False
        self._jpeg: tuple[int, asyncio.Future[bytes]] | None = None
        view.feed.listen(self._on_frame)

    async def next_shown(self, number: int, seconds: float) -> Shown | None:
        """The newest frame, as soon as it is newer than ``number`` or after ``seconds``."""
        latest = self.view.feed.latest
        if latest is None or latest.number <= number:
            new_frame = self._new_frame
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await new_frame.wait()
        return self.view.feed.latest

    def skipped(self, count: int) -> None:
        self.view.feed.count_dropped("slow viewer", count)

    async def jpeg_of(self, shown: Shown) -> bytes:
        """A frame as JPEG, encoded once for all viewers."""
        if self._jpeg is None or self._jpeg[0] != shown.number:
            work = self._loop.run_in_executor(self._encoder, jpeg, shown.image, self._jpeg_quality)
            self._jpeg = (shown.number, work)
        return await asyncio.shield(self._jpeg[1])

    async def wait_news(self) -> None:
        """Wait for a new sample or a changed state."""
        await self._news.wait()

    def announce(self) -> None:
        """Wake everything that waits in :meth:`wait_news`."""
        self._news.set()
        self._news = asyncio.Event()

    def take_sample(self, viewers: Mapping[str, int]) -> None:
        try:
            self.sample = self.view.sampler.sample(viewers)
        except Exception as error:  # statistics must not end the page
            logging.getLogger(LOGGER).error("sampling: %s: %s", type(error).__name__, error)
        self.announce()

    def close(self) -> None:
        self.closed = True
        self.announce()
        self._wake()

    def state(self) -> dict[str, Any]:
        """Look, range, stabilization and source as JSON."""
        view, stream, shown = self.view, self.view.stream, self.view.feed.latest
        source = None
        if stream is not None:
            source = {
                "id": stream.source_id,
                "width": stream.width_px,
                "height": stream.height_px,
                "rate": None if stream.rate is None else round(float(stream.rate), 3),
                "live": stream.live,
                "note": stream.note,
                "status": dict(view.source_status),
            }
        elif view.source_status:
            source = {"id": view.name, "width": None, "height": None, "status": dict(view.source_status)}
        switch = view.stabilize_switch
        mode = None if view.range_switch is None else str(view.range_switch)
        return {
            "look": look_state(view.control.look),
            "range": {"mode": mode, "switchable": mode is not None},
            "stabilize": {"on": switch is not None and switch.on, "switchable": switch is not None},
            "paused": view.feed.paused,
            "source": source,
            "metric": shown is not None and shown.depth.sense is Sense.METRIC_M,
            "sense": None if shown is None else str(shown.depth.sense),
        }

    def depth_at(self, x: float, y: float) -> dict[str, Any]:
        """Depth at a point of the shown frame, 0..1 from its top left corner, as JSON."""
        shown = self.view.feed.latest
        if shown is None or not (0 <= x <= 1 and 0 <= y <= 1):
            return {"x": None, "y": None, "value": None}
        found = probe(shown, x, y, inverse=self.view.control.look.inverse)
        return {
            "x": x,
            "y": y,
            "frame": shown.index,
            "value": found.value,
            "nearness": found.nearness,
            "sense": str(found.sense),
            "unit": "m" if found.sense is Sense.METRIC_M else None,
        }

    def _on_frame(self) -> None:
        """On the feeding thread: wake the loop, once for all frames that it has not seen yet."""
        if not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        self._new_frame.set()
        self._new_frame = asyncio.Event()

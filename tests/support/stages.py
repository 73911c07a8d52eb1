"""Stages that do exactly what a test tells them to: give, block, fail."""

from __future__ import annotations

import threading
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.frame import DepthMap, Frame, ImageInfo, Result, Sense, StreamInfo
from streamdepth.core.look import Look, LookControl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import RunStats

TIME_BASE = Fraction(1, 25)


def flat_image(level: int, width: int = 32, height: int = 16) -> av.VideoFrame:
    rgb = np.full((height, width, 3), level % 256, np.uint8)
    return av.VideoFrame.from_ndarray(rgb, format="rgb24")


class ScriptedSource:
    """Gives ``count`` images whose brightness is their index, or what ``image`` makes.

    ``before(index)`` runs on the capture thread before each frame: raise, block or wait there.
    """

    def __init__(
        self,
        count: int = 10,
        *,
        name: str = "scripted",
        live: bool = False,
        repeatable: bool = True,
        image: Callable[[int], av.VideoFrame] = flat_image,
        before: Callable[[int], None] | None = None,
        dropped: Mapping[str, int] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.count = count
        self.opened = self.closed = self.interrupted = 0
        self.on_interrupt: Callable[[], None] | None = None
        self._name, self._live, self._repeatable = name, live, repeatable
        self._image, self._before, self._dropped = image, before, dict(dropped or {})
        self._stop = threading.Event()
        self._clock = clock or SystemClock()

    @property
    def id(self) -> str:
        return self._name

    @property
    def live(self) -> bool:
        return self._live

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._dropped

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def open(self) -> StreamInfo:
        self.opened += 1
        first = self._image(0)
        return StreamInfo(
            self._name,
            first.width,
            first.height,
            first.format.name,
            TIME_BASE,
            Fraction(25),
            self.count,
            live=self._live,
        )

    def frames(self) -> Iterator[Frame]:
        for index in range(self.count):
            if self._before is not None:
                self._before(index)
            if self._stop.is_set():
                return
            yield Frame(self._name, index, index, TIME_BASE, self._clock.monotonic_ns(), self._image(index))

    def again(self) -> ScriptedSource | None:
        return ScriptedSource(self.count, name=self._name, image=self._image) if self._repeatable else None

    def interrupt(self) -> None:
        self.interrupted += 1
        self._stop.set()
        if self.on_interrupt is not None:
            self.on_interrupt()

    def close(self) -> None:
        self.closed += 1


class RecordingSink(BaseSink):
    """Keeps what it gets; ``before(result)`` may raise or block first."""

    def __init__(
        self,
        name: str = "recording",
        *,
        look: Look | None = None,
        live: bool = False,
        on_caller_thread: bool = False,
        before: Callable[[Result], None] | None = None,
    ) -> None:
        super().__init__(name, None if look is None else LookControl(look))
        self.results: list[Result] = []
        self.threads: set[str] = set()
        self.calls: list[str] = []
        self.image: ImageInfo | None = None
        self._live, self._on_caller_thread, self._before = live, on_caller_thread, before

    @property
    def live(self) -> bool:
        return self._live

    @property
    def on_caller_thread(self) -> bool:
        return self._on_caller_thread

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002
        self.calls.append("open")
        self.image = image

    def process(self, result: Result) -> None:
        if self._before is not None:
            self._before(result)
        self.threads.add(threading.current_thread().name)
        self.results.append(result)

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")

    @property
    def indices(self) -> list[int]:
        return [result.frame.index for result in self.results]


class FakeSlot:
    def __init__(self, size: tuple[int, int], batch: int) -> None:
        self.size = size
        self.images: list[av.VideoFrame | None] = [None] * batch

    def write(self, row: int, image: av.VideoFrame) -> None:
        self.images[row] = image


class FakeEngine:
    """Depth = a ramp whose level is the image's brightness. ``before(batch number)`` runs before each batch."""

    def __init__(
        self,
        batch: int = 1,
        *,
        before: Callable[[int], None] | None = None,
        depth: Callable[[float], np.ndarray[Any, np.dtype[np.float32]]] | None = None,
        fixed_size: bool = True,
        workers: int = 1,
    ) -> None:
        self.workers = workers
        self.batch, self.provider, self.note = batch, "fake", ""
        self.spec = SimpleNamespace(name="fake", dtype="fp32", notes=(), video_only="", states=(), window=0)
        self.batches: list[int] = []
        self.interrupted = self.closed = 0
        self._before, self._depth, self._fixed_size = before, depth or _ramp, fixed_size

    def network_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        return (8, 4) if self._fixed_size else (width_px, height_px)

    def acquire(self, size: tuple[int, int]) -> FakeSlot:
        return FakeSlot(size, self.batch)

    def run(self, slot: FakeSlot, count: int) -> list[DepthMap]:
        if self._before is not None:
            self._before(len(self.batches))
        self.batches.append(count)
        maps = []
        for image in slot.images[:count]:
            assert image is not None
            # the image's own converter would keep two threads as long as it lives
            level = float(VideoReformatter().reformat(image, format="gray").to_ndarray().mean())
            maps.append(DepthMap(self._depth(level), Sense.RELATIVE_INVERSE))
        return maps

    def interrupt(self) -> None:
        self.interrupted += 1

    def close(self) -> None:
        self.closed += 1


def _ramp(level: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.linspace(level, level + 1, 32, dtype=np.float32).reshape(4, 8)


def fake_estimator(engine: FakeEngine | None = None, **engine_options: Any) -> DepthEstimator:
    """An estimator that hands out ``engine``, made for the batch that is asked for where none is given."""

    def make(batch: int = 1, *, workers: int = 1) -> FakeEngine:  # noqa: ARG001 - the fake engine says how many it has
        return engine or FakeEngine(batch, **engine_options)

    spec = SimpleNamespace(name="fake", dtype="fp32", video_only="", states=(), window=0)
    return cast("DepthEstimator", SimpleNamespace(engine=make, live_engine=make, spec=spec))


def assert_true(value: bool) -> None:
    """For a lambda."""
    assert value


def balanced(stats: RunStats) -> bool:
    """Every frame is counted once in the run, and no sink has more frames than the run."""
    sinks = all(s.written + sum(s.dropped.values()) <= stats.processed for s in stats.sinks)
    return sinks and stats.captured == stats.processed + sum(stats.dropped.values())

"""A live run that starts at once on one provider and goes on, between two batches, on one that had to be made first."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import StreamDepthError
from streamdepth.inference.build_process import follow
from streamdepth.inference.nvidia import follows_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap
    from streamdepth.inference.build_process import Build
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.slots import Slot
    from streamdepth.models.spec import ModelSpec

_JOIN_SECONDS = 5.0
_RETIRE_SECONDS = 0.05


class EngineSwap:
    """Runs on ``first`` until a second engine is ready, then on that. A :class:`~streamdepth.inference.runner.Runner`.

    A slot runs on the engine it was acquired from, so that batches on their way when the second one is ready still
    come out of the first, in order, and nobody waits: building goes on in a process of its own, opening and warming up
    in a thread without Python's lock. The first engine is closed once its last slot is gone. Where the second cannot
    be had, the first goes on, and the note says why.

    Building begins with the first slot: only then is the size of the images known. A model whose network size
    follows the image's keeps the first engine for all other sizes.

    Args:
        first: closed with this.
        build: starts building for images of (width, height).
        second: opens what was built, checked.
        on_status: called when building begins, continues and ends; on a thread of this object.
    """

    def __init__(
        self,
        first: Engine,
        *,
        build: Callable[[tuple[int, int]], Build],
        second: Callable[[], Engine],
        on_status: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self._first = first
        self._build, self._open = build, second
        self._on_status, self._clock = on_status, clock or SystemClock()
        self._started_ns = self._clock.monotonic_ns()
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._second: Engine | None = None
        self._size: tuple[int, int] | None = None
        self._images: dict[tuple[int, int], tuple[int, int]] = {}
        self._out: weakref.WeakSet[Slot] = weakref.WeakSet()
        self._outcome = ""

    @property
    def spec(self) -> ModelSpec:
        return self._current.spec

    @property
    def provider(self) -> str:
        return self._current.provider

    @property
    def batch(self) -> int:
        return self._first.batch

    @property
    def workers(self) -> int:
        """One: whoever is in a hurry has one batch at a time."""
        return 1

    @property
    def note(self) -> str:
        return "; ".join(text for text in (self._current.note, self._outcome) if text)

    @property
    def _current(self) -> Engine:
        return self._second or self._first

    def network_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        size = self._first.network_size(width_px, height_px)
        self._images.setdefault(size, (width_px, height_px))
        return size

    def acquire(self, size: tuple[int, int]) -> Slot:
        with self._lock:
            if self._second is not None and size == self._size:
                return self._second.acquire(size)
            slot = self._first.acquire(size)
            self._out.add(slot)
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(
                    target=self._make_second, args=(size,), name="streamdepth-build", daemon=True
                )
                self._thread.start()
            return slot

    def run(self, slot: Slot, count: int) -> list[DepthMap]:
        return slot.engine.run(slot, count)

    def interrupt(self) -> None:
        self._ending.set()
        with self._lock:
            for engine in (self._first, self._second):
                if engine is not None:
                    engine.interrupt()

    def close(self) -> None:
        """End building if it goes on, and close both engines."""
        self._ending.set()
        if self._thread is not None:
            # a session that is being opened cannot be interrupted; left behind, it closes itself
            self._thread.join(_JOIN_SECONDS)
        with self._lock:
            self._first.close()
            if self._second is not None:
                self._second.close()

    # On its own thread --------------------------------------------------------------------------------------------

    def _make_second(self, size: tuple[int, int]) -> None:
        name, first = self._first.spec.name, self._first.provider
        what = f"{name}: TensorRT's engine"
        image = self._images.get(size, size)
        self._on_status(f"{what} is being built, which may take minutes; running on {first} meanwhile")
        try:
            reason = follow(self._build(image), self._ending, self._clock, self._on_status, what)
            if not (reason or self._ending.is_set()):
                reason = self._switch(self._open(), size, image)
        except (StreamDepthError, OSError) as error:
            reason = str(error)
        if self._second is not None:
            seconds = (self._clock.monotonic_ns() - self._started_ns) / 1e9
            outcome = f"on {first} for the first {seconds:.0f} s, on {self._second.provider} from then on"
        elif not self._ending.is_set():
            outcome = f"stays on {first}: {reason}"
        else:
            return
        self._outcome = outcome
        self._on_status(f"{name}: {outcome}")
        if self._second is not None:
            self._retire()

    def _switch(self, engine: Engine, size: tuple[int, int], image: tuple[int, int]) -> str:
        """Go on with ``engine`` from the next batch; where that cannot be, close it and say why (not if all ends)."""
        reason = self._warmed(engine, size, image)
        with self._lock:
            if not (reason or self._ending.is_set()):
                self._second, self._size = engine, size
                return ""
        engine.close()
        return reason

    def _warmed(self, engine: Engine, size: tuple[int, int], image: tuple[int, int]) -> str:
        """Why the second engine cannot take over, empty where it can; its first run at this size is over then."""
        if engine.batch != self._first.batch:
            return f"it takes {engine.batch} images at once, not {self._first.batch}"
        if engine.network_size(*image) != size:
            return f"its network size is {engine.network_size(*image)}, not {size}"
        try:
            engine.check(*image)
        except StreamDepthError as error:
            return error.message
        return ""

    def _retire(self) -> None:
        """Close the first engine once nothing of its is on its way, unless other sizes may come."""
        if follows_image(self._first.spec):
            return
        while len(self._out):
            if self._ending.wait(_RETIRE_SECONDS):
                return
        self._first.close()

"""Runs that change their provider.

Engine swap: a live run starts at once on one provider and continues, between two batches, on another. Fallback: a run
that fails under ``auto`` is repeated on the next provider.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import InferenceError, ModelError, ProviderError, StreamDepthError
from streamdepth.inference import agreement, providers
from streamdepth.inference.build import follow
from streamdepth.inference.engine import Engine
from streamdepth.inference.nvidia import follows_image
from streamdepth.models.selection import AUTO

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import DepthMap
    from streamdepth.inference.build import Build
    from streamdepth.inference.heads import RawDepth
    from streamdepth.inference.slots import Slot
    from streamdepth.models.spec import ModelSpec

_JOIN_SECONDS = 5.0
_RETIRE_SECONDS = 0.05
_REFUSED_KEPT = 256


class EngineSwap:
    """Runs on ``first`` until a second engine is ready, then on the second. A :class:`Runner`.

    A slot runs on the engine it was acquired from, so batches in flight during the swap finish on the first engine, in
    order, and nothing blocks: the build runs in another process, opening and warm-up in a thread without Python's
    lock. The first engine is closed when its last slot is gone. If the second engine fails, the first continues, and
    the note says why.

    The build begins with the first slot, when the size of the images is known. A model whose network size depends on
    the image keeps the first engine for all other sizes.

    Args:
        first: the engine to begin with; closed with the swap.
        build: starts a build for images of (width, height).
        second: opens the built engine, checked.
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
        self._first_slots: weakref.WeakSet[Slot] = weakref.WeakSet()
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
        """One: a live run has one batch at a time."""
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
            self._first_slots.add(slot)
            if self._thread is None and not self._ending.is_set():
                self._thread = threading.Thread(
                    target=self._make_second, args=(size,), name="streamdepth-build", daemon=True
                )
                self._thread.start()
            return slot

    def run(self, slot: Slot, count: int) -> list[DepthMap]:
        engine = self._first if slot in self._first_slots else self._second
        assert engine is not None  # noqa: S101 - a slot is of the first engine or of the second
        return engine.run(slot, count)

    def interrupt(self) -> None:
        self._ending.set()
        with self._lock:
            for engine in (self._first, self._second):
                if engine is not None:
                    engine.interrupt()

    def close(self) -> None:
        """End the build if it is running, and close both engines."""
        self._ending.set()
        if self._thread is not None:
            # opening a session cannot be interrupted; the thread closes it when it is done
            self._thread.join(_JOIN_SECONDS)
        with self._lock:
            self._first.close()
            if self._second is not None:
                self._second.close()

    # On the build thread --------------------------------------------------------------------------------------------

    def _make_second(self, size: tuple[int, int]) -> None:
        name, first = self._first.spec.name, self._first.provider
        what = f"{name}: TensorRT's engine"
        image = self._images.get(size, size)
        self._on_status(f"{what} is being built, which may take minutes; running on {first} until then")
        try:
            reason = follow(self._build(image), self._ending, self._clock, self._on_status, what)
            if not (reason or self._ending.is_set()):
                reason = self._switch(self._open(), size, image)
        except (StreamDepthError, OSError) as error:
            reason = str(error)
        if self._second is not None:
            seconds = (self._clock.monotonic_ns() - self._started_ns) / 1e9
            outcome = f"on {first} for the first {seconds:.0f} s, on {self._second.provider} after that"
        elif not self._ending.is_set():
            outcome = f"stays on {first}: {reason}"
        else:
            return
        self._outcome = outcome
        self._on_status(f"{name}: {outcome}")
        if self._second is not None:
            self._retire()

    def _switch(self, engine: Engine, size: tuple[int, int], image: tuple[int, int]) -> str:
        """Use ``engine`` from the next batch on. If it does not fit, close it and return why (empty when closing)."""
        reason = self._warmed(engine, size, image)
        with self._lock:
            if not (reason or self._ending.is_set()):
                self._second, self._size = engine, size
                return ""
        engine.close()
        return reason

    def _warmed(self, engine: Engine, size: tuple[int, int], image: tuple[int, int]) -> str:
        """Why the second engine cannot take over, empty where it can. Warms it up for this size."""
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
        """Close the first engine when its last slot is gone, unless other sizes may follow."""
        if follows_image(self._first.spec):
            return
        while len(self._first_slots):
            if self._ending.wait(_RETIRE_SECONDS):
                return
        self._first.close()


class FallbackEngine(Engine):
    """An engine for ``auto``: a batch whose run fails is run again on the next provider, which is then used.

    Where that provider fails too, the input is the cause: the first error is raised, and the provider stays. Network
    sizes that failed on all providers are not run again.

    Args:
        on_status: called with one line when the provider changes, on the thread that runs the batch.
        options: of :class:`~streamdepth.inference.engine.Engine`, without ``provider``.
    """

    def __init__(self, spec: ModelSpec, *, on_status: Callable[[str], None], **options: Any) -> None:
        super().__init__(spec, provider=AUTO, **options)
        self._on_status = on_status
        self._options_given = options
        self._switching = threading.Lock()
        self._second: Engine | None = None
        self._refused: set[tuple[int, int]] = set()

    def run_raw(self, slot: Slot, count: int) -> list[RawDepth]:
        if self._second is None:
            try:
                return super().run_raw(slot, count)
            except InferenceError as exc:
                if self._interrupted or self._closed:
                    raise
                error = exc
            with self._switching:
                if self._second is None:
                    return self._switch(slot, count, error)
        return _repeated(self._second, slot, count)

    def interrupt(self) -> None:
        super().interrupt()
        if self._second is not None:
            self._second.interrupt()

    def close(self) -> None:
        super().close()
        if self._second is not None:
            self._second.close()

    def _switch(self, slot: Slot, count: int, error: InferenceError) -> list[RawDepth]:
        failed = self.provider
        order = providers.AUTO_ORDER
        later = order[order.index(failed) + 1 :] if failed in order and slot.size not in self._refused else ()
        for name in later:
            if not self._may_run(name):
                continue
            engine = None
            try:
                options = {**self._options_given, "bytes_in": False}
                engine = Engine(self.spec, provider=name, **options)
                raw = _repeated(engine, slot, count)
            except (ProviderError, ModelError, InferenceError):
                if engine is not None:
                    engine.close()
                continue
            cause = error.message.removeprefix(f"{self.spec.name}: ").partition("; ")[0]
            reason = f"running on {engine.provider}, because provider {failed} {cause}"
            self.note = "; ".join(text for text in (self.note, reason) if text)
            self._on_status(f"{self.spec.name}: {reason}")
            self.provider, self._second = engine.provider, engine
            if self._interrupted:
                engine.interrupt()
            return raw
        if len(self._refused) < _REFUSED_KEPT:
            self._refused.add(slot.size)
        raise error

    def _may_run(self, name: str) -> bool:
        """Whether a provider can be tried; one that may compute in a narrower type is known to agree with the CPU."""
        provider = providers.provider_named(name)
        if not providers.to_be_tried(provider):
            return False
        return not providers.may_narrow(name) or agreement.cached(agreement.processor_key(self.spec, provider)) == ""


def _repeated(engine: Engine, slot: Slot, count: int) -> list[RawDepth]:
    second = engine.acquire(slot.size)
    slot.copy_to(second)
    return engine.run_raw(second, count)

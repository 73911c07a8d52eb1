"""The stage contract: what a source and a sink are to the pipeline.

Who calls what. One :class:`~streamdepth.pipeline.Pipeline` owns all threads. It calls ``open`` of every stage on the
caller's thread before any thread starts, then the working method on one thread only (``Source.frames`` on the source's
capture thread; ``Sink.process`` on the sink's own thread, or on the caller's where ``on_caller_thread``), and
``close`` once that thread has ended. ``interrupt`` may be called at any time from any thread, also twice, also before
``open`` and after ``close``: a blocked call must then return or raise within one second.

Who owns memory. A :class:`~streamdepth.core.frame.Frame`'s image may share memory with the decoder and is
read-only. A :class:`~streamdepth.core.frame.DepthMap` lives in a ring of buffers and returns to it when its last
reference is gone.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from streamdepth.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamdepth.core.frame import Frame, ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl


@runtime_checkable
class Source(Protocol):
    """Gives frames. Constructing one touches nothing; ``open`` does the work and raises ``SourceError``.

    Subclass :class:`BaseSource` to get sensible defaults for its properties.
    """

    @property
    def id(self) -> str:
        """Short redacted name for people, unique within a pipeline."""
        ...

    @property
    def live(self) -> bool:
        """Frames come whether or not anybody is ready: the default policy is then ``latest``."""
        ...

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames the source itself left out so far, by cause (``"corrupt"``, ...); they count as captured."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for people about what was repaired, left out or lost so far."""
        ...

    def open(self) -> StreamInfo: ...

    def frames(self) -> Iterator[Frame]:
        """Frames until the end of the source, or until interrupted (then it simply ends)."""
        ...

    def again(self) -> Source | None:
        """A fresh, unopened source that will give exactly the same frames, or None where that is impossible."""
        ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        """Idempotent."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A source that can be read again from its middle on."""

    def resume(self, pts: int) -> Source | None:
        """As ``again``, but frames before ``pts`` are left out and indices count from there. None where only a reading
        from the start gives the same frames."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Takes results. Constructing one touches nothing; ``open`` does the work and raises ``SinkError``.

    Subclass :class:`BaseSink` to get sensible defaults for all but ``process``.
    """

    @property
    def name(self) -> str:
        """Short redacted name for people."""
        ...

    @property
    def control(self) -> LookControl | None:
        """The look this sink wants its images in; None where it takes depth only."""
        ...

    @property
    def live(self) -> bool:
        """True where an old image is worthless: a full queue then drops its oldest instead of blocking."""
        ...

    @property
    def lasting(self) -> bool:
        """True where something stays when the run has ended: asked to stop, it then finishes what was taken."""
        ...

    @property
    def on_caller_thread(self) -> bool:
        """True where ``process`` must run on the thread that called ``Pipeline.run`` (windows)."""
        ...

    @property
    def note(self) -> str:
        """One line for people about what was left out, converted or lost; empty if nothing was."""
        ...

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """``image`` describes the images to come; None where ``control`` is None."""
        ...

    def process(self, result: Result) -> None:
        """Take one result. May raise ``StopPipeline`` to end the run normally."""
        ...

    def idle(self) -> None:
        """Called about every 20 ms while no result waits, on the same thread as ``process``."""
        ...

    def flush(self) -> None:
        """No more results will come: write what is held back."""
        ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        """Idempotent; leaves whatever was written readable, also after an error."""
        ...


class BaseSource:
    """Defaults of a source: a name, a clock, counted drops, a stop event, and no second pass.

    A subclass adds ``open`` and ``frames``, which ends once ``_stop`` is set. See :class:`Source` for who calls what.

    Args:
        source_id: short name for people, credentials redacted.
        live: frames come whether they are read or not.
        clock: stamps ``captured_ns``; None = the system's.
    """

    def __init__(self, source_id: str, *, live: bool = False, clock: Clock | None = None) -> None:
        self._id = source_id
        self._live = live
        self._clock: Clock = clock or SystemClock()
        self._dropped: Counter[str] = Counter()
        self._stop = threading.Event()

    @property
    def id(self) -> str:
        return self._id

    @property
    def live(self) -> bool:
        return self._live

    @property
    def dropped(self) -> Mapping[str, int]:
        return dict(self._dropped)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def again(self) -> Source | None:
        return None

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self.interrupt()


class BaseSink(ABC):
    """A sink that takes depth only, runs on its own thread, loses nothing and has nothing to clean up.

    See :class:`Sink` for who calls what and when.
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

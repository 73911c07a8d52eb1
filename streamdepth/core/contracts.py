"""The stage contract: the interface of sources and sinks, and base classes with defaults.

Calls and threads: one :class:`~streamdepth.pipeline.Pipeline` owns all threads. It calls ``open`` of every stage on the
caller's thread before any thread starts. It then calls the working method on one thread only: ``Source.frames`` on the
source's capture thread, ``Sink.process`` on the sink's own thread, or on the caller's thread if ``on_caller_thread``.
It calls ``close`` after that thread has ended. ``interrupt`` may be called at any time and from any thread, repeatedly,
before ``open`` and after ``close``; a blocked call must then return or raise within one second.

Memory: a :class:`~streamdepth.core.frame.Frame`'s image may share memory with the decoder and is
read-only. A :class:`~streamdepth.core.frame.DepthMap` uses a buffer from a ring, which is reused when the last
reference is gone.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from streamdepth.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamdepth.core.frame import Frame, ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl


@runtime_checkable
class Source(Protocol):
    """Yields frames. The constructor does no I/O; ``open`` does, and raises ``SourceError``.

    Subclass :class:`BaseSource` for defaults of the properties.
    """

    @property
    def id(self) -> str:
        """Short display name, credentials redacted, unique within a pipeline."""
        ...

    @property
    def live(self) -> bool:
        """True if frames arrive at their own rate. The default policy is then ``latest``."""
        ...

    @property
    def dropped(self) -> Mapping[str, int]:
        """Frames the source has dropped so far, by cause (``"corrupt"``, ...). They count as captured."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages about what has been repaired, skipped or lost so far."""
        ...

    def open(self) -> StreamInfo: ...

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the source ends or ``interrupt`` is called."""
        ...

    def again(self) -> Source | None:
        """A new, unopened source that yields exactly the same frames, or None if that is impossible."""
        ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        """Idempotent."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A source that can be read again starting in the middle."""

    def resume(self, pts: int) -> Source | None:
        """As ``again``, but starts at ``pts``, with indices counting from there. None if only a pass from the start
        yields the same frames."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Takes results. The constructor does no I/O; ``open`` does, and raises ``SinkError``.

    Subclass :class:`BaseSink` for defaults of everything except ``process``.
    """

    @property
    def name(self) -> str:
        """Short display name, credentials redacted."""
        ...

    @property
    def control(self) -> LookControl | None:
        """The look of the images this sink takes; None if it takes depth only."""
        ...

    @property
    def live(self) -> bool:
        """True if only the newest image matters: a full queue then drops its oldest image instead of blocking."""
        ...

    @property
    def lasting(self) -> bool:
        """True if the output remains after the run. ``Pipeline.stop`` then finishes the frames already captured."""
        ...

    @property
    def on_caller_thread(self) -> bool:
        """True if ``process`` must run on the thread that called ``Pipeline.run`` (windows)."""
        ...

    @property
    def note(self) -> str:
        """One line about what was skipped, converted or lost; empty if nothing was."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Events other than writing, by name (``"resized"``, ``"late"``, ...). Reported per sink in ``--stats``."""
        ...

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """``image`` describes the images that follow; None if ``control`` is None."""
        ...

    def process(self, result: Result) -> None:
        """Process one result. May raise ``StopPipeline`` to end the run normally."""
        ...

    def idle(self) -> None:
        """Called about every 20 ms while no result is queued, on the same thread as ``process``."""
        ...

    def flush(self) -> None:
        """No more results follow: write everything that is still buffered."""
        ...

    def interrupt(self) -> None: ...

    def close(self) -> None:
        """Idempotent. Leaves what was written readable, also after an error."""
        ...


class BaseSource:
    """Defaults for :class:`Source`: counts drops, ends ``frames`` with a stop event, cannot be read twice.

    A subclass adds ``open`` and ``frames``, which must end when ``_stop`` is set.

    Args:
        source_id: short display name, credentials redacted.
        live: frames arrive at their own rate.
        clock: stamps ``captured_ns``; None = the system clock.
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
    """Defaults for :class:`Sink`: runs on its own thread, blocks when full, has nothing to clean up."""

    reads_pixels: ClassVar[bool] = True
    """False if ``process`` uses only size and times of ``result.frame``; its pixels may then be undefined."""

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
        return ""

    @property
    def counts(self) -> Mapping[str, int]:
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

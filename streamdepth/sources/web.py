"""http(s) URLs, which name files and live streams alike: only opening one tells which."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from streamdepth.errors import SourceError, UsageError
from streamdepth.redact import redact
from streamdepth.sources.file import FileSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from fractions import Fraction

    from streamdepth.clock import Clock
    from streamdepth.frame import Frame, StreamInfo
    from streamdepth.stages import Source


class WebSource:
    """A file on a server, or a live stream: ``open`` looks which, and from then on this is one or the other.

    A medium without duration whose bytes have no known size, or an HLS or DASH playlist without an end, is live.
    ``live`` is therefore only known once open; ``StreamInfo.live`` says it too.

    Args:
        url: ``http://`` or ``https://``, credentials allowed.
        make_live: makes the source to use if it is live, from the URL.
        start_seconds, duration_seconds, max_frames, clock, timeout_seconds: as for ``FileSource``. A live stream has no
            start.
    """

    def __init__(
        self,
        url: str,
        *,
        make_live: Callable[[str], Source],
        start_seconds: float | Fraction = 0,
        duration_seconds: float | Fraction | None = None,
        max_frames: int | None = None,
        clock: Clock | None = None,
        timeout_seconds: float = 10.0,
        source_id: str | None = None,
    ) -> None:
        self._url = url
        self._make_live = make_live
        self._starts_late = start_seconds != 0
        self._file = FileSource(
            url,
            start_seconds=start_seconds,
            duration_seconds=duration_seconds,
            max_frames=max_frames,
            clock=clock,
            timeout_seconds=timeout_seconds,
            source_id=source_id or redact(url),
        )
        self._lock = threading.Lock()
        self._source: Source = self._file
        self._interrupted = False

    @property
    def id(self) -> str:
        return self._source.id

    @property
    def live(self) -> bool:
        return self._source.live

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._source.dropped

    @property
    def notes(self) -> tuple[str, ...]:
        """As ``FileSource.notes``; empty for a live stream."""
        return self._file.notes if self._source is self._file else ()

    def open(self) -> StreamInfo:
        info = self._file.open()
        if not self._file.endless:
            return info
        self._file.close()
        if self._starts_late:
            raise UsageError(f"{self.id}: is a live stream, which has no start to choose; leave --start out")
        live = self._make_live(self._url)
        with self._lock:
            self._source = live
            interrupted = self._interrupted
        if interrupted:
            raise SourceError(f"{self.id}: interrupted while it was opened", source=self.id)
        return live.open()

    def frames(self) -> Iterator[Frame]:
        return self._source.frames()

    def again(self) -> Source | None:
        return self._source.again()

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            source = self._source
        source.interrupt()

    def close(self) -> None:
        self._source.close()

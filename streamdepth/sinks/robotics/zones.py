"""How near things are, zone by zone, as lines of JSON for other programs."""

from __future__ import annotations

import json
import math
import os
import re
import select
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, StopPipeline, UsageError
from streamdepth.core.frame import Sense
from streamdepth.core.limits import are_fractions
from streamdepth.core.queues import Aborted
from streamdepth.sinks.files import check_output, write_failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo

_ZONE = re.compile(r"\s*([^=,]+)=([^,=]+),([^,=]+),([^,=]+),([^,=]+)")
_TOLERANCE = 0.01
"""Of the interval: time stamps are rounded."""
_ATOMIC_BYTES = 512
"""POSIX: a write of this length to a pipe that is ready does not block."""
_POLL_MS = 100
NEAREST_PERCENT = 2.0
"""Part of a zone that may be nearer than what is reported, so that single wrong pixels do not decide."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A named box of the frame.

    Attributes:
        x, y, width, height: in pixels of the frame, or as fractions of its size.
        fraction: they are fractions.
    """

    name: str
    x: float
    y: float
    width: float
    height: float
    fraction: bool = False

    def __post_init__(self) -> None:
        box = (self.x, self.y, self.width, self.height)
        if not self.name or not all(map(math.isfinite, box)) or min(self.x, self.y) < 0:
            raise ValueError(f"a zone needs a name and a box, not {self}")
        if min(self.width, self.height) <= 0 or (
            self.fraction and (self.x + self.width > 1 or self.y + self.height > 1)
        ):
            raise ValueError(f"a zone must lie within the frame and have a size, not {self}")

    @classmethod
    def parse(cls, text: str) -> Zone:
        """``"door=100,50,200,300"`` in pixels, or ``"door=0.1,0.2,0.3,0.5"`` in fractions
        (:func:`~streamdepth.core.limits.are_fractions`).

        Raises:
            UsageError: anything else.
        """
        found = _ZONE.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            x, y, width, height = map(float, found.groups()[1:])
            return cls(found[1].strip(), x, y, width, height, fraction=are_fractions(x, y, width, height))
        except ValueError:
            raise UsageError(
                f"zone {text!r}: not NAME=X,Y,W,H within the frame; "
                "give e.g. door=100,50,200,300 or door=0.1,0.2,0.3,0.5"
            ) from None

    @classmethod
    def parse_all(cls, value: Any) -> tuple[Zone, ...]:
        """The zones of an option: one or several, as text or parsed.

        Raises:
            ValueError: a name is given twice.
            UsageError: as :meth:`parse`.
        """
        many = value if isinstance(value, list | tuple) else [value]
        zones = tuple(cls.parse(one) if isinstance(one, str) else one for one in many)
        names = [zone.name for zone in zones if isinstance(zone, Zone)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name} is given twice; give each zone its own name")
        return zones

    def box(self, width_px: int, height_px: int) -> tuple[float, float, float, float]:
        """As fractions of a frame of this size.

        Raises:
            ValueError: the zone does not lie within the frame.
        """
        if self.fraction:
            return self.x, self.y, self.width, self.height
        if self.x + self.width > width_px or self.y + self.height > height_px:
            raise ValueError(f"zone {self.name} does not lie within the frame of {width_px}x{height_px}")
        return self.x / width_px, self.y / height_px, self.width / width_px, self.height / height_px


WHOLE = Zone("frame", 0.0, 0.0, 1.0, 1.0, fraction=True)


def due_after(due_seconds: float, seconds: float, rate: float) -> float:
    """When the next events are due after a frame at ``seconds``; unchanged if none were due at the frame."""
    interval = 1 / rate
    if seconds < due_seconds - _TOLERANCE * interval:
        return due_seconds
    # The due times stay on a grid, so that the rate is met on average where it does not divide the frame rate.
    late = seconds - due_seconds > interval
    return (seconds if late else due_seconds) + interval


class ZoneEventsSink(BaseSink):
    """Writes the nearest depth of each zone as one line of JSON per zone and event.

    Keys: ``source``, ``index``, ``seconds`` (media time), ``zone``, ``nearest``, ``unit``, ``sense``, and for anchored
    metres ``error``, their relative error if known. ``nearest`` is the value that all but 2 % of the zone are farther
    than, in metres if ``unit`` is ``m`` and else in the model's own unit; null where there is no depth.

    Args:
        output: a file to write, or an open text stream (standard output), which is left open.
        zones: none = the whole frame, named ``frame``.
        rate: at most this many events per second of media time and zone.
        overwrite: replace an existing file.
        due_seconds: media time of the first event at the earliest; of a later part of a stream, see :func:`due_after`.
    """

    def __init__(
        self,
        output: str | Path | IO[str],
        *,
        zones: Sequence[Zone] = (),
        rate: float = 10.0,
        overwrite: bool = False,
        due_seconds: float = -math.inf,
    ) -> None:
        named = isinstance(output, str | Path)
        super().__init__(str(output) if named else "events")
        self._path = Path(output) if isinstance(output, str | Path) else None
        self._stream = None if isinstance(output, str | Path) else output
        self._zones = tuple(zones) or (WHOLE,)
        self._rate = rate
        self._overwrite = overwrite
        self._boxes: tuple[tuple[float, float, float, float], ...] = ()
        self._due = due_seconds
        self._interrupted = threading.Event()

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            UsageError: a zone outside the frame; the output is the input.
            OutputExistsError: the file exists and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        try:
            self._boxes = tuple(zone.box(stream.width_px, stream.height_px) for zone in self._zones)
        except ValueError as error:
            raise UsageError(f"{error}; the box is x, y, width, height") from error
        if self._path is not None:
            check_output(self._path, overwrite=self._overwrite, media_path=stream.media_path)
            self._stream = self._path.open("w", encoding="utf-8")

    def process(self, result: Result) -> None:
        """
        Raises:
            StopPipeline: the reader of the stream has ended (a closed pipe).
            SinkError: the file cannot be written.
        """
        frame, depth = result.frame, result.depth
        due = due_after(self._due, frame.seconds, self._rate)
        if due == self._due:
            return
        self._due = due
        for zone, box in zip(self._zones, self._boxes, strict=True):
            nearest = depth.nearest_in(box, NEAREST_PERCENT)
            event = {
                "source": frame.source_id,
                "index": frame.index,
                "seconds": round(frame.seconds, 6),
                "zone": zone.name,
                "nearest": round(nearest, 4) if math.isfinite(nearest) else None,
                "unit": "m" if depth.sense is Sense.METRIC_M else "",
                "sense": depth.sense.value,
            }
            if depth.anchor_error is not None and math.isfinite(depth.anchor_error):
                event["error"] = round(depth.anchor_error, 4)
            self._write(json.dumps(event))

    def interrupt(self) -> None:
        """End a write to a pipe that is not read."""
        self._interrupted.set()

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None and self._path is not None:
            stream.close()

    def _write(self, line: str) -> None:
        if self._stream is None:
            raise SinkError(f"{self.name}: not open")
        try:
            if sys.platform != "win32" and (descriptor := _descriptor(self._stream)) is not None:
                self._write_when_ready(descriptor, f"{line}\n".encode())
            else:
                self._stream.write(line + "\n")
                self._stream.flush()
        except BrokenPipeError:
            raise StopPipeline from None
        except OSError as error:
            raise write_failed(self._path or Path("-"), error) from error

    if sys.platform != "win32":

        def _write_when_ready(self, descriptor: int, data: bytes) -> None:
            """Raises ``Aborted``: by ``interrupt``, before all was written."""
            ready = select.poll()
            ready.register(descriptor, select.POLLOUT)
            while data:
                while not ready.poll(_POLL_MS):
                    if self._interrupted.is_set():
                        raise Aborted
                data = data[os.write(descriptor, data[:_ATOMIC_BYTES]) :]


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # a stream in memory
        return None

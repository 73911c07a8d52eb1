"""One FFmpeg container being written, and how it ends well or badly."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from streamdepth.sinks.files import OutputFile, write_failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from av.packet import Packet

_WRITE_BYTES = 1 << 16


class MuxedFile:
    """Muxes packets into a claimed file. Not thread-safe.

    Args:
        path: a file claimed by ``claim_file``; its old content lives until the first packet.
        created: the claim made it, so it goes away again if nothing is written.
    """

    def __init__(self, path: Path, muxer: str, options: Mapping[str, str], *, created: bool) -> None:
        import av

        self._path = path
        self._created = created
        self._file = OutputFile(path)
        self.container = av.open(
            self._file, "w", format=muxer, container_options=dict(options), buffer_size=_WRITE_BYTES
        )
        self.broken = False
        self._closed = False

    def mux(self, packets: Packet[Any] | Iterable[Packet[Any]]) -> None:
        """
        Raises:
            SinkError: the file cannot be written any further.
        """
        import av

        try:
            self.container.mux(packets)  # type: ignore[arg-type]
        except (av.FFmpegError, OSError, ValueError) as exc:
            self.broken = True
            raise write_failed(self._path, exc) from exc

    def close(self, *, empty: bool) -> None:
        """Write the end of the file, unless it is broken; remove it where it is ``empty`` and was not there before.

        Raises:
            SinkError: the end could not be written; what came before stays readable.
        """
        import av

        if self._closed:
            return
        self._closed = True
        try:
            if self.broken or empty:
                # Closed under the muxer, which then writes no end: after an error that would overwrite the start of
                # what can still be read.
                self._file.close()
            try:
                self.container.close()
            except (av.FFmpegError, OSError, ValueError) as exc:
                if not (self.broken or empty):
                    raise write_failed(self._path, exc) from exc
        finally:
            self._file.close()
            if self._created and empty:
                with contextlib.suppress(OSError):
                    self._path.unlink()

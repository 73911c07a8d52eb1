"""http(s) URLs, which name files and live streams alike: only opening one tells which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.contracts import Source
    from streamdepth.sources.file import FileSource


def choose_web(
    file: FileSource, *, timeout_seconds: float, make_live: Callable[[], Source], starts_late: bool
) -> Source:
    """The source for a URL: ``file`` itself, or a live one where what is there has no end.

    A medium without duration whose bytes have no known size, or an HLS or DASH playlist without an end, is live. The
    connection made to find out is closed again: whoever runs the source opens it when its turn comes.

    Args:
        file: unopened; decides by a copy of its own without limits.
        timeout_seconds: how long finding out may take, whatever is silent: name server, network or server.
        make_live: makes the live source.
        starts_late: a start was asked for, which a live stream does not have.
    Raises:
        SourceError: there is nothing at the URL, or nothing readable.
        UsageError: a start was asked for, and it is live.
    """
    probe = file.whole(timeout_seconds=timeout_seconds)
    try:
        probe.open()
        endless = probe.endless
    finally:
        probe.close()
    if not endless:
        return file
    if starts_late:
        raise UsageError(f"{file.id}: is a live stream, which has no start to choose; leave --start out")
    return make_live()

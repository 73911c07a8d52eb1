"""The image in a window in another look, without the pipeline's help."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.frame import Result, StreamInfo
    from streamdepth.core.look import Look


class Repainter:
    """Keeps what one image was made of and makes it again. On one thread.

    A key would otherwise act only on images that are coloured from then on: never while paused, and late behind a
    queue.
    """

    def __init__(self, stream: StreamInfo) -> None:
        self._stream = stream
        self._colorizer: Colorizer | None = None
        self._kept: Result | None = None

    def keep(self, result: Result) -> None:
        """Depth is copied, as its memory goes back to a ring."""
        depth = result.depth
        valid = None if depth.valid is None else depth.valid.copy()
        self._kept = replace(result, depth=replace(depth, values=depth.values.copy(), valid=valid), image=None)

    def again(self, look: Look) -> av.VideoFrame | None:
        """The image kept, in another look; None where there is none yet."""
        return None if self._kept is None else self.paint(self._kept, look)

    def paint(self, result: Result, look: Look) -> av.VideoFrame:
        if self._colorizer is None:
            from streamdepth.colorize.colorizer import Colorizer

            self._colorizer = Colorizer(self._stream)
        return self._colorizer.render(result.frame.image, result.depth, result.range, look)

    def close(self) -> None:
        """Idempotent."""
        self._kept = None
        if self._colorizer is not None:
            self._colorizer.close()

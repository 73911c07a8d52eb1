"""Interlaced frames into progressive ones of the same number and times."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    import av
    from av.filter import Graph


class Deinterlacer:
    """Deinterlaces frames that are flagged as interlaced with FFmpeg's ``bwdif``, one frame per frame.

    Progressive frames before the first interlaced one pass unchanged. ``bwdif`` needs the next frame, so it delays by
    one. Not thread-safe.

    Attributes:
        used: True once a frame was interlaced.
    """

    def __init__(self) -> None:
        self.used = False

    def __call__(self, frames: Iterable[av.VideoFrame]) -> Generator[av.VideoFrame, None, None]:
        graph: Graph | None = None
        shape: tuple[int, int, str] | None = None
        waiting: deque[tuple[int | None, int | None, int, Any]] = deque()
        for frame in frames:
            found = (frame.width, frame.height, frame.format.name)
            if graph is not None and found != shape:
                yield from self._rest(graph, waiting)
                graph = None
            if graph is None:
                if not frame.interlaced_frame:
                    yield frame
                    continue
                graph, shape, self.used = _build(frame), found, True
            waiting.append((frame.pts, frame.dts, frame.duration, frame.time_base))
            frame.pts = len(waiting)
            graph.vpush(frame)
            yield from self._ready(graph, waiting)
        if graph is not None:
            yield from self._rest(graph, waiting)

    def _ready(self, graph: Graph, waiting: deque[tuple[int | None, int | None, int, Any]]) -> Iterator[av.VideoFrame]:
        import av.error

        while waiting:
            try:
                frame = graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            frame.pts, frame.dts, frame.duration, frame.time_base = waiting.popleft()
            yield frame

    def _rest(self, graph: Graph, waiting: deque[tuple[int | None, int | None, int, Any]]) -> Iterator[av.VideoFrame]:
        graph.vpush(None)
        yield from self._ready(graph, waiting)


def _build(frame: av.VideoFrame) -> Graph:
    from av.filter import Graph

    graph = Graph()
    nodes = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)]
    nodes.append(graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
    nodes.append(graph.add("format", f"pix_fmts={frame.format.name}"))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph

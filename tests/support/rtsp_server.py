"""Our RTSP server on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from streamdepth.core.look import Look, LookControl
from streamdepth.sinks.rtsp.server import RtspServerSink
from tests.support.rtsp import image_info, stream_info

if TYPE_CHECKING:
    from collections.abc import Iterator


def make_sink(url: str = "rtsp://127.0.0.1:0/depth", **options: object) -> RtspServerSink:
    return RtspServerSink(url, control=LookControl(Look()), **{"environ": {}, **options})  # type: ignore[arg-type]


@contextlib.contextmanager
def serving(
    url: str = "rtsp://127.0.0.1:0/depth", *, width_px: int = 160, height_px: int = 90, **options: object
) -> Iterator[RtspServerSink]:
    sink = make_sink(url, **options)
    sink.open(stream_info(width_px, height_px), image_info(width_px, height_px))
    try:
        yield sink
    finally:
        sink.close()


def url_of(sink: RtspServerSink, userinfo: str = "") -> str:
    return f"rtsp://{userinfo}127.0.0.1:{sink.port}/depth"

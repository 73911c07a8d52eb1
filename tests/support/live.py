"""Live sources as tests run them, and HTTP servers with live streams."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import subprocess
import threading
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import TYPE_CHECKING

import av
import numpy as np

from streamdepth.sources.live.source import LiveSource
from tests.support import need
from tests.support.rtsp import end_process, wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from streamdepth.core.frame import Frame

DEADLINE_SECONDS = 1.0


def live(url: str, **options: object) -> LiveSource:
    return LiveSource(url, **{"timeout_seconds": DEADLINE_SECONDS, "random": Random(1), "environ": {}, **options})  # type: ignore[arg-type]


class Consumer:
    """Collects a source's frames on a thread, as the pipeline does."""

    def __init__(self, source: LiveSource) -> None:
        self.source = source
        self.frames: list[Frame] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            for frame in self.source.frames():
                self.frames.append(frame)
        except Exception as exc:
            self.error = exc

    def wait_for(self, count: int, seconds: float = 20.0) -> bool:
        """Wait until ``count`` frames have come since the start, or the source has ended.

        The count starts with the source, not with this call: frames may have come before it. To wait for frames after
        an event, add the number of frames there were before it.
        """
        return wait_until(lambda: len(self.frames) >= count or not self._thread.is_alive(), seconds)

    def ended(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def __enter__(self) -> Consumer:
        self.source.open()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()
        assert self.ended(5)


def assert_rising(frames: list[Frame]) -> None:
    assert all(b.index > a.index and b.pts > a.pts for a, b in itertools.pairwise(frames))


class Body:
    """What an HTTP server sends, and with what type."""

    def __init__(self, content_type: str, chunks: list[bytes], *, seconds: float = 0.02, repeat: bool = False) -> None:
        self.content_type = content_type
        self.chunks = chunks
        self.seconds = seconds
        self.repeat = repeat


class Quiet:
    """Keeps a request handler's log off standard error; the first of its bases."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback, as of a refused certificate: it would mix with the standard error under test."""


@contextlib.contextmanager
def serve_http(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None, *, port: int = 0
) -> Iterator[str]:
    server = _Server(("127.0.0.1", port), handler)
    if tls is not None:
        # Hands are shaken on a connection's own thread, at its first read, and not where all are accepted.
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def http_server(
    body: Body, tls: ssl.SSLContext | None = None, *, length: int | None = None, port: int = 0
) -> Iterator[str]:
    stop = threading.Event()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", body.content_type)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    for chunk in body.chunks:
                        self.wfile.write(chunk)
                        if stop.wait(body.seconds):
                            return
                    if not body.repeat:
                        return

    with serve_http(Handler, tls, port=port) as base:
        try:
            yield f"{base}/live"
        finally:
            stop.set()


@contextlib.contextmanager
def rtmp_server() -> Iterator[int]:
    """ffmpeg, which serves one viewer at ``/live/x``. It listens soon; a look whether it does would be that viewer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    words = (
        "-v quiet -re -f lavfi -i testsrc2=size=160x96:rate=25 -c:v libx264 -preset ultrafast -tune zerolatency -g 25"
    )
    url = f"rtmp://127.0.0.1:{port}/live/x"
    process = subprocess.Popen([need.program("ffmpeg"), *words.split(), "-f", "flv", "-listen", "1", url], text=True)
    try:
        yield port
    finally:
        end_process(process)


_OPTIONS = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency"},
    "libx265": {"preset": "ultrafast", "tune": "zerolatency", "x265-params": "log-level=none:scenecut=0"},
}


def encode_ts(
    count: int, *, codec: str = "libx264", key_every: int = 10, damaged: int | None = None, lost: int | None = None
) -> list[bytes]:
    """MPEG-TS of a moving bar, a chunk an image; one of them spoilt, or left out before it was multiplexed."""
    sink = io.BytesIO()
    chunks = []
    with av.open(sink, "w", format="mpegts") as container:
        stream = container.add_stream(codec, rate=25, options=dict(_OPTIONS.get(codec, {})))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1
        stream.time_base = Fraction(1, 25)
        rng = np.random.default_rng(1)
        for index in range(count):
            pixels = rng.integers(0, 60, (96, 160, 3), dtype=np.uint8)
            pixels[:, (index * 7) % 140 : (index * 7) % 140 + 20] = 250
            image = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            image.pts = index
            for packet in stream.encode(image):
                if index == damaged:
                    data = bytearray(bytes(packet))
                    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
                    broken = av.Packet(bytes(data))
                    broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                    broken.stream = stream
                    packet = broken
                if index != lost:
                    container.mux(packet)
            chunks.append(sink.getvalue())
    whole = sink.getvalue()
    ends = [len(chunk) for chunk in chunks] + [len(whole)]
    return [whole[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]

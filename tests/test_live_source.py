"""Live sources against a real RTSP server that misbehaves on demand, and real HTTP streams."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.errors import SourceError, UsageError
from streamdepth.sources.live import LiveSource, LiveState
from streamdepth.stages import Source
from tests.support.rtsp import GstServer, listener, say_garbage, say_nothing, unanswered_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket

    from streamdepth.frame import Frame

_DEADLINE_SECONDS = 1.0


def live(url: str, **options: object) -> LiveSource:
    return LiveSource(url, **{"timeout_seconds": _DEADLINE_SECONDS, "random": Random(1), "environ": {}, **options})  # type: ignore[arg-type]


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

    def wait_for(self, more: int, seconds: float = 20.0) -> bool:
        wanted = len(self.frames) + more
        return wait_until(lambda: len(self.frames) >= wanted or not self._thread.is_alive(), seconds)

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


@pytest.fixture(scope="module")
def camera() -> Iterator[GstServer]:
    with GstServer() as server:
        yield server


@pytest.mark.parametrize("transport", ["tcp", "udp", "auto"])
def test_reads_a_camera(camera: GstServer, transport: str) -> None:
    source = live(camera.url("/cam"), transport=transport, max_frames=10, timeout_seconds=5)
    assert isinstance(source, Source)
    info = source.open()
    assert (info.width_px, info.height_px, info.pix_fmt, info.live) == (160, 96, "yuv420p", True)
    frames = list(source.frames())
    assert len(frames) == 10
    assert frames[0].pts == 0
    assert [frame.index for frame in frames] == list(range(10))
    assert_rising(frames)
    assert source.state is LiveState.CLOSED
    assert source.again() is None


def test_duration_ends_it(camera: GstServer) -> None:
    source = live(camera.url("/cam"), duration_seconds=0.5, timeout_seconds=5)
    source.open()
    frames = list(source.frames())
    assert frames
    assert frames[-1].seconds < 0.5


def test_unknown_path_is_said_at_once(camera: GstServer) -> None:
    with pytest.raises(SourceError, match=r"404.*check the path"):
        live(camera.url("/nope", "user:geheim@")).open()


def test_retries_are_counted_for_the_first_open_too(camera: GstServer) -> None:
    with pytest.raises(SourceError, match="3 times in a row"):
        live(camera.url("/nope"), retries=2).open()


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_credentials(method: str) -> None:
    with GstServer(auth="us er:p@ss/w:rd", method=method) as server:
        with pytest.raises(SourceError, match="401") as caught:
            live(server.url("/cam", "us er:wr0ng@".replace(" ", "%20"))).open()
        chain = caught.value
        assert "wr0ng" not in f"{chain!r}{chain.__cause__!r}{chain.__context__!r}"
        for url, environ in (
            (server.url("/cam", "us%20er:p%40ss%2Fw%3Ard@"), {}),
            (server.url("/cam", "us%20er:p@ss/w:rd@"), {}),
            (server.url("/cam"), {"STREAMDEPTH_RTSP_USER": "us er", "STREAMDEPTH_RTSP_PASSWORD": "p@ss/w:rd"}),
        ):
            source = live(url, environ=environ, timeout_seconds=5)
            source.open()
            assert "ss" not in source.id
            source.close()


def test_server_killed_and_restarted_with_another_size_and_codec() -> None:
    with GstServer() as server, Consumer(live(server.url("/cam"), timeout_seconds=3)) as consumer:
        assert consumer.wait_for(5)
        server.kill()
        assert wait_until(lambda: consumer.source.state is not LiveState.LIVE)
        assert consumer.source.last_error
        before = len(consumer.frames)
        server.start(codec="jpeg", size="320x240")
        assert consumer.wait_for(5)
        assert_rising(consumer.frames)
        assert {(f.width_px, f.height_px, f.picture.format.name) for f in consumer.frames} == {(160, 96, "yuv420p")}
        last, first = consumer.frames[before - 1], consumer.frames[before]
        clock_seconds = (first.captured_ns - last.captured_ns) / 1e9
        assert first.seconds - last.seconds == pytest.approx(clock_seconds, abs=0.01)
        assert consumer.source.reconnects >= 1
        assert consumer.source.status["rescaled"]


def test_server_that_stands_still() -> None:
    with GstServer() as server, Consumer(live(server.url("/cam"))) as consumer:
        assert consumer.wait_for(5)
        server.freeze()
        assert wait_until(lambda: consumer.source.last_error != "", 10 * _DEADLINE_SECONDS)
        server.thaw()
        assert consumer.wait_for(5)
        assert_rising(consumer.frames)
        assert consumer.source.reconnects >= 1


def test_retries_exhausted_says_why() -> None:
    with GstServer() as server, Consumer(live(server.url("/cam"), retries=1)) as consumer:
        assert consumer.wait_for(2)
        server.kill()
        assert consumer.ended(20)
        assert isinstance(consumer.error, SourceError)
        assert "connection refused" in str(consumer.error)


@pytest.mark.parametrize("talk", [say_nothing, say_garbage])
def test_listener_that_is_no_server(talk: Callable[[socket], None]) -> None:
    with listener(talk) as port:
        source = live(f"rtsp://u:geheim@127.0.0.1:{port}/x")
        started = time.monotonic()
        with pytest.raises(SourceError) as caught:
            source.open()
        assert time.monotonic() - started < 5 * _DEADLINE_SECONDS
        assert "geheim" not in repr(caught.value)


def test_nothing_listens() -> None:
    with unanswered_port() as port, pytest.raises(SourceError, match=r"no answer|nothing came"):
        live(f"rtsp://127.0.0.1:{port}/x").open()


def test_busy_server_is_asked_again_within_the_deadline() -> None:
    calls: list[int] = []

    def be_busy(client: socket) -> None:
        calls.append(1)
        client.recv(4096)
        client.sendall(b"RTSP/1.0 503 Service Unavailable\r\nCSeq: 1\r\n\r\n")

    with listener(be_busy) as port, pytest.raises(SourceError, match="cannot serve it now"):
        live(f"rtsp://127.0.0.1:{port}/x").open()
    assert len(calls) >= 2


@pytest.mark.parametrize("place", ["connect", "silence"])
def test_interrupt_within_a_second(place: str) -> None:
    """The deadline is far away: only the interrupt can have ended it."""
    with unanswered_port() if place == "connect" else listener(say_nothing) as port:
        source = live(f"rtsp://127.0.0.1:{port}/x", timeout_seconds=6)
        errors: list[Exception] = []

        def work() -> None:
            try:
                source.open()
            except SourceError as exc:
                errors.append(exc)

        thread = threading.Thread(target=work)
        thread.start()
        assert wait_until(lambda: source.state is LiveState.CONNECTING)
        started = time.monotonic()
        source.interrupt()
        thread.join(10)
        source.close()
        assert time.monotonic() - started < 2
        assert "interrupted" in str(errors[0])
    assert wait_until(lambda: not any(t.name.startswith("live-reader") for t in threading.enumerate()), 12)


def test_interrupt_while_reading_and_while_waiting() -> None:
    with GstServer() as server:
        for fault, state in ((server.freeze, LiveState.LIVE), (server.kill, LiveState.WAITING)):
            # Thawed, the server may say 503 until it has put its house in order.
            with Consumer(live(server.url("/cam"), timeout_seconds=6, retries=20)) as consumer:
                assert consumer.wait_for(2)
                fault()
                assert wait_until(lambda wanted=state, source=consumer.source: source.state is wanted)  # type: ignore[misc]
                started = time.monotonic()
                consumer.source.interrupt()
                assert consumer.ended(10)
                assert time.monotonic() - started < 2
                assert consumer.error is None
            server.thaw()


def test_dead_camera_stalls_no_other(camera: GstServer) -> None:
    with listener(say_nothing) as port:
        dead = live(f"rtsp://127.0.0.1:{port}/x", timeout_seconds=5)

        def open_dead() -> None:
            with pytest.raises(SourceError):
                dead.open()

        opener = threading.Thread(target=open_dead)
        opener.start()
        with Consumer(live(camera.url("/cam"), timeout_seconds=5)) as consumer:
            assert consumer.wait_for(10)
        assert dead.state is LiveState.CONNECTING
        dead.interrupt()
        opener.join(5)


class _Body:
    """What an HTTP server sends, and with what type."""

    def __init__(self, content_type: str, chunks: list[bytes], *, seconds: float = 0.02, repeat: bool = False) -> None:
        self.content_type = content_type
        self.chunks = chunks
        self.seconds = seconds
        self.repeat = repeat


@contextlib.contextmanager
def serve_http(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def http_server(body: _Body) -> Iterator[str]:
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", body.content_type)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    for chunk in body.chunks:
                        self.wfile.write(chunk)
                        if stop.wait(body.seconds):
                            return
                    if not body.repeat:
                        return

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serve_http(Handler) as base:
        try:
            yield f"{base}/live"
        finally:
            stop.set()


def encode_ts(count: int, *, key_every: int = 10, damaged: int | None = None, lost: int | None = None) -> list[bytes]:
    """MPEG-TS of a moving bar, a chunk a picture; one of them spoilt, or left out."""
    sink = io.BytesIO()
    chunks = []
    with av.open(sink, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.codec_context.gop_size = key_every
        stream.codec_context.thread_count = 1
        stream.time_base = Fraction(1, 25)
        rng = np.random.default_rng(1)
        for index in range(count):
            pixels = rng.integers(0, 60, (96, 160, 3), dtype=np.uint8)
            pixels[:, (index * 7) % 140 : (index * 7) % 140 + 20] = 250
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = index
            for packet in stream.encode(picture):
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


def test_motion_jpeg_over_http_is_timed_by_the_clock() -> None:
    picture = av.VideoFrame(64, 48, "yuvj420p")
    codec = av.CodecContext.create("mjpeg", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 64, 48, "yuvj420p", Fraction(1, 25)
    jpeg = bytes(codec.encode(picture)[0])
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
    body = _Body("multipart/x-mixed-replace;boundary=x", [part], seconds=0.1, repeat=True)
    with http_server(body) as url:
        source = live(url, max_frames=8, timeout_seconds=5)
        assert source.open().width_px == 64
        frames = list(source.frames())
    assert len(frames) == 8
    assert_rising(frames)
    clock_seconds = (frames[-1].captured_ns - frames[0].captured_ns) / 1e9
    assert frames[-1].seconds == pytest.approx(clock_seconds, abs=0.01)


def test_damaged_frames_are_dropped_and_counted_until_the_next_key_frame() -> None:
    body = _Body("video/mp2t", encode_ts(60, damaged=23), seconds=0.01)
    with http_server(body) as url:
        source = live(url, retries=0, timeout_seconds=3)
        source.open()
        frames: list[Frame] = []
        with contextlib.suppress(SourceError):
            frames.extend(source.frames())
    indices = {frame.index for frame in frames}
    # Every frame is either given or counted, and the hole ends at the key frame.
    assert source.dropped == {"corrupt": 7}
    assert set(range(60)) - indices == set(range(23, 30))
    assert next(frame for frame in frames if frame.index == 30).key


def test_frames_after_a_lost_one_are_dropped_until_the_next_key_frame() -> None:
    """No decoder marks them, as nothing is wrong with what did arrive."""
    with http_server(_Body("video/mp2t", encode_ts(60, lost=23), seconds=0.01)) as url:
        source = live(url, retries=0, timeout_seconds=3)
        source.open()
        frames: list[Frame] = []
        with contextlib.suppress(SourceError):
            frames.extend(source.frames())
    assert source.dropped == {"corrupt": 6}
    assert [frame.index for frame in frames] == [*range(23), *range(29, 59)]


def test_stream_that_breaks_off_is_opened_again() -> None:
    with http_server(_Body("video/mp2t", encode_ts(20), seconds=0.005)) as url:
        source = live(url, max_frames=45, timeout_seconds=3)
        source.open()
        frames = list(source.frames())
    assert len(frames) == 45
    assert_rising(frames)
    assert source.reconnects >= 2


def test_hls_comes_in_segments() -> None:
    """Silence between two segments is longer than the deadline and no reason to connect again."""
    segment = b"".join(encode_ts(20))
    started = time.monotonic()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            count = 1 + (time.monotonic() - started > 2 * _DEADLINE_SECONDS)
            entries = "".join(f"#EXTINF:0.8,\nseg{n}.ts\n" for n in range(count))
            playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n{entries}"
            body = playlist.encode() if self.path.endswith(".m3u8") else segment
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serve_http(Handler) as base:
        source = live(f"{base}/live.m3u8", max_frames=30)
        source.open()
        frames = list(source.frames())
    assert len(frames) == 30
    assert_rising(frames)
    assert source.reconnects == 0


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("ftp://host/x", {}, "starts with one of"),
        ("rtsp:///x", {}, "names no host"),
        ("rtsp://u:geheim@host:99999/x", {}, "not a valid address"),
        ("rtsp://host/x", {"timeout_seconds": 0}, "timeout"),
        ("rtsp://host/x", {"retries": -1}, "retries"),
        ("rtsp://host/x", {"transport": "smoke"}, "tcp, udp, auto"),
        ("rtsp://host/x", {"max_frames": 0}, "max_frames"),
        ("rtsp://host/x", {"duration_seconds": 0}, "duration"),
        ("rtsp://host/x", {"username": "u"}, "together"),
    ],
)
def test_arguments_that_mean_nothing(url: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        live(url, **options)
    assert "geheim" not in repr(caught.value)


def test_frames_before_open() -> None:
    with pytest.raises(SourceError, match="not open"):
        next(iter(live("rtsp://127.0.0.1:9/x").frames()))

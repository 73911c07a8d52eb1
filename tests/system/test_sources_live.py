"""Live sources against a real RTSP server that misbehaves on demand."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.core.contracts import Source
from streamdepth.core.errors import SourceError, UsageError
from streamdepth.sources.live.source import LiveState
from tests.support import silent_dns
from tests.support.live import DEADLINE_SECONDS, Consumer, assert_rising, live
from tests.support.rtsp import GstServer, listener, say_garbage, say_nothing, unanswered_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket

    from numpy.typing import NDArray

    from streamdepth.core.frame import Frame


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
        assert consumer.wait_for(before + 5)
        assert_rising(consumer.frames)
        assert {(f.width_px, f.height_px, f.image.format.name) for f in consumer.frames} == {(160, 96, "yuv420p")}
        last, first = consumer.frames[before - 1], consumer.frames[before]
        clock_seconds = (first.captured_ns - last.captured_ns) / 1e9
        assert first.seconds - last.seconds == pytest.approx(clock_seconds, abs=0.01)
        assert consumer.source.reconnects >= 1
        assert consumer.source.status["rescaled"]


def luma_of(frame: Frame) -> NDArray[np.uint8]:
    return np.asarray(frame.image.to_ndarray()[: frame.height_px], np.uint8)


@pytest.mark.parametrize(
    ("size", "rows", "columns"),
    [("320x96", slice(24, 72), slice(None)), ("96x96", slice(None), slice(32, 128))],
    ids=["wider", "narrower"],
)
def test_camera_that_comes_back_with_another_shape_keeps_it(size: str, rows: slice, columns: slice) -> None:
    """160x96 at first. White everywhere, so that what is not image shows."""
    with GstServer(pattern="white") as server, Consumer(live(server.url("/cam"), timeout_seconds=3)) as consumer:
        assert consumer.wait_for(2)
        assert luma_of(consumer.frames[0]).min() > 225
        server.kill()
        assert wait_until(lambda: consumer.source.state is not LiveState.LIVE)
        before = len(consumer.frames)
        server.start(size=size, pattern="white")
        assert consumer.wait_for(before + 1)
        assert consumer.source.status["rescaled"]
        luma = luma_of(consumer.frames[before])
        assert luma.shape == (96, 160)
        shown = np.zeros_like(luma, dtype=bool)
        shown[rows, columns] = True
        assert luma[shown].min() > 225
        assert luma[~shown].max() < 30


def test_server_that_stands_still() -> None:
    with GstServer() as server, Consumer(live(server.url("/cam"))) as consumer:
        assert consumer.wait_for(5)
        server.freeze()
        assert wait_until(lambda: consumer.source.last_error != "", 10 * DEADLINE_SECONDS)
        before = len(consumer.frames)
        server.thaw()
        assert consumer.wait_for(before + 5)
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
        assert time.monotonic() - started < 5 * DEADLINE_SECONDS
        assert "geheim" not in repr(caught.value)


def test_nothing_listens() -> None:
    with unanswered_port() as port, pytest.raises(SourceError, match=r"no answer|no data"):
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


def test_name_server_that_never_answers() -> None:
    """Real look-ups, which no deadline of libav's bounds."""
    found = silent_dns.ask()
    assert found["open"] < silent_dns.TIMEOUT_SECONDS + 1
    assert found["publish"] < silent_dns.TIMEOUT_SECONDS + 1
    assert max(found["close"], found["interrupt"], found["publish close"]) < 1


def test_calls_that_hang_are_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, where the system gives no namespaces; and only so many hang at a time."""
    release = threading.Event()
    calls: list[str] = []

    def hang(url: str, **_: object) -> None:
        calls.append(url)
        release.wait(60)
        raise OSError("released")

    monkeypatch.setattr(av, "open", hang)
    try:
        source = live("rtsp://camera/x", timeout_seconds=0.2, retries=3)
        started = time.monotonic()
        with pytest.raises(SourceError, match="earlier connections have not ended yet"):
            source.open()
        source.close()
        # Four attempts and three waits between them, of 2 s together at most.
        assert time.monotonic() - started < 5
        assert len(calls) == 3
    finally:
        release.set()


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


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("ftp://host/x", {}, "use one of"),
        ("rtsp:///x", {}, "has no host"),
        ("rtsp://u:geheim@host:99999/x", {}, "not a valid address"),
        ("rtsp://host/x", {"timeout_seconds": 0}, "timeout"),
        ("rtsp://host/x", {"retries": -1}, "retries"),
        ("rtsp://host/x", {"transport": "smoke"}, "tcp, udp, auto"),
        ("rtsp://host/x", {"max_frames": 0}, "max-frames"),
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

"""Publishing to a real RTSP server that misbehaves on demand, and to ffmpeg."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from random import Random
from typing import TYPE_CHECKING

import av
import pytest

from streamdepth.core.contracts import Sink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.look import Look, LookControl
from streamdepth.sinks.rtsp.publish import RtspPublishSink
from tests.support import need
from tests.support.rtsp import (
    Feeder,
    GstServer,
    end_process,
    image_info,
    listener,
    make_result,
    say_garbage,
    say_nothing,
    stream_info,
    unanswered_port,
    wait_until,
    watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DEADLINE_SECONDS = 1.0


@contextlib.contextmanager
def publishing(url: str, **options: object) -> Iterator[RtspPublishSink]:
    defaults: dict[str, object] = {"timeout_seconds": _DEADLINE_SECONDS, "environ": {}, "random": Random(1)}
    sink = RtspPublishSink(url, control=LookControl(Look()), **(defaults | options))  # type: ignore[arg-type]
    sink.open(stream_info(), image_info())
    try:
        yield sink
    finally:
        started = time.monotonic()
        sink.close()
        assert time.monotonic() - started < 2
        assert not [t for t in threading.enumerate() if t.name.startswith("rtsp-publish rtsp")]


def test_server_takes_and_plays_it() -> None:
    with GstServer() as server, publishing(server.url("/in")) as sink, Feeder(sink) as feeder:
        assert isinstance(sink, Sink)
        assert wait_until(lambda: sink.state == "live")
        images = watch(server.url("/relay"), 20)
        assert len(images) == 20
        assert (images[0].width, images[0].height) == (160, 90)
        assert wait_until(lambda: sink.status["sent"] != 0)
        assert feeder.error is None


def test_server_killed_and_back() -> None:
    with GstServer() as server, publishing(server.url("/in")) as sink, Feeder(sink) as feeder:
        assert wait_until(lambda: sink.state == "live")
        server.kill()
        assert wait_until(lambda: sink.state == "waiting")
        assert sink.last_error
        server.start()
        assert wait_until(lambda: sink.state == "live")
        assert len(watch(server.url("/relay"), 5)) == 5
        assert sink.reconnects == 1
        assert "connected again" in sink.note
    given, lost = feeder.given, sum(sink.dropped.values())
    sent, repeated = sink.status["sent"], sink.status["repeated"]
    assert isinstance(sent, int)
    assert isinstance(repeated, int)
    # What was given was sent or dropped by cause; one may be waiting still.
    assert 0 <= given - lost - (sent - repeated) <= 1
    assert feeder.worst_seconds < 0.5


def test_server_that_stands_still_is_noticed() -> None:
    """At a bit rate the kernel's buffers would hide for minutes."""
    with GstServer() as server, publishing(server.url("/in")) as sink, Feeder(sink) as feeder:
        assert wait_until(lambda: sink.state == "live" and sink.status["sent"] != 0)
        # It must have answered once, or it counts as a server that never does.
        assert len(watch(server.url("/relay"), 3)) == 3
        server.freeze()
        assert wait_until(lambda: "does not respond" in sink.last_error, 5 * _DEADLINE_SECONDS)
        server.thaw()
        assert wait_until(lambda: sink.state == "live")
        assert feeder.worst_seconds < 0.5


@pytest.mark.parametrize("method", ["basic", "digest"])
def test_credentials(method: str) -> None:
    with GstServer(auth="us er:p@ss/w:rd", method=method) as server:
        with publishing(server.url("/in", "us%20er:p%40ss%2Fw%3Ard@")) as sink, Feeder(sink):
            assert wait_until(lambda: sink.state == "live")
            assert "p@ss" not in f"{sink.name}{sink.status}"
        with publishing(server.url("/in", "us%20er:wr0ng@"), retries=0) as sink:
            assert wait_until(lambda: sink.state == "failed")
            with pytest.raises(SinkError, match="401") as caught:
                sink.process(make_result(0))
            assert "wr0ng" not in repr(caught.value)


@pytest.mark.parametrize(("path", "text"), [("/nope", "404"), ("/cam", "answered|404")])
def test_refused_path(path: str, text: str) -> None:
    with GstServer() as server, publishing(server.url(path), retries=1) as sink:
        assert wait_until(lambda: sink.state == "failed")
        with pytest.raises(SinkError, match=text):
            sink.process(make_result(0))


@pytest.mark.parametrize(
    ("talk", "text"), [(say_nothing, "no answer to OPTIONS"), (say_garbage, "does not speak RTSP"), (None, "in time")]
)
def test_listener_that_is_no_server(talk: Callable[[socket.socket], None] | None, text: str) -> None:
    with unanswered_port() if talk is None else listener(talk) as port:
        with publishing(f"rtsp://u:geheim@127.0.0.1:{port}/x") as sink, Feeder(sink) as feeder:
            assert wait_until(lambda: text in sink.last_error), sink.last_error
            assert feeder.worst_seconds < 0.5
            assert "geheim" not in f"{sink.name}{sink.status}"
            assert wait_until(lambda: sink.dropped.get("disconnected", 0) > 3)
        assert set(sink.dropped) == {"disconnected"}


@pytest.mark.parametrize("place", ["connect", "answer"])
def test_interrupt_within_a_second(place: str) -> None:
    with (
        unanswered_port() if place == "connect" else listener(say_nothing) as port,
        publishing(f"rtsp://127.0.0.1:{port}/x", timeout_seconds=30) as sink,
    ):
        assert wait_until(lambda: sink.state == "connecting")


def test_look_up_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        release.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with publishing("rtsp://relay/x") as sink, Feeder(sink) as feeder:
            assert wait_until(lambda: "no address found" in sink.last_error, 5 * _DEADLINE_SECONDS)
            assert feeder.worst_seconds < 0.5
        with publishing("rtsp://relay/x", timeout_seconds=30) as sink:
            assert wait_until(lambda: sink.state == "connecting")
    finally:
        release.set()


def test_server_that_reads_nothing_cannot_hold_it() -> None:
    """Full buffers block a send; process() goes on and close() cuts it."""

    def consent_then_nothing(client: socket.socket) -> None:
        data, answered = b"", 0
        while answered < 4:
            data += client.recv(65536)
            # One answer a request; of the requests only ANNOUNCE has a body, which holds no such line.
            seen = data.count(b"CSeq: ")
            while answered < seen:
                answered += 1
                client.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {answered}\r\nSession: 1\r\n\r\n".encode())
        done.wait(20)

    done = threading.Event()
    with listener(consent_then_nothing) as port:
        with (
            publishing(f"rtsp://127.0.0.1:{port}/x", bitrate=40_000_000) as sink,
            Feeder(sink, width_px=640, height_px=360, noise=True) as feeder,
        ):
            assert wait_until(lambda: "does not respond" in sink.last_error, 20)
            assert feeder.worst_seconds < 0.5
        done.set()


def test_ffmpeg_records_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    target = tmp_path / "out.mkv"
    url = f"rtsp://127.0.0.1:{port}/live"
    command = [
        need.program("ffmpeg"),
        "-v",
        "error",
        "-rtsp_flags",
        "listen",
        "-i",
        url,
        "-c",
        "copy",
        "-frames:v",
        "30",
    ]
    player = subprocess.Popen([*command, str(target)], text=True)
    try:
        with publishing(url) as sink, Feeder(sink):
            assert player.wait(30) == 0
    finally:
        end_process(player)
    with av.open(str(target)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 25


def test_steady_pace_without_input() -> None:
    with GstServer() as server, publishing(server.url("/in"), rate=20) as sink:
        assert wait_until(lambda: sink.state == "live")
        sink.process(make_result(0))
        assert len(watch(server.url("/relay"), 20)) == 20
        assert sink.status["repeated"] != 0
        sink.flush()


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("http://h/x", {}, "rtsp://"),
        ("rtsp://h/x", {"timeout_seconds": 0}, "timeout"),
        ("rtsp://h/x", {"retries": -1}, "retries"),
        ("rtsp://h/x", {"rate": 500}, "rate"),
        ("rtsp://h/x", {"bitrate": 5}, "bitrate"),
    ],
)
def test_arguments_that_mean_nothing(url: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        RtspPublishSink(url, control=LookControl(Look()), environ={}, **options)  # type: ignore[arg-type]


def test_needs_images() -> None:
    sink = RtspPublishSink("rtsp://h/x", control=LookControl(Look()), environ={})
    with pytest.raises(SinkError, match="look"):
        sink.open(stream_info(), None)

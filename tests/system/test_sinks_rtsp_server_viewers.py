"""Viewers of the RTSP server that are many, slow, frozen, dead or no viewers at all."""

from __future__ import annotations

import base64
import contextlib
import random
import selectors
import signal
import socket
import subprocess
import threading
import time

import pytest

from streamdepth.core.errors import SinkError
from streamdepth.sinks.rtsp.delivery import Settings
from streamdepth.sinks.rtsp.server import RtspServer
from tests.support import need
from tests.support.rtsp import (
    Feeder,
    RawClient,
    end_process,
    image_info,
    stream_info,
    wait_until,
    watch,
)
from tests.support.rtsp_server import make_sink, serving, url_of


def test_garbage_and_half_open_connections_harm_nobody() -> None:
    settings = Settings(idle_seconds=1.0)
    with serving(settings=settings) as sink, Feeder(sink):
        for start in (
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            b"OPTIONS * RTSP/1.0\r\nContent-Length: 999999999\r\n\r\n",
            b"A" * 20_000,
        ):
            with RawClient(sink.port) as client:
                with contextlib.suppress(OSError):
                    client.socket.sendall(start + random.Random(3).randbytes(50_000))
                assert client.closed()
        with RawClient(sink.port) as half, RawClient(sink.port) as mute:
            half.socket.sendall(b"DESCRIBE rtsp://")
            assert len(watch(url_of(sink), 3)) == 3
            assert half.closed()
            assert mute.closed()
        assert wait_until(lambda: sink.status["connections"] == 0)
        events = sink.status["events"]
        assert isinstance(events, dict)
        assert events["garbage"] >= 3
        assert events["idle"] >= 2


def test_limit_on_clients() -> None:
    with serving(max_clients=2) as sink, Feeder(sink), RawClient(sink.port) as first, RawClient(sink.port) as second:
        setup = {"Transport": "RTP/AVP/TCP;unicast"}
        assert first.request("SETUP", **setup)[0] == second.request("OPTIONS")[0] == 200
        with RawClient(sink.port) as third:
            assert third.request("SETUP", **setup)[0] == 200
            assert second.closed()  # had no session
            with RawClient(sink.port) as fourth:
                assert fourth.request("OPTIONS")[0] == 503
                assert fourth.closed()
        assert first.request("DESCRIBE")[0] == 200


def test_requests_that_trickle_do_not_keep_connections() -> None:
    settings = Settings(max_clients=4, idle_seconds=1.0)
    with serving(settings=settings) as sink, Feeder(sink):
        clients = [RawClient(sink.port) for _ in range(20)]
        try:
            for _ in range(12):
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.socket.sendall(b"O")
                threading.Event().wait(0.1)
            assert len(watch(url_of(sink), 3)) == 3
            assert all(client.closed() for client in clients)
        finally:
            for client in clients:
                client.socket.close()


def test_a_connection_must_become_a_viewer_in_time() -> None:
    settings = Settings(setup_seconds=1.0)
    with serving(settings=settings) as sink, RawClient(sink.port) as client:
        with contextlib.suppress(OSError, ValueError, IndexError):
            while client.request("OPTIONS")[0] == 200:
                threading.Event().wait(0.1)
        assert client.closed()
        assert wait_until(lambda: sink.status["connections"] == 0)


def test_a_paused_session_is_kept_for_its_timeout() -> None:
    settings = Settings(idle_seconds=0.2, session_seconds=20)
    with serving(settings=settings) as sink, Feeder(sink), RawClient(sink.port) as client:
        _, headers, _ = client.request("SETUP", Transport="RTP/AVP/TCP;unicast")
        session = headers["session"].partition(";")[0]
        assert client.request("PLAY", Session=session)[0] == 200
        assert client.request("PAUSE", Session=session)[0] == 200
        threading.Event().wait(1.5)  # several checks after idle_seconds
        assert client.request("PLAY", Session=session)[0] == 200


def test_wrong_passwords_are_answered_one_after_the_other() -> None:
    wrong = {"Authorization": f"Basic {base64.b64encode(b'user:wrong').decode()}"}
    right = {"Authorization": f"Basic {base64.b64encode(b'user:password').decode()}"}
    with serving("rtsp://user:password@127.0.0.1:0/depth") as sink:
        clients = [RawClient(sink.port) for _ in range(6)]
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda one=one: answers.append(one.request("DESCRIBE", **wrong)[0]))
            for one in clients
        ]
        started = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            with RawClient(sink.port) as client:
                assert client.request("DESCRIBE", **right)[0] == 200  # is not delayed
            assert len(answers) < 6
            for thread in threads:
                thread.join(20)
            assert answers == [401] * 6
            assert time.monotonic() - started > 1.5  # 0.3 s each
        finally:
            for one in clients:
                one.socket.close()


def test_requests_behind_a_wrong_password_do_not_accumulate() -> None:
    wrong = f"Authorization: Basic {base64.b64encode(b'user:wrong').decode()}"
    with serving("rtsp://user:password@127.0.0.1:0/depth") as sink:
        clients = [RawClient(sink.port) for _ in range(5)]
        try:
            for client in clients:
                client.socket.settimeout(1)
                client.socket.sendall(f"DESCRIBE {client.url} RTSP/1.0\r\nCSeq: 1\r\n{wrong}\r\n\r\n".encode())
            with contextlib.suppress(TimeoutError, ConnectionError):
                clients[-1].socket.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n" * 300_000)
            assert sink._server._hub is not None
            assert max(len(viewer._waiting) for viewer in sink._server._hub._viewers) < 10_000
        finally:
            for client in clients:
                client.socket.close()


def test_streams_share_a_server() -> None:
    server = RtspServer("rtsp://127.0.0.1:0", environ={})
    first = make_sink("rtsp://127.0.0.1:0/a", server=server)
    second = make_sink("rtsp://127.0.0.1:0/b", server=server)
    taken = make_sink("rtsp://127.0.0.1:0/a", server=server)
    first.open(stream_info(160, 90), image_info(160, 90))
    second.open(stream_info(320, 180), image_info(320, 180))
    try:
        with pytest.raises(SinkError, match="path /a is served already"):
            taken.open(stream_info(160, 90), image_info(160, 90))
        assert first.port == second.port > 0
        url = f"rtsp://127.0.0.1:{first.port}"
        assert first.name == f"{url}/a"
        with Feeder(first), Feeder(second, width_px=320, height_px=180):
            assert {(image.width, image.height) for image in watch(f"{url}/a", 3)} == {(160, 90)}
            assert {(image.width, image.height) for image in watch(f"{url}/b", 3)} == {(320, 180)}
            with RawClient(first.port) as client:
                assert client.request("DESCRIBE", f"{url}/c")[0] == 404
                assert client.request("SETUP", f"{url}/a", Transport="RTP/AVP/TCP;unicast")[0] == 200
                assert client.request("PLAY", f"{url}/b")[0] == 404  # not the stream of this session
            first.close()
            assert {(image.width, image.height) for image in watch(f"{url}/b", 3)} == {(320, 180)}
    finally:
        first.close()
        second.close()
    assert not server.alive


def test_killed_viewer() -> None:
    with serving() as sink, Feeder(sink) as feeder:
        command = [
            need.program("ffmpeg"),
            "-v",
            "quiet",
            "-rtsp_transport",
            "tcp",
            "-i",
            url_of(sink),
            "-f",
            "null",
            "-",
        ]
        player = subprocess.Popen(command, text=True)
        assert wait_until(lambda: sink.viewers == 1)
        end_process(player)
        assert wait_until(lambda: sink.viewers == 0)
        assert len(watch(url_of(sink), 3)) == 3
        assert feeder.error is None


@need.posix_signals
def test_frozen_viewer_skips_and_harms_nobody() -> None:
    settings = Settings(backlog_bytes=100_000, stall_seconds=60)
    with serving(width_px=320, height_px=180, settings=settings) as sink:
        feeder = Feeder(sink, width_px=320, height_px=180, noise=True)
        with feeder:
            command = [
                need.program("ffmpeg"),
                "-v",
                "quiet",
                "-rtsp_transport",
                "tcp",
                "-i",
                url_of(sink),
                "-f",
                "null",
                "-",
            ]
            player = subprocess.Popen(command, text=True)
            try:
                assert wait_until(lambda: sink.viewers == 1)
                player.send_signal(signal.SIGSTOP)
                assert wait_until(lambda: "slow_viewer" in str(sink.status["skipped_by_viewers"]), 20)
                assert len(watch(url_of(sink), 10)) == 10
                player.send_signal(signal.SIGCONT)
                assert wait_until(lambda: sink.viewers == 1)
            finally:
                end_process(player)
            assert feeder.error is None
            assert feeder.worst_seconds < 1.0


def test_viewer_that_stays_frozen_is_cut_off() -> None:
    settings = Settings(backlog_bytes=50_000, stall_seconds=0.5)
    with serving(width_px=320, height_px=180, settings=settings) as sink:
        feeder = Feeder(sink, width_px=320, height_px=180, noise=True)
        with feeder, RawClient(sink.port, receive_bytes=20_000) as client:
            client.play()
            assert wait_until(lambda: "frozen" in str(sink.status["events"]), 20)
            assert wait_until(lambda: sink.status["connections"] == 0)


def test_silent_udp_viewer_is_forgotten() -> None:
    settings = Settings(session_seconds=0.5)
    with serving(settings=settings) as sink, Feeder(sink), RawClient(sink.port) as client:
        with socket.socket(type=socket.SOCK_DGRAM) as ears:
            ears.bind(("127.0.0.1", 0))
            ears.settimeout(5)
            port = ears.getsockname()[1]
            _, headers, _ = client.request("SETUP", Transport=f"RTP/AVP;unicast;client_port={port}-{port + 1}")
            assert "server_port=" in headers["transport"]
            client.request("PLAY", Session=headers["session"].partition(";")[0])
            assert len(ears.recv(2048)) > 12
            assert client.closed()
        assert wait_until(lambda: sink.viewers == 0)


def test_fifty_viewers() -> None:
    """Eight whole players and 42 that only take packets, at once; each must get images."""
    with serving() as sink, Feeder(sink) as feeder:
        url = url_of(sink)
        full: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: full.append(len(watch(url, 20, transport=("tcp", "udp")[n % 2]))))
            for n in range(6)
        ]
        command = [
            need.program("ffmpeg"),
            "-v",
            "error",
            "-rtsp_transport",
            "tcp",
            "-i",
            url,
            "-frames:v",
            "20",
            "-f",
            "null",
            "-",
        ]
        players = [subprocess.Popen(command, text=True) for _ in range(2)]
        clients = [RawClient(sink.port) for _ in range(42)]
        try:
            for thread in threads:
                thread.start()
            for client in clients:
                client.play()
            assert sink.viewers >= 42
            assert all(count >= 5 for count in count_images(clients, 5))
            for thread in threads:
                thread.join(30)
            assert full == [20] * 6
            assert [player.wait(30) for player in players] == [0, 0]
        finally:
            for client in clients:
                client.socket.close()
            for player in players:
                end_process(player)
        assert wait_until(lambda: sink.status["connections"] == 0)
        assert feeder.error is None


def count_images(clients: list[RawClient], wanted: int) -> list[int]:
    """Read all clients until each has seen ``wanted`` marker bits or 20 s passed."""
    counts = [0] * len(clients)
    deadline = time.monotonic() + 20
    with selectors.DefaultSelector() as selector:
        for number, client in enumerate(clients):
            selector.register(client.socket, selectors.EVENT_READ, number)
        while min(counts) < wanted and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                client = clients[key.data]
                client.data += client.socket.recv(65536)
                while len(client.data) >= 4 and len(client.data) >= 4 + int.from_bytes(client.data[2:4], "big"):
                    channel, packet = client.packet()
                    counts[key.data] += channel == 0 and packet[1] >> 7
    return counts

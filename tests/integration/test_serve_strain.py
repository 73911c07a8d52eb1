"""A site under strain: garbage, frozen viewers, too many of them, a taken port, and its end."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.core.errors import SinkError, UsageError
from streamdepth.serve import live_api
from streamdepth.serve.api import LOGGER
from streamdepth.serve.options import WebSettings
from streamdepth.serve.site import WebSite
from tests.support.web import TOKEN, Running, eventually, http, read_parts, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def run() -> Iterator[Running]:
    with running() as started:
        yield started


def test_a_taken_port_is_an_error(run: Running) -> None:
    site = WebSite(run.url, environ={})
    with pytest.raises(SinkError, match="cannot listen"):
        site.start()
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        url = f"http://[::1]:{taken.getsockname()[1]}"
        with pytest.raises(SinkError, match=re.escape(f"{url}: cannot listen")):
            WebSite(url, environ={}).start()


def test_limits_are_checked() -> None:
    with pytest.raises(UsageError, match="max_viewers"):
        WebSettings(max_viewers=0)


def test_unknown_places_and_methods_are_one_line(run: Running) -> None:
    assert http(f"{run.url}/nosuch").status == 404
    answer = http(f"{run.url}/v1/control")
    assert answer.status == 405
    assert "POST" in answer.error
    assert http(f"{run.url}/v1/control", body=b"{", kind="application/json").status == 400
    assert http(f"{run.url}/v1/control", body=b"{}", kind="text/plain").status == 415
    assert http(f"{run.url}/v1/control", body=b"x" * 70_000, kind="application/json").status == 413
    assert http(f"{run.url}/v1/live/offer", body={"type": "offer", "sdp": "v=0 nonsense"}).status == 400
    assert http(f"{run.url}/v1/live/offer", body={"type": "answer"}).status == 400
    assert http(f"{run.url}/v1/depth", body=b"x").status == 404  # no model was given


def test_garbage_and_half_open_connections_harm_nobody(run: Running, caplog: pytest.LogCaptureFixture) -> None:
    port = run.site.port
    garbage = [
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 200_000,
        b"POST /v1/control HTTP/1.1\r\nHost: x",
        f"BAD\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode(),
        f"BAD\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode(),
    ]
    open_ones = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    try:
        for data in garbage:
            with socket.create_connection(("127.0.0.1", port)) as one:
                one.sendall(data)
        assert http(f"{run.url}/healthz").status == 200
    finally:
        for one in open_ones:
            one.close()
    assert TOKEN not in caplog.text
    assert {record.name for record in caplog.records if record.levelname == "ERROR"} <= {LOGGER}


_UPGRADE = (
    b"GET /v1/live/socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: %d\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_a_handshake_that_is_not_valid_is_one_line(run: Running) -> None:
    with socket.create_connection(("127.0.0.1", run.site.port), 5) as client:
        client.sendall(_UPGRADE % 99)
        assert b"the WebSocket handshake is not valid; open the page again" in client.recv(65536)


def test_a_flood_of_messages_leaves_turns_to_others(run: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    many, answered = 2000, 0
    answer = live_api._answer

    def counted(channel: Any, text: str) -> dict[str, Any]:
        nonlocal answered
        answered += 1
        return answer(channel, text)

    async def most_in_a_row() -> int:
        most = before = 0
        while answered < many:
            await asyncio.sleep(0)
            most, before = max(most, answered - before), answered
        return most

    monkeypatch.setattr(live_api, "_answer", counted)
    assert run.site._live is not None
    most = asyncio.run_coroutine_threadsafe(most_in_a_row(), run.site._live._loop)
    with socket.create_connection(("127.0.0.1", run.site.port), 5) as client:
        client.sendall(_UPGRADE % 13 + b"\x81\x82\0\0\0\0{}" * many)
        assert most.result(30) < 10


@pytest.mark.slow
def test_a_frozen_viewer_is_cut_off_and_holds_up_nobody() -> None:
    with running(settings=WebSettings(stall_seconds=0.5), rate=60) as run:
        frozen = socket.socket()
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with frozen:
            frozen.connect(("127.0.0.1", run.site.port))
            frozen.sendall(b"GET /v1/live.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
            shown = run.site.view.feed.count
            eventually(lambda: run.site.view.feed.dropped.get("stalled viewer"), "it is cut off", 20)
            assert run.site.view.feed.count > shown + 5
            with urllib.request.urlopen(f"{run.url}/v1/live.mjpg", timeout=10) as answer:
                assert len(read_parts(answer, 3)) == 3


def test_viewers_and_connections_are_bounded() -> None:
    with running(settings=WebSettings(max_viewers=2, max_connections=6, max_rtc_viewers=1)) as run:
        viewers = [urllib.request.urlopen(f"{run.url}/v1/live.mjpg", timeout=10) for _ in range(2)]
        try:
            third = http(f"{run.url}/v1/live.mjpg")
            assert third.status == 503
            assert third.headers["retry-after"] == "5"
            # The timeout is shorter than the time for which an idle connection is kept.
            idle = [socket.create_connection(("127.0.0.1", run.site.port), timeout=10) for _ in range(10)]
            assert [one.recv(1) for one in idle[:6]] == [b""] * 6  # the oldest make room for the newest
            assert http(f"{run.url}/healthz").status == 200
            for one in idle:
                one.close()
        finally:
            for viewer in viewers:
                viewer.close()
        eventually(lambda: answers(run), "room again")


def test_requests_without_a_token_keep_no_connections_from_others() -> None:
    with running(token=TOKEN, settings=WebSettings(max_connections=4)) as run:
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{run.url}/v1/live.mjpg", headers=bearer)
        with urllib.request.urlopen(request, timeout=10) as viewer:
            login = f"POST /login HTTP/1.1\r\nHost: 127.0.0.1:{run.site.port}\r\nContent-Type: application/json\r\n"
            stalled = []
            for _ in range(6):
                stalled.append(socket.create_connection(("127.0.0.1", run.site.port), timeout=10))
                stalled[-1].sendall(f"{login}Content-Length: 100\r\n\r\n{{".encode())
                read_parts(viewer, 1)  # meanwhile the request begins
            assert http(f"{run.url}/v1/state", headers=bearer).status == 200
            assert len(read_parts(viewer, 3)) == 3
            for one in stalled:
                one.close()


def answers(run: Running) -> bool:
    try:
        return http(f"{run.url}/healthz").status == 200
    except OSError:
        return False


def test_it_stops_in_mid_stream() -> None:
    with running() as run:
        viewer = urllib.request.urlopen(f"{run.url}/v1/live.mjpg", timeout=10)
        read_parts(viewer, 1)
    viewer.read()
    viewer.close()
    with pytest.raises(ConnectionRefusedError):
        http(f"{run.url}/healthz")
    assert not [one for one in threading.enumerate() if one.name == f"web-server {run.url.removeprefix('http://')}"]

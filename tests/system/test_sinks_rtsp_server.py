"""The RTSP server against real players (libav, ffmpeg, GStreamer) and against what a client may ask."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamdepth.core.contracts import Sink
from streamdepth.core.errors import SinkError, UsageError
from tests.support import need
from tests.support.rtsp import (
    Feeder,
    RawClient,
    image_info,
    make_result,
    stream_info,
    wait_until,
    watch,
)
from tests.support.rtsp_server import make_sink, serving, url_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdepth.sinks.rtsp.server import RtspServerSink


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServerSink]:
    with serving() as sink, Feeder(sink):
        yield sink


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_libav_plays(server: RtspServerSink, transport: str) -> None:
    assert isinstance(server, Sink)
    assert server.name == url_of(server)
    images = watch(url_of(server), 15, transport=transport)
    assert len(images) == 15
    luma = images[-1].to_ndarray(format="yuv420p")[:90].astype(int)
    # A ramp that rises by 1 a column, wherever it stands, with a wrap at 200.
    steps = np.diff(luma, axis=1)
    assert np.median(steps) == 1
    assert 0 <= luma.min() <= luma.max() <= 255


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_ffmpeg_plays(server: RtspServerSink, transport: str) -> None:
    command = [need.program("ffmpeg"), "-v", "error", "-rtsp_transport", transport, "-i", url_of(server)]
    done = subprocess.run(
        [*command, "-frames:v", "10", "-f", "null", "-"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0
    # It may warn that its own grid of 1/25 s rounds two stamps to one; nothing may be wrong with what it got.
    assert not re.search(r"decod|missed|corrupt|NAL", done.stderr), done.stderr


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_gstreamer_plays(server: RtspServerSink, transport: str) -> None:
    elements = f"rtspsrc location={url_of(server)} protocols={transport} latency=0 ! rtph264depay ! h264parse"
    done = subprocess.run(
        [need.program("gst-launch-1.0"), "-q", *elements.split(), "!", "fakesink", "num-buffers=10"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def test_late_viewer_sees_a_image_soon(server: RtspServerSink) -> None:
    """Key frames come every 2 s by themselves; one has to be made for who joins in between."""
    watch(url_of(server), 3)
    waits = []
    for _ in range(3):
        started = time.monotonic()
        assert watch(url_of(server), 1)
        waits.append(time.monotonic() - started)
    assert min(waits) < 1.0
    assert max(waits) < 2.0


def test_steady_pace_without_input() -> None:
    """One image and then nothing: it is repeated at the output rate, its time stamps in step with the clock."""
    with serving(rate=20) as sink:
        sink.process(make_result(3))
        started = time.monotonic()
        images = watch(url_of(sink), 30)
        assert time.monotonic() - started > 1.0
        assert sink.status["repeated"]
    stamps = [image.time for image in images if image.pts is not None]
    assert np.median(np.diff(stamps)) == pytest.approx(0.05, abs=0.02)


def test_describe(server: RtspServerSink) -> None:
    with RawClient(server.port) as client:
        status, headers, body = client.request("OPTIONS", "*")
        assert status == 200
        assert {"DESCRIBE", "SETUP", "PLAY", "TEARDOWN", "GET_PARAMETER"} <= set(headers["public"].split(", "))
        status, headers, body = client.request("DESCRIBE", Accept="application/sdp")
        assert (status, headers["content-type"]) == (200, "application/sdp")
        sets = re.search(rb"sprop-parameter-sets=([^,;\r]+),([^;\r]+)", body)
        assert sets is not None
        sps, pps = base64.b64decode(sets[1]), base64.b64decode(sets[2])
        assert (sps[0] & 31, pps[0] & 31) == (7, 8)
        assert f"profile-level-id={sps[1:4].hex()}".encode() in body.lower()


def test_first_packets_are_a_report_and_a_key_frame_of_one_slice(server: RtspServerSink) -> None:
    with RawClient(server.port) as client:
        client.play()
        channel, report = client.packet()
        assert (channel, report[1], len(report) % 4) == (1, 200, 0)
        kinds = []
        while True:
            channel, packet = client.packet()
            assert channel == 0
            assert (packet[0], packet[1] & 0x7F) == (0x80, 96)
            kind = packet[12] & 31
            if kind == 24:
                rest = packet[13:]
                while rest:
                    size = int.from_bytes(rest[:2], "big")
                    kinds.append(rest[2] & 31)
                    rest = rest[2 + size :]
            elif kind != 28:
                kinds.append(kind)
            elif packet[13] & 0x80:
                kinds.append(packet[13] & 31)
            if packet[1] & 0x80:
                break
        assert [kind for kind in kinds if kind != 6] == [7, 8, 5]
        assert report[4:8] == packet[8:12]
        assert report[16:20] == packet[4:8]


def test_pause_and_keep_alive_and_teardown(server: RtspServerSink) -> None:
    with RawClient(server.port) as client:
        assert client.request("PLAY")[0] == 455
        _, headers, _ = client.request("SETUP", Transport="RTP/AVP/TCP;unicast")
        session, _, timeout = headers["session"].partition(";timeout=")
        assert int(timeout) == 60
        assert client.request("PLAY", Session="wrong")[0] == 454
        assert client.request("PLAY", Session=session)[0] == 200
        assert client.request("GET_PARAMETER", Session=session)[0] == 200
        assert client.request("PAUSE", Session=session)[0] == 200
        assert client.request("PLAY", Session=session)[0] == 200
        assert client.request("TEARDOWN", Session=session)[0] == 200
        assert client.request("PLAY", Session=session)[0] == 455
        client.play()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("DESCRIBE", "/nope", {}, 404),
        ("SETUP", "/depth", {"Transport": "RTP/AVP;multicast"}, 461),
        ("SETUP", "/depth", {"Transport": "RTP/AVP;unicast"}, 461),
        ("SETUP", "/depth", {"Transport": "RTP/AVP/TCP;unicast;interleaved=0-1;mode=record"}, 461),
        ("ANNOUNCE", "/depth", {}, 501),
        ("DESCRIBE", "/depth", {"Require": "implicit-play"}, 551),
    ],
)
def test_refusals(server: RtspServerSink, method: str, path: str, headers: dict[str, str], status: int) -> None:
    with RawClient(server.port) as client:
        assert client.request(method, f"rtsp://127.0.0.1:{server.port}{path}", **headers)[0] == status
        assert client.request("OPTIONS")[0] == 200


def test_digest_and_basic() -> None:
    with serving("rtsp://us%20er:p%40ss%2Fw@127.0.0.1:0/depth") as sink, Feeder(sink):
        assert "ss" not in sink.name.replace("127.0.0.1", "")
        with RawClient(sink.port) as client:
            assert client.request("OPTIONS")[0] == 200
            status, _, _ = client.request("DESCRIBE")
            assert status == 401
            wrong = base64.b64encode(b"us er:wrong").decode()
            assert client.request("DESCRIBE", Authorization=f"Basic {wrong}")[0] == 401
            right = base64.b64encode(b"us er:p@ss/w").decode()
            assert client.request("DESCRIBE", Authorization=f"Basic {right}")[0] == 200
            assert client.request("SETUP", Transport="RTP/AVP/TCP;unicast")[0] == 401
            # Digest by hand, RFC 2617 3.2.2.
            client.socket.sendall(f"DESCRIBE {client.url} RTSP/1.0\r\nCSeq: 77\r\n\r\n".encode())
            raw = b""
            while b"\r\n\r\n" not in raw:
                raw += client.socket.recv(4096)
            challenge = re.search(rb'Digest realm="([^"]+)", nonce="([^"]+)"', raw)
            assert challenge is not None
            assert b"WWW-Authenticate: Basic" in raw
            realm, nonce = challenge[1].decode(), challenge[2].decode()

            def md5(text: str) -> str:
                return hashlib.md5(text.encode()).hexdigest()

            for password, expected in (("p@ss/w", 200), ("other", 401)):
                response = md5(f"{md5(f'us er:{realm}:{password}')}:{nonce}:{md5(f'DESCRIBE:{client.url}')}")
                text = f'Digest username="us er", realm="{realm}", nonce="{nonce}", uri="{client.url}"'
                assert client.request("DESCRIBE", Authorization=f'{text}, response="{response}"')[0] == expected
            forged = md5(f"{md5(f'us er:{realm}:p@ss/w')}:1.abc:{md5(f'DESCRIBE:{client.url}')}")
            text = f'Digest username="us er", realm="{realm}", nonce="1.abc", uri="{client.url}"'
            assert client.request("DESCRIBE", Authorization=f'{text}, response="{forged}"')[0] == 401
        assert len(watch(url_of(sink, "us%20er:p%40ss%2Fw@"), 3)) == 3
        assert "unauthorized" in str(sink.status["events"])


def test_image_changes_size_in_mid_stream() -> None:
    with serving() as sink:
        sizes: set[tuple[int, int]] = set()

        def look() -> None:
            sizes.update((image.width, image.height) for image in watch(url_of(sink), 40))

        viewer = threading.Thread(target=look)
        with Feeder(sink):
            viewer.start()
            assert wait_until(lambda: sink.viewers == 1)
        with Feeder(sink, width_px=320, height_px=182):
            viewer.join(20)
        assert sizes == {(160, 90), (320, 182)}


def test_port_in_use(server: RtspServerSink) -> None:
    with pytest.raises(SinkError, match=r"cannot listen \(address already in use\); choose another port"):
        make_sink(f"rtsp://127.0.0.1:{server.port}/x").open(stream_info(), image_info())


def test_closed_server_says_goodbye_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with serving() as sink:
        client = RawClient(sink.port)
        client.play()
        stuck = RawClient(sink.port)
        started = time.monotonic()
        sink.close()
        assert time.monotonic() - started < 2
        sink.close()
    with client, stuck:
        kinds = []
        with contextlib.suppress(OSError):
            while True:
                channel, packet = client.packet()
                if channel == 1:
                    kinds.append(packet[1])
        assert kinds[-1] == 203
        assert stuck.closed()
    assert sink.state == "closed"
    assert not set(threading.enumerate()) - before


def test_unwatched_images_are_counted_and_not_encoded() -> None:
    with serving() as sink:
        for index in range(5):
            sink.process(make_result(index))
        assert dict(sink.dropped) == {"unwatched": 5}
        assert sink.status["encoded"] == 0
        sink.flush()


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("http://127.0.0.1/x", {}, "rtsp://"),
        ("rtsp://127.0.0.1/x", {"max_clients": 0}, "max_clients"),
        ("rtsp://127.0.0.1/x", {"rate": 0}, "rate"),
        ("rtsp://127.0.0.1/x", {"bitrate": 1}, "bitrate"),
        ("rtsp://127.0.0.1/x", {"gop_seconds": 0}, "gop"),
        ("rtsp://127.0.0.1/x", {"preset": "warp"}, "preset"),
    ],
)
def test_arguments_that_mean_nothing(url: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make_sink(url, **options)


def test_beyond_loopback_only_with_a_password() -> None:
    with pytest.raises(UsageError, match="without a password"):
        make_sink("rtsp://0.0.0.0:0/depth").open(stream_info(), image_info())


def test_needs_images() -> None:
    with pytest.raises(SinkError, match="look"):
        make_sink().open(stream_info(), None)

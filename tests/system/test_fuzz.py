"""Mutated files through the command line, and mutated requests to the servers, for about a minute with a fixed seed.

``STREAMDEPTH_FUZZ_SECONDS`` and ``STREAMDEPTH_FUZZ_SEED`` make it longer and different.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING

import pytest

from streamdepth.image.estimator import DepthEstimator
from tests.support.fuzz import fuzz_server
from tests.support.rtsp import Feeder, RawClient
from tests.support.rtsp_server import serving
from tests.support.web import http, running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]
SECONDS = float(os.environ.get("STREAMDEPTH_FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("STREAMDEPTH_FUZZ_SEED", "1"))


def test_mutated_files(tmp_path: Path) -> None:
    share = SECONDS * 2 / 3
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.fuzz", str(SEED), str(share), str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=share + 90)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        pytest.fail(f"hung in {out.splitlines()[-1]}")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (process.returncode, errors) == (0, ""), (lines[-1], errors[-500:])
    cases = [line for line in lines if "case" in line]
    assert len(cases) >= 10
    assert not [case for case in cases if case["wrong"]]


def message(*lines: str, body: bytes = b"") -> bytes:
    """A request of HTTP or RTSP."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, *length, "", ""]).encode() + body


def http_requests() -> list[bytes]:
    host, kind = "Host: localhost", "Content-Type: application/json"
    look = {"style": "viridis", "alpha": [0.2, 0.9], "reverse": True, "contours": 3, "paused": False}
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\nabc\r\n--x--\r\n'
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    return [
        message("POST /v1/control HTTP/1.1", host, kind, body=json.dumps(look).encode()),
        message("GET /v1/live/probe?x=0.5&y=0.5 HTTP/1.1", host, "Accept: */*"),
        message("POST /v1/depth?digits=3 HTTP/1.1", host, "Content-Type: multipart/form-data; boundary=x", body=form),
        message("POST /v1/depth HTTP/1.1", host, kind, body=b'{"image": "aGVsbG8=", "alpha": [0.1, 1]}'),
        message("POST /login HTTP/1.1", host, kind, body=b'{"token": "x"}'),
        message("GET /v1/live/socket HTTP/1.1", host, *upgrade, key) + b"\x81\x85abcdabcde",
    ]


def rtsp_requests() -> list[bytes]:
    url, tcp = "rtsp://127.0.0.1/depth", "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"
    udp = "Transport: RTP/AVP;unicast;client_port=5000-5001"
    digest = 'Authorization: Digest username="u", realm="streamdepth", nonce="1.a", uri="x", response="y"'
    return [
        message("OPTIONS * RTSP/1.0", "CSeq: 1") + message(f"DESCRIBE {url} RTSP/1.0", "CSeq: 2"),
        message(f"SETUP {url}/trackID=0 RTSP/1.0", "CSeq: 1", tcp) + b"$\x01\x00\x04abcd",
        message(f"SETUP {url} RTSP/1.0", "CSeq: 1", udp) + message(f"PLAY {url} RTSP/1.0", "CSeq: 2", "Session: 1"),
        message(f"DESCRIBE {url} RTSP/1.0", "CSeq: 1", digest),
    ]


def test_mutated_http_requests() -> None:
    requests = http_requests()
    rng, ends = random.Random(SEED), time.monotonic() + SECONDS / 6
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="aiohttp")  # about malformed forms
        with DepthEstimator(provider="cpu") as estimator, running(stills=estimator) as run:
            while time.monotonic() < ends:
                faults = fuzz_server(rng, run.site.port, requests, lambda: http(f"{run.url}/healthz").status == 200)
                assert not faults


def test_mutated_rtsp_requests() -> None:
    requests = rtsp_requests()
    rng = random.Random(SEED)
    for url in ("rtsp://127.0.0.1:0/depth", "rtsp://u:p@127.0.0.1:0/depth"):
        ends = time.monotonic() + SECONDS / 12
        with serving(url) as sink, Feeder(sink):
            while time.monotonic() < ends:
                assert not fuzz_server(rng, sink.port, requests, lambda: answers(sink.port))


def answers(port: int) -> bool:
    with RawClient(port) as client:
        return client.request("OPTIONS")[0] == 200

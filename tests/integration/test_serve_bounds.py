"""What one request may take: memory, time, disk and places; and how requests that take too much are answered."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import os
import re
import threading
import time
import zlib
from struct import pack
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

from streamdepth.core.frame import DepthMap, Sense
from streamdepth.image.estimator import DepthEstimator
from tests.support.models import write_depth_model
from tests.support.stages import FakeEngine, fake_estimator
from tests.support.web import TOKEN, Answer, eventually, http, raw, running, site_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamdepth.serve.site import WebSite


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DepthEstimator]:
    model = write_depth_model(tmp_path_factory.mktemp("model") / "model.onnx", height=28, width=42)
    with DepthEstimator(model, sense="relative_inverse") as made:
        yield made


@pytest.fixture(scope="module")
def site(estimator: DepthEstimator) -> Iterator[WebSite]:
    with site_of(estimator, stall_seconds=1.0, body_seconds=2.0) as made:
        yield made


def png(width: int, height: int) -> bytes:
    """A black image of any size in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))

    head = pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(height)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def depth(site: WebSite, body: Any, query: str = "", **more: Any) -> Answer:
    return http(f"{site.address}/v1/depth{query}", body=body, **more)


# Size ---------------------------------------------------------------------------------------------------------------


def test_images_and_pixels_are_limited_per_request(site: WebSite) -> None:
    small, large = base64.b64encode(png(8, 8)).decode(), base64.b64encode(png(7000, 4000)).decode()
    assert len(depth(site, [small] * 16, "?data=none").json) == 16
    many = depth(site, [small] * 17)
    assert (many.status, "at most 16 images" in many.error) == (413, True)
    pixels = depth(site, [large, large])
    assert (pixels.status, "50,000,000 pixels" in pixels.error) == (413, True)


def test_pixels_of_tensors_are_limited(site: WebSite) -> None:
    values = {"type": "float32", "dims": [1, 3, 1600, 1600], "data": []}
    large = depth(site, json.dumps(values).encode(), kind="application/json")
    assert (large.status, "tensors have more than 2,359,296 pixels" in large.error) == (413, True)


@pytest.mark.parametrize("path", ["/v1/depth", "/v1/jobs?name=a.mp4", "/v1/control"])
def test_compressed_bodies_are_refused_and_not_unpacked(site: WebSite, path: str) -> None:
    for encoding, body in (("gzip", gzip.compress(bytes(1 << 20))), ("DEFLATE", b"abc"), ("gzip, identity", b"abc")):
        found = http(site.address + path, body=body, kind="image/png", headers={"Content-Encoding": encoding})
        assert (found.status, found.headers["accept-encoding"], "compressed" in found.error) == (415, "identity", True)


def test_an_unknown_expectation_is_refused_in_the_form_of_all_errors(site: WebSite) -> None:
    found = http(f"{site.address}/v1/depth", body=b"x", kind="image/png", headers={"Expect": "x"})
    assert (found.status, "100-continue" in found.error) == (417, True)
    assert found.headers["server"] == "streamdepth"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert depth(site, png(8, 8), "?data=none", kind="image/png", headers={"Expect": "100-continue"}).status == 200


def test_bodies_together_are_limited(estimator: DepthEstimator) -> None:
    head = b"POST /v1/depth HTTP/1.1\r\nHOST\r\nContent-Type: image/png\r\nContent-Length: 900000\r\n\r\n"
    with site_of(estimator, max_body_bytes=1 << 20, max_buffered_bytes=1 << 20, stall_seconds=30) as site:

        def refused() -> Any:
            with raw(site, head + bytes(800_000)):  # may be the one that is refused, if the server reads it later
                return answer if (answer := depth(site, bytes(700_000))).status == 503 else None

        assert eventually(refused, "503").headers["retry-after"] == "5"
        eventually(lambda: depth(site, png(8, 8), "?data=none").status == 200, "the memory is free again")


def test_a_large_body_does_not_stop_the_viewers(estimator: DepthEstimator) -> None:
    body = b"[" + b"[]," * 10_500_000 + b"[]]"
    with running(stills=estimator) as run:
        gaps = Gaps(run.site)
        assert depth(run.site, body, kind="application/json").status == 413
        assert gaps.worst() < 2.0


class Gaps(threading.Thread):
    """A viewer of the Motion JPEG that measures the time between frames."""

    def __init__(self, site: WebSite) -> None:
        super().__init__(daemon=True)
        self._connection = raw(site, b"GET /v1/live.mjpg HTTP/1.1\r\nHOST\r\n\r\n")
        self._last = time.monotonic()
        self._worst = 0.0
        self._first = threading.Event()
        self.start()
        assert self._first.wait(20)

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._connection.recv(65536):
                if b"X-Frame:" not in data:
                    continue
                now = time.monotonic()
                if self._first.is_set():
                    self._worst = max(self._worst, now - self._last)
                self._last = now
                self._first.set()

    def worst(self) -> float:
        found = max(self._worst, time.monotonic() - self._last)
        self._connection.close()
        return found


# Time ---------------------------------------------------------------------------------------------------------------


def test_stalled_forms_take_no_place(site: WebSite) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n'
    form = b"POST /v1/depth HTTP/1.1\r\nHOST\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    stalled = [raw(site, form + b"Content-Length: 1000\r\n\r\n" + head) for _ in range(6)]
    try:
        assert depth(site, png(8, 8), "?data=none").status == 200
        assert all(b" 408 " in one.recv(100) for one in stalled)
    finally:
        for one in stalled:
            one.close()


@pytest.mark.slow
def test_a_body_that_trickles_is_ended(site: WebSite) -> None:
    head = b"POST /v1/depth HTTP/1.1\r\nHOST\r\nContent-Type: image/png\r\nContent-Length: 100\r\n\r\n"
    with raw(site, head) as slow:
        slow.settimeout(0.2)
        answer = b""
        for _ in range(60):
            with contextlib.suppress(OSError):
                slow.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                answer = slow.recv(100)
                break
        assert b" 408 " in answer


def test_an_upload_has_a_least_rate() -> None:
    with site_of(fake_estimator(), stall_seconds=0.5, least_bytes_per_second=100_000) as site:
        with raw(site, b"POST /v1/jobs HTTP/1.1\r\nHOST\r\nContent-Length: 100000\r\n\r\n") as slow:
            slow.settimeout(0.1)
            answer = b""
            for _ in range(100):
                with contextlib.suppress(OSError):
                    slow.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    answer = slow.recv(200)
                    break
            assert b" 408 " in answer
        eventually(lambda: not http(f"{site.address}/v1/jobs").json, "no job is left")


@pytest.mark.slow
def test_an_answer_that_is_not_read_is_ended(estimator: DepthEstimator) -> None:
    with site_of(estimator, stall_seconds=0.5, least_bytes_per_second=1e9) as site:
        body = png(3000, 3000)
        for accept in (b"application/json", b"application/x-npy"):
            head = b"POST /v1/depth HTTP/1.1\r\nHOST\r\nContent-Type: image/png\r\nAccept: " + accept
            with raw(site, head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body, receive_bytes=4096) as unread:
                assert unread.recv(20).startswith(b"HTTP/1.1 200")
                threading.Event().wait(1.5)
                with contextlib.suppress(ConnectionResetError):
                    received = sum(map(len, iter(lambda: unread.recv(1 << 20), b"")))
                    assert received < 3000 * 3000 * 4  # cut off


def test_work_stops_when_the_client_leaves(tmp_path: Path) -> None:
    made: list[int] = []
    go = threading.Event()
    model = write_depth_model(tmp_path / "model.onnx", height=28, width=42)

    class Counting(DepthEstimator):
        def each(self, *inputs: Any, **options: Any) -> Any:
            for one in super().each(*inputs, **options):
                made.append(1)
                go.wait(20)
                yield one

    with Counting(model, sense="relative_inverse") as counting, site_of(counting) as site:
        body = json.dumps([base64.b64encode(png(8, 8)).decode()] * 16).encode()
        head = (
            f"POST /v1/depth HTTP/1.1\r\nHOST\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with raw(site, head.encode() + body):
            eventually(lambda: made, "the work begins")
        eventually(lambda: 'status="499"' in http(f"{site.address}/metrics").body.decode(), "the client has left")
        go.set()
        assert depth(site, png(8, 8), "?data=none").status == 200
        assert len(made) <= 3  # one of the first request, perhaps one more, and one of the second


# Videos -------------------------------------------------------------------------------------------------------------


def movie(path: Path, width: int, height: int) -> bytes:
    file = path / "clip.mov"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        frame = av.VideoFrame.from_ndarray(np.zeros((height, width), np.uint8), format="gray")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.read_bytes()


def finished(site: WebSite, data: bytes, name: str = "clip.mov") -> Any:
    answer = http(f"{site.address}/v1/jobs?name={name}", body=data, kind="application/octet-stream")
    url = site.address + answer.headers["location"]
    over = ("done", "failed")
    return eventually(lambda: job if (job := http(url).json)["state"] in over else None, "the job is over", 30)


def test_large_videos_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    with site_of(fake_estimator(), max_video_pixels=10_000) as site:
        job = finished(site, movie(tmp_path, 200, 100))
        assert (job["state"], "more than 10,000 pixels" in job["error"]) == ("failed", True)
        lying = movie(tmp_path, 200, 100).replace(pack(">HH", 200, 100), pack(">HH", 64, 48))
        job = finished(site, lying)
        assert job["state"] == "failed"


# Answers ------------------------------------------------------------------------------------------------------------


def test_forms_of_the_data(site: WebSite, estimator: DepthEstimator) -> None:
    image = png(60, 40)
    expected = estimator(image)
    assert depth(site, image, "?data=none", kind="image/png").json["data"] is None
    coded = depth(site, image, "?data=png16", kind="image/png").json
    codes = np.asarray(Image.open(io.BytesIO(base64.b64decode(coded["data"].partition(",")[2]))))
    assert codes.dtype == np.uint16
    assert np.allclose(codes * coded["scale"] + coded["offset"], expected.data, atol=coded["scale"])
    array = depth(site, image, "?data=npy_base64", kind="image/png").json["data"]
    assert np.array_equal(np.load(io.BytesIO(base64.b64decode(array))), expected.data)
    short = depth(site, image, "?digits=3", kind="image/png").json["data"]
    assert short == [float(f"{value:.3g}") for value in expected.data.ravel().tolist()]
    for query in ("?data=jpeg", "?digits=0", "?digits=x", "?data=none&digits=2"):
        assert depth(site, image, query, kind="image/png").status == 400
    assert depth(site, image, "?data=none", kind="image/png", headers={"Accept": "image/png"}).status == 400


def test_json_is_compressed_where_accepted(site: WebSite) -> None:
    plain = depth(site, png(60, 40), kind="image/png")
    packed = depth(site, png(60, 40), kind="image/png", headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body)) == plain.json
    assert len(packed.body) < len(plain.body) / 2


def test_values_that_are_not_finite_have_code_0() -> None:
    from streamdepth.sinks.depth import encoded_16bit

    values = np.array([[1.5, np.nan, np.inf, 2.5]], np.float32)
    codes, coding = encoded_16bit(values, Sense.METRIC_M)
    assert codes.tolist() == [[1500, 0, 0, 2500]]
    assert DepthMap(values, Sense.METRIC_M).values.shape == codes.shape
    assert (coding.scale, coding.offset) == (0.001, 0)


def cut_jpeg() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_truncated_images_are_422(site: WebSite, share: float) -> None:
    data = cut_jpeg()
    answer = depth(site, data[: int(len(data) * share)], kind="image/jpeg")
    assert (answer.status, "internal" in answer.error) == (422, False)


def test_only_rasters_are_opened(site: WebSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho x >> {ran}\necho 10.02.1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
    assert depth(site, eps).status == 422
    assert not ran.exists()


# Errors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/login", b"[" * 60_000, "application/json"),
        ("/login", b"{}", "application/json; charset=nope"),
        ("/v1/control", b'{"alpha":' + b"9" * 400 + b"}", "application/json"),
        ("/v1/control", b'{"alpha":[' + b"9" * 400 + b",1]}", "application/json"),
        ("/v1/control", b'{"contours":' + b"9" * 5000 + b"}", "application/json"),
        ("/v1/control", b'{"style":[[0,' + b"9" * 400 + b"]]}", "application/json"),
        ("/v1/depth", b"x", "multipart/form-data"),
        ("/v1/depth", b"abc", "multipart/form-data; boundary=y"),
        ("/v1/depth", b"--x\r\nnope", "multipart/form-data; boundary=x"),
        ("/v1/depth?alpha=1e999,x", b"x", "image/png"),
        ("/v1/depth", b'{"data": [1], "dims": [' + b"9" * 400 + b"]}", "application/json"),
        ("/v1/depth", b'{"type": "Buffer", "data": {"a": 1}}', "application/json"),
    ],
)
def test_garbage_is_an_error_of_the_client(site: WebSite, path: str, body: bytes, kind: str) -> None:
    answer = http(site.address + path, body=body, kind=kind)
    assert 400 <= answer.status < 500, answer.body
    assert "internal" not in answer.error


@pytest.mark.parametrize(
    "request_line", ["GET / HTTP/9.9", "NO", "GET /\x01 HTTP/1.1", "GET / HTTP/1.1\r\nBad Header: x"]
)
def test_aiohttp_errors_carry_the_headers(site: WebSite, request_line: str) -> None:
    with raw(site, f"{request_line}\r\n\r\n".encode()) as connection:
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head = answer.decode().lower()
    assert re.match(r"http/1\.[01] 400 ", head)
    assert "server: streamdepth\r\n" in head
    assert "x-content-type-options: nosniff" in head
    assert "aiohttp" not in head
    assert "python" not in head


def test_cookies_of_two_ports_do_not_clash() -> None:
    with running(token=TOKEN) as one, running(token=TOKEN) as two:
        cookies = [
            http(f"{run.url}/login", body={"token": TOKEN}).headers["set-cookie"].split(";")[0] for run in (one, two)
        ]
        assert cookies[0].partition("=")[0] != cookies[1].partition("=")[0]
        both = {"Cookie": "; ".join(cookies)}
        assert [http(f"{run.url}/v1/state", headers=both).status for run in (one, two)] == [200, 200]


def test_job_errors_name_nothing_of_the_server() -> None:
    engine = FakeEngine(1, before=fail)
    with site_of(fake_estimator(engine)) as site:
        file = io.BytesIO()
        with av.open(file, "w", format="matroska") as container:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(stream.encode(None))
        job = finished(site, file.getvalue(), "clip.mkv")
        assert job["state"] == "failed"
        assert "/" not in job["error"]
        assert "--" not in job["error"]


def fail(_: object) -> None:
    raise OSError("/home/someone/secret: cannot be read; use --option")

"""``POST /v1/depth`` with a real model behind it, and the Node-RED flow that uses it."""

from __future__ import annotations

import base64
import io
import json
import signal
import threading
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from streamdepth.image.estimator import DepthEstimator
from streamdepth.serve.options import WebSettings
from streamdepth.serve.site import WebSite
from tests.support import need
from tests.support.models import write_depth_model
from tests.support.paths import ROOT
from tests.support.web import Answer, eventually, http, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOW = ROOT / "configs" / "node-red-flow.json"
MOST_PIXELS = 40_000


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DepthEstimator]:
    model = write_depth_model(tmp_path_factory.mktemp("model") / "model.onnx", height=28, width=42)
    with DepthEstimator(model, sense="relative_inverse") as made:
        yield made


@pytest.fixture(scope="module")
def site(estimator: DepthEstimator) -> Iterator[WebSite]:
    settings = WebSettings(max_body_bytes=1 << 20, max_pixels=MOST_PIXELS, max_json_pixels=20_000)
    started = WebSite("http://127.0.0.1:0", estimator=estimator, settings=settings, environ={})
    started.start()
    yield started
    started.stop()


def image(width: int = 60, height: int = 40, form: str = "PNG") -> bytes:
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, form)
    return out.getvalue()


def depth(site: WebSite, body: Any, query: str = "", **more: Any) -> Answer:
    return http(f"{site.address}/v1/depth{query}", body=body, **more)


def wanted(estimator: DepthEstimator, data: Any, **options: Any) -> Any:
    return estimator(data, **options)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_a_image_gives_what_the_estimator_gives(site: WebSite, estimator: DepthEstimator, kind: str | None) -> None:
    answer = depth(site, image(), kind=kind)
    assert answer.status == 200
    assert answer.json == json.loads(json.dumps(wanted(estimator, image()).to_node()))
    assert answer.json["image"] is None
    assert (answer.json["width"], answer.json["height"], len(answer.json["data"])) == (60, 40, 2400)


def test_options_of_the_query(site: WebSite, estimator: DepthEstimator) -> None:
    answer = depth(site, image(), "?style=viridis&alpha=0.3,0.8&reverse=true", kind="image/png")
    expected = wanted(estimator, image(), style="viridis", alpha=(0.3, 0.8), reverse=True)
    assert answer.json["image"] == expected.to_node()["image"]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: text(data),
        lambda data: f"data:image/png;base64,{text(data)}",
        lambda data: {"image": text(data)},
        lambda data: {"payload": {"type": "Buffer", "data": list(data)}},
        lambda data: {"type": "Buffer", "data": list(data)},
        lambda data: {"input": text(data).replace("+", "-").replace("/", "_").rstrip("=")},
    ],
)
def test_json_forms_of_a_image(site: WebSite, estimator: DepthEstimator, wrap: Any) -> None:
    assert depth(site, wrap(image())).json["data"] == wanted(estimator, image()).to_node()["data"]


def test_options_beside_the_image(site: WebSite, estimator: DepthEstimator) -> None:
    answer = depth(site, {"image": text(image()), "style": "jet", "alpha": [0.1, 1], "reverse": True})
    assert (
        answer.json["image"] == wanted(estimator, image(), style="jet", alpha=(0.1, 1), reverse=True).to_node()["image"]
    )


def part(head: bytes, content: bytes) -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


NOTE = part(b'Content-Disposition: form-data; name="note"', b"hello")
FILE = b'Content-Disposition: form-data; name="image"; filename="a.png"'
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize("boundary", ["b", '"b"'])
@pytest.mark.parametrize(
    ("before", "head"),
    [
        (NOTE, FILE),
        (NOTE * 63, FILE.lower()),
        (b"preamble\r\n", b"Content-Type: image/png\r\n" + FILE),
        (part(b"", b"") + NOTE, b'Content-Disposition: form-data; filename="../../a\0.png"'),
        (b"", b"Content-Disposition: form-data; name=i; filename*=utf-8''%2e%2e%2fx%00.png"),
    ],
)
def test_a_form_with_a_file(
    site: WebSite, estimator: DepthEstimator, boundary: str, before: bytes, head: bytes
) -> None:
    body = before + part(head, image()) + part(FILE, b"another") + b"--b--\r\n"
    answer = depth(site, body, kind=f"multipart/form-data; boundary={boundary}")
    assert answer.json["data"] == wanted(estimator, image()).to_node()["data"]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (NOTE + b"--b--\r\n", FORM, "no file"),
        (b"--b--\r\n" + part(FILE, b"x") + b"--b--\r\n", FORM, "no file"),
        (part(FILE, b"") + b"--b--\r\n", FORM, "empty"),
        (part(FILE, b"x"), FORM, "cut off"),
        (b"--b\r\nContent-Disp", FORM, "cut off"),
        (part(b"X: " + b"y" * 900_000 + b"\r\n" + FILE, b"x") + b"--b--\r\n", FORM, "no valid header"),
        (NOTE * 10_000 + part(FILE, b"x") + b"--b--\r\n", FORM, "no file in its first 64 parts"),
        (b"x\r\n" * 300_000, FORM, "no file"),
        (part(FILE, b"x") + b"--b--\r\n", "multipart/form-data", "no boundary"),
        (part(FILE, b"x") + b"--b--\r\n", "multipart/form-data; boundary*=nosuch''%ff", "no file"),
    ],
)
def test_odd_forms_are_refused_in_a_short_time(site: WebSite, body: bytes, kind: str, words: str) -> None:
    answer = depth(site, body, kind=kind)
    assert (answer.status, words in answer.error) == (400, True), answer.error


def test_a_list_gives_a_list(site: WebSite, estimator: DepthEstimator) -> None:
    both = [image(), image(30, 50)]
    answer = depth(site, [text(one) for one in both])
    assert [one["data"] for one in answer.json] == [wanted(estimator, one).to_node()["data"] for one in both]
    assert depth(site, {"image": [text(image())]}).json[0]["width"] == 60


@pytest.mark.parametrize("key", ["dim", "dims"])
def test_a_tensor(site: WebSite, estimator: DepthEstimator, key: str) -> None:
    values = np.linspace(-1, 1, 3 * 28 * 42, dtype=np.float32)
    tensor = {"data": values.tolist(), "type": "float32", key: [1, 3, 28, 42]}
    answer = depth(site, tensor)
    assert answer.status == 200
    assert answer.json["data"] == wanted(estimator, tensor).to_node()["data"]
    assert depth(site, {**tensor, key: [1, 3, 28, 41]}).status == 422


def test_png_and_npy_by_accept(site: WebSite, estimator: DepthEstimator) -> None:
    png = depth(site, image(), kind="image/png", headers={"Accept": "text/html, image/png;q=0.9, */*;q=0.1"})
    assert png.headers["content-type"] == "image/png"
    assert png.body == wanted(estimator, image(), style="inferno").image
    npy = depth(site, image(), kind="image/png", headers={"Accept": "application/x-npy"})
    assert np.array_equal(np.load(io.BytesIO(npy.body)), wanted(estimator, image()).data)
    assert depth(site, image(), kind="image/png", headers={"Accept": "text/html"}).status == 406
    assert depth(site, [text(image())] * 2, headers={"Accept": "image/png"}).status == 406


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 black pixels in 50 kB."""
    from struct import pack

    def chunk(name: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + name + data + pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(bytes(2501) * 20_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)) + chunk(b"IDAT", rows)


@pytest.mark.parametrize(
    ("body", "kind", "query", "status"),
    [
        (b"", "image/png", "", 400),
        (b"no image", "image/png", "", 422),
        (image()[:100], "image/png", "", 422),
        (image(), "text/plain", "", 415),
        (b"image=photo.jpg", "application/x-www-form-urlencoded", "", 415),
        (b'{"inputs": "aGVsbG8="}', "application/x-www-form-urlencoded", "", 415),
        (b"no image", "application/x-www-form-urlencoded", "", 422),
        (b"# a file\na=b\n", "application/x-www-form-urlencoded", "", 422),
        (bytes((1 << 20) + 1), "image/png", "", 413),
        (image(300, 200), "image/png", "", 413),
        (bomb(), "image/png", "", 413),
        (image(), "image/png", "?style=nosuch", 400),
        (image(), "image/png", "?style=stops.json", 400),
        (image(), "image/png", "?alpha=2,x", 400),
        (image(), "image/png", "?reverse=perhaps", 400),
        (image(), "image/png", "?colour=red", 400),
        (b"{", "application/json", "", 400),
        (b"[" * 100_000, "application/json", "", 400),
        (b'"/etc/passwd"', "application/json", "", 422),
        (b'"not base64 !"', "application/json", "", 400),
        (b'"aGVsbG8="', "application/json", "", 422),
        (b"17", "application/json", "", 400),
        (b"null", "application/json", "", 400),
        (b"[]", "application/json", "", 400),
        (b"{}", "application/json", "", 400),
        (b'{"image": "aGVsbG8=", "url": "x"}', "application/json", "", 400),
        (b'{"data": [1, 2], "type": "float32"}', "application/json", "", 400),
        (b'{"data": [1, 2], "type": "what", "dim": [2]}', "application/json", "", 422),
        (b'{"type": "Buffer", "data": [1, 300]}', "application/json", "", 400),
        (b'{"image": {"bitmap": 5}}', "application/json", "", 422),
        (b'{"image": {"bitmap": null}}', "application/json", "", 422),
    ],
)
def test_what_is_no_image(site: WebSite, body: bytes, kind: str, query: str, status: int) -> None:
    answer = depth(site, body, query, kind=kind)
    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (status, "application/json")
    assert answer.error
    assert "/etc" not in answer.error or "base64" in answer.error or "image" in answer.error


def test_a_image_too_large_for_json_still_gives_npy(site: WebSite) -> None:
    large = image(190, 190)
    answer = depth(site, large, kind="image/png")
    assert answer.status == 413
    assert "x-npy" in answer.error
    npy = depth(site, large, kind="image/png", headers={"Accept": "application/x-npy"})
    assert np.load(io.BytesIO(npy.body)).shape == (190, 190)


def test_values_that_are_not_finite_become_null() -> None:
    from streamdepth.core.frame import Sense
    from streamdepth.image.estimator import Estimate
    from streamdepth.serve.images_api import estimate_json

    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    data[1] = (np.nan, np.inf, 0.1)
    one = Estimate(data, None, 3, 2, Sense.METRIC_M)
    text = b"".join(estimate_json(one))
    assert json.loads(text) == one.to_node()
    assert json.loads(text)["data"][3:5] == [None, None]
    assert json.loads(b"".join(estimate_json(one, digits=2)))["data"] == [0, 1, 2, None, None, 0.1]


def test_few_wait_the_rest_come_back(tmp_path: Path) -> None:
    go = threading.Event()
    model = write_depth_model(tmp_path / "model.onnx", height=28, width=42)

    class Slow(DepthEstimator):
        def each(self, *inputs: Any, **options: Any) -> Any:
            assert go.wait(30)
            return super().each(*inputs, **options)

    with Slow(model, sense="relative_inverse") as slow:
        site = WebSite("http://127.0.0.1:0", estimator=slow, settings=WebSettings(images_waiting=2), environ={})
        site.start()
        try:
            answers: list[Answer] = []
            clients = [
                threading.Thread(target=lambda: answers.append(depth(site, image(), kind="image/png")))
                for _ in range(3)
            ]
            for client in clients:
                client.start()
            eventually(lambda: answers, "an answer to whoever came third")
            assert [(one.status, one.headers["retry-after"]) for one in answers] == [(503, "1")]
            go.set()
            for client in clients:
                client.join(20)
            assert [one.status for one in answers] == [503, 200, 200]
            metrics = http(f"{site.address}/metrics").body.decode()
            assert 'streamdepth_stills_total{status="200"} 2.0' in metrics
            assert 'streamdepth_stills_total{status="503"} 1.0' in metrics
        finally:
            go.set()
            site.stop()


# Node-RED -----------------------------------------------------------------------------------------------------------


def test_the_flow_is_whole() -> None:
    nodes = json.loads(FLOW.read_text())
    ids = {node["id"] for node in nodes}
    assert len(ids) == len(nodes)
    for node in nodes:
        assert node.get("z", node["id"]) in ids
        assert {target for wire in node.get("wires", []) for target in wire} <= ids
    assert {"inject", "http request", "function", "debug"} <= {node["type"] for node in nodes}


def test_what_the_flow_asks_for_is_there(site: WebSite) -> None:
    (request,) = [node for node in json.loads(FLOW.read_text()) if node["type"] == "http request"]
    assert request["method"] == "POST"
    target = request["url"].removeprefix("http://127.0.0.1:8080")
    assert target.startswith("/v1/depth")
    assert request["ret"] == "obj"
    answer = http(site.address + target, body=image(), kind="image/png")
    assert answer.status == 200
    assert answer.json.keys() == {"data", "image", "width", "height"}
    assert answer.json["image"].startswith("data:image/png;base64,")


@need.posix_signals
def test_the_command_serves_a_page_and_a_still_until_interrupted() -> None:
    with serving("test:?size=64x48&frames=0", "--provider", "cpu", STREAMDEPTH_WEB_TOKEN="") as (process, url):
        assert b"<title>" in http(f"{url}/").body
        answer = http(f"{url}/v1/depth?data=none", body=image(), kind="image/png")
        assert (answer.status, answer.json["width"], answer.json["height"]) == (200, 60, 40)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (130, "", "streamdepth: interrupted\n")

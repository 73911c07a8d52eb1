"""Named cameras: the file that declares them, the grid's API, and what a request must not reach."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.cli import main
from streamdepth.cli.cameras import NamedCameras, read_cameras, start
from streamdepth.core.errors import SourceError, UsageError
from streamdepth.core.host import plan_threads
from streamdepth.core.look import View
from streamdepth.pipeline import CameraGroup
from streamdepth.serve.api import ApiError
from streamdepth.serve.cameras_api import CameraAccess
from streamdepth.serve.site import WebSite
from tests.support.cli import one_line
from tests.support.stages import fake_estimator
from tests.support.web import TOKEN, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILE = """
defaults: {view: overlay, alpha: 0.5}
cameras:
  door: test:?size=64x36&rate=30&seed=1
  yard: {source: "test:?size=64x36&rate=30&seed=2", view: side, range: "fixed:0,1", policy: every}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "cameras.yaml"
    path.write_text(text)
    return path


class TestFile:
    def test_a_camera_overrides_the_defaults(self, tmp_path: Path) -> None:
        found = read_cameras(write(tmp_path, _FILE))
        assert list(found) == ["door", "yard"]
        assert found["door"].look.view is View.OVERLAY
        assert found["door"].sources == ("test:?size=64x36&rate=30&seed=1&frames=0",)
        assert (found["yard"].look.view, found["yard"].range, found["yard"].alpha) == (
            View.SIDE,
            "fixed:0,1",
            (0.5, 0.5),
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cameras: {a: 0, a: 1}", "a is given twice"),
            ("camera: {a: 0}", r"unknown key camera .did you mean 'cameras'"),
            ("cameras: {}", "has no cameras"),
            ("cameras: {a: {view: side}}", "a: has no source"),
            ("cameras: {a: {source: 0, vieww: side}}", "a: a camera has no option vieww .did you mean 'view'"),
            ("cameras: {a: {source: 0, model: other.onnx}}", "a camera has no option model"),
            ("cameras: {a: {source: 0, range: shot}}", "range shot needs two passes"),
            ("cameras: {a: {source: 0, view: sideways}}", "a: view: 'sideways' is not one of"),
            ("cameras: {a: [1]}", "a: expected a source or"),
            ("cameras: {a/b: 0}", "printable characters without /"),
            ("defaults: {output: x.mkv}\ncameras: {a: 0, b: 1}", r"x\.mkv"),
            ("cameras: {a: {source: 0, serve: 'http://127.0.0.1:1'}}", "serve takes rtsp://"),
        ],
    )
    def test_a_mistake_is_named(self, text: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=message):
            read_cameras(write(tmp_path, text))

    def test_run_writes_the_outputs_of_each_camera(self, tmp_path: Path) -> None:
        path = write(
            tmp_path,
            f"defaults: {{output: '{tmp_path}/{{name}}.mkv'}}\n"
            "cameras: {a: 'test:?size=64x36&frames=5', b: 'test:?size=64x36&frames=4', dead: /none.mkv}",
        )
        stats = tmp_path / "stats.json"
        options = tmp_path / "options.yaml"
        options.write_text("threads: 2\nstyle: magma\n")
        arguments = ["run", "--cameras", str(path), "--config", str(options), "--stats", str(stats)]
        assert main([*arguments, "-q", "--provider", "cpu"]) == 0
        assert sorted(one.name for one in tmp_path.glob("*.mkv")) == ["a.mkv", "b.mkv"]
        runs = json.loads(stats.read_text())["runs"]
        assert [(run["source"], run["captured"]) for run in runs] == [("a", 5), ("b", 4)]
        assert all(run["captured"] == run["processed"] + sum(run["dropped"].values()) for run in runs)

    def test_wrong_use_is_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = str(write(tmp_path, _FILE))
        assert main(["run", "--cameras", path]) == 2
        assert "door: no output for the depth" in one_line(capsys)
        assert main(["run", "--cameras", path, "-o", "null:", "--max-frames", "5"]) == 2
        assert "--max-frames: has no effect with --cameras; omit it" in one_line(capsys)
        assert main(["serve", "test:", "--cameras", path]) == 2
        assert "omit the source" in one_line(capsys)
        assert main(["serve", "test:", "--add-cameras", "test:"]) == 2
        assert "there is no group of cameras" in one_line(capsys)


class TestAccess:
    """A request names network cameras of listed hosts only."""

    access = CameraAccess(["192.168.1.0/24", "cam.example", "fd00::/8", "test:"])

    @pytest.mark.parametrize(
        "source",
        [
            "rtsp://192.168.1.7/stream",
            "http://u:p@192.168.1.7:8080/mjpg",
            "rtsp://CAM.example/x",
            "rtsp://[fd00::1]/x",
            "http://[::ffff:192.168.1.7]/x",
            "test:",
            "test:?seed=3",
        ],
    )
    def test_allowed(self, source: str) -> None:
        self.access.check(source)

    @pytest.mark.parametrize(
        ("source", "status"),
        [
            ("/etc/passwd", 403),
            ("clip.mkv", 403),
            ("0", 403),
            ("/dev/video0", 403),
            ("file:///etc/passwd", 400),
            ("FILE:///etc/passwd", 400),
            ("concat:http://192.168.1.7/a|file.ts", 400),
            ("s3://bucket/a.mp4", 400),
            ("udp://192.168.1.7:1", 400),
            ("tcp://192.168.1.7:1?listen", 400),
            ("http://127.0.0.1/", 403),
            ("http://localhost/", 403),
            ("http://169.254.169.254/latest/meta-data", 403),
            ("http://3232235783/", 403),
            ("http://0xc0.168.1.7/", 403),
            ("http://[::ffff:127.0.0.1]/", 403),
            ("http://[::1]/", 403),
            ("rtsp://192.168.1.7@evil.example/", 403),
            ("rtsp://192.168.1.7:1@evil.example/x", 403),
            ("http://cam.example.evil.example/", 403),
            ("http://evil.example#@cam.example.org/", 400),
            ("http://cam.example\\@evil.example/", 400),
            ("http://cam.example /", 400),
            ("http:///x", 400),
            ("test:?size=99999x99999", 400),
            ("test:?seed=1&size=9x9", 400),
            ("http://192.168.1.7/" + "x" * 3000, 400),
            (None, 400),
            (7, 400),
            (["http://192.168.1.7"], 400),
        ],
    )
    def test_refused(self, source: Any, status: int) -> None:
        with pytest.raises(ApiError) as caught:
            self.access.check(source)
        assert caught.value.status == status

    def test_nothing_is_allowed_by_default(self) -> None:
        for source in ("test:", "rtsp://192.168.1.7/x"):
            with pytest.raises(ApiError, match="--add-cameras"):
                CameraAccess([]).check(source)

    @pytest.mark.parametrize("entry", ["http://a", "a/b", "1.2.3", "", "*"])
    def test_an_entry_that_is_no_host_is_refused(self, entry: str) -> None:
        with pytest.raises(UsageError, match="not a host"):
            CameraAccess([entry])


class Client:
    """Requests with the token, of one running site."""

    def __init__(self, site: WebSite) -> None:
        self.site = site

    def __call__(self, method: str, path: str, content: Any = None, **headers: str) -> tuple[int, Any]:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.site.address + path, data, method=method)
        request.add_header("Authorization", f"Bearer {TOKEN}")
        request.add_header("Content-Type", "application/json")
        for name, value in headers.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Client]:
    estimator = fake_estimator()
    site = WebSite("http://127.0.0.1:0", token=TOKEN, add_cameras=["test:"])
    with CameraGroup(estimator, deadline_seconds=5) as group:
        site.cameras = cameras = NamedCameras(group, estimator, plan_threads(2), site=site)
        site.start()
        try:
            start(cameras, read_cameras(write(tmp_path, _FILE)))
            yield Client(site)
        finally:
            site.stop()


def test_cameras_are_listed_changed_added_and_removed(served: Client) -> None:
    def state(name: str) -> Any:
        return served("GET", f"/v1/cameras/{name}")[1]

    eventually(lambda: state("door")["shown"] and state("yard")["shown"], "frames of both cameras")
    code, listed = served("GET", "/v1/cameras")
    assert (code, [one["name"] for one in listed["cameras"]]) == (200, ["door", "yard"])
    assert (state("yard")["look"]["view"], state("yard")["range"], state("door")["range"]) == (
        "side",
        "fixed:0,1",
        "ema",
    )
    # A look changes in place, for this camera only.
    captured = state("door")["captured"]
    code, changed = served(
        "POST",
        "/v1/cameras",
        {"name": "door", "view": "depth", "style": "viridis", "range": "frame", "stabilize": True},
    )
    assert (code, changed["look"]["view"], changed["look"]["style"], changed["range"]) == (
        200,
        "depth",
        "viridis",
        "frame",
    )
    assert changed["captured"] >= captured
    assert (changed["stabilize"], state("yard")["stabilize"]) == (True, False)
    assert state("yard")["look"]["view"] == "side"
    # A camera that is added is shown like the others, and goes again.
    code, added = served("POST", "/v1/cameras", {"name": "new one", "source": "test:?seed=4", "view": "depth"})
    assert (code, added["name"]) == (201, "new one")
    eventually(lambda: state("new%20one")["shown"], "frames of the new camera")
    with urllib.request.urlopen(_with_token(served, "/v1/live.jpg?source=new%20one"), timeout=20) as answer:
        assert answer.read(2) == b"\xff\xd8"
    code, restarted = served("POST", "/v1/cameras", {"name": "new one", "model_every": 2})
    assert code == 200
    assert restarted["captured"] < 100
    eventually(lambda: state("new%20one")["processed"] > 2, "frames after the restart")
    eventually(lambda: state("new%20one")["fps"], "statistics after the restart")
    assert served("DELETE", "/v1/cameras/new%20one") == (204, None)
    assert served("DELETE", "/v1/cameras/new%20one")[0] == 404
    assert served("GET", "/v1/live.jpg?source=new%20one")[0] == 404
    assert len(served("GET", "/v1/cameras")[1]["cameras"]) == 2


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        ({"name": "x", "source": "/etc/passwd"}, 403, "network cameras only"),
        ({"name": "door", "source": "/etc/passwd"}, 403, "network cameras only"),
        ({"name": "x", "source": "rtsp://user:sesame@10.0.0.1/x"}, 403, "may not be added"),
        ({"name": "x", "source": "test:", "output": "/tmp/x.mkv"}, 400, "cannot set output"),
        ({"name": "x", "source": "test:", "credentials": "/etc/passwd"}, 400, "cannot set credentials"),
        ({"name": "x", "source": "test:", "tls_ca": "/etc/passwd"}, 400, "cannot set tls_ca"),
        ({"name": "x", "source": "test:", "style": "/etc/passwd.json"}, 400, "not a file"),
        ({"name": "x", "source": "test:", "model_every": 99}, 400, "model-every"),
        ({"name": "x", "source": "test:", "timeout": "soon"}, 400, "timeout"),
        ({"name": "a/b", "source": "test:"}, 400, "printable"),
        ({"name": "x" * 65, "source": "test:"}, 400, "64"),
        ({"name": "", "source": "test:"}, 400, "name"),
        ({"source": "test:"}, 400, "name"),
        ({"name": "x"}, 400, "source is the URL"),
    ],
)
def test_a_request_that_is_wrong_or_not_allowed_changes_nothing(
    served: Client, content: dict[str, Any], code: int, message: str
) -> None:
    found, answer = served("POST", "/v1/cameras", content)
    assert (found, message in answer["error"]) == (code, True), answer
    assert "sesame" not in answer["error"]
    assert [one["name"] for one in served("GET", "/v1/cameras")[1]["cameras"]] == ["door", "yard"]


def test_the_token_and_the_origin_are_checked(served: Client) -> None:
    for method, path in (("GET", "/v1/cameras"), ("POST", "/v1/cameras"), ("DELETE", "/v1/cameras/door")):
        assert served(method, path, Authorization="Bearer wrong-token-wrong")[0] == 401
    code, answer = served("DELETE", "/v1/cameras/door", Origin="http://evil.example")
    assert (code, answer["error"]) == (403, "the request comes from another site")
    assert len(served("GET", "/v1/cameras")[1]["cameras"]) == 2


def test_the_first_page_is_the_grid(served: Client) -> None:
    with urllib.request.urlopen(_with_token(served, "/"), timeout=20) as answer:
        assert b'id="cameras"' in answer.read()
    for path in ("/view?source=door", "/static/grid.js", "/static/grid.css"):
        with urllib.request.urlopen(_with_token(served, path), timeout=20) as answer:
            assert answer.status == 200


def _with_token(served: Client, path: str) -> urllib.request.Request:
    return urllib.request.Request(served.site.address + path, headers={"Authorization": f"Bearer {TOKEN}"})


def test_when_no_camera_can_be_used_it_is_an_error(tmp_path: Path) -> None:
    estimator = fake_estimator()
    with CameraGroup(estimator) as group, pytest.raises(SourceError, match="none of the 1 cameras"):
        start(NamedCameras(group, estimator, plan_threads(2)), read_cameras(write(tmp_path, "cameras: {a: /none.mkv}")))

"""A real site with a real run behind it, and a real Chromium in front, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from urllib.parse import urlsplit

from streamdepth.depth.range import RangeSwitch
from streamdepth.pipeline import Pipeline
from streamdepth.pipeline.stabilization import StabilizeSwitch
from streamdepth.serve.options import WebSettings
from streamdepth.serve.site import WebSink, WebSite
from streamdepth.sources.pattern import PatternSource
from tests.support import need
from tests.support.stages import fake_estimator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import aiohttp

    from streamdepth.core.contracts import Source
    from streamdepth.image.estimator import DepthEstimator


TOKEN = "a-token-nobody-guesses"  # noqa: S105
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--mute-audio",
    "--remote-debugging-port=0",
    "--remote-debugging-address=127.0.0.1",
)


def eventually(true: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of ``true()``; fails with ``what`` after ``seconds``."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class Running:
    """A site whose live view is fed by a pipeline on a thread."""

    def __init__(self, site: WebSite, pipeline: Pipeline, sink: WebSink) -> None:
        self.site, self.pipeline, self.sink = site, pipeline, sink
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    @property
    def url(self) -> str:
        return self.site.address

    def _work(self) -> None:
        try:
            with self.pipeline:
                self.pipeline.run()
        except BaseException as error:
            self.error = error

    def begin(self) -> None:
        self._thread.start()
        eventually(lambda: self.site.view.feed.count or self.error, "a first image", 20)
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.pipeline.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


@contextmanager
def running(
    *,
    source: Source | None = None,
    estimator: DepthEstimator | None = None,
    stills: DepthEstimator | None = None,
    rate: int = 25,
    **options: Any,
) -> Iterator[Running]:
    """A synthetic camera on a page at a free port of 127.0.0.1."""

    switch, stabilize = RangeSwitch(), StabilizeSwitch()
    options.setdefault("environ", {})
    options.update(range_switch=switch, stabilize_switch=stabilize)
    site = WebSite(options.pop("url", "http://127.0.0.1:0"), estimator=stills, **options)
    site.start()
    try:
        camera = source or PatternSource(width_px=320, height_px=180, rate=Fraction(rate), frames=0)
        sink = WebSink(site=site, source=camera)
        model = estimator or fake_estimator()
        pipeline = Pipeline([camera], model, [sink], policy="latest", range=switch, stabilize=stabilize)
        sink.watch(pipeline)
        run = Running(site, pipeline, sink)
        run.begin()
        try:
            yield run
        finally:
            run.end()
    finally:
        site.stop()


class Browser:
    """One page of a headless Chromium. Use as a context; every call has a deadline."""

    def __init__(self, width: int = 1440, height: int = 900, *, mobile: bool = False) -> None:
        self._size = (width, height, mobile)
        self._home = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self.downloads = Path(self._home.name) / "downloads"
        self.messages: list[str] = []

    def __enter__(self) -> Self:
        try:
            self._process = subprocess.Popen(
                [
                    need.program("chromium", "google-chrome", "chrome"),
                    *_FLAGS,
                    f"--user-data-dir={self._home.name}/profile",
                    "about:blank",
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | {"TMPDIR": self._home.name},
                start_new_session=True,
            )
            self._loop.run_until_complete(self._connect())
        except BaseException:
            self.__exit__()
            raise
        width, height, mobile = self._size
        self.call("Page.enable")
        self.call("Runtime.enable")
        self.call("Log.enable")
        self.viewport(width, height, mobile=mobile)
        self.downloads.mkdir()
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        return self

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._loop.run_until_complete(self._session.close())
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)
        self._loop.close()
        self._home.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), 20))

    def viewport(self, width: int, height: int, *, mobile: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("location.protocol === 'http:' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0) -> Any:
        """Wait until an expression is true."""
        return eventually(lambda: self.run(f"!!({script})"), script, seconds)

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({selector!r}).textContent"))

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({selector!r}).click()")

    def point(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))
        return path

    def drop_file(self, selector: str, path: Path) -> None:
        """Choose a file in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    async def _connect(self) -> None:
        import aiohttp

        port_file = Path(self._home.name) / "profile" / "DevToolsActivePort"
        for _ in range(1000):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            await asyncio.sleep(0.02)
        port = int(port_file.read_text().splitlines()[0])
        self._session = aiohttp.ClientSession()
        for _ in range(100):
            async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [one for one in await answer.json() if one["type"] == "page"]
            if pages:
                break
            await asyncio.sleep(0.05)
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert self._socket is not None
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json()
            self._note(message)
            if message.get("id") == number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return dict(message["result"])

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what a person would see in the console."""
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            self.messages.append(str(details.get("exception", {}).get("description", details.get("text"))))
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            entry = message["params"]["entry"]
            self.messages.append(f"{entry['text']} {entry.get('url', '')}")


class Answer:
    """What a server said."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, {name.lower(): value for name, value in headers.items()}, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line of an error answer."""
        text = str(self.json["error"])
        assert "\n" not in text
        return text


def http(
    url: str,
    *,
    method: str | None = None,
    body: bytes | str | dict[str, Any] | list[Any] | None = None,
    headers: dict[str, str] | None = None,
    kind: str | None = None,
) -> Answer:
    """One request of a plain client. A body that is no bytes goes as JSON."""
    parts = urlsplit(url)
    sent = dict(headers or {})
    if body is None or isinstance(body, bytes):
        data = body
    else:
        data, kind = json.dumps(body).encode(), kind or "application/json"
    if kind is not None:
        sent["Content-Type"] = kind
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request(method or ("GET" if body is None else "POST"), target, data, sent)
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command at a free port: the process and the address it says."""
    process = subprocess.Popen(
        [sys.executable, "-m", "streamdepth", "serve", *arguments, "--listen", "http://127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("streamdepth: open http://127.0.0.1:"), process.communicate(timeout=20)
        yield process, line.split()[-1].rstrip("/")
    finally:
        process.kill()
        process.communicate(timeout=20)


def read_parts(stream: BinaryIO, count: int) -> list[bytes]:
    """The first images of a Motion JPEG answer."""
    images: list[bytes] = []
    while len(images) < count:
        length = 0
        while line := stream.readline().strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if length:
            images.append(stream.read(length))
    return images


@contextlib.contextmanager
def site_of(estimator: Any, **settings: Any) -> Iterator[WebSite]:
    site = WebSite("http://127.0.0.1:0", estimator=estimator, settings=WebSettings(**settings), environ={})
    site.start()
    try:
        yield site
    finally:
        site.stop()


def raw(site: WebSite, text: bytes, *, receive_bytes: int | None = None) -> socket.socket:
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", site.port))
    connection.sendall(text.replace(b"HOST", f"Host: 127.0.0.1:{site.port}".encode()))
    return connection


def bright(browser: Browser, element: str) -> list[float]:
    """Mean brightness of the left and the right half of what an element shows."""
    found: list[float] = browser.run(
        f"""(() => {{
            const from = document.getElementById('{element}');
            const canvas = document.createElement('canvas');
            canvas.width = 64; canvas.height = 18;
            const pen = canvas.getContext('2d');
            pen.drawImage(from, 0, 0, 64, 18);
            const sum = (x) => pen.getImageData(x, 0, 32, 18).data.reduce((a, b, i) => a + (i % 4 < 3 ? b : 0), 0);
            return [sum(0), sum(32)].map((total) => total / (32 * 18 * 3));
        }})()"""
    )
    return found


def slide(page: Browser, name: str, value: float) -> None:
    page.run(f"(() => {{const slider = document.getElementById('{name}'); slider.value = {value};"
             "slider.dispatchEvent(new Event('input'))})()")  # fmt: skip


def saved(page: Browser, kind: str) -> Path | None:
    """A finished download."""
    unfinished = list(page.downloads.glob("*.crdownload"))
    found = [one for one in page.downloads.glob(f"*.{kind}") if one.stat().st_size]
    return found[0] if found and not unfinished else None

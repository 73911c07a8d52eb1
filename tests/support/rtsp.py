"""Peers for RTSP tests: real servers and players as processes, and raw sockets where a peer has to misbehave."""

from __future__ import annotations

import contextlib
import functools
import random
import signal
import socket
import subprocess
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from streamdepth.core.frame import DepthMap, DepthRange, Frame, ImageInfo, Result, Sense, StreamInfo
from tests.support import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamdepth.core.contracts import Sink

_SYSTEM_PYTHON = "/usr/bin/python3"
_SCRIPT = Path(__file__).with_name("gst_rtsp.py")
_START_SECONDS = 20.0


@functools.cache
def _gstreamer_missing() -> str:
    if not Path(_SYSTEM_PYTHON).exists():
        return f"no {_SYSTEM_PYTHON}"
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); gi.require_version('GstApp', '1.0')"
    done = subprocess.run([_SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False, timeout=30)
    return "" if done.returncode == 0 else "gst-rtsp-server's Python bindings are not installed"


def need_gstreamer() -> None:
    """Skip the test where the server cannot run."""
    missing = _gstreamer_missing()
    if missing:
        need.missing(missing)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Poll; the bound is generous since the machine may be busy."""
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        pause.wait(0.01)
    return condition()


class GstServer:
    """A GStreamer RTSP server that can be stopped, killed and started again on its port."""

    def __init__(self, **options: str) -> None:
        need_gstreamer()
        self.port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start(**options)

    def start(self, **options: str) -> None:
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        process = subprocess.Popen(
            [_SYSTEM_PYTHON, str(_SCRIPT), "--port", str(self.port), *arguments], stdout=subprocess.PIPE, text=True
        )
        self._process = process
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.isdigit(), "the GStreamer server did not start"
        self.port = int(line)

    def url(self, path: str, userinfo: str = "") -> str:
        return f"rtsp://{userinfo}127.0.0.1:{self.port}{path}"

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            end_process(self._process)
            self._process = None

    def __enter__(self) -> GstServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def end_process(process: subprocess.Popen[str]) -> None:
    """Kill, reap, and close its pipes."""
    process.kill()
    process.wait(10)
    for pipe in (process.stdout, process.stderr, process.stdin):
        if pipe is not None:
            pipe.close()


@contextlib.contextmanager
def listener(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP port whose every connection is handled by ``talk`` on a thread; it may block until the end of the test."""
    server = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def guard(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            talk(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                open_sockets.append(client)
                threads.append(threading.Thread(target=guard, args=(client,), daemon=True))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        acceptor.join(5)
        for client in open_sockets:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()
        for thread in threads:
            thread.join(5)


def say_nothing(client: socket.socket) -> None:
    while client.recv(4096):
        pass


def say_garbage(client: socket.socket) -> None:
    client.sendall(random.Random(7).randbytes(200_000))
    say_nothing(client)


def unused_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def unanswered_port() -> Iterator[int]:
    """A port where connecting hangs: its queue is full, so the kernel drops what knocks."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    address = server.getsockname()
    knocks = []
    for _ in range(4):
        knock = socket.socket()
        knock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            knock.connect(address)
        knocks.append(knock)
    try:
        yield int(address[1])
    finally:
        for knock in knocks:
            knock.close()
        server.close()


def stream_info(width_px: int = 160, height_px: int = 90, rate: int | None = 25) -> StreamInfo:
    return StreamInfo(
        source_id="test",
        width_px=width_px,
        height_px=height_px,
        pix_fmt="yuv420p",
        time_base=Fraction(1, 90_000),
        rate=None if rate is None else Fraction(rate),
        live=True,
    )


def image_info(width_px: int = 160, height_px: int = 90) -> ImageInfo:
    return ImageInfo(width_px, height_px, "yuv420p")


def make_result(index: int, width_px: int = 160, height_px: int = 90, *, noise: bool = False) -> Result:
    """A result whose image is a moving ramp, or noise, which no encoder makes small."""
    if noise:
        planes = np.random.default_rng(index).integers(0, 256, (height_px * 3 // 2, width_px), dtype=np.uint8)
    else:
        planes = np.full((height_px * 3 // 2, width_px), 128, np.uint8)
        planes[:height_px] = (np.arange(width_px) + index * 4) % 200 + 20
    image = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame = Frame("test", index, index * 3600, Fraction(1, 90_000), time.monotonic_ns(), image)
    depth = DepthMap(np.ones((2, 2), np.float32), Sense.RELATIVE_INVERSE)
    return Result(frame, depth, DepthRange(0.0, 1.0), image)


class Feeder:
    """Gives a sink a result every ``seconds`` on a thread, and remembers how long ``process`` took at worst."""

    def __init__(
        self, sink: Sink, *, seconds: float = 0.04, width_px: int = 160, height_px: int = 90, noise: bool = False
    ) -> None:
        self._sink = sink
        self._seconds = seconds
        self._make = functools.partial(make_result, width_px=width_px, height_px=height_px, noise=noise)
        self._stop = threading.Event()
        self.given = 0
        self.worst_seconds = 0.0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        # Few images made ahead: making noise must not be what limits the rate.
        results = [self._make(index) for index in range(8)]
        while not self._stop.wait(self._seconds):
            started = time.monotonic()
            try:
                self._sink.process(results[self.given % len(results)])
            except Exception as exc:
                self.error = exc
                return
            self.worst_seconds = max(self.worst_seconds, time.monotonic() - started)
            self.given += 1

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


def watch(url: str, count: int, *, transport: str = "tcp") -> list[av.VideoFrame]:
    """Decode ``count`` images with libav as a player would; fewer where the stream ends."""
    options = {"rtsp_transport": transport, "analyzeduration": "200000", "fpsprobesize": "0", "timeout": "30000000"}
    images: list[av.VideoFrame] = []
    with av.open(url, options=options, timeout=(30.0, 30.0)) as container:
        container.streams.video[0].codec_context.thread_type = "SLICE"
        for image in container.decode(video=0):
            images.append(image)
            if len(images) >= count:
                break
    return images


class RawClient:
    """An RTSP client made of a socket and string handling, independent of the code under test."""

    def __init__(self, port: int, path: str = "/depth", *, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", port))
        self.url = f"rtsp://127.0.0.1:{port}{path}"
        self.data = b""
        self._cseq = 0

    def request(self, method: str, url: str | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send a request and return (status, headers in lower case, body), skipping media in between."""
        self._cseq += 1
        lines = [f"{method} {url or self.url} RTSP/1.0", f"CSeq: {self._cseq}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return self.response()

    def response(self) -> tuple[int, dict[str, str], bytes]:
        while True:
            if self.data[:1] == b"$":
                self.packet()
                continue
            head, found, rest = self.data.partition(b"\r\n\r\n")
            if found:
                lines = head.decode().split("\r\n")
                headers = {line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip() for line in lines[1:]}
                length = int(headers.get("content-length", 0))
                if len(rest) >= length:
                    self.data = rest[length:]
                    return int(lines[0].split()[1]), headers, rest[:length]
            self._more()

    def packet(self) -> tuple[int, bytes]:
        """The next interleaved packet: (channel, payload)."""
        while len(self.data) < 4 or len(self.data) < 4 + int.from_bytes(self.data[2:4], "big"):
            self._more()
        assert self.data[:1] == b"$"
        end = 4 + int.from_bytes(self.data[2:4], "big")
        channel, payload = self.data[1], self.data[4:end]
        self.data = self.data[end:]
        return channel, payload

    def play(self) -> None:
        """Set up over TCP and start."""
        status, headers, _ = self.request("SETUP", Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        assert status == 200, status
        status, _, _ = self.request("PLAY", Session=headers["session"].partition(";")[0])
        assert status == 200, status

    def closed(self) -> bool:
        """Wait for the server to close; False where it sends nothing and keeps the connection for 10 s."""
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def _more(self) -> None:
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.data += data

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

"""Peers of a live run: GStreamer's RTSP server as a process, players, and listeners with faults."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import av

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SERVER = Path(__file__).parents[2] / "tests" / "support" / "gst_rtsp.py"
_PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"


class RtspServer:
    """GStreamer's RTSP server in Debian's Python: serves ``/cam``, records ``/in``, keeps its port after a restart."""

    def __init__(self, **options: str) -> None:
        self._port = "0"
        self._process: subprocess.Popen[str] | None = None
        self.start(**options)

    def start(self, **options: str) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            ["/usr/bin/python3", str(_SERVER), "--port", self._port, *words], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._port = self._process.stdout.readline().strip()
        if not self._port:
            raise SystemExit(f"GStreamer's RTSP server does not start; run apt-get install {_PACKAGES}")

    def url(self, path: str, userinfo: str = "") -> str:
        return f"rtsp://{userinfo}127.0.0.1:{self._port}{path}"

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            _end(self._process)
            self._process = None

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Player:
    """libav in a separate process that can be killed and stopped; ``seen_at`` has the time of each decoded frame."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.seen_at: deque[float] = deque(maxlen=10_000)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.seen_at.append(float(line))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._process)


def _end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    if process.stdout is not None:
        process.stdout.close()


def frames(url: str) -> Iterator[av.VideoFrame]:
    """Frames a player shows, decoded by libav over TCP."""
    options = {"rtsp_transport": "tcp", "analyzeduration": "200000", "fpsprobesize": "0"}
    with av.open(url, options=options, timeout=(8.0, 8.0)) as container:
        container.streams.video[0].codec_context.thread_type = "SLICE"
        yield from container.decode(video=0)


@contextlib.contextmanager
def listener(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are handled by ``talk``, one after the other."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, contextlib.suppress(OSError):
                    talk(client)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])


def send_nothing(client: socket.socket) -> None:
    while client.recv(4096):
        pass


def send_garbage(client: socket.socket) -> None:
    client.sendall(random.Random(7).randbytes(200_000))
    send_nothing(client)


if __name__ == "__main__":
    for _frame in frames(sys.argv[1]):
        print(time.monotonic(), flush=True)

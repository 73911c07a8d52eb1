"""A soak test: RTSP servers, a page, viewers that come and go, and a flapping camera, for as long as you like.

    python benchmarks/soak.py --minutes 30

One process serves two sources at an RTSP port and on a page. One source is a camera (a Motion JPEG server in this
program) that disappears for 3 s every 20 s. Players (ffmpeg, TCP and UDP), Motion JPEG, WebSocket and WebRTC viewers
connect, watch for some seconds and leave; some players are killed. Every 5 s the program reads resident memory, threads
and open files of the process. At the end it prints their slopes over the second half of the run, and exits with 1 if
memory grows by more than 2 MB, or threads or files by more than 1, per minute. The process reaches its final size after
some minutes: runs under 10 minutes show growth that is none.

Needs ffmpeg, the extra ``web`` and Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

_SAMPLE_SECONDS = 5.0
_LIMITS = {"memory_mb": 2.0, "threads": 1.0, "files": 1.0}
"""Largest growth per minute."""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


class Camera:
    """A Motion JPEG camera that disappears for 3 s every 20 s."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        import cv2

        frames = [
            cv2.imencode(".jpg", np.roll(np.tile(np.arange(320, dtype=np.uint8), (180, 1)), shift, 1))[1].tobytes()
            for shift in range(0, 320, 8)
        ]
        while not self._stop.is_set():
            gone = threading.Event()

            class Handler(BaseHTTPRequestHandler):
                def log_message(self, *_: object) -> None: ...

                def do_GET(self, gone: threading.Event = gone) -> None:
                    self.send_response(200)
                    self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=x")
                    self.end_headers()
                    with contextlib.suppress(OSError):
                        for number in range(10**9):
                            data = frames[number % len(frames)]
                            head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                            self.wfile.write(head.encode() + data + b"\r\n")
                            if gone.wait(0.1):
                                return

            server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            self._stop.wait(20)
            gone.set()
            server.shutdown()
            server.server_close()
            self._stop.wait(3)


class Viewers:
    """Viewers of all kinds, on threads. ``counts`` says how many have watched, ``failed`` how many saw nothing."""

    def __init__(self, page: str, stream: str, seed: int) -> None:
        self.counts = dict.fromkeys(("rtsp", "mjpeg", "page", "webrtc"), 0)
        self.failed = dict.fromkeys(self.counts, 0)
        self._url, self._stream, self._rng = page, stream, random.Random(seed)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=(kind,), daemon=True) for kind in self.counts]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _loop(self, kind: str) -> None:
        while not self._stop.wait(self._rng.uniform(0.2, 2)):
            try:
                watched = getattr(self, f"_{kind}")(self._rng.uniform(1, 6))
            except (OSError, subprocess.SubprocessError, TimeoutError):
                watched = False
            self.counts[kind] += 1
            self.failed[kind] += not watched

    def _rtsp(self, seconds: float) -> bool:
        transport = self._rng.choice(["tcp", "udp"])
        command = ["ffmpeg", "-v", "error", "-rtsp_transport", transport, "-i", self._stream, "-c", "copy"]
        limited = [*command, "-t", f"{seconds:.1f}", "-f", "null", "-"]
        player = subprocess.Popen(
            limited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if self._rng.random() < 0.3:  # without a TEARDOWN
            self._stop.wait(seconds)
            player.kill()
            return player.wait() is not None
        return player.wait(60) == 0

    def _mjpeg(self, seconds: float) -> bool:
        with urllib.request.urlopen(f"{self._url}/v1/live.mjpg", timeout=10) as answer:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                if not answer.read(65536):
                    return False
        return True

    def _page(self, seconds: float) -> bool:
        return asyncio.run(asyncio.wait_for(_watch_socket(self._url, seconds), seconds + 30))

    def _webrtc(self, seconds: float) -> bool:
        return asyncio.run(asyncio.wait_for(_watch_webrtc(self._url, seconds), seconds + 30))


async def _watch_socket(page: str, seconds: float) -> bool:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.ws_connect(f"{page}/v1/live/socket") as connection:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await connection.send_json({"type": "probe", "x": 0.5, "y": 0.5})
            await asyncio.wait_for(connection.receive_json(), 10)
    return True


async def _watch_webrtc(page: str, seconds: float) -> bool:
    import aiohttp
    from aiortc import RTCPeerConnection, RTCSessionDescription

    peer = RTCPeerConnection()
    peer.addTransceiver("video", direction="recvonly")
    tracks: asyncio.Queue[object] = asyncio.Queue()
    peer.on("track", tracks.put_nowait)
    try:
        await peer.setLocalDescription(await peer.createOffer())
        offer = {"type": "offer", "sdp": peer.localDescription.sdp}
        async with aiohttp.ClientSession() as session, session.post(f"{page}/v1/live/offer", json=offer) as answer:
            if answer.status != 200:
                return False
            content = await answer.json()
        await peer.setRemoteDescription(RTCSessionDescription(**content))
        track = await asyncio.wait_for(tracks.get(), 10)
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.wait_for(track.recv(), 10)  # type: ignore[attr-defined]
    finally:
        await peer.close()
    return True


def sample(pid: int) -> dict[str, float]:
    """Resident memory in MB, threads, and open files of a process."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "memory_mb": int(fields["VmRSS"].split()[0]) / 1024,
        "threads": int(fields["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all samples here")
    given = parser.parse_args()
    camera_port, page_port, stream_port = free_port(), free_port(), free_port()
    camera = Camera(camera_port)
    page, stream = f"http://127.0.0.1:{page_port}", f"rtsp://127.0.0.1:{stream_port}"
    command = [
        sys.executable,
        "-m",
        "streamdepth",
        "run",
        "test:?size=320x180&rate=10",
        f"http://127.0.0.1:{camera_port}/",
    ]
    process = subprocess.Popen(
        [*command, "--serve", f"{stream}/{{name}}", "--serve", page, "--retries", "100000", "--provider", "cpu"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    reader.start()
    viewers = Viewers(page, f"{stream}/test", given.seed)
    samples: list[dict[str, float]] = []
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                if json.load(urllib.request.urlopen(f"{page}/v1/state", timeout=5))["source"]["width"]:
                    break
            time.sleep(0.2)
        viewers.start()
        started = time.monotonic()
        while time.monotonic() - started < given.minutes * 60 and process.poll() is None:
            time.sleep(_SAMPLE_SECONDS)
            samples.append({"minutes": (time.monotonic() - started) / 60, **sample(process.pid)})
        viewers.close()
        process.terminate()  # unlike SIGINT, not ignored by what a shell starts in the background
        code = process.wait(30)
    finally:
        process.kill()
        camera.close()
    if given.json is not None:
        given.json.write_text(json.dumps(samples))
    late = samples[len(samples) // 2 :]
    minutes = np.array([one["minutes"] for one in late])
    grows = False
    for name, limit in _LIMITS.items():
        values = np.array([one[name] for one in late])
        slope = float(np.polyfit(minutes, values, 1)[0])
        grows |= slope > limit
        first, low, high = samples[0][name], values.min(), values.max()
        print(f"{name}: {first:.0f} at first, {low:.0f} to {high:.0f} later, {slope:+.2f} per minute")
    outages = sum("connected again" in line for line in said)
    print(f"viewers: {viewers.counts}, of which without frames: {viewers.failed}")
    print(f"outages of the camera: {outages}; exit code {code}")
    return int(grows or code != 130 or os.name != "posix")


if __name__ == "__main__":
    sys.exit(main())

"""Runs in namespaces of its own, where the one name server takes questions and answers none; see ``ask``.

Prints, in seconds: how long ``open`` and ``close`` of each kind took, and ``interrupt`` of one that was opening.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.sinks.rtsp.publish import RtspPublishSink
    from streamdepth.sources.file import FileSource
    from streamdepth.sources.live.source import LiveSource

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_MS_BIND = 4096
_UNSHARE = ("unshare", "--map-root-user", "--mount", "--net")
TIMEOUT_SECONDS = 1.0


def ask() -> dict[str, float]:
    """What the script found; skips the test where the system gives no namespaces."""
    program = shutil.which("unshare")
    if program is None or subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces may not be made here")
    done = subprocess.run(
        [*_UNSHARE, sys.executable, "-m", "tests.support.silent_dns"],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _silence_names() -> socket.socket:
    fcntl = importlib.import_module("fcntl")  # runs on Linux only
    with socket.socket() as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    server = socket.socket(type=socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
        config.write("nameserver 127.0.0.1\n")
        config.flush()
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(config.name.encode(), b"/etc/resolv.conf", None, _MS_BIND, None):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return server


def _seconds(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def _refused(source: LiveSource | FileSource) -> str:
    from streamdepth.core.errors import SourceError

    try:
        source.open()
    except SourceError as exc:
        return str(exc)
    raise AssertionError("a name that nobody knows was found")


def _sink(timeout_seconds: float) -> RtspPublishSink:
    from streamdepth.core.look import Look, LookControl
    from streamdepth.sinks.rtsp.publish import RtspPublishSink
    from tests.support.rtsp import image_info, stream_info

    sink = RtspPublishSink(
        "rtsp://camera.example/in", control=LookControl(Look()), timeout_seconds=timeout_seconds, environ={}
    )
    sink.open(stream_info(), image_info())
    return sink


def _web(url: str) -> dict[str, float]:
    from streamdepth.core.errors import SourceError
    from streamdepth.sources.file import FileSource
    from streamdepth.sources.select import source_for
    from tests.support.rtsp import wait_until

    def find_out() -> None:
        with contextlib.suppress(SourceError):
            source_for(url, timeout_seconds=TIMEOUT_SECONDS)

    found = {"web": _seconds(find_out)}
    patient = FileSource(url, timeout_seconds=30, source_id="patient")
    opener = threading.Thread(target=lambda: _refused(patient))
    opener.start()
    wait_until(lambda: any(thread.name == "streamdepth-read-patient" for thread in threading.enumerate()))

    def interrupt() -> None:
        patient.interrupt()
        opener.join()
        patient.close()

    return found | {"web interrupt": _seconds(interrupt)}


def main() -> None:
    from streamdepth.sources.live.source import LiveSource
    from tests.support.rtsp import wait_until

    url = "rtsp://camera.example/x"
    with _silence_names():
        found: dict[str, float] = {}
        source = LiveSource(url, timeout_seconds=TIMEOUT_SECONDS, environ={})
        found["open"] = _seconds(lambda: _refused(source))
        found["close"] = _seconds(source.close)
        patient = LiveSource(url, timeout_seconds=30, environ={})
        opener = threading.Thread(target=lambda: _refused(patient))
        opener.start()
        wait_until(lambda: any(thread.name.startswith("live-reader") for thread in threading.enumerate()))

        def interrupt() -> None:
            patient.interrupt()
            opener.join()
            patient.close()

        found["interrupt"] = _seconds(interrupt)
        sink = _sink(TIMEOUT_SECONDS)
        found["publish"] = _seconds(lambda: wait_until(lambda: "no address found" in sink.last_error))
        sink.close()
        sink = _sink(30)
        wait_until(lambda: sink.state == "connecting")
        found["publish close"] = _seconds(sink.close)
        found |= _web("http://camera.example/x.mp4")
    print(json.dumps(found), flush=True)
    # Look-ups are still hanging: what they hold up is not asked.
    os._exit(0)


if __name__ == "__main__":
    main()

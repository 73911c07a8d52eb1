"""What a URL is, found out within the time given, whatever is silent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from streamdepth.core.errors import SourceError
from streamdepth.sources.file import FileSource
from streamdepth.sources.select import source_for
from tests.support import silent_dns
from tests.support.live import Body, Quiet, encode_ts, http_server, serve_http
from tests.support.media import write_clip
from tests.support.rtsp import listener, say_nothing, unanswered_port

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_TIMEOUT_SECONDS = 0.5
# What reading a file has at least, and finding out once had.
_PATIENCE_SECONDS = 10


@contextlib.contextmanager
def stalled() -> Iterator[str]:
    """Enough of a stream to be known for one, and then no more of it, with the connection open."""
    body = Body("video/mp2t", [encode_ts(3)[0], b""], seconds=60)
    with http_server(body) as url:
        yield url


@contextlib.contextmanager
def silent() -> Iterator[str]:
    with listener(say_nothing) as port:
        yield f"http://127.0.0.1:{port}/clip.mp4"


@contextlib.contextmanager
def silent_handshake() -> Iterator[str]:
    with listener(say_nothing) as port:
        yield f"https://127.0.0.1:{port}/clip.mp4"


@contextlib.contextmanager
def unconnected() -> Iterator[str]:
    with unanswered_port() as port:
        yield f"http://127.0.0.1:{port}/clip.mp4"


@pytest.mark.parametrize("state", [stalled, silent, silent_handshake, unconnected])
def test_silence(state: Callable[[], contextlib.AbstractContextManager[str]]) -> None:
    with state() as url:
        started = time.monotonic()
        with pytest.raises(SourceError, match="no answer in time; check the network, or raise --timeout"):
            source_for(url, timeout_seconds=_TIMEOUT_SECONDS)
        assert time.monotonic() - started < _PATIENCE_SECONDS / 2


class NoRanges(Quiet, SimpleHTTPRequestHandler):
    """A plain server, which sends whole files only; who leaves before the end is no error here."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with contextlib.suppress(OSError):
            super().copyfile(source, outputfile)


def noise(index: int, width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)


def test_index_at_the_end_on_a_server_without_ranges(tmp_path: Path) -> None:
    def write(name: str, **more: Any) -> bytes:
        return write_clip(tmp_path / name, frames=4, width=640, height=480, draw=noise, **more).read_bytes()

    assert write("end.mp4").find(b"moov") > 1 << 19
    assert write("front.mp4", container_options={"movflags": "faststart"}).find(b"moov") < 1000
    with serve_http(partial(NoRanges, directory=str(tmp_path))) as base:  # type: ignore[arg-type]
        with pytest.raises(SourceError, match=r"not support range requests.*: download it first, or move the index"):
            FileSource(f"{base}/end.mp4").open()
        front = FileSource(f"{base}/front.mp4")
        front.open()
        front.close()


@pytest.mark.slow
def test_name_server_that_never_answers() -> None:
    """Real look-ups."""
    found = silent_dns.ask()
    assert found["web"] < silent_dns.TIMEOUT_SECONDS + 1
    assert found["web interrupt"] < 1


def test_call_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, where the system gives no namespaces."""
    release, called = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> None:
        called.set()
        release.wait(60)
        raise OSError("released")

    monkeypatch.setattr(av, "open", hang)
    try:
        with pytest.raises(SourceError, match="no answer in time"):
            source_for("http://camera/clip.mp4", timeout_seconds=0.2)
        called.clear()
        source = FileSource("http://camera/clip.mp4", timeout_seconds=60)
        errors: list[BaseException] = []

        def open_it() -> None:
            try:
                source.open()
            except SourceError as error:
                errors.append(error)

        opener = threading.Thread(target=open_it)
        opener.start()
        assert called.wait(5)
        source.interrupt()
        opener.join(5)
        assert not opener.is_alive()
        assert "interrupted while opening" in str(errors[0])
        source.close()
    finally:
        release.set()


@pytest.mark.skipif(os.name == "nt", reason="interrupts are sent as signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_finding_out(number: signal.Signals) -> None:
    reached = threading.Event()

    def talk(client: socket.socket) -> None:
        client.recv(4096)
        reached.set()
        say_nothing(client)

    with listener(talk) as port:
        command = [sys.executable, "-m", "streamdepth", "run", f"http://127.0.0.1:{port}/x", "-o", "null:"]
        process = subprocess.Popen([*command, "--timeout", "600", "--quiet"], stderr=subprocess.PIPE, text=True)
        try:
            assert reached.wait(30)
            process.send_signal(number)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "streamdepth: interrupted\n")


@pytest.mark.slow
def test_reading_may_take_longer_than_finding_out() -> None:
    """A file that comes in two halves, with more time between them than an answer may take."""
    chunks = encode_ts(60)
    body = Body("video/mp2t", [b"".join(chunks[:30]), b"".join(chunks[30:])], seconds=4 * _TIMEOUT_SECONDS)
    with http_server(body, length=sum(map(len, chunks))) as url:
        source = source_for(url, timeout_seconds=_TIMEOUT_SECONDS)
        assert isinstance(source, FileSource)
        source.open()
        assert len(list(source.frames())) == 60
        source.close()


def test_no_traceback_shows_the_password() -> None:
    def refuse(client: socket.socket) -> None:
        client.recv(4096)
        client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with listener(refuse) as port:
        source = FileSource(f"http://someone:hidden-word@127.0.0.1:{port}/clip.mp4")
        with pytest.raises(SourceError) as caught:
            source.open()
        source.close()
    assert "hidden-word" not in "".join(traceback.format_exception(caught.value))

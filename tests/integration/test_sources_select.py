"""What people type, the sources it becomes, and servers that are slow, broken or endless."""

from __future__ import annotations

import shutil
import threading
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from streamdepth.core.contracts import Source
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError
from streamdepth.sources import cameras as camera_list
from streamdepth.sources.cameras import Camera
from streamdepth.sources.file import FileSource
from streamdepth.sources.images import ImagesSource
from streamdepth.sources.live.source import LiveSource
from streamdepth.sources.pattern import PatternSource
from streamdepth.sources.select import at_once, expand, source_for
from streamdepth.sources.times import LimitedSource, Limits
from streamdepth.sources.webcam import WebcamSource
from tests.support.live import Quiet
from tests.support.media import draw_index, draw_marks, read_index, write_clip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with clips and images in it, on a machine with one camera."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    clip = write_clip(tmp_path / "clip.mp4", frames=3)
    for name in ("videos/b10.mkv", "videos/b9.mp4", "other/clip.mp4", "0", "--help", "clip"):
        shutil.copy(clip, tmp_path / name)
    for name in ("images/1.png", "photo.JPG"):
        Image.fromarray(draw_marks(0, 16, 8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(camera_list, "list_cameras", lambda: (Camera(3, "Front Camera"),))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", WebcamSource),
        ("2", WebcamSource),
        ("/dev/video0", WebcamSource),
        ("front camera", WebcamSource),
        ("test:", PatternSource),
        ("TEST:?size=32x32", PatternSource),
        ("rtsp://user:pw@host/x", LiveSource),
        ("udp://127.0.0.1:5000", LiveSource),
        ("clip.mp4", FileSource),
        ("./0", FileSource),
        ("--help", FileSource),
        ("clip", FileSource),
        ("cli?.mp4", FileSource),
        ("photo.JPG", ImagesSource),
        ("images", ImagesSource),
        ("images/*.png", ImagesSource),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_a_text_stands_for(text: str, kind: type) -> None:
    source = source_for(text)
    assert isinstance(source, kind)
    assert isinstance(source, Source)
    assert "pw" not in source.id
    assert isinstance(source_for(text, max_frames=2), Source)


def test_file_url(place: Path) -> None:
    shutil.copy(place / "clip.mp4", place / "with space#.mp4")
    source = source_for(f"file://{place}/with%20space%23.mp4")
    assert source.open().frame_count == 3
    source.close()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", UsageError, "an empty source"),
        ("a\0b", UsageError, "NUL"),
        ("rtps://host/x", UsageError, "unknown protocol 'rtps'; did you mean rtsps?://"),
        ("gopher://host", UsageError, "use http://"),
        ("clip.mp3", SourceNotFoundError, "did you mean '.*clip.mp4'"),
        ("nowhere/clip.mp4", SourceNotFoundError, "there is no folder nowhere"),
        ("Rear Camera", SourceNotFoundError, r"no such file or camera; cameras here: 3 \(Front Camera\)"),
        ("empty", SourceNotFoundError, "empty is empty; name a folder with videos or images"),
        ("*.avi", SourceNotFoundError, r"\*.avi: matches no file"),
        ("none/*.avi", SourceNotFoundError, "there is no folder none"),
        ("*", UsageError, "contains 1 images and .* videos; select one kind"),
        ("videos", UsageError, "matches 2 videos; name one of them"),
        ("test:?x=1", UsageError, "has no option 'x'"),
    ],
)
@pytest.mark.usefixtures("place")
def test_what_stands_for_nothing(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        source_for(text)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("place")
def test_expand_gives_one_source_a_video_and_names_of_their_own() -> None:
    sources = expand(["videos", "clip.mp4", "other/*.mp4", "images", "test:", "test:", "0"])
    assert [source.id for source in sources[:2]] == ["b9.mp4", "b10.mkv"]
    assert sources[2].id.endswith("/clip.mp4")
    assert sources[3].id == "other/clip.mp4"
    assert [source.id for source in sources[4:]] == ["images", "test:", "test:#2", "camera 0"]
    assert len({source.id for source in sources}) == 8
    info = sources[3].open()
    assert info.source_id == "other/clip.mp4"
    assert next(sources[3].frames()).source_id == "other/clip.mp4"
    for source in sources:
        source.close()
    with pytest.raises(UsageError, match="no source given"):
        expand([])


@pytest.mark.usefixtures("place")
def test_live_sources_have_no_start() -> None:
    for text in ("0", "rtsp://host/x"):
        with pytest.raises(UsageError, match="a live source has no start time; omit --start"):
            source_for(text, start_seconds=1)
    with pytest.raises(UsageError, match="max-frames must be 1 or more, not 0"):
        source_for("clip.mp4", max_frames=0)


@pytest.mark.usefixtures("place")
def test_unknown_options_are_refused_with_the_nearest_name() -> None:
    wrong: dict[str, Any] = {"retreis": 3}
    with pytest.raises(UsageError, match=r"there is no source option 'retreis' \(did you mean 'retries'"):
        source_for("clip.mp4", **wrong)
    with pytest.raises(UsageError, match=r"there is no source option 'retreis' \(did you mean 'retries'"):
        expand(["clip.mp4"], **wrong)


def test_limits_of_any_source() -> None:
    whole = PatternSource(width_px=16, height_px=16, rate=Fraction(10), frames=30)
    source = LimitedSource(whole, Limits.of(0.5, 1.0, 7))
    info = source.open()
    assert (info.frame_count, info.origin_seconds, info.end_seconds) == (7, Fraction(1, 2), Fraction(3, 2))
    frames = list(source.frames())
    assert [(frame.index, frame.pts) for frame in frames] == [(n, n + 5) for n in range(7)]
    again = source.again()
    assert again is not None
    again.open()
    assert [frame.pts for frame in again.frames()] == [frame.pts for frame in frames]
    source.interrupt()
    source.close()
    with pytest.raises(SourceError, match="no frame at or after 9 s"):
        LimitedSource(whole, Limits.of(9)).open()
    short = LimitedSource(PatternSource(width_px=16, height_px=16, rate=Fraction(10)), Limits.of(0, 0.35))
    assert short.open().frame_count in (3, 4)
    assert len(list(short.frames())) == 4


class Handler(Quiet, BaseHTTPRequestHandler):
    """Serves files of ``root`` with ranges; ``/stall/X`` stops half way, ``/silent`` never answers, ``/endless/X``
    repeats a transport stream without a length, ``/NNN`` answers with that status."""

    root: Path
    release: threading.Event
    reached: threading.Event

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        way, _, name = self.path.lstrip("/").partition("/")
        try:
            if way.isdecimal():
                self.send_error(int(way))
            elif way == "silent":
                self.reached.set()
                self.release.wait(30)
            elif way == "endless":
                self.send_response(200)
                self.send_header("Content-Type", "video/mp2t")
                self.end_headers()
                data = (self.root / name).read_bytes()
                while not self.release.is_set():
                    self.wfile.write(data)
            else:
                self._send((self.root / name).read_bytes(), stall=way == "stall")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _send(self, data: bytes, *, stall: bool) -> None:
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        half = max(0, len(data) // 2 - start)
        self.wfile.write(data[start : start + half] if stall else data[start:])
        self.wfile.flush()
        if stall:
            self.reached.set()
            self.release.wait(30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Handler]]]:
    class ThisHandler(Handler):
        root = tmp_path
        release = threading.Event()
        reached = threading.Event()

    handler = ThisHandler
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=partial(running.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        handler.release.set()
        running.shutdown()
        thread.join(5)


def test_file_on_a_server(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    write_clip(tmp_path / "clip.mp4", frames=40, draw=draw_index)
    url = f"{server[0]}/file/clip.mp4"
    source = source_for(url)
    info = source.open()
    assert (info.live, source.live, info.frame_count, info.media_path) == (False, False, 40, url)
    assert [read_index(frame.to_rgb()) for frame in source.frames()] == list(range(40))
    source.close()
    part = source_for(url, start_seconds=0.8, max_frames=3)
    part.open()
    assert [read_index(frame.to_rgb()) for frame in part.frames()] == [20, 21, 22]
    part.close()
    again = part.again()
    assert again is not None
    again.open()
    assert len(list(again.frames())) == 3
    again.close()


def test_endless_stream_becomes_live(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    write_clip(tmp_path / "a.ts", frames=50)
    source = source_for(f"{server[0]}/endless/a.ts", max_frames=3, timeout_seconds=5)
    assert isinstance(source, LiveSource)
    info = source.open()
    assert info.live
    assert len(list(islice(source.frames(), 3))) == 3
    source.close()
    with pytest.raises(UsageError, match="a live source has no start time; omit --start"):
        source_for(f"{server[0]}/endless/a.ts", start_seconds=1)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, SourceNotFoundError, "no such file \\(404\\)"),
        (401, SourceError, "refuses access; put user and password"),
        (403, SourceError, "refuses access"),
        (500, SourceError, "the server answered"),
    ],
)
def test_servers_that_refuse(
    server: tuple[str, type[Handler]], status: int, kind: type[SourceError], message: str
) -> None:
    url = f"{server[0].replace('//', '//me:secret@')}/{status}"
    with pytest.raises(kind, match=message) as caught:
        source_for(url)
    assert "secret" not in f"{caught.value} {caught.value!r} {FileSource(url).id}"


def test_nobody_listens() -> None:
    with pytest.raises(SourceError, match="the connection was refused; check the host and port"):
        source_for("http://127.0.0.1:1/clip.mp4")


def run_interrupted(source: Source, reached: threading.Event, work: Callable[[], object]) -> BaseException | None:
    """Run ``work`` on a thread, interrupt the source once the server was reached; the error, or None."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(10)
    assert thread.is_alive()
    source.interrupt()
    thread.join(1)
    assert not thread.is_alive()
    return errors[0] if errors else None


def test_interrupt_while_a_server_is_silent(server: tuple[str, type[Handler]]) -> None:
    source = FileSource(f"{server[0]}/silent")
    error = run_interrupted(source, server[1].reached, source.open)
    assert "interrupted while opening" in str(error)
    source.close()


def test_silent_server_ends_by_timeout(server: tuple[str, type[Handler]]) -> None:
    source = FileSource(f"{server[0]}/silent", timeout_seconds=0.3)
    with pytest.raises(SourceError, match="no answer in time"):
        source.open()


def test_interrupt_and_timeout_while_a_server_stalls(tmp_path: Path, server: tuple[str, type[Handler]]) -> None:
    write_clip(tmp_path / "a.mkv", frames=200, draw=draw_index, width=320, height=240, options={"crf": "1"})
    source = FileSource(f"{server[0]}/stall/a.mkv")
    source.open()
    taken: list[int] = []
    hungry = threading.Event()

    def drain() -> None:
        for frame in source.frames():
            taken.append(frame.index)
            if frame.index == 20:
                hungry.set()

    assert run_interrupted(source, hungry, drain) is None
    assert 0 < len(taken) < 200
    source.close()
    stalled = FileSource(f"{server[0]}/stall/a.mkv", timeout_seconds=0.5)
    stalled.open()
    with pytest.raises(SourceError, match=r"reading failed after \d+ frames: no answer in time"):
        list(stalled.frames())
    stalled.close()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["clip.mp4"], 1),
        (["clip.mp4", "videos"], 1),
        (["0", "rtsp://host/a", "udp://host:9"], 3),
        (["https://host/live.m3u8"], 1),
        (["test:"], 1),
    ],
)
def test_live_sources_run_side_by_side_and_files_in_turn(texts: list[str], count: int) -> None:
    assert at_once(texts) == count

"""HLS over HTTP, recorded and live, from a real server; DASH, which the FFmpeg of PyAV's wheels does not read."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import av
import pytest

from streamdepth.cli import main
from tests.support.cli import one_line
from tests.support.clock import ManualClock
from tests.support.live import Consumer, Quiet, assert_rising, live, serve_http
from tests.support.media import read_pts

if TYPE_CHECKING:
    from pathlib import Path

_SEGMENTS, _PER_SEGMENT = 5, 10


def write_hls(folder: Path, kind: str = "mpegts") -> Path:
    """Five segments of ten images with rising brightness, 0.4 s each."""
    playlist = folder / "x.m3u8"
    options = {"hls_time": "0.4", "hls_list_size": "0", "hls_segment_type": kind}
    with av.open(str(playlist), "w", format="hls", options=options) as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "g": str(_PER_SEGMENT)})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(_SEGMENTS * _PER_SEGMENT):
            frame = av.VideoFrame(64, 48, "gray")
            frame.planes[0].update(bytes([index * 5]) * frame.planes[0].buffer_size)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    return playlist


class Files(Quiet, SimpleHTTPRequestHandler):
    pass


def growing(folder: Path) -> type[BaseHTTPRequestHandler]:
    """The window of a live playlist: two segments, one further with every request, an end once all were shown."""
    lines = write_hls(folder).read_text().splitlines()
    entries = [f"{line}\n{lines[number + 1]}\n" for number, line in enumerate(lines) if line.startswith("#EXTINF")]
    assert len(entries) == _SEGMENTS
    asked = [0]

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith(".m3u8"):
                first = min(asked[0], _SEGMENTS - 2)
                asked[0] += 1
                head = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n"
                end = "#EXT-X-ENDLIST\n" if asked[0] > _SEGMENTS - 1 else ""
                body = (head + "".join(entries[first : first + 2]) + end).encode()
            else:
                body = (folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    return Handler


@pytest.mark.parametrize("kind", ["mpegts", "fmp4"])
def test_a_recorded_playlist_is_a_file(tmp_path: Path, kind: str) -> None:
    write_hls(tmp_path, kind)
    out = tmp_path / "out.mkv"
    with serve_http(partial(Files, directory=str(tmp_path))) as base:  # type: ignore[arg-type]
        assert main(["run", f"{base}/x.m3u8", "-o", str(out)]) == 0
    assert read_pts(out) == [40 * index for index in range(_SEGMENTS * _PER_SEGMENT)]


@pytest.mark.slow
def test_a_live_playlist_that_ends_is_over_and_nothing_comes_twice(tmp_path: Path) -> None:
    with serve_http(growing(tmp_path)) as base:
        source = live(f"{base}/x.m3u8", retries=0)
        source.open()
        frames = list(source.frames())
    levels = [int(frame.image.to_ndarray()[0, 0]) for frame in frames]
    assert len(set(levels)) == len(levels)
    assert levels[-1] == pytest.approx(16 + 245 * 219 / 255, abs=4)
    assert len(frames) % _PER_SEGMENT == 0
    assert len(frames) >= 3 * _PER_SEGMENT
    assert_rising(frames)
    assert source.reconnects == 0
    # At the pace of their pts: none before its time, how long after depends on the machine.
    assert all((frame.captured_ns - frames[0].captured_ns) / 1e9 >= frame.seconds - 1e-4 for frame in frames)


def test_a_image_that_waits_for_its_time_is_let_go(tmp_path: Path) -> None:
    """On a clock that stands still the second image is never due."""
    with serve_http(growing(tmp_path)) as base, Consumer(live(f"{base}/x.m3u8", clock=ManualClock())) as consumer:
        assert consumer.wait_for(1)
        consumer.source.interrupt()
        assert consumer.ended(5)
    assert len(consumer.frames) == 1
    assert consumer.error is None


def test_dash_is_named_as_what_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("av.formats_available", frozenset())
    (tmp_path / "x.mpd").write_text('<?xml version="1.0"?><MPD type="static"></MPD>')
    with serve_http(partial(Files, directory=str(tmp_path))) as base:  # type: ignore[arg-type]
        assert main(["run", f"{base}/x.mpd?a=1", "-o", str(tmp_path / "out.mkv")]) == 1
    assert "cannot read DASH; use the HLS address of the stream (.m3u8)" in one_line(capsys)

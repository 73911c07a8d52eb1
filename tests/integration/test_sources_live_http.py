"""Live streams over HTTP: Motion JPEG, MPEG-TS and HLS from real servers."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.core.errors import SourceError
from streamdepth.sources.select import source_for
from tests.support.live import DEADLINE_SECONDS, Body, Quiet, assert_rising, encode_ts, http_server, live, serve_http
from tests.support.media import with_unknown_codec, write_clip
from tests.support.rtsp import listener
from tests.support.tls import self_signed, server_context

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.core.frame import Frame


def motion_jpeg() -> Body:
    image = av.VideoFrame(64, 48, "yuvj420p")
    codec = av.CodecContext.create("mjpeg", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 64, 48, "yuvj420p", Fraction(1, 25)
    jpeg = bytes(codec.encode(image)[0])
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg) + jpeg + b"\r\n"
    return Body("multipart/x-mixed-replace;boundary=x", [part], seconds=0.1, repeat=True)


def test_motion_jpeg_over_http_is_timed_by_the_clock() -> None:
    with http_server(motion_jpeg()) as url:
        source = live(url, max_frames=8, timeout_seconds=5)
        assert source.open().width_px == 64
        frames = list(source.frames())
    assert len(frames) == 8
    assert_rising(frames)
    clock_seconds = (frames[-1].captured_ns - frames[0].captured_ns) / 1e9
    assert frames[-1].seconds == pytest.approx(clock_seconds, abs=0.01)


@pytest.mark.slow
def test_interlaced_live_frames_are_deinterlaced_unless_disabled(tmp_path: Path) -> None:
    def comb(index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A bright bar whose position differs between the two fields."""
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[0::2, 8 * index : 8 * index + 16] = 255
        rgb[1::2, 8 * index + 4 : 8 * index + 20] = 255
        return rgb

    options = {"x264-params": "tff=1", "preset": "ultrafast", "tune": "zerolatency"}
    path = write_clip(tmp_path / "a.ts", frames=8, draw=comb, options=options)
    found: dict[bool, list[Frame]] = {}
    for deinterlace in (True, False):
        with http_server(Body("video/mp2t", [path.read_bytes()])) as url:
            source = live(url, retries=0, timeout_seconds=3, deinterlace=deinterlace)
            source.open()
            found[deinterlace] = []
            with contextlib.suppress(SourceError):  # the stream ends
                found[deinterlace].extend(source.frames())
        assert bool(source.notes) == deinterlace
    smooth, combed = found[True], found[False]
    assert source.dropped == {}
    assert [frame.pts for frame in smooth] == [frame.pts for frame in combed]
    assert [frame.key for frame in smooth] == [frame.key for frame in combed]
    assert not any(frame.image.interlaced_frame for frame in smooth)
    assert all(frame.image.interlaced_frame for frame in combed)
    # Lines that alternate are the comb: bwdif rebuilds one field from the other.
    rough, fine = (
        float(np.abs(np.diff(frames[2].to_rgb()[:, :, 0].astype(float), axis=0)).mean()) for frames in (combed, smooth)
    )
    assert fine < 0.5 * rough


def test_damaged_frames_are_dropped_and_counted_until_the_next_key_frame() -> None:
    body = Body("video/mp2t", encode_ts(60, damaged=23), seconds=0.01)
    with http_server(body) as url:
        source = live(url, retries=0, timeout_seconds=3)
        source.open()
        frames: list[Frame] = []
        with contextlib.suppress(SourceError):
            frames.extend(source.frames())
    indices = {frame.index for frame in frames}
    # Every frame is either given or counted, and the hole ends at the key frame.
    assert source.dropped == {"corrupt": 7}
    assert set(range(60)) - indices == set(range(23, 30))
    assert next(frame for frame in frames if frame.index == 30).key


def test_frames_after_a_lost_one_are_dropped_until_the_next_key_frame() -> None:
    """No decoder marks them, as nothing is wrong with what did arrive."""
    with http_server(Body("video/mp2t", encode_ts(60, lost=23), seconds=0.01)) as url:
        source = live(url, retries=0, timeout_seconds=3)
        source.open()
        frames: list[Frame] = []
        with contextlib.suppress(SourceError):
            frames.extend(source.frames())
    assert source.dropped == {"corrupt": 6}
    assert [frame.index for frame in frames] == [*range(23), *range(29, 59)]


def given_and_dropped(chunks: list[bytes]) -> tuple[list[Frame], int]:
    """Frames of a stream, and how many it says were damaged."""
    with http_server(Body("video/mp2t", chunks, seconds=0.01)) as url:
        source = live(url, retries=0, timeout_seconds=3)
        source.open()
        frames: list[Frame] = []
        with contextlib.suppress(SourceError):
            frames.extend(source.frames())
    return frames, source.dropped.get("corrupt", 0)


def test_frames_that_an_hevc_decoder_keeps_are_counted() -> None:
    """After a lost image it hands out nothing until a key frame, without an error."""
    frames, dropped = given_and_dropped(encode_ts(60, codec="libx265", lost=23))
    assert dropped == 6
    assert [frame.index for frame in frames] == [*range(23), *range(29, 59)]


@pytest.mark.parametrize("codec", ["mpeg2video", "mpeg4", "libx265"])
@pytest.mark.parametrize("lost", [23, 24])
def test_hole_in_a_transport_stream(codec: str, lost: int) -> None:
    """Packets lost on the way, whatever the codec: nothing painted over the hole gets through."""
    chunks = encode_ts(60, codec=codec)
    with av.open(io.BytesIO(b"".join(chunks)), "r") as whole:
        images = [image.to_ndarray() for image in whole.decode(video=0)]
    chunks[lost] = b""
    frames, dropped = given_and_dropped(chunks)
    assert 0 < dropped < 12
    assert len(frames) > 45
    for frame in frames:
        assert np.array_equal(frame.image.to_ndarray(), images[frame.pts // 3600])


def test_stream_that_breaks_off_is_opened_again() -> None:
    with http_server(Body("video/mp2t", encode_ts(20), seconds=0.005)) as url:
        source = live(url, max_frames=45, timeout_seconds=3)
        source.open()
        frames = list(source.frames())
    assert len(frames) == 45
    assert_rising(frames)
    assert source.reconnects >= 2


def test_packets_without_a_key_frame_are_an_answer() -> None:
    """A viewer that joins after a key frame waits longer than the deadline of silence, and says so."""
    chunks = encode_ts(110, key_every=100)[1:]  # the next key frame comes after 99 frames, 4 s
    said: list[str] = []
    with http_server(Body("video/mp2t", chunks, seconds=0.04)) as url:
        source = live(url, max_frames=3, timeout_seconds=2, on_status=said.append)
        source.open()
        frames = list(source.frames())
    assert len(frames) == 3
    assert frames[0].key
    assert said == [f"{source.id}: waiting for a key frame"]


def test_a_stream_that_nothing_decodes_is_named(tmp_path: Path) -> None:
    file = with_unknown_codec(write_clip(tmp_path / "a.mp4", frames=2))
    with http_server(Body("video/mp4", [file.read_bytes()])) as url, pytest.raises(SourceError) as caught:
        live(url, timeout_seconds=3).open()
    assert "this build of FFmpeg has no decoder for its video; check the path, or set" in str(caught.value)


def test_a_camera_of_one_client_is_given_time_to_notice_that_one_has_left() -> None:
    """It accepts a second client and says nothing to it, as cameras with an ESP32 do."""
    busy, body, stop = threading.Lock(), motion_jpeg(), threading.Event()

    def serve(client: socket.socket) -> None:
        client.recv(4096)
        if not busy.acquire(blocking=False):
            stop.wait(DEADLINE_SECONDS)
            return
        try:
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {body.content_type}\r\n\r\n".encode())
            while not stop.wait(body.seconds):
                client.sendall(body.chunks[0])
        finally:
            client.close()
            stop.wait(1)
            busy.release()

    with listener(serve) as port:
        source = source_for(f"http://127.0.0.1:{port}/stream", timeout_seconds=2, max_frames=2)
        source.open()
        assert len(list(source.frames())) == 2
        stop.set()


def test_outages_are_announced_when_they_happen() -> None:
    said: list[str] = []
    with http_server(Body("video/mp2t", encode_ts(20), seconds=0.005)) as url:
        source = live(url, max_frames=45, timeout_seconds=3, on_status=said.append)
        source.open()
        list(source.frames())
    lost, restored = said[:2]
    assert re.fullmatch(re.escape(source.id) + r": .+; next attempt in \d\.\d s, then at most 8 s apart", lost)
    assert re.fullmatch(re.escape(source.id) + r": connected again after \d+\.\d s", restored)
    outages = source.status["outages"]
    assert len(said) == 2 * int(outages) >= 4
    assert source.notes == (f"connected again {'once' if outages == 1 else f'{outages} times'}",)


def test_a_server_that_comes_late_is_retried() -> None:
    """Also where an http(s) URL has to be opened to find out what it is."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    said: list[str] = []

    def start() -> None:
        with http_server(motion_jpeg(), port=port):
            done.wait(20)

    done = threading.Event()
    server = threading.Timer(0.7, start)
    server.start()
    try:
        url = f"http://127.0.0.1:{port}/live"
        source = source_for(url, retries=20, timeout_seconds=3, max_frames=3, on_status=said.append)
        source.open()
        assert len(list(source.frames())) == 3
        assert "connection refused; next attempt in" in said[0]
        assert "connected after" in said[-1]
        source.close()
    finally:
        done.set()
        server.join(10)


def test_a_recording_that_ends_early_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "recording.flv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(250):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode(None))
    data = file.read_bytes()
    for share, error in ((1.0, ""), (0.5, "the recording ended")):
        part = data[: int(len(data) * share)]
        with http_server(Body("video/x-flv", [part]), length=len(part)) as url:
            source = live(url, timeout_seconds=3)
            source.open()
            with pytest.raises(SourceError, match=error) if error else contextlib.nullcontext():
                assert len(list(source.frames())) == 250


@pytest.mark.slow
def test_hls_comes_in_segments() -> None:
    """Silence between two segments is longer than the deadline and no reason to connect again."""
    segment = b"".join(encode_ts(20))
    started = time.monotonic()

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            count = 1 + (time.monotonic() - started > 2 * DEADLINE_SECONDS)
            entries = "".join(f"#EXTINF:0.8,\nseg{n}.ts\n" for n in range(count))
            playlist = f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n{entries}"
            body = playlist.encode() if self.path.endswith(".m3u8") else segment
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

    with serve_http(Handler) as base:
        source = live(f"{base}/live.m3u8", max_frames=30)
        source.open()
        frames = list(source.frames())
    assert len(frames) == 30
    assert_rising(frames)
    assert source.reconnects == 0


def test_certificate_of_https_is_checked(tmp_path: Path) -> None:
    pem = self_signed(tmp_path / "camera.pem")
    with http_server(motion_jpeg(), server_context(pem)) as url:
        with pytest.raises(SourceError, match=r"self-signed certificate.*--tls-ca FILE"):
            live(url, timeout_seconds=5).open()
        for tls_ca in (pem, "none"):
            source = live(url, timeout_seconds=5, tls_ca=tls_ca, max_frames=2)
            source.open()
            assert len(list(source.frames())) == 2

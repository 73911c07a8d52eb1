"""Video files in, depth videos out, over HTTP."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import av
import pytest

from streamdepth.serve.site import WebSite
from tests.support.media import with_unknown_codec, write_clip
from tests.support.stages import FakeEngine, fake_estimator
from tests.support.web import Answer, eventually, http, raw, site_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def clip(path: Path, frames: int = 12, suffix: str = ".mp4") -> bytes:
    """A small real video file."""
    file = path / f"clip{suffix}"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4" if suffix != ".gif" else "gif", rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuv420p" if suffix != ".gif" else "rgb8"
        for index in range(frames):
            frame = av.VideoFrame(64, 48, "rgb24")
            frame.planes[0].update(bytes([index * 9 % 256]) * frame.planes[0].buffer_size)
            container.mux(stream.encode(frame.reformat(format=stream.pix_fmt)))
        container.mux(stream.encode(None))
    return file.read_bytes()


@pytest.fixture
def site() -> Iterator[WebSite]:
    yield from started(fake_estimator())


def started(estimator: Any, **settings: Any) -> Iterator[WebSite]:
    folder = None
    try:
        with site_of(estimator, **settings) as made:
            folder = made._folder
            yield made
    finally:
        from pathlib import Path as Real

        assert folder is None or not Real(folder.name).exists()


def send(site: WebSite, data: bytes, query: str = "?name=clip.mp4") -> Answer:
    return http(f"{site.address}/v1/jobs{query}", body=data, kind="application/octet-stream")


def finished(site: WebSite, answer: Answer) -> dict[str, Any]:
    assert answer.status == 202, answer.body
    url = site.address + answer.headers["location"]
    over = ("done", "failed", "cancelled")
    found: dict[str, Any] = eventually(
        lambda: job if (job := http(url).json)["state"] in over else None, "the job is over", 30
    )
    return found


def test_a_video_comes_back_as_depth(site: WebSite, tmp_path: Path) -> None:
    answer = send(site, clip(tmp_path), "?name=..%2F..%2Fmy%20clip.mp4&style=viridis&view=side")
    assert answer.json["name"] == "my clip.mp4"
    job = finished(site, answer)
    assert (job["state"], job["frames"], job["progress"], job["error"]) == ("done", 12, 1.0, "")
    result = http(site.address + job["result"])
    assert result.headers["content-type"] == "video/mp4"
    assert "my%20clip-depth.mp4" in result.headers["content-disposition"]
    file = tmp_path / "result.mp4"
    file.write_bytes(result.body)
    with av.open(str(file)) as container:
        frames = list(container.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (12, 128, 48)
    part = http(site.address + job["result"] + "?inline=1", headers={"Range": "bytes=0-9"})
    assert (part.status, part.body) == (206, result.body[:10])
    assert part.headers["content-disposition"].startswith("inline")
    assert [one["id"] for one in http(f"{site.address}/v1/jobs").json] == [job["id"]]
    assert 'streamdepth_jobs{state="done"} 1' in http(f"{site.address}/metrics").body.decode()
    assert site._folder is not None
    (Path(site._folder.name) / job["id"] / "depth.mp4").unlink()
    assert "deleted in the meantime" in http(site.address + job["result"]).error
    assert http(f"{site.address}/v1/jobs/{job['id']}", method="DELETE").status == 204
    assert http(site.address + job["result"]).status == 404


def test_a_site_that_spares_the_model_spares_it_for_videos_too(tmp_path: Path) -> None:
    engine = FakeEngine()
    with contextlib.contextmanager(started)(fake_estimator(engine), model_every=4) as site:
        assert finished(site, send(site, clip(tmp_path)))["frames"] == 12
    assert sum(engine.batches) == 3


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".gif"])
def test_containers(site: WebSite, tmp_path: Path, suffix: str) -> None:
    job = finished(site, send(site, clip(tmp_path, 3, suffix), f"?name=x{suffix}"))
    assert (job["state"], job["frames"]) == ("done", 3)


def drawn(file: Path, codec: str, size_px: tuple[int, int], pix_fmt: str) -> bytes:
    width, height = size_px
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for level in (0, 100, 200):
            frame = av.VideoFrame(width, height, "gray")
            frame.planes[0].update(bytes([level]) * frame.planes[0].buffer_size)
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    return file.read_bytes()


@pytest.mark.parametrize(
    ("name", "codec", "size_px", "pix_fmt", "result"),
    [
        ("odd.gif", "gif", (63, 47), "rgb8", ("vp9", "yuv420p")),
        ("odd.mkv", "ffv1", (63, 48), "yuv420p", ("vp9", "yuv420p")),
        ("fine.mkv", "ffv1", (64, 48), "yuv422p", ("vp9", "yuv422p")),
        ("plain.mkv", "ffv1", (64, 48), "yuv420p", ("h264", "yuv420p")),
    ],
)
def test_what_browsers_would_not_play_as_h264_is_vp9(
    site: WebSite, tmp_path: Path, name: str, codec: str, size_px: tuple[int, int], pix_fmt: str, result: Any
) -> None:
    data = drawn(tmp_path / name, codec, size_px, pix_fmt)
    job = finished(site, send(site, data, f"?name={name}&view=overlay&alpha=0.5"))
    assert (job["state"], job["frames"], job["error"]) == ("done", 3, "")
    assert any("written as VP9" in note for note in job["notes"]) == (result[0] == "vp9")
    assert not any("/" in note for note in job["notes"])
    (tmp_path / "result.mp4").write_bytes(http(site.address + job["result"]).body)
    with av.open(str(tmp_path / "result.mp4")) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.pix_fmt) == result
        assert {(frame.width, frame.height) for frame in container.decode(video)} == {size_px}


def playlist(path: Path) -> list[bytes]:
    clip(path)
    secret = path / "clip.mp4"
    return [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n".encode(),
        f"ffconcat version 1.0\nfile {secret}\n".encode(),
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n{secret}".encode(),
    ]


def test_files_that_name_other_files_are_refused(site: WebSite, tmp_path: Path) -> None:
    for name in ("a.mp4", "a.m3u8", "a.ffconcat", "a"):
        for data in playlist(tmp_path):
            job = finished(site, send(site, data, f"?name={name}"))
            assert job["state"] == "failed", data
            assert "not a video file" in job["error"]
            http(f"{site.address}/v1/jobs/{job['id']}", method="DELETE")


def test_what_is_no_video(site: WebSite, tmp_path: Path) -> None:
    unknown = with_unknown_codec(write_clip(tmp_path / "a.mp4", frames=2)).read_bytes()
    job = finished(site, send(site, unknown, "?name=a.mp4"))
    assert job["error"] == "a.mp4: no decoder for its video codec; send H.264, H.265, VP9 or AV1"
    job = finished(site, send(site, b"hello " * 100))
    assert job["state"] == "failed"
    assert "\n" not in job["error"]
    assert send(site, b"").status == 400
    assert send(site, b"x", "?name=a&style=nosuch").status == 400
    assert send(site, b"x", "?name=a&what=1").status == 400
    assert http(f"{site.address}/v1/jobs/nosuch").status == 404
    assert http(f"{site.address}/v1/jobs/{job['id']}/result").status == 409
    kept = [one for one in http(f"{site.address}/v1/jobs").json if one["state"] != "failed"]
    assert not kept


def test_limits_of_size_and_number(tmp_path: Path) -> None:
    go = threading.Event()
    estimator = fake_estimator(before=lambda _: void(go.wait(20)))
    for site in started(estimator, max_upload_bytes=100_000, jobs_waiting=1, max_results=1):
        try:
            assert send(site, bytes(100_001)).status == 413
            first = send(site, clip(tmp_path))
            until(site, first, "running")
            second = send(site, clip(tmp_path))
            assert state(site, second) == "waiting"
            third = send(site, clip(tmp_path))
            assert third.status == 503
            assert third.headers["retry-after"] == "10"
            go.set()
            assert finished(site, second)["state"] == "done"
            assert [one["id"] for one in http(f"{site.address}/v1/jobs").json] == [second.json["id"]]
        finally:
            go.set()


def test_a_result_that_grows_too_large_fails(tmp_path: Path) -> None:
    going = threading.Event()

    def pace(batch: int) -> None:
        if batch > 5:
            going.wait(0.02)

    for site in started(fake_estimator(before=pace), max_result_bytes=1):
        job = finished(site, send(site, clip(tmp_path, 120)))
        assert job["state"] == "failed"
        assert "exceeds 1 bytes" in job["error"]


def test_a_running_job_is_cancelled(tmp_path: Path) -> None:
    running, go = threading.Event(), threading.Event()

    def block(_: int) -> None:
        running.set()
        go.wait(20)

    for site in started(fake_estimator(before=block)):
        answer = send(site, clip(tmp_path))
        assert running.wait(10)
        for _ in range(8):  # jobs that are deleted while they wait take no place
            waiting = send(site, b"x")
            assert http(site.address + waiting.headers["location"], method="DELETE").status == 204
        assert http(site.address + answer.headers["location"], method="DELETE").status == 204
        go.set()
        until_empty(site)
        assert finished(site, send(site, clip(tmp_path)))["state"] == "done"


def test_an_upload_that_stalls_is_given_up() -> None:
    for site in started(fake_estimator(), stall_seconds=0.3):
        with socket.create_connection(("127.0.0.1", site.port)) as half:
            half.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
            assert b" 408 " in half.recv(100)
        until_empty(site)


def test_an_upload_whose_job_is_deleted_ends(site: WebSite) -> None:
    with socket.create_connection(("127.0.0.1", site.port)) as half:
        half.settimeout(10)
        half.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
        number = eventually(lambda: http(f"{site.address}/v1/jobs").json, "the upload begins")[0]["id"]
        assert http(f"{site.address}/v1/jobs/{number}", method="DELETE").status == 204
        half.sendall(bytes(997))
        assert b" 409 " in half.recv(100)
    assert not http(f"{site.address}/v1/jobs").json


def test_it_stops_while_a_job_runs(tmp_path: Path) -> None:
    running = threading.Event()
    engine = FakeEngine(1, before=lambda _: running.set())
    for site in started(fake_estimator(engine)):
        send(site, clip(tmp_path, 200))
        assert running.wait(10)


def test_files_that_cannot_be_deleted_stop_neither_the_next_job_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows deletes no open file: here the one of a running download."""
    site = WebSite("http://127.0.0.1:0", estimator=fake_estimator(), environ={})
    site.start()
    assert site._folder is not None
    folder, delete, kept = site._folder.name, os.unlink, []

    def unlink(path: Any, **options: Any) -> None:
        if str(path).endswith(".mp4"):
            kept.append(str(path))
            raise PermissionError(13, "used by another process", str(path))
        delete(path, **options)

    try:
        answer = send(site, clip(tmp_path))
        job = finished(site, answer)
        with urllib.request.urlopen(site.address + job["result"]) as download:
            assert len(download.read(100)) == 100
            monkeypatch.setattr(os, "unlink", unlink)
            assert http(site.address + answer.headers["location"], method="DELETE").status == 204
            assert finished(site, send(site, clip(tmp_path)))["state"] == "done"
    finally:
        site.stop()
    monkeypatch.undo()
    assert kept
    shutil.rmtree(folder)


def until(site: WebSite, answer: Answer, wanted: str) -> None:
    eventually(lambda: state(site, answer) == wanted, f"the job is {wanted}")


def until_empty(site: WebSite) -> None:
    eventually(lambda: not http(f"{site.address}/v1/jobs").json, "no job is left")


def state(site: WebSite, answer: Answer) -> Any:
    return http(site.address + answer.headers["location"]).json["state"]


def void(_: object) -> None:
    return None


def test_uploads_reserve_disk_space(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000 + (512 << 20)

    monkeypatch.setattr("streamdepth.serve.jobs.shutil.disk_usage", lambda _: Usage)
    with site_of(fake_estimator()) as site:
        with raw(site, b"POST /v1/jobs HTTP/1.1\r\nHOST\r\nContent-Length: 900\r\n\r\nabc"):
            eventually(lambda: http(f"{site.address}/v1/jobs").json, "the upload has begun")
            full = http(f"{site.address}/v1/jobs", body=bytes(200), kind="application/octet-stream")
            assert (full.status, "disk is full" in full.error) == (507, True)
        eventually(lambda: not http(f"{site.address}/v1/jobs").json, "the space is free again")
        chunked = b"POST /v1/jobs HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + bytes(0x800)
        with raw(site, chunked) as unknown:
            assert b" 507 " in unknown.recv(100)


def test_a_full_disk_is_no_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, __: Any, file: BinaryIO, ___: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file.name)

    monkeypatch.setattr("streamdepth.serve.jobs.JobRunner.write", full)
    with site_of(fake_estimator()) as site:
        answer = http(f"{site.address}/v1/jobs", body=b"abc", kind="application/octet-stream")
        assert (answer.status, "/" in answer.error) == (507, False)

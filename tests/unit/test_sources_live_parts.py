"""Back-off, addresses, credentials and the time line of live sources: no network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import quote

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamdepth.core.errors import UsageError
from streamdepth.net.calls import Backoff, connected_again
from streamdepth.net.url import Credentials, find_credentials, parse_live_url
from streamdepth.sources.live.connection import libav_options, reason
from streamdepth.sources.live.reader import Ended, Mailbox
from streamdepth.sources.live.timestamps import TIME_BASE, FrameGaps, LivePace, LiveTimeline, SkippedFrames

if TYPE_CHECKING:
    from pathlib import Path

_WORD = "p"
_SCHEMES = frozenset({"rtsp", "udp"})


def test_backoff_doubles_up_to_its_longest() -> None:
    backoff = Backoff(Random(1), initial_seconds=1, longest_seconds=5, jitter=0)
    assert [backoff.next_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next_seconds() == 1


def test_backoff_jitter_shortens_and_differs() -> None:
    waits = [Backoff(Random(seed), initial_seconds=1, jitter=0.5).next_seconds() for seed in range(50)]
    assert all(0.5 <= wait <= 1 for wait in waits)
    assert len(set(waits)) == 50


def test_reconnections_are_told_in_english() -> None:
    assert [connected_again(times) for times in (1, 2)] == ["connected again once", "connected again 2 times"]


@pytest.mark.parametrize("options", [{"initial_seconds": 0}, {"factor": 0.5}, {"jitter": 2}, {"longest_seconds": 0.01}])
def test_backoff_that_means_nothing(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(Random(1), **options)


@given(st.text(min_size=1, max_size=20), st.text(max_size=20))
def test_credentials_survive_the_address(username: str, password: str) -> None:
    given_url = f"rtsp://{quote(username, safe='')}:{quote(password, safe='')}@cam:8554/x"
    url = parse_live_url(given_url, _SCHEMES)
    assert url.credentials == Credentials(username, password)
    assert (url.host, url.port, url.location) == ("cam", 8554, "rtsp://cam:8554/x")
    assert url.with_credentials(url.credentials) == given_url
    assert repr(url.credentials) == "Credentials()"


def test_address_defaults() -> None:
    url = parse_live_url(" rtsp://[::1]/x?token=abc ", _SCHEMES)
    assert (url.host, url.port, url.credentials) == ("::1", 554, None)
    assert url.label == "rtsp://[::1]/x?token=***"
    assert parse_live_url("udp://:5000", _SCHEMES).port == 5000
    assert parse_live_url("RTSP://u:p@Cam/X", _SCHEMES).location == "rtsp://Cam/X"


@pytest.mark.parametrize(
    "text", ["cam.mp4", "0", "rtsp://", "rtsp://h:1:2/", "rtsp://h/a b", "rtsp://h/\x01", "file:///x"]
)
def test_no_address(text: str) -> None:
    with pytest.raises(UsageError):
        parse_live_url(text, _SCHEMES)


def test_where_credentials_come_from(tmp_path: Path) -> None:
    url = parse_live_url("rtsp://a:b@cam/x", _SCHEMES)
    bare = parse_live_url("rtsp://cam/x", _SCHEMES)
    file = tmp_path / "secret"
    file.write_text("c:d:e\nignored\n")
    environ = {"STREAMDEPTH_RTSP_USER": "f", "STREAMDEPTH_RTSP_PASSWORD": "g"}
    assert find_credentials(url, environ=environ) == Credentials("a", "b")
    assert find_credentials(url, username="u", password=_WORD, environ=environ) == Credentials("u", _WORD)
    assert find_credentials(url, credentials_file=file, environ=environ) == Credentials("c", "d:e")
    assert find_credentials(bare, environ=environ) == Credentials("f", "g")
    assert find_credentials(bare, environ={}) is None


def test_credentials_that_are_none(tmp_path: Path) -> None:
    bare = parse_live_url("rtsp://cam/x", _SCHEMES)
    empty = tmp_path / "empty"
    empty.write_text("")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for file in (empty, binary, tmp_path / "absent"):
        with pytest.raises(UsageError, match="USER:PASSWORD"):
            find_credentials(bare, credentials_file=file, environ={})
    with pytest.raises(UsageError, match="together"):
        find_credentials(bare, password=_WORD, environ={})
    with pytest.raises(UsageError, match="together"):
        find_credentials(bare, environ={"STREAMDEPTH_RTSP_USER": "f"})
    with pytest.raises(UsageError, match="twice"):
        find_credentials(bare, username="u", password=_WORD, credentials_file=empty, environ={})


_MS = Fraction(1, 1000)


def test_timeline_keeps_the_cameras_spacing() -> None:
    line = LiveTimeline()
    stamps = [line.next_pts(pts, _MS, arrived) for pts, arrived in ((500, 0), (540, 90_000_000), (581, 95_000_000))]
    assert stamps == [0, 3600, 7290]


def test_timeline_goes_on_by_the_clock_after_a_reconnect() -> None:
    line = LiveTimeline()
    line.next_pts(0, _MS, 0)
    line.next_pts(40, _MS, 40_000_000)
    line.restart()
    assert line.next_pts(9_999_000, _MS, 2_040_000_000) * TIME_BASE == Fraction(2040, 1000)
    assert line.next_pts(9_999_040, _MS, 2_050_000_000) * TIME_BASE == Fraction(2080, 1000)


def test_timeline_mends_leaps_falls_and_holes() -> None:
    line = LiveTimeline()
    line.next_pts(0, _MS, 0)
    assert line.next_pts(3_600_000, _MS, 40_000_000) == 3600
    assert line.next_pts(3_600_040, _MS, 80_000_000) == 7200
    assert line.next_pts(10, _MS, 120_000_000) == 10_800
    assert line.next_pts(None, None, 160_000_000) == 14_400
    assert line.next_pts(90, _MS, 200_000_000) == 18_000


@given(st.lists(st.tuples(st.none() | st.integers(-(10**9), 10**9), st.integers(0, 10**10), st.booleans()), min_size=2))
def test_timeline_always_rises(steps: list[tuple[int | None, int, bool]]) -> None:
    line, now_ns, last = LiveTimeline(), 0, -1
    for pts, elapsed_ns, reconnected in steps:
        now_ns += elapsed_ns
        if reconnected:
            line.restart()
        placed = line.next_pts(pts, _MS, now_ns)
        assert placed > last
        last = placed


def test_a_burst_is_due_at_the_pace_of_its_pts() -> None:
    pace = LivePace()
    assert [pace.due_ns(1000 + 40 * n, _MS, 7 + n) for n in range(4)] == [7, 40_000_007, 80_000_007, 120_000_007]


def test_a_little_late_is_caught_up_and_more_is_given_up() -> None:
    pace = LivePace()
    pace.due_ns(0, _MS, 0)
    assert pace.due_ns(40, _MS, 540_000_000) == 540_000_000
    assert pace.due_ns(600, _MS, 540_000_000) == 600_000_000
    assert pace.due_ns(640, _MS, 1_140_000_001) == 1_140_000_001
    assert pace.due_ns(680, _MS, 1_140_000_001) == 1_180_000_001


@pytest.mark.parametrize("leap", [-90_000, 2_001, 95_000_000])
def test_pace_starts_anew_where_pts_leap(leap: int) -> None:
    pace = LivePace()
    pace.due_ns(100_000, _MS, 0)
    assert pace.due_ns(100_000 + leap, _MS, 5) == 5
    assert pace.due_ns(100_040 + leap, _MS, 6) == 40_000_005


def test_what_has_no_time_is_due_at_once() -> None:
    pace = LivePace()
    pace.due_ns(0, _MS, 0)
    assert pace.due_ns(None, _MS, 9) == 9
    assert pace.due_ns(1000, None, 9) == 9
    assert pace.due_ns(40, _MS, 9) == 40_000_000


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 10**10)), min_size=1))
def test_no_image_is_held_long(steps: list[tuple[int, int]]) -> None:
    pace, now_ns = LivePace(), 0
    for pts, elapsed_ns in steps:
        now_ns += elapsed_ns
        assert 0 <= pace.due_ns(pts, _MS, now_ns) - now_ns <= 2_000_000_000


def test_waiting_on_a_mailbox_ends_when_it_closes() -> None:
    box = Mailbox()
    assert not box.closes_within(0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(box.closes_within, 60)
        assert box.put(Ended(None))
        box.close()
        assert waiting.result(5)


def test_mailbox_is_bounded_and_lets_go() -> None:
    box = Mailbox()
    assert box.put(Ended(None))
    assert box.put(Ended(None))
    assert isinstance(box.take(0), Ended)
    box.close()
    assert not box.put(Ended(None))
    assert box.take(0) is None


def test_transports_become_options() -> None:
    assert libav_options("rtsp", "udp", True, 2)["rtsp_transport"] == "udp"
    assert "rtsp_transport" not in libav_options("rtsp", "auto", True, 2)
    assert libav_options("http", "tcp", True, 2)["rw_timeout"] == "2000000"


def test_reasons_never_hold_the_address() -> None:
    url = "rtsp://u:geheim@cam/x"
    for error in (
        av.error.HTTPUnauthorizedError(1, "401", url),
        av.error.InvalidDataError(2, "bad", url),
        av.error.OSError(5, "Input/output error", url),
        OSError(5, "x", url),
        TimeoutError(),
        ValueError(url),
        None,
    ):
        assert "geheim" not in reason(error, 3)


def encoded(x264: str, count: int = 80) -> list[bytes]:
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 64, 48, "yuv420p", Fraction(1, 25)
    codec.framerate = Fraction(25)
    codec.options = {"preset": "fast", "x264-params": f"annexb=1:repeat-headers=1:{x264}"}
    rng = np.random.default_rng(1)
    packets: list[bytes] = []
    for index in range(count):
        planes = rng.integers(0, 256, (72, 64), dtype=np.uint8)
        image = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        image.pts = index
        packets += [bytes(packet) for packet in codec.encode(image)]
    return packets + [bytes(packet) for packet in codec.encode(None)]


_KINDS = [
    "bframes=0:keyint=30",
    "bframes=3:b-pyramid=normal:ref=4",
    "bframes=2:b-pyramid=strict:keyint=20",
    "interlaced=1:bframes=0",
    "intra-refresh=1:bframes=0:keyint=15",
    "slices=4:bframes=0",
    "cqm=jvt",
    "scenecut=0:open-gop=1:keyint=25",
]


@pytest.mark.parametrize("x264", _KINDS)
def test_no_gap_in_a_whole_stream(x264: str) -> None:
    gaps = FrameGaps()
    assert not any(gaps.found(packet) for packet in encoded(x264))


def test_gap_where_a_reference_is_missing() -> None:
    for x264 in ("bframes=0:keyint=200", "cqm=jvt:bframes=0:keyint=200", "slices=3:bframes=0:keyint=200"):
        packets = encoded(x264)
        for lost in (1, 17, 40):
            gaps = FrameGaps()
            found = [at for at, packet in enumerate(packets) if at != lost and gaps.found(packet)]
            assert found == [lost + 1]


def test_images_a_decoder_keeps_are_counted_when_time_has_passed_them() -> None:
    kept = SkippedFrames()
    kept.took(0)
    kept.took(None)
    for pts in (40, 160, 80, 120, 200, 240):
        kept.took(pts)
    # Images before the first that comes out belong to nobody; reordered ones come in the order of their times.
    assert [kept.gave(pts) for pts in (40, 80, 160, None, 240)] == [0, 0, 1, 0, 1]


@given(st.binary(max_size=200), st.sampled_from([b"", b"\0\0\1\x67", b"\0\0\1\x41", b"\0\0\0\1\x67\x64"]))
def test_gaps_survive_anything(data: bytes, start: bytes) -> None:
    gaps = FrameGaps()
    gaps.found(start + data)
    gaps.found(start + data[::-1])

"""Pixels of frames in a temporary file: what is stored comes back, and a disk that cannot serve stops nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from types import SimpleNamespace
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest

from streamdepth.core.host import temporary_folder
from streamdepth.media.frame_store import FrameStore
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from pathlib import Path

    from av.video.plane import VideoPlane

ROOM = 1 << 22


def image(seed: int, width: int = 36, height: int = 20, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    made = av.VideoFrame(width, height, pix_fmt)
    random = np.random.default_rng(seed)
    for plane in made.planes:
        plane.update(random.integers(0, 256, plane.buffer_size, np.uint8).tobytes())
    return made


def used(of: av.VideoFrame) -> list[np.ndarray]:
    """The samples of each plane of 8 bits, without the padding of lines."""
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width].copy()
        for plane in of.planes
    ]


def starts_of_lines(plane: VideoPlane, size: int) -> bytes:
    """The first ``size`` bytes of each line."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return lines[:, :size].tobytes()


def store(budget_bytes: int = ROOM, clock: ManualClock | None = None) -> FrameStore:
    return FrameStore(budget_bytes, clock or ManualClock())


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "nv12", "yuv444p10le", "yuv422p", "gray", "rgb24", "rgba", "gbrp", "yuva420p"]
)
@pytest.mark.parametrize("size", [(64, 32), (35, 19), (1, 1)])
def test_pixels_come_back(pix_fmt: str, size: tuple[int, int]) -> None:
    kept = store()
    first, second = (image(seed, *size, pix_fmt) for seed in (1, 2))
    numbers = [kept.add(first), kept.add(second)]
    for number, original in zip(numbers[::-1], (second, first), strict=True):
        assert number is not None
        got = kept.load(number)
        assert [
            starts_of_lines(plane, other.line_size) for plane, other in zip(got.planes, original.planes, strict=True)
        ] == [bytes(plane) for plane in original.planes]
    kept.close()


def test_lines_of_another_length_come_back(tmp_path: Path) -> None:
    """Decoders pad the lines of their images."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", 25, width=162, height=90, pix_fmt="yuv420p")
        for seed in range(3):
            output.mux(stream.encode(image(seed, 162, 90)))
        output.mux(stream.encode(None))
    with av.open(str(path)) as clip:
        decoded = next(clip.decode(video=0))
    kept = store()
    number = kept.add(decoded)
    assert number is not None
    got = kept.load(number)
    assert len(decoded.side_data) > 0, "x264 writes its settings to the first frame"
    assert len(got.side_data) == 0
    assert len(decoded.side_data) > 0
    assert [plane.line_size for plane in decoded.planes] != [plane.line_size for plane in got.planes]
    for stored, original in zip(used(got), used(decoded), strict=True):
        np.testing.assert_array_equal(stored, original)
    kept.close()


@pytest.mark.parametrize(("pix_fmt", "width"), [("yuv420p10le", 64), ("yuv420p", 35), ("yuv411p", 64)])
def test_stored_images_become_the_same_rgb(tmp_path: Path, pix_fmt: str, width: int) -> None:
    """FFmpeg converts by the position of the chroma samples, which the decoder sets and PyAV does not show."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", 25, width=width, height=20, pix_fmt=pix_fmt)
        for seed in range(3):
            output.mux(stream.encode(image(seed, width, 20, "rgb24").reformat(format=pix_fmt)))
        output.mux(stream.encode(None))
    with av.open(str(path)) as clip:
        decoded = list(clip.decode(video=0))
    kept = store()
    for number, original in [(kept.add(each), each) for each in decoded]:
        assert number is not None
        got = kept.load(number)
        for plane, other in zip(got.planes, used(original), strict=True):
            lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
            np.testing.assert_array_equal(lines[:, : plane.width], other)
        np.testing.assert_array_equal(got.to_ndarray(format="rgb24"), original.to_ndarray(format="rgb24"))
    kept.close()


def test_room_is_used_again() -> None:
    size = sum(plane.buffer_size for plane in image(0).planes)
    kept = store(2 * size + 1)
    assert [kept.add(image(seed)) for seed in range(3)] == [0, 1, None]
    kept.free(0)
    assert kept.add(image(3)) == 0
    got = kept.load(1)
    assert starts_of_lines(got.planes[0], image(1).planes[0].line_size) == bytes(image(1).planes[0])
    assert kept.add(image(4)) == 1
    kept.close()
    kept.close()


def test_frames_of_another_form_are_not_stored() -> None:
    kept = store()
    assert kept.add(image(0)) == 0
    assert kept.add(image(0, 38)) is None
    assert kept.add(image(0, pix_fmt="yuv422p")) is None
    assert kept.add(image(1)) == 1
    kept.close()


def test_no_room_for_one_frame() -> None:
    kept = store(100)
    assert kept.add(image(0)) is None
    kept.close()


def test_a_quarter_of_the_free_disk_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(plane.buffer_size for plane in image(0).planes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 3 * size + 3))
    kept = store()
    assert [kept.add(image(seed)) for seed in range(4)] == [0, 1, 2, None]
    kept.close()


def test_several_stores_share_a_quarter_of_the_free_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(plane.buffer_size for plane in image(0).planes)
    stored = 0
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=(4 * 4 - stored) * size))
    both = store(), store()
    for seed in range(8):
        stored += both[seed % 2].add(image(seed)) is not None
    assert stored == 4
    both[0].free(0)
    assert both[0].add(image(9)) == 0, "what is free in the file is used again"
    for kept in both:
        kept.close()


def test_a_folder_that_cannot_be_written_stores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    kept = store()
    assert kept.add(image(0)) is None
    kept.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_stores_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115, PTH123
    kept = store()
    assert kept.add(image(0)) is None
    monkeypatch.undo()
    assert kept.add(image(0)) is None
    kept.close()


def test_a_slow_disk_is_given_up_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    kept = store(clock=clock)
    write = FrameStore._write

    def slow(self: FrameStore, number: int, picture: av.VideoFrame) -> bool:
        clock.advance(0.3)
        return write(self, number, picture)

    monkeypatch.setattr(FrameStore, "_write", slow)
    assert [kept.add(image(seed)) for seed in range(5)] == [0, 1, 2, 3, None]
    got = kept.load(2)
    assert starts_of_lines(got.planes[0], image(2).planes[0].line_size) == bytes(image(2).planes[0]), (
        "what was stored is still there"
    )
    assert kept.add(image(6)) is None
    kept.close()


def test_var_tmp_takes_the_place_of_tmp_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    writable = True
    monkeypatch.setattr(os, "access", lambda path, _: path == "/var/tmp" and writable)
    assert temporary_folder() == "/var/tmp"
    writable = False
    assert temporary_folder() == "/tmp"
    writable = True
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert temporary_folder() == "/tmp"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert temporary_folder() == str(tmp_path)

"""Cameras, at OpenCV's and Video4Linux's boundary: made-up devices, for want of a camera."""

from __future__ import annotations

import sys
import threading
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.core.contracts import Source
from streamdepth.core.errors import MissingDependencyError, SourceError, SourceNotFoundError, UsageError
from streamdepth.net.calls import AbandonableCalls
from streamdepth.sources.cameras import Camera, backends, list_cameras
from streamdepth.sources.webcam import WebcamSource, open_with
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT, FPS, FOURCC, BUFFERSIZE = 3, 4, 5, 6, 38


class FakeCapture:
    """A camera of 64x48 that gives ``good`` images, waiting for ``permit`` before each but the first."""

    def __init__(self, good: int = 1000, *, opened: bool = True, gray: bool = False, stepped: bool = False) -> None:
        self.good, self.opened, self.gray = good, opened, gray
        self.permit = threading.Semaphore(0) if stepped else None
        self.asked: dict[int, float] = {}
        self.reads = 0
        self.released = threading.Event()
        self.hanging = threading.Event()

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        if self.reads and self.permit is not None:
            self.hanging.set()
            self.permit.acquire(timeout=20)
        if self.reads >= self.good:
            return False, None
        self.reads += 1
        return True, np.full((48, 64) if self.gray else (48, 64, 3), self.reads % 256, np.uint8)

    def get(self, prop: int, /) -> float:
        return {FPS: 30.0, FOURCC: float(int.from_bytes(b"YUYV", "little"))}.get(prop, 0.0)

    def set(self, prop: int, value: float, /) -> bool:
        self.asked[prop] = value
        return False

    def release(self) -> None:
        self.released.set()


def test_negotiated_mode_is_reported() -> None:
    capture = FakeCapture()
    source = WebcamSource(0, width=1280, height=720, rate=60, open_capture=lambda _: capture)
    assert isinstance(source, Source)
    assert source.live
    info = source.open()
    assert (info.width_px, info.height_px, info.rate, info.live, info.pix_fmt) == (64, 48, Fraction(30), True, "bgr24")
    assert info.note == "64x48 at 30 fps, YUYV (requested 1280x720 at 60 fps is not supported)"
    assert capture.asked[WIDTH] == 1280
    assert capture.asked[HEIGHT] == 720
    assert capture.asked[FPS] == 60
    assert capture.asked[BUFFERSIZE] == 1
    assert capture.asked[FOURCC] == int.from_bytes(b"MJPG", "little")
    source.close()
    assert capture.released.is_set()


def test_frames_share_memory_and_rise() -> None:
    capture = FakeCapture(stepped=True)
    assert capture.permit is not None
    source = WebcamSource("0", open_capture=lambda _: capture, clock=ManualClock(step_seconds=0.04, now_ns=0))
    source.open()
    frames = source.frames()
    given = [next(frames)]
    for _ in range(4):
        capture.permit.release()
        given.append(next(frames))
    assert [frame.index for frame in given] == list(range(5))
    assert [frame.pts for frame in given] == [3600 * n for n in range(5)]
    assert [int(frame.to_rgb()[0, 0, 0]) for frame in given] == [1, 2, 3, 4, 5]
    assert source.dropped == {}
    source.interrupt()
    capture.permit.release()
    assert list(frames) == []
    assert capture.released.wait(2)
    source.close()


def test_what_nobody_takes_is_overtaken_and_counted() -> None:
    capture = FakeCapture(good=50)
    source = WebcamSource(0, open_capture=lambda _: capture)
    source.open()
    frames = source.frames()
    given = [next(frames)]
    assert capture.released.wait(5)
    with pytest.raises(SourceError, match="no more frames after 50; check the connection"):  # noqa: PT012
        for frame in frames:
            given.append(frame)  # noqa: PERF402 - the error must not take the frames along
    assert given[-1].index == 49
    assert len(given) + source.dropped["overtaken"] == 50
    source.close()


def test_gray_camera() -> None:
    source = WebcamSource(0, open_capture=lambda _: FakeCapture(gray=True))
    assert source.open().pix_fmt == "gray"
    assert next(source.frames()).image.format.name == "gray"
    source.close()


def test_no_such_camera() -> None:
    capture = FakeCapture(opened=False)
    with pytest.raises(SourceNotFoundError, match=r"camera 7: no such camera.*; streamdepth cameras lists"):
        WebcamSource(7, open_capture=lambda _: capture).open()
    assert capture.released.is_set()


def test_camera_without_images() -> None:
    capture = FakeCapture(good=0)
    with pytest.raises(SourceError, match="opens but gives no frame"):
        WebcamSource(0, open_capture=lambda _: capture).open()
    assert capture.released.is_set()


def test_hanging_open_ends_by_itself_and_by_interrupt() -> None:
    gate = threading.Event()
    late: list[FakeCapture] = []

    def slow(_: int | str) -> FakeCapture:
        gate.wait(20)
        late.append(FakeCapture())
        return late[-1]

    with pytest.raises(SourceError, match=r"no frame within 0.05 s"):
        WebcamSource(0, open_capture=slow, timeout_seconds=0.05).open()
    source = WebcamSource(0, open_capture=slow)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            source.open()
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    source.interrupt()
    thread.join(1)
    assert not thread.is_alive()
    assert "interrupted" in str(errors[0])
    gate.set()


def test_hanging_read_ends_by_interrupt_and_by_itself() -> None:
    capture = FakeCapture(stepped=True)
    source = WebcamSource(0, open_capture=lambda _: capture, timeout_seconds=0.2)
    source.open()
    frames = source.frames()
    next(frames)
    with pytest.raises(SourceError, match=r"no frame for 0.2 s; check the connection"):
        next(frames)
    capture = FakeCapture(stepped=True)
    source = WebcamSource(0, open_capture=lambda _: capture)
    source.open()
    frames = source.frames()
    next(frames)
    ended = threading.Event()

    def drain() -> None:
        list(frames)
        ended.set()

    threading.Thread(target=drain, daemon=True).start()
    assert capture.hanging.wait(5)
    source.interrupt()
    assert ended.wait(1)
    assert not capture.released.is_set()
    assert capture.permit is not None
    capture.permit.release()
    assert capture.released.wait(2)


def test_interrupted_before_frames_releases_the_camera() -> None:
    capture = FakeCapture()
    source = WebcamSource(0, open_capture=lambda _: capture)
    source.open()
    source.interrupt()
    assert list(source.frames()) == []
    source.close()
    assert capture.released.is_set()


class _ThreadedCapture(FakeCapture):
    """Notes the threads that use it."""

    def __init__(self) -> None:
        super().__init__(good=10**9)  # read until it is released
        self.threads = {threading.get_ident()}

    def isOpened(self) -> bool:  # noqa: N802
        self.threads.add(threading.get_ident())
        return super().isOpened()

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        self.threads.add(threading.get_ident())
        return super().read()

    def get(self, prop: int, /) -> float:
        self.threads.add(threading.get_ident())
        return super().get(prop)

    def set(self, prop: int, value: float, /) -> bool:
        self.threads.add(threading.get_ident())
        return super().set(prop, value)

    def release(self) -> None:
        self.threads.add(threading.get_ident())
        super().release()


@pytest.mark.parametrize("frames", [0, 3])
def test_one_thread_has_the_camera_from_open_to_release(frames: int) -> None:
    captures: list[_ThreadedCapture] = []

    def open_capture(_: int | str) -> _ThreadedCapture:
        captures.append(_ThreadedCapture())
        return captures[-1]

    source = WebcamSource(0, open_capture=open_capture)
    source.open()
    if frames:
        taken = source.frames()
        for _ in range(frames):
            next(taken)
    source.close()
    (capture,) = captures
    assert capture.released.is_set()
    (thread,) = capture.threads
    assert thread != threading.get_ident()


def test_macos_asks_for_permission_on_the_main_thread() -> None:
    captures: list[_ThreadedCapture] = []

    def open_capture(_: int | str) -> _ThreadedCapture:
        captures.append(_ThreadedCapture())
        return captures[-1]

    source = WebcamSource(0, open_capture=open_capture, system="darwin")
    source.open()
    source.close()
    asking, used = captures
    assert asking.threads == {threading.get_ident()}
    assert asking.released.is_set()
    assert threading.get_ident() not in used.threads


def test_windows_waits_longer_for_a_camera_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float | None] = []
    iterate = AbandonableCalls.iterate

    def noted(calls: AbandonableCalls, items: Any, **options: Any) -> Any:
        limits.append(options["first_seconds"])
        return iterate(calls, items, **options)

    monkeypatch.setattr(AbandonableCalls, "iterate", noted)
    for system in ("linux", "win32"):
        source = WebcamSource(0, open_capture=lambda _: FakeCapture(), system=system)
        source.open()
        source.close()
    assert limits == [10.0, 60.0]


class TestBackends:
    """Media Foundation opens first; DirectShow lists the same cameras in another order."""

    MSMF, DSHOW = 1400, 700

    def cameras(self, api: int) -> tuple[Camera, ...]:
        names = {self.MSMF: ("Front", "Desk"), self.DSHOW: ("Virtual", "Desk", "Front")}[api]
        return tuple(Camera(index, name) for index, name in enumerate(names))

    @pytest.mark.parametrize(
        ("works", "expected"),
        [({1400, 700}, (0, 1400)), ({700}, (2, 700)), (set(), (2, 700))],
    )
    def test_the_next_one_opens_the_same_camera(self, works: set[int], expected: tuple[int, int]) -> None:
        assert backends("win32") == (self.MSMF, self.DSHOW)
        tried: list[tuple[int | str, int, FakeCapture]] = []

        def capture(index: int | str, api: int) -> FakeCapture:
            tried.append((index, api, FakeCapture(opened=api in works)))
            return tried[-1][2]

        opened = open_with(backends("win32"), 0, capture, self.cameras)
        assert opened is tried[-1][2]
        assert tried[-1][:2] == expected
        assert all(one.released.is_set() for *_, one in tried[:-1])

    def test_one_that_opens_and_gives_no_image_is_left(self) -> None:
        opened = open_with((1400, 700), 1, lambda _, api: FakeCapture(0 if api == self.MSMF else 9), self.cameras)
        assert opened.read()[0]

    def test_a_system_with_one_is_not_asked_for_names(self) -> None:
        def cameras(_: int) -> tuple[Camera, ...]:
            raise AssertionError("listed")

        assert open_with(backends("linux"), 3, lambda index, api: FakeCapture(int(index) + api), cameras).read()[0]


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_listing_elsewhere_takes_names_and_opens_nothing(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def enumerate_cameras(api: int) -> list[SimpleNamespace]:
        asked.append(api)
        return [SimpleNamespace(index=1, name="Desk", path="usb#2"), SimpleNamespace(index=0, name="Front", path=None)]

    monkeypatch.setitem(sys.modules, "cv2_enumerate_cameras", SimpleNamespace(enumerate_cameras=enumerate_cameras))
    found = list_cameras(system=system)
    assert [(one.index, one.name, one.path) for one in found] == [(0, "Front", ""), (1, "Desk", "usb#2")]
    assert asked == [backends(system)[0]]
    monkeypatch.setitem(sys.modules, "cv2_enumerate_cameras", None)
    with pytest.raises(MissingDependencyError, match="pip install cv2-enumerate-cameras"):
        list_cameras(system=system)


@pytest.mark.parametrize(
    ("name", "way_out"), [("rp1-cfe-csi2_ch0", "rpicam-vid"), ("vi-output, imx219 9-0010", "GStreamer")]
)
def test_cameras_behind_an_image_processor_say_how_to_read_them(name: str, way_out: str) -> None:
    source = WebcamSource(0, open_capture=lambda _: FakeCapture(0), cameras=lambda: (Camera(0, name),))
    with pytest.raises(SourceError, match=f"gives no frame.*{way_out}.*tcp://127.0.0.1:8888"):
        source.open()


@pytest.mark.parametrize(
    ("device", "opened"),
    [("/dev/video3", 3), ("12", 12), ("front", 2), ("Desk Camera", 1), ("/dev/v4l/by-id/x", "/dev/v4l/by-id/x")],
)
def test_devices_by_path_and_name(device: str, opened: int | str) -> None:
    targets: list[int | str] = []

    def note(target: int | str) -> FakeCapture:
        targets.append(target)
        return FakeCapture()

    cameras = (Camera(1, "Desk Camera"), Camera(2, "Front: camera"), Camera(4, "Desk Camera Pro"))
    source = WebcamSource(device, open_capture=note, cameras=lambda: cameras)
    source.open()
    source.close()
    assert targets == [opened]
    with pytest.raises(SourceNotFoundError, match=r"no single camera matches 'desk'; cameras: 1 \(Desk Camera\)"):
        WebcamSource("desk", open_capture=note, cameras=lambda: cameras).open()


@pytest.mark.parametrize(
    "options", [{"device": -1}, {"width": 5}, {"width": 0, "height": 5}, {"rate": 0}, {"timeout_seconds": 0}]
)
def test_arguments_that_mean_nothing(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        WebcamSource(**options)  # type: ignore[arg-type]

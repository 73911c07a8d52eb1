"""The virtual camera: by pyvirtualcam itself on a device of the test's, where it is installed, and by a stand-in."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.core.errors import MissingDependencyError, SinkError
from streamdepth.core.frame import ColorTags
from streamdepth.sinks.consumers import VirtualCameraSink
from tests.support import need
from tests.support.sinks import control, image_info, paint, result, run_sink, stream_info

if TYPE_CHECKING:
    from numpy.typing import NDArray

INFO = stream_info()
_HINT = "sudo modprobe v4l2loopback" if sys.platform == "linux" else "virtual camera of OBS"


class FakeCamera:
    """What pyvirtualcam offers, with a device that can be missing or vanish."""

    missing = False
    made: list[FakeCamera] = []  # noqa: RUF012 - a test's notebook

    def __init__(self, width: int, height: int, fps: float, fmt: str, device: str | None) -> None:
        if FakeCamera.missing:
            raise RuntimeError(
                "'v4l2loopback' backend: No v4l2 loopback device found at /dev/video[0-99]. Did you run it?"
            )
        self.size, self.fps, self.fmt, self.device = (width, height), fps, fmt, device
        self.sent: list[Any] = []
        self.closed = 0
        FakeCamera.made.append(self)

    def send(self, image: Any) -> None:
        if len(self.sent) == 2:
            raise RuntimeError("device removed")
        self.sent.append(image)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> type[FakeCamera]:
    module = types.ModuleType("pyvirtualcam")
    module.Camera = FakeCamera  # type: ignore[attr-defined]
    module.PixelFormat = types.SimpleNamespace(RGB="rgb")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)
    monkeypatch.setattr(FakeCamera, "missing", False)
    FakeCamera.made.clear()
    return FakeCamera


def test_a_virtual_camera_gets_rgb_of_one_size(camera: type[FakeCamera]) -> None:
    sink = VirtualCameraSink(control=control(), device="/dev/video9")
    assert sink.live
    image = paint(64, 48, 1, "rgb24")
    info = stream_info(pix_fmt="rgb24", color=ColorTags(range=2))
    results = [result(image, 0), result(paint(20, 48, 2), 1, index=1), result(image, 2, index=2)]
    with pytest.raises(SinkError, match=r"the camera was closed \(device removed\)"):
        run_sink(sink, info, results)
    (made,) = camera.made
    assert (made.size, made.fps, made.fmt, made.device, made.closed) == ((64, 48), 25.0, "rgb", "/dev/video9", 1)
    assert np.array_equal(made.sent[0], image.to_ndarray())
    assert made.sent[1].shape == (48, 64, 3)
    sink.close()
    assert made.closed == 1


def test_no_virtual_camera_is_one_clear_line(camera: type[FakeCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "missing", True)
    with pytest.raises(SinkError, match=_HINT) as caught:
        VirtualCameraSink(control=control()).open(INFO, image_info(INFO))
    assert "\n" not in str(caught.value)
    assert "Did you run" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[virtualcam\]'"):
        VirtualCameraSink(control=control()).open(INFO, image_info(INFO))


class Device:
    """A device as pyvirtualcam's backends are one: what is sent to it stays here."""

    made: list[Device] = []  # noqa: RUF012 - a test's notebook

    def __init__(self, *, width: int, height: int, fps: float, fourcc: int, device: str | None) -> None:
        if device == "/dev/video99":
            raise RuntimeError(f"Device {device} does not exist.")
        self.size, self.fps, self.fourcc, self.name = (width, height), fps, fourcc, device
        self.sent: list[NDArray[np.uint8]] = []
        self.closed = 0
        Device.made.append(self)

    def send(self, frame: NDArray[np.uint8]) -> None:
        if len(self.sent) == 2:
            raise RuntimeError("device removed")
        self.sent.append(frame.copy())

    def close(self) -> None:
        self.closed += 1

    def device(self) -> str:
        return self.name or "/dev/video0"

    def native_fourcc(self) -> int | None:
        return None


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real one, with no device but ours."""
    found: Any = need.module("pyvirtualcam", "the extra virtualcam")
    monkeypatch.setattr(found.camera, "BACKENDS", {"test": Device})
    Device.made.clear()
    return found


def test_pyvirtualcam_takes_the_images(package: Any) -> None:
    info = stream_info(pix_fmt="rgb24", color=ColorTags(range=2))
    image = paint(64, 48, 1, "rgb24")
    results = [result(image, 0), result(paint(20, 48, 2), 1, index=1), result(image, 2, index=2)]
    with pytest.raises(SinkError, match=r"the camera was closed \(device removed\)"):
        run_sink(VirtualCameraSink(control=control(), device="/dev/video9"), info, results)
    (made,) = Device.made
    assert (made.size, made.fps, made.name, made.closed) == ((64, 48), 25.0, "/dev/video9", 1)
    assert made.fourcc.to_bytes(4, "little") == package.PixelFormat.RGB.value.encode()
    assert np.array_equal(made.sent[0].reshape(48, 64, 3), image.to_ndarray())
    assert made.sent[1].size == 48 * 64 * 3


@pytest.mark.usefixtures("package")
def test_pyvirtualcam_finds_no_such_device() -> None:
    sink = VirtualCameraSink(control=control(), device="/dev/video99")
    with pytest.raises(SinkError, match=f"Device /dev/video99 does not exist.*{_HINT}") as caught:
        sink.open(INFO, image_info(INFO))
    assert "\n" not in str(caught.value)


def test_pyvirtualcam_without_a_loopback_device() -> None:
    package: Any = need.module("pyvirtualcam", "the extra virtualcam")
    try:
        package.Camera(width=64, height=48, fps=25).close()
    except RuntimeError:
        pass
    else:
        pytest.skip("there is a virtual camera here")
    with pytest.raises(SinkError, match=_HINT) as caught:
        VirtualCameraSink(control=control()).open(INFO, image_info(INFO))
    assert "Did you run" not in str(caught.value)

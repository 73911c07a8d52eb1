"""Cameras of the system: their names, modes, and finding one by name."""

from __future__ import annotations

import errno
import struct
from fractions import Fraction
from typing import TYPE_CHECKING

from streamdepth.sources.cameras import Camera, CameraMode, find_camera, list_cameras

if TYPE_CHECKING:
    from pathlib import Path


def fake_ioctl(device: int, request: int, buffer: bytearray) -> int:
    """A webcam with YUYV in two sizes and a range of Motion JPEG sizes; field offsets from linux/videodev2.h."""
    del device
    number = request & 0xFF
    if number == 0:
        struct.pack_into("=II", buffer, 84, 0x84A00001, 0x04200001)
        return 0
    index = struct.unpack_from("=I", buffer, 0)[0]
    if number == 2:
        if index > 1:
            raise OSError(errno.EINVAL, "end")
        buffer[44:48] = (b"YUYV", b"MJPG")[index]
    elif number == 74:
        yuyv = bytes(buffer[4:8]) == b"YUYV"
        if index > (1 if yuyv else 0):
            raise OSError(errno.EINVAL, "end")
        sizes = ((640, 480), (320, 240))
        struct.pack_into("=3I", buffer, 8, 1, *sizes[index]) if yuyv else struct.pack_into(
            "=7I", buffer, 8, 3, 160, 1920, 8, 120, 1080, 8
        )
    elif number == 75:
        if index > 1 or bytes(buffer[4:8]) != b"YUYV":
            raise OSError(errno.EINVAL, "end")
        struct.pack_into("=3I", buffer, 16, 1, *((1, 15), (1001, 30000))[index])
    return 0


def test_names_and_modes_of_cameras(tmp_path: Path) -> None:
    dev, names = tmp_path / "dev", tmp_path / "sys"
    for index in (10, 2):
        (names / f"video{index}").mkdir(parents=True)
        (names / f"video{index}" / "name").write_text(f"Camera {index}\n")
        dev.mkdir(exist_ok=True)
        (dev / f"video{index}").touch()
    (dev / "video-extra").touch()
    cameras = list_cameras(dev=dev, sys_class=names, ioctl=fake_ioctl)
    assert [(camera.index, camera.name) for camera in cameras] == [(2, "Camera 2"), (10, "Camera 10")]
    rates = (Fraction(30000, 1001), Fraction(15))
    assert cameras[0].modes == (
        CameraMode(640, 480, "YUYV", rates),
        CameraMode(320, 240, "YUYV", rates),
        CameraMode(160, 120, "MJPG"),
        CameraMode(1920, 1080, "MJPG"),
    )
    assert str(cameras[0].modes[0]) == "640x480 YUYV at 29.97, 15 fps"


def test_what_is_no_camera_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()

    def no_capture(device: int, request: int, buffer: bytearray) -> int:
        del device, request
        struct.pack_into("=II", buffer, 84, 0x80000001, 0x00800000)
        return 0

    assert list_cameras(dev=tmp_path, sys_class=tmp_path, ioctl=no_capture) == ()
    broken = list_cameras(dev=tmp_path, sys_class=tmp_path)
    assert [(camera.name, camera.modes) for camera in broken] == [("video0", ())]
    assert "modes cannot be read" in broken[0].note
    assert list_cameras(dev=tmp_path / "none") == ()


def test_find_camera() -> None:
    cameras = (Camera(0, "Integrated Webcam"), Camera(2, "USB Camera"), Camera(4, "USB Camera 2"))
    assert find_camera("usb camera", cameras) == cameras[1]
    assert find_camera("integrated", cameras) == cameras[0]
    assert find_camera("usb", cameras) is None
    assert find_camera("", cameras) is None

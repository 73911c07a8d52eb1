"""The cameras of this machine: names and modes."""

from __future__ import annotations

import errno
import importlib
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from streamdepth.core.errors import MissingDependencyError

Ioctl = Callable[[int, int, bytearray], object]

# Linux UAPI, linux/videodev2.h. Request numbers are those of the generic _IOC layout (x86, ARM, RISC-V).
_CAPTURE = 0x00000001
_CAPTURE_MPLANE = 0x00001000
_DEVICE_CAPS = 0x80000000
_TYPES = {_CAPTURE: 1, _CAPTURE_MPLANE: 9}
_DISCRETE = 1
_MAX_ENTRIES = 256
_CAP_ANY, _CAP_V4L2, _CAP_DSHOW, _CAP_AVFOUNDATION, _CAP_MSMF = 0, 200, 700, 1200, 1400
_BACKENDS = {"linux": (_CAP_V4L2,), "win32": (_CAP_MSMF, _CAP_DSHOW), "darwin": (_CAP_AVFOUNDATION,)}


def _request(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("V") << 8 | number


_QUERYCAP = _request(2, 0, 104)
_ENUM_FMT = _request(3, 2, 64)
_ENUM_FRAMESIZES = _request(3, 74, 44)
_ENUM_FRAMEINTERVALS = _request(3, 75, 52)


@dataclass(frozen=True, slots=True)
class CameraMode:
    """One frame size of a camera in one pixel format.

    Attributes:
        fourcc: pixel format as the driver names it, such as ``MJPG`` or ``YUYV``; empty if unknown.
        rates: frames per second, highest first; empty if unknown.
    """

    width_px: int
    height_px: int
    fourcc: str = ""
    rates: tuple[Fraction, ...] = ()

    def __str__(self) -> str:
        rates = ", ".join(f"{float(rate):g}" for rate in self.rates)
        return (
            f"{self.width_px}x{self.height_px}"
            + (f" {self.fourcc}" if self.fourcc else "")
            + (f" at {rates} fps" if rates else "")
        )


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera. ``index``, ``path`` or ``name`` open it.

    Attributes:
        path: device file; empty on systems without one.
        modes: empty if unknown; ``note`` then gives the reason.
    """

    index: int
    name: str
    path: str = ""
    modes: tuple[CameraMode, ...] = ()
    note: str = ""


def list_cameras(
    *,
    dev: Path = Path("/dev"),
    sys_class: Path = Path("/sys/class/video4linux"),
    ioctl: Ioctl | None = None,
    system: str = sys.platform,
) -> tuple[Camera, ...]:
    """Cameras of this machine, by index.

    Linux: names from sysfs, modes from Video4Linux, without disturbing a program that uses the camera. Elsewhere names
    as the system lists them; modes are known once a camera is open. No camera is switched on.
    The arguments are for tests, which use simulated devices.
    """
    if system == "linux":
        return _list_v4l2(dev, sys_class, ioctl)
    return cameras_of(backends(system)[0])


def backends(system: str = sys.platform) -> tuple[int, ...]:
    """OpenCV's interfaces to cameras in the order to try, as ``cv2.CAP_*`` numbers."""
    return _BACKENDS.get(system, (_CAP_ANY,))


def cameras_of(api: int, enumerate_cameras: Callable[[int], Iterable[Any]] | None = None) -> tuple[Camera, ...]:
    """Cameras of one interface of OpenCV, with its indices. Windows and macOS.

    Args:
        enumerate_cameras: of ``cv2_enumerate_cameras``; tests replace it.
    Raises:
        MissingDependencyError: that package is not installed.
    """
    if enumerate_cameras is None:
        try:
            module = importlib.import_module("cv2_enumerate_cameras")
        except ImportError as error:
            raise MissingDependencyError(
                "listing cameras needs cv2-enumerate-cameras; pip install cv2-enumerate-cameras"
            ) from error
        enumerate_cameras = module.enumerate_cameras
    note = "modes are known once the camera is open"
    found = [Camera(one.index, one.name, one.path or "", note=note) for one in enumerate_cameras(api)]
    return tuple(sorted(found, key=lambda camera: camera.index))


def find_camera(name: str, cameras: tuple[Camera, ...]) -> Camera | None:
    """The camera called ``name``, or the only one whose name contains it. Case is ignored."""
    searched = name.casefold().strip()
    exact = [camera for camera in cameras if camera.name.casefold() == searched]
    part = [camera for camera in cameras if searched and searched in camera.name.casefold()]
    return exact[0] if exact else (part[0] if len(part) == 1 else None)


def _list_v4l2(dev: Path, sys_class: Path, ioctl: Ioctl | None) -> tuple[Camera, ...]:
    if ioctl is None:
        ioctl = importlib.import_module("fcntl").ioctl
    found: list[Camera] = []
    for path in dev.glob("video*"):
        number = re.fullmatch(r"video(\d+)", path.name)
        if number is None:
            continue
        index = int(number[1])
        name = _sysfs_name(sys_class / path.name) or path.name
        try:
            device = os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0))
        except OSError as error:
            note = (
                "permission denied: add your user to the group 'video'"
                if error.errno == errno.EACCES
                else str(error.strerror)
            )
            found.append(Camera(index, name, str(path), note=note))
            continue
        try:
            modes = _modes(device, ioctl)
        except OSError as error:
            found.append(Camera(index, name, str(path), note=f"modes cannot be read: {error.strerror}"))
        else:
            # A webcam often has a second device for metadata, which captures nothing.
            if modes is not None:
                found.append(Camera(index, name, str(path), modes))
        finally:
            os.close(device)
    return tuple(sorted(found, key=lambda camera: camera.index))


def _sysfs_name(folder: Path) -> str:
    try:
        return (folder / "name").read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _modes(device: int, ioctl: Ioctl) -> tuple[CameraMode, ...] | None:
    """Modes of an open device; None if it is not a camera."""
    about = bytearray(104)
    ioctl(device, _QUERYCAP, about)
    all_caps, device_caps = struct.unpack_from("=II", about, 84)
    capabilities = device_caps if all_caps & _DEVICE_CAPS else all_caps
    kind = next((_TYPES[bit] for bit in _TYPES if capabilities & bit), None)
    if kind is None:
        return None
    modes: list[CameraMode] = []
    for entry in range(_MAX_ENTRIES):
        request = bytearray(64)
        struct.pack_into("=II", request, 0, entry, kind)
        if not _enumerate(device, ioctl, _ENUM_FMT, request):
            break
        (pixel_format,) = struct.unpack_from("=I", request, 44)
        fourcc = pixel_format.to_bytes(4, "little").decode("ascii", "replace").strip("\0 ")
        modes += [
            CameraMode(width, height, fourcc, _rates(device, ioctl, pixel_format, width, height))
            for width, height in _sizes(device, ioctl, pixel_format)
        ]
    return tuple(modes)


def _sizes(device: int, ioctl: Ioctl, pixel_format: int) -> list[tuple[int, int]]:
    sizes: list[tuple[int, int]] = []
    for entry in range(_MAX_ENTRIES):
        request = bytearray(44)
        struct.pack_into("=II", request, 0, entry, pixel_format)
        if not _enumerate(device, ioctl, _ENUM_FRAMESIZES, request):
            break
        kind, *union = struct.unpack_from("=7I", request, 8)
        if kind == _DISCRETE:
            sizes.append((union[0], union[1]))
        else:
            # A range of sizes: only its two ends are listed.
            return [(union[0], union[3]), (union[1], union[4])]
    return sizes


def _rates(device: int, ioctl: Ioctl, pixel_format: int, width: int, height: int) -> tuple[Fraction, ...]:
    rates: set[Fraction] = set()
    for entry in range(_MAX_ENTRIES):
        request = bytearray(52)
        struct.pack_into("=4I", request, 0, entry, pixel_format, width, height)
        if not _enumerate(device, ioctl, _ENUM_FRAMEINTERVALS, request):
            break
        kind, *union = struct.unpack_from("=5I", request, 16)
        pairs = [(union[0], union[1])] if kind == _DISCRETE else [(union[0], union[1]), (union[2], union[3])]
        rates.update(Fraction(denominator, numerator) for numerator, denominator in pairs if numerator and denominator)
        if kind != _DISCRETE:
            break
    return tuple(sorted(rates, reverse=True))


def _enumerate(device: int, ioctl: Ioctl, request: int, buffer: bytearray) -> bool:
    """False at the end of the list, or if the driver has no such list."""
    try:
        ioctl(device, request, buffer)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY):
            return False
        raise
    return True

"""ROS 2 messages as bytes: the definitions of ``sensor_msgs``, and CDR as ROS 2 writes it.

Written here rather than by a message library, because the ones of ROS 2 are not on package registries and the dynamic
encoders write an image byte by byte (0.5 s for 640x480).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from streamdepth.geometry.intrinsics import Intrinsics

_HEADER = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""

DEFINITIONS = {
    "sensor_msgs/msg/Image": "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
    "uint8 is_bigendian\nuint32 step\nuint8[] data" + _HEADER,
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data" + _HEADER,
    "sensor_msgs/msg/CameraInfo": "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\n"
    "float64[] d\nfloat64[9] k\nfloat64[9] r\nfloat64[12] p\nuint32 binning_x\nuint32 binning_y\n"
    "sensor_msgs/RegionOfInterest roi"
    + _HEADER
    + "================================================================================\n"
    "MSG: sensor_msgs/RegionOfInterest\nuint32 x_offset\nuint32 y_offset\nuint32 height\nuint32 width\n"
    "bool do_rectify\n",
}
"""Message type -> definition, in the concatenated form of ``ros2msg``."""


class Cdr:
    """Little-endian CDR (OMG DDS XTypes, plain CDR version 1): each number is aligned to its own size."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def number(self, kind: str, value: float) -> Cdr:
        """``kind`` is a format character of :mod:`struct`."""
        self._align(struct.calcsize(f"<{kind}"))
        self._parts += struct.pack(f"<{kind}", value)
        return self

    def doubles(self, values: Iterable[float], *, counted: bool = False) -> Cdr:
        values = list(values)
        if counted:
            self.number("I", len(values))
        if values:
            self._align(8)
            self._parts += struct.pack(f"<{len(values)}d", *values)
        return self

    def text(self, text: str) -> Cdr:
        data = text.encode() + b"\0"
        self.number("I", len(data))
        self._parts += data
        return self

    def octets(self, data: bytes | memoryview) -> Cdr:
        self.number("I", len(data))
        self._parts += data
        return self

    def bytes(self) -> bytes:
        return b"\0\1\0\0" + bytes(self._parts)

    def _align(self, size: int) -> None:
        self._parts += bytes(-len(self._parts) % size)


def header(stamp_ns: int, frame_id: str) -> Cdr:
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Cdr().number("i", seconds).number("I", nanoseconds).text(frame_id)


def image(stamp_ns: int, frame_id: str, encoding: str, pixels: np.ndarray) -> bytes:
    """``sensor_msgs/Image`` of an array [H, W] whose dtype fits ``encoding`` (32FC1: float32, 16UC1: uint16)."""
    pixels = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<"))
    height, width = pixels.shape
    message = header(stamp_ns, frame_id).number("I", height).number("I", width).text(encoding)
    message.number("B", 0).number("I", width * pixels.itemsize)
    return message.octets(pixels.data.cast("B")).bytes()


def compressed_image(stamp_ns: int, frame_id: str, kind: str, data: bytes) -> bytes:
    """``sensor_msgs/CompressedImage``; ``kind`` is ``jpeg`` or ``png``."""
    return header(stamp_ns, frame_id).text(kind).octets(data).bytes()


def camera_info(stamp_ns: int, frame_id: str, camera: Intrinsics) -> bytes:
    """``sensor_msgs/CameraInfo`` without rectification: R is the identity, P repeats K."""
    k = camera.matrix
    message = header(stamp_ns, frame_id).number("I", camera.height_px).number("I", camera.width_px)
    # "plumb_bob" with zeros is how ROS says that there is no distortion.
    coefficients = camera.coefficients or (0.0,) * 5
    message.text("plumb_bob" if not camera.coefficients else camera.distortion.value)
    message.doubles(coefficients, counted=True).doubles(k.ravel()).doubles(np.eye(3).ravel())
    message.doubles(np.hstack([k, np.zeros((3, 1))]).ravel())
    for value in (0, 0, 0, 0, 0, 0):  # binning, region of interest
        message.number("I", value)
    return message.number("B", 0).bytes()

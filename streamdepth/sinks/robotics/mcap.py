"""A recording that robots and their viewers read: ROS 2 messages in an MCAP file."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamdepth.core.clock import SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.geometry.readers import camera_for
from streamdepth.sinks.depth.sink import Size, resized
from streamdepth.sinks.files import OutputFile, write_failed
from streamdepth.sinks.robotics import colors_of, flying, jpeg_of, metres_of, package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from streamdepth.core.clock import MediaClock
    from streamdepth.core.frame import Frame, ImageInfo, Result, StreamInfo
    from streamdepth.geometry import Intrinsics
    from streamdepth.geometry.readers import IntrinsicsFor

DepthEncoding = Literal["32FC1", "16UC1"]
_MOST_MM = 65535

# The definitions of sensor_msgs, and CDR as ROS 2 writes it. Written here rather than by a message library, because the
# ones of ROS 2 are not on package registries and the dynamic encoders write an image byte by byte (0.5 s for 640x480).
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
    "std_msgs/msg/Float32": "float32 data\n",
    "sensor_msgs/msg/PointCloud2": "std_msgs/Header header\nuint32 height\nuint32 width\n"
    "sensor_msgs/PointField[] fields\nbool is_bigendian\nuint32 point_step\nuint32 row_step\nuint8[] data\n"
    "bool is_dense" + _HEADER + "================================================================================\n"
    "MSG: sensor_msgs/PointField\nstring name\nuint32 offset\nuint8 datatype\nuint32 count\n",
}
"""Message type -> definition, in the concatenated form of ``ros2msg``."""


_FLOAT32 = 7
"""``sensor_msgs/PointField.FLOAT32``."""


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


def point_cloud(stamp_ns: int, frame_id: str, points: np.ndarray, rgb: np.ndarray) -> bytes:
    """``sensor_msgs/PointCloud2``, organised, fields x, y, z and rgb (0x00RRGGBB in the bits of a float32).

    Args:
        points: float32 [h, w, 3], NaN without a point.
        rgb: uint8 [h, w, 3].
    """
    height, width, _ = points.shape
    cloud = np.empty((height, width, 4), "<f4")
    cloud[..., :3] = points
    cloud.view("<u4")[..., 3] = rgb.astype("<u4") @ np.array([1 << 16, 1 << 8, 1], "<u4")
    message = header(stamp_ns, frame_id).number("I", height).number("I", width).number("I", 4)
    for index, name in enumerate(("x", "y", "z", "rgb")):
        message.text(name).number("I", 4 * index).number("B", _FLOAT32).number("I", 1)
    message.number("B", 0).number("I", 16).number("I", 16 * width).octets(cloud.data.cast("B"))
    return message.number("B", int(np.isfinite(points).all())).bytes()


def float32(value: float) -> bytes:
    """``std_msgs/Float32``."""
    return Cdr().number("f", value).bytes()


class McapSink(BaseSink):
    """Writes frames and metric depth as ROS 2 messages, as REP 118 and REP 103 define them.

    ====================================  ================================================================
    ``/camera/image/compressed``          ``CompressedImage``, JPEG of the frame
    ``/camera/image/camera_info``         ``CameraInfo`` of the frame
    ``/camera/depth/image``               ``Image``: 32FC1 in metres, NaN without depth, or 16UC1 in
                                          millimetres, 0 without depth (and beyond 65.535 m)
    ``/camera/depth/camera_info``         ``CameraInfo`` of the depth
    ``/camera/points``                    with ``points``: ``PointCloud2`` of the depth image, organised, with colours;
                                          NaN without depth and at depth edges
    ``/camera/depth/relative_error``      of anchored metres: ``Float32``, their relative error in this frame (one
                                          standard deviation); NaN while it is unknown
    ====================================  ================================================================

    All have the frame id ``camera_optical_frame`` and one time stamp per frame: live, the time of capture on the wall
    clock; of files, the media time. The metadata record ``streamdepth`` says where the metres come from.

    Args:
        path: file to write, ``.mcap``.
        intrinsics: of an image of (width, height).
        overwrite: replace an existing file.
        size: ``"source"`` = depth at the size of the frame, ``"model"`` = at that of the model.
        depth_encoding, points: see above.
        model: recorded in the file.
        wall_clock_ns, monotonic_ns: clocks, read once when the sink is opened; None = the clock of the frames.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        intrinsics: IntrinsicsFor | None,
        overwrite: bool = False,
        size: Size = "source",
        depth_encoding: DepthEncoding = "32FC1",
        points: bool = False,
        model: str = "",
        wall_clock_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(str(path))
        if depth_encoding not in ("32FC1", "16UC1"):
            raise UsageError(f"depth_encoding is one of 32FC1, 16UC1, not {depth_encoding!r}")
        self._path = Path(path)
        self._intrinsics, self._overwrite, self._size, self._model = intrinsics, overwrite, size, model
        self._encoding: DepthEncoding = depth_encoding
        self._points = points
        self._wall_clock_ns, self._monotonic_ns = wall_clock_ns, monotonic_ns or SystemClock().monotonic_ns
        self._wall_minus_monotonic_ns: int | None = None
        self._camera: Intrinsics | None = None
        self._file: io.BufferedWriter | None = None
        self._writer: Any = None
        self._channels: dict[str, int] = {}
        self._frames = 0
        self._output: OutputFile | None = None
        self._clock: MediaClock | None = None
        self._complete = False

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            MissingDependencyError: the package mcap is not installed.
            UsageError: no intrinsics, or of another shape; the output is the input.
            OutputExistsError: the file exists and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        writer = package("mcap.writer", self.name, "robotics")
        self._camera = camera_for(self.name, stream, self._intrinsics)
        if stream.live:
            self._wall_minus_monotonic_ns = self._wall_clock_ns() - self._monotonic_ns()
        self._output = OutputFile(self._path, overwrite=self._overwrite, media_path=stream.media_path)
        self._file = io.BufferedWriter(self._output)
        self._clock = stream.media_clock
        self._writer = writer.Writer(self._file)

    def process(self, result: Result) -> None:
        """
        Raises:
            DataFormatError: the depth is not in metres.
            SinkError: the file cannot be written.
        """
        if self._camera is None or self._writer is None:
            raise SinkError(f"{self.name}: not open")
        frame = result.frame
        metres = metres_of(self.name, result.depth)
        size = (frame.width_px, frame.height_px)
        if self._size == "source" and metres.shape[::-1] != size:
            metres = resized(metres, size)
        camera = self._camera.resized(*size)
        stamp = self._stamp_ns(frame)
        try:
            if not self._frames:
                self._begin(result)
            self._frames += 1
            self._write("/camera/image/compressed", "CompressedImage", stamp, compressed_image, "jpeg", jpeg_of(frame))
            self._write("/camera/image/camera_info", "CameraInfo", stamp, camera_info, camera)
            self._write("/camera/depth/image", "Image", stamp, image, self._encoding, self._encoded(metres))
            depth_camera = camera.resized(metres.shape[1], metres.shape[0])
            self._write("/camera/depth/camera_info", "CameraInfo", stamp, camera_info, depth_camera)
            if result.depth.anchor_error is not None:
                self._send(
                    "/camera/depth/relative_error", "std_msgs/msg/Float32", stamp, float32(result.depth.anchor_error)
                )
            if self._points:
                cloud = depth_camera.points(metres)
                cloud[flying(metres)] = np.nan
                rgb = colors_of(frame, *metres.shape[::-1])
                self._write("/camera/points", "PointCloud2", stamp, point_cloud, cloud, rgb)
        except OSError as error:
            raise write_failed(self._path, error) from error

    def flush(self) -> None:
        self._complete = self._clock is None or self._clock.finished

    def close(self) -> None:
        """Raises ``SinkError``: the end of the file could not be written; what was written stays readable."""
        file, writer, output = self._file, self._writer, self._output
        self._file = self._writer = None
        if file is None or output is None:
            return
        try:
            if self._frames:
                writer.finish()
            file.flush()
            if self._frames and self._complete:
                output.commit()
        except OSError as error:
            raise output.failed(error) from error
        finally:
            output.close()
            if not self._frames:
                output.discard()

    def _begin(self, result: Result) -> None:
        self._writer.start(profile="ros2", library="streamdepth")
        metres = "model" if result.depth.anchor_error is None else "anchors"
        self._writer.add_metadata("streamdepth", {"metres": metres, "model": self._model})

    def _stamp_ns(self, frame: Frame) -> int:
        if self._wall_minus_monotonic_ns is not None:
            return frame.captured_ns + self._wall_minus_monotonic_ns
        return max(0, round(frame.pts * frame.time_base * 1_000_000_000))

    def _encoded(self, metres: np.ndarray) -> np.ndarray:
        if self._encoding == "32FC1":
            return np.asarray(metres, np.float32)
        millimetres = np.rint(np.nan_to_num(metres, nan=0.0, posinf=0.0, neginf=0.0) * 1000)
        return np.where((millimetres > 0) & (millimetres <= _MOST_MM), millimetres, 0).astype(np.uint16)

    def _write(self, topic: str, kind: str, stamp_ns: int, encode: Callable[..., bytes], *content: object) -> None:
        self._send(topic, f"sensor_msgs/msg/{kind}", stamp_ns, encode(stamp_ns, "camera_optical_frame", *content))

    def _send(self, topic: str, kind: str, stamp_ns: int, data: bytes) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            schema = self._writer.register_schema(kind, "ros2msg", DEFINITIONS[kind].encode())
            channel = self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        self._writer.add_message(
            channel, log_time=stamp_ns, data=data, publish_time=stamp_ns, sequence=self._frames - 1
        )

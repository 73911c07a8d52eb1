"""A recording that robots and their viewers read: ROS 2 messages in an MCAP file."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import MissingDependencyError, SinkError, UsageError, install_command
from streamdepth.sinks.depth.sink import Size, resized
from streamdepth.sinks.files import OutputFile, write_failed
from streamdepth.sinks.robotics import ros
from streamdepth.sinks.robotics.metric import camera_for, jpeg_of, metres_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.clock import MediaClock
    from streamdepth.core.frame import Frame, ImageInfo, Result, StreamInfo
    from streamdepth.geometry.intrinsics import Intrinsics
    from streamdepth.geometry.readers import IntrinsicsFor

DepthEncoding = Literal["32FC1", "16UC1"]
_MOST_MM = 65535


class McapSink(BaseSink):
    """Writes frames and metric depth as ROS 2 messages, as REP 118 and REP 103 define them.

    ====================================  ================================================================
    ``/camera/image/compressed``          ``CompressedImage``, JPEG of the frame
    ``/camera/image/camera_info``         ``CameraInfo`` of the frame
    ``/camera/depth/image``               ``Image``: 32FC1 in metres, NaN without depth, or 16UC1 in
                                          millimetres, 0 without depth (and beyond 65.535 m)
    ``/camera/depth/camera_info``         ``CameraInfo`` of the depth
    ====================================  ================================================================

    All have the frame id ``camera_optical_frame`` and one time stamp per frame: live, the time of capture on the wall
    clock; of files, the media time. The metadata record ``streamdepth`` says where the metres come from.

    Args:
        path: file to write, ``.mcap``.
        intrinsics: of an image of (width, height).
        overwrite: replace an existing file.
        size: ``"source"`` = depth at the size of the frame, ``"model"`` = at that of the model.
        depth_encoding: see above.
        model: recorded in the file.
        wall_clock_ns, monotonic_ns: clocks, read once when the sink is opened.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        intrinsics: IntrinsicsFor | None,
        overwrite: bool = False,
        size: Size = "source",
        depth_encoding: DepthEncoding = "32FC1",
        model: str = "",
        wall_clock_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(str(path))
        if depth_encoding not in ("32FC1", "16UC1"):
            raise UsageError(f"depth_encoding is one of 32FC1, 16UC1, not {depth_encoding!r}")
        self._path = Path(path)
        self._intrinsics, self._overwrite, self._size, self._model = intrinsics, overwrite, size, model
        self._encoding: DepthEncoding = depth_encoding
        self._wall_clock_ns, self._monotonic_ns = wall_clock_ns, monotonic_ns
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
        try:
            from mcap.writer import Writer
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.name}: .mcap needs the package mcap; {install_command('robotics')}"
            ) from error
        self._camera = camera_for(self.name, stream, self._intrinsics)
        if stream.live:
            self._wall_minus_monotonic_ns = self._wall_clock_ns() - self._monotonic_ns()
        self._output = OutputFile(self._path, overwrite=self._overwrite, media_path=stream.media_path)
        self._file = io.BufferedWriter(self._output)
        self._clock = stream.media_clock
        self._writer = Writer(self._file)

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
            self._write(
                "/camera/image/compressed", "CompressedImage", stamp, ros.compressed_image, "jpeg", jpeg_of(frame)
            )
            self._write("/camera/image/camera_info", "CameraInfo", stamp, ros.camera_info, camera)
            self._write("/camera/depth/image", "Image", stamp, ros.image, self._encoding, self._encoded(metres))
            depth_camera = camera.resized(metres.shape[1], metres.shape[0])
            self._write("/camera/depth/camera_info", "CameraInfo", stamp, ros.camera_info, depth_camera)
        except OSError as error:
            raise write_failed(self._path, error) from error

    def flush(self) -> None:
        self._complete = self._clock is None or self._clock.finished

    def close(self) -> None:
        """
        Raises:
            SinkError: the end of the file could not be written; what was written stays readable.
        """
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
            raise write_failed(output.partial, error) from error
        finally:
            output.close()
            if not self._frames:
                output.discard()

    def _begin(self, result: Result) -> None:
        self._writer.start(profile="ros2", library="streamdepth")
        error = result.depth.anchor_error
        record = {"metres": "model" if error is None else "anchors", "model": self._model}
        if error is not None:
            record["relative_error"] = f"{error:.4f}"
        self._writer.add_metadata("streamdepth", record)

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
        channel = self._channels.get(topic)
        if channel is None:
            name = f"sensor_msgs/msg/{kind}"
            schema = self._writer.register_schema(name, "ros2msg", ros.DEFINITIONS[name].encode())
            channel = self._channels[topic] = self._writer.register_channel(topic, "cdr", schema)
        data = encode(stamp_ns, "camera_optical_frame", *content)
        self._writer.add_message(
            channel, log_time=stamp_ns, data=data, publish_time=stamp_ns, sequence=self._frames - 1
        )

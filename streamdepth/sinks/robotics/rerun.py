"""Recordings for the Rerun viewer, and the viewer itself."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from streamdepth.core.clock import SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError
from streamdepth.geometry.readers import camera_for
from streamdepth.sinks.files import check_output, write_failed
from streamdepth.sinks.robotics import jpeg_of, metres_of, origin, package

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.geometry import Intrinsics
    from streamdepth.geometry.readers import IntrinsicsFor

_FLUSH_FRAMES = 16
"""The library queues what is logged without a bound; waiting for it now and then gives the queue one."""

VIEWER = "rerun:"
"""Instead of a path: the viewer of this machine."""
_PORT = 9876
_TIMEOUT_SECONDS = 3.0


class RerunSink(BaseSink):
    """Writes frames and metric depth as a Rerun recording (``.rrd``), or sends them to a viewer.

    ``camera/image`` and ``camera/depth`` are pinhole cameras, the depth's at the resolution of the model; the viewer
    shows the depth image as points. Depth is float32 in metres, 0 without depth. Time lines: ``frame``, and ``media``
    (files) or ``capture`` (live, wall clock). The text ``camera/metres`` says where the metres come from, and their
    error.

    Args:
        path: file to write, ``.rrd``; or ``rerun+http://HOST:9876/proxy``, a viewer that runs; or ``rerun:``, the one
            on port 9876 of this machine, which is started if none runs and stays open.
        intrinsics: of an image of (width, height).
        overwrite: replace an existing file.
        wall_clock_ns, monotonic_ns: clocks, read once when the sink is opened; None = the clock of the frames.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        intrinsics: IntrinsicsFor | None,
        overwrite: bool = False,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(str(path).rstrip(":"))
        self._path = Path(path)
        self._url = str(path) if str(path).startswith(("rerun+http://", "rerun+https://")) else ""
        self._viewer = str(path) == VIEWER
        self._intrinsics, self._overwrite = intrinsics, overwrite
        self._wall_clock_ns, self._monotonic_ns = wall_clock_ns, monotonic_ns or SystemClock().monotonic_ns
        self._wall_minus_monotonic_ns: int | None = None
        self._camera: Intrinsics | None = None
        self._rerun: Any = None
        self._recording: Any = None
        self._frames = 0
        self._source = self._said = ""

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            MissingDependencyError: the package rerun-sdk is not installed.
            UsageError: no intrinsics, or of another shape; the output is the input.
            OutputExistsError: the file exists and ``overwrite`` is False.
            SinkError: it cannot be written; no viewer answers, or none can be started.
        """
        self._rerun = package("rerun", self.name, "rerun", name="rerun-sdk")
        self._camera = camera_for(self.name, stream, self._intrinsics)
        self._source = stream.source_id
        if stream.live:
            self._wall_minus_monotonic_ns = self._wall_clock_ns() - self._monotonic_ns()
        if self._viewer:
            self._check_viewer()
        elif self._url:
            at = urlsplit(self._url)
            if not _answers(at.hostname or "", at.port or _PORT):
                raise SinkError(f"{self.name}: no Rerun viewer answers; start one there with: rerun")
        else:
            check_output(self._path, overwrite=self._overwrite, media_path=stream.media_path)

    def process(self, result: Result) -> None:
        """
        Raises:
            DataFormatError: the depth is not in metres.
            SinkError: the file cannot be written.
        """
        rr, camera = self._rerun, self._camera
        if camera is None:
            raise SinkError(f"{self.name}: not open")
        metres = metres_of(self.name, result.depth)
        try:
            if self._recording is None:
                self._recording = self._begin(rr)
            recording, frame = self._recording, result.frame
            recording.set_time("frame", sequence=frame.index)
            if self._wall_minus_monotonic_ns is None:
                recording.set_time("media", duration=frame.seconds)
            else:
                captured_ns = frame.captured_ns + self._wall_minus_monotonic_ns
                recording.set_time("capture", timestamp=np.datetime64(captured_ns, "ns"))
            said, self._said = self._said, origin(result.depth.anchor_error)
            if self._said != said:
                recording.log("camera/metres", rr.TextDocument(self._said))
            self._log_pinhole(rr, "camera/image", camera.resized(frame.width_px, frame.height_px))
            recording.log("camera/image", rr.EncodedImage(contents=jpeg_of(frame), media_type="image/jpeg"))
            self._log_pinhole(rr, "camera/depth", camera.resized(metres.shape[1], metres.shape[0]))
            known = np.nan_to_num(metres, nan=0.0, posinf=0.0, neginf=0.0)
            recording.log("camera/depth", rr.DepthImage(known, meter=1.0))
            self._frames += 1
            if self._frames % _FLUSH_FRAMES == 0:
                recording.flush()
        except (OSError, RuntimeError) as error:
            raise write_failed(self._path, error) from error

    def close(self) -> None:
        """Raises ``SinkError``: the end of the file could not be written."""
        recording, self._recording = self._recording, None
        if recording is not None:
            try:
                recording.flush()
                recording.disconnect()
            except (OSError, RuntimeError) as error:
                raise write_failed(self._path, error) from error

    def _begin(self, rr: Any) -> Any:
        recording = rr.RecordingStream("streamdepth")
        recording.set_log_time_enabled(False)
        recording.set_log_tick_enabled(False)
        if self._viewer:
            recording.spawn(port=_PORT, hide_welcome_screen=True)
        elif self._url:
            recording.connect_grpc(self._url)
        else:
            recording.save(str(self._path))
        recording.send_recording_name(self._source)
        recording.log("camera", rr.ViewCoordinates.RDF, static=True)
        return recording

    def _check_viewer(self) -> None:
        """Raises ``SinkError``: no viewer runs, and none can be started here."""
        if _answers("127.0.0.1", _PORT):
            return
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError(
                f"{self.name}: the viewer needs a display, and none is set; write -o run.rrd, or start a viewer on "
                f"another machine and give -o rerun+http://HOST:{_PORT}/proxy"
            )

    def _log_pinhole(self, rr: Any, entity: str, camera: Intrinsics) -> None:
        size = [camera.width_px, camera.height_px]
        pinhole = rr.Pinhole(image_from_camera=camera.matrix, resolution=size, camera_xyz=rr.ViewCoordinates.RDF)
        self._recording.log(entity, pinhole)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True

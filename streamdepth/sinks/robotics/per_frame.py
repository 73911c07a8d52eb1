"""One file per frame: point clouds with colours as binary PLY, and depth for compositors as OpenEXR."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError
from streamdepth.core.host import written_whole
from streamdepth.geometry.readers import camera_for
from streamdepth.sinks.depth.sink import Size, known_values, resized
from streamdepth.sinks.files import claim_folder, write_failed, write_whole
from streamdepth.sinks.names import FrameNames
from streamdepth.sinks.robotics import colors_of, flying, metres_of, origin, package

if TYPE_CHECKING:
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.geometry import Intrinsics
    from streamdepth.geometry.readers import IntrinsicsFor

ExrUnit = Literal["m", "cm", "mm"]
METRES = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])


class PointsSink(BaseSink):
    """Writes the points of each frame as a binary little-endian PLY file: x, y, z in metres and red, green, blue.

    The frame is the camera's optical frame: x right, y down, z forward. One point per value of the depth map, at the
    model's resolution; points without depth and at depth edges
    (:func:`~streamdepth.sinks.robotics.flying`) are left out. A file is complete or absent. A comment in each
    file says where its metres come from.

    Args:
        folder: created if missing; must be empty without ``overwrite``.
        intrinsics: of an image of (width, height).
        pattern: file names, see :class:`~streamdepth.sinks.names.FrameNames`.
    """

    def __init__(
        self, folder: str | Path, *, intrinsics: IntrinsicsFor | None, pattern: str, overwrite: bool = False
    ) -> None:
        super().__init__(str(folder))
        self._folder = Path(folder)
        self._names = FrameNames(self._folder, pattern, suffixes=(".ply",))
        self._overwrite = overwrite
        self._intrinsics = intrinsics
        self._camera: Intrinsics | None = None

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            UsageError: no intrinsics, or of another shape.
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        self._camera = camera_for(self.name, stream, self._intrinsics)
        claim_folder(self._folder, overwrite=self._overwrite, taken=self._names.taken)

    def process(self, result: Result) -> None:
        """Raises ``DataFormatError``: the depth is not in metres."""
        if self._camera is None:
            raise SinkError(f"{self.name}: not open")
        depth = result.depth
        metres = metres_of(self.name, depth)
        points = self._camera.points(metres)
        keep = np.isfinite(points[..., 2]) & ~flying(metres)
        vertices = np.empty(int(keep.sum()), _VERTEX)
        vertices["xyz"], vertices["rgb"] = points[keep], colors_of(result.frame, depth.width_px, depth.height_px)[keep]
        write_whole(self._names(result.frame), _header(len(vertices), origin(depth.anchor_error)) + vertices.tobytes())


def _header(count: int, origin: str) -> bytes:
    lines = ["ply", "format binary_little_endian 1.0", f"comment metres: {origin}", f"element vertex {count}"]
    lines += [f"property float {name}" for name in "xyz"]
    lines += [f"property uchar {name}" for name in ("red", "green", "blue")]
    return "\n".join([*lines, "end_header", ""]).encode()


class ExrSink(BaseSink):
    """Writes depth as OpenEXR with one FLOAT channel ``Z``, ZIP compression, NaN without depth.

    Values are in ``unit`` from a metric or anchored model, else the model's own without unit. The attributes
    ``streamdepthSense``, ``streamdepthUnit`` and ``streamdepthModel`` say which, for metric depth also
    ``streamdepthMetresPerUnit`` (scale from ``Z`` to metres) and ``streamdepthMetres`` (measured by the model, or
    anchored), and for anchored metres whose error is known ``streamdepthAnchorError`` (relative, one standard
    deviation). A file is complete or absent.

    Args:
        folder: created if missing; must be empty without ``overwrite``.
        pattern: file names, see :class:`~streamdepth.sinks.names.FrameNames`.
        size: ``"source"`` = the size of each frame, ``"model"`` = that of the model.
        model: recorded in each file.
        unit: ``m``, ``cm`` or ``mm``; None = metres from a metric model, and no unit from others.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        pattern: str,
        overwrite: bool = False,
        size: Size = "source",
        model: str = "",
        unit: ExrUnit | None = None,
    ) -> None:
        super().__init__(str(folder))
        self._folder = Path(folder)
        self._names = FrameNames(self._folder, pattern, suffixes=(".exr",))
        self._overwrite, self._size, self._model, self._unit = overwrite, size, model, unit
        self._exr: Any = None

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - sizes may vary
        """
        Raises:
            MissingDependencyError: the package OpenEXR is not installed.
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        self._exr = package("OpenEXR", self.name, "robotics")
        claim_folder(self._folder, overwrite=self._overwrite, taken=self._names.taken)

    def process(self, result: Result) -> None:
        """
        Raises:
            DataFormatError: a unit was given, and the depth is not in metres.
            SinkError: the file cannot be written.
        """
        depth = result.depth
        values = known_values(depth) if self._unit is None else metres_of(self.name, depth)
        unit = self._unit or depth.unit
        if self._size == "source":
            values = resized(values, (result.frame.width_px, result.frame.height_px))
        header: dict[str, Any] = {
            "compression": self._exr.ZIP_COMPRESSION,
            "type": self._exr.scanlineimage,
            "streamdepthSense": depth.sense.value,
            "streamdepthUnit": unit or "none",
            "streamdepthModel": self._model or "unknown",
        }
        if unit:
            header |= {"streamdepthMetresPerUnit": METRES[unit], "streamdepthMetres": origin(depth.anchor_error)}
            values = values / np.float32(METRES[unit])
        if depth.anchor_error is not None and math.isfinite(depth.anchor_error):
            header["streamdepthAnchorError"] = float(depth.anchor_error)
        path = self._names(result.frame)
        try:
            with written_whole(path, path.with_name(f".{path.name}.part")) as partial:
                self._exr.File(header, {"Z": np.ascontiguousarray(values, np.float32)}).write(str(partial))
        except (OSError, RuntimeError) as error:
            raise write_failed(path, error) from error

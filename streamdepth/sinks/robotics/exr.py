"""Depth for compositors: one OpenEXR file per frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import MissingDependencyError, install_command
from streamdepth.core.host import rename
from streamdepth.sinks.depth.sink import Size, known_values, resized
from streamdepth.sinks.files import claim_folder, write_failed
from streamdepth.sinks.names import FrameNames

if TYPE_CHECKING:
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo


class ExrSink(BaseSink):
    """Writes depth as OpenEXR with one FLOAT channel ``Z``, ZIP compression, NaN without depth.

    Values are the model's own: metres from a metric or anchored model, else without unit. The attributes
    ``streamdepthSense``, ``streamdepthUnit``, ``streamdepthModel`` and, for anchored metres,
    ``streamdepthAnchorError`` (relative, one standard deviation) say which. A file is complete or absent.

    Args:
        folder: created if missing; must be empty without ``overwrite``.
        pattern: file names, see :class:`~streamdepth.sinks.names.FrameNames`.
        size: ``"source"`` = the size of each frame, ``"model"`` = that of the model.
        model: recorded in each file.
    """

    def __init__(
        self, folder: str | Path, *, pattern: str, overwrite: bool = False, size: Size = "source", model: str = ""
    ) -> None:
        super().__init__(str(folder))
        self._folder = Path(folder)
        self._names = FrameNames(self._folder, pattern, suffixes=(".exr",))
        self._overwrite, self._size, self._model = overwrite, size, model
        self._exr: Any = None

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - sizes may vary
        """
        Raises:
            MissingDependencyError: the package OpenEXR is not installed.
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        try:
            import OpenEXR
        except ImportError as error:
            raise MissingDependencyError(
                f"{self.name}: .exr needs the package OpenEXR; {install_command('robotics')}"
            ) from error
        self._exr = OpenEXR
        claim_folder(self._folder, overwrite=self._overwrite)

    def process(self, result: Result) -> None:
        depth = result.depth
        values = known_values(depth)
        if self._size == "source":
            values = resized(values, (result.frame.width_px, result.frame.height_px))
        header: dict[str, Any] = {
            "compression": self._exr.ZIP_COMPRESSION,
            "type": self._exr.scanlineimage,
            "streamdepthSense": depth.sense.value,
            "streamdepthUnit": depth.unit or "none",
            "streamdepthModel": self._model or "unknown",
        }
        if depth.anchor_error is not None:
            header["streamdepthAnchorError"] = float(depth.anchor_error)
        path = self._names(result.frame)
        partial = path.with_name(f".{path.name}.part")
        try:
            self._exr.File(header, {"Z": np.ascontiguousarray(values, np.float32)}).write(str(partial))
            rename(partial, path)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise write_failed(path, error) from error

"""A virtual camera for other programs: video calls, browsers, OBS."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import MissingDependencyError, SinkError, UsageError, install_command
from streamdepth.media.letterbox import Letterbox
from streamdepth.sinks.files import reason

if TYPE_CHECKING:
    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl

_DEFAULT_RATE = 30.0
_TAGS_RGB = (0, 2, 2, 2)
_HINT = (
    "create a camera with: sudo modprobe v4l2loopback (Debian and Ubuntu: package v4l2loopback-dkms)"
    if sys.platform == "linux"
    else "start the virtual camera of OBS once"
)


class VirtualCameraSink(BaseSink):
    """Sends frames to a virtual camera with ``pyvirtualcam`` (v4l2loopback on Linux, OBS on macOS and Windows).

    Live: an old frame is replaced, not queued. Frames of another size than the first are letterboxed into it.

    Args:
        control: the look of the frames.
        device: ``/dev/video10`` or the camera's name; None = the first free one.
    """

    def __init__(self, *, control: LookControl, device: str | None = None) -> None:
        super().__init__(f"virtualcam:{device or ''}", control)
        self._device = device
        self._camera: Any = None
        self._letterbox: Letterbox | None = None

    @property
    def live(self) -> bool:
        return True

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """
        Raises:
            MissingDependencyError: pyvirtualcam is not installed.
            SinkError: there is no virtual camera, or it is in use.
        """
        if image is None:
            raise UsageError(f"{self.name}: a camera needs images")
        try:
            pyvirtualcam: Any = importlib.import_module("pyvirtualcam")
        except ImportError as exc:
            raise MissingDependencyError(
                f"a virtual camera needs pyvirtualcam; {install_command('virtualcam')}"
            ) from exc
        from streamdepth.core.frame import ColorTags

        try:
            self._camera = pyvirtualcam.Camera(
                width=image.width_px,
                height=image.height_px,
                fps=float(stream.rate or _DEFAULT_RATE),
                fmt=pyvirtualcam.PixelFormat.RGB,
                device=self._device,
            )
        except (RuntimeError, OSError, ValueError) as exc:
            # One line per backend, each with advice after the first sentence.
            words = ", ".join(line.partition(". ")[0].rstrip(".") for line in reason(exc).splitlines())
            raise SinkError(f"{self.name}: cannot be opened ({words}); {_HINT}") from exc
        self._letterbox = Letterbox(image.width_px, image.height_px, "rgb24", ColorTags(*_TAGS_RGB))

    def process(self, result: Result) -> None:
        if self._camera is None or self._letterbox is None or result.image is None:
            raise SinkError(f"{self.name}: not open, or no image to send")
        try:
            self._camera.send(self._letterbox(result.image).to_ndarray())
        except (RuntimeError, OSError, ValueError) as exc:
            raise SinkError(f"{self.name}: the camera was closed ({reason(exc)}); start the run again") from exc

    def close(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

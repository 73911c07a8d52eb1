"""Cameras of this machine, read with OpenCV."""

from __future__ import annotations

import platform
import re
import threading
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from streamdepth.core import limits
from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError
from streamdepth.core.frame import ColorTags, Frame, StreamInfo, image_from_array
from streamdepth.net.abandonable import AbandonableCalls, InterruptedCall
from streamdepth.sources.cameras import Camera, find_camera, list_cameras

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from streamdepth.core.clock import Clock

_TIME_BASE = Fraction(1, 90_000)
_BAD_READS_AT_MOST = 3
# Values of OpenCV's VideoCaptureProperties, so that OpenCV is not imported before a camera is opened.
_WIDTH, _HEIGHT, _FPS, _FOURCC, _BUFFERSIZE = 3, 4, 5, 6, 38
_VGA_PX = 640 * 480


class Capture(Protocol):
    """The part of ``cv2.VideoCapture`` that is used."""

    def isOpened(self) -> bool: ...  # noqa: N802 - OpenCV's name
    def read(self) -> tuple[bool, NDArray[np.uint8] | None]: ...
    def get(self, prop: int, /) -> float: ...
    def set(self, prop: int, value: float, /) -> bool: ...
    def release(self) -> None: ...


class WebcamSource(BaseSource):
    """Frames of a camera. A frame that is not read before the next one comes is dropped (``overtaken``).

    Frames are bgr24 and share OpenCV's memory. pts are the time since the first frame, in 1/90000 s.

    A separate thread reads the device, so ``interrupt`` works while the device hangs; that thread releases the
    camera as soon as the device answers. Tested with simulated devices at OpenCV's interface, not with a real camera.

    Args:
        device: index (0 = first), device path, or the camera's name or a part of it.
        width, height, rate: the mode to request. ``StreamInfo.note`` says if the camera chose another one.
        clock: stamps frames as they are read.
        timeout_seconds: limit for opening the camera and for each frame.
        open_capture, cameras: OpenCV and the list of cameras; tests replace them.
    """

    def __init__(
        self,
        device: int | str = 0,
        *,
        width: int | None = None,
        height: int | None = None,
        rate: Fraction | float | None = None,
        clock: Clock | None = None,
        timeout_seconds: float = 10.0,
        open_capture: Callable[[int | str], Capture] | None = None,
        cameras: Callable[[], tuple[Camera, ...]] = list_cameras,
    ) -> None:
        if isinstance(device, int) and device < 0:
            raise UsageError(f"camera index must be 0 or more, not {device}")
        if (width is None) != (height is None):
            raise UsageError("camera width and height must be given together")
        if (width is not None and width < 1) or (height is not None and height < 1):
            raise UsageError(f"camera size must be at least 1x1, not {width}x{height}")
        if rate is not None:
            limits.SOURCE_RATE.check("camera rate", rate)
        limits.TIMEOUT_SECONDS.check("timeout", timeout_seconds)
        self._device: int | str = int(device) if isinstance(device, str) and device.isdecimal() else device
        name = f"camera {self._device}" if isinstance(self._device, int) else str(self._device)
        super().__init__(name, live=True, clock=clock)
        self._size = None if width is None or height is None else (width, height)
        self._rate = rate
        self._timeout_seconds = timeout_seconds
        self._open_capture = open_capture or _open_opencv
        self._cameras = cameras
        self._detached = AbandonableCalls(f"streamdepth-{self._id}")
        self._release_lock = threading.Lock()
        self._capture: Capture | None = None
        self._first: tuple[int, NDArray[np.uint8]] | None = None
        self._reading = False
        self._info: StreamInfo | None = None

    def open(self) -> StreamInfo:
        """Open the camera and wait for its first frame.

        Raises:
            SourceNotFoundError: no such camera.
            SourceError: it cannot be opened, is in use, or gives no frame in time.
        """
        if self._info is not None:
            return self._info
        target = self._resolve()
        try:
            capture, first = self._detached.call(
                lambda: self._start(target),
                dispose=lambda late: late[0].release(),
                timeout_seconds=self._timeout_seconds,
            )
        except InterruptedCall as interrupted:
            raise SourceError(f"{self._id}: interrupted while opening", source=self._id) from interrupted
        except TimeoutError as error:
            raise SourceError(
                f"{self._id}: no frame within {self._timeout_seconds:g} s; "
                "reconnect the camera, or close other programs that use it",
                source=self._id,
            ) from error
        self._capture, self._first = capture, first
        self._info = self._describe(capture, first[1])
        return self._info

    def frames(self) -> Iterator[Frame]:
        if self._capture is None or self._first is None or self._reading:
            raise SourceError(f"{self._id}: call open() before frames(), and frames() once", source=self._id)
        self._reading = True
        capture = self._capture
        begun_ns = self._first[0]
        last_pts = -1
        images = self._detached.iterate(
            self._read(capture, self._first),
            depth=1,
            finished=lambda: self._release(capture),
            overtaken=lambda _: self._dropped.update(overtaken=1),
            timeout_seconds=self._timeout_seconds,
        )
        self._first = None
        try:
            for index, captured_ns, array in images:
                pts = max(last_pts + 1, (captured_ns - begun_ns) * 9 // 100_000)
                last_pts = pts
                image = image_from_array(array, "hw_gray" if array.ndim == 2 else "hwc_bgr")
                image.pts, image.time_base = pts, _TIME_BASE
                yield Frame(self._id, index, pts, _TIME_BASE, captured_ns, image, key=True)
        except TimeoutError as error:
            raise SourceError(
                f"{self._id}: no frame for {self._timeout_seconds:g} s; check the connection",
                source=self._id,
            ) from error

    def interrupt(self) -> None:
        self._detached.interrupt()

    def close(self) -> None:
        self._detached.interrupt()
        self._first = None
        if not self._reading and self._capture is not None:
            self._release(self._capture)

    def _resolve(self) -> int | str:
        device = self._device
        if isinstance(device, int):
            return device
        video = re.fullmatch(r"/dev/video(\d+)", device)
        if video is not None:
            # OpenCV's V4L2 backend takes the index everywhere, the path only in some builds.
            return int(video[1])
        if device.startswith("/dev/"):
            return device
        cameras = self._cameras()
        camera = find_camera(device, cameras)
        if camera is None:
            known = ", ".join(f"{camera.index} ({camera.name})" for camera in cameras) or "none"
            raise SourceNotFoundError(
                f"no single camera matches {device!r}; cameras: {known} (streamdepth cameras lists them)",
                source=self._id,
            )
        return camera.index

    def _start(self, target: int | str) -> tuple[Capture, tuple[int, NDArray[np.uint8]]]:
        capture = self._open_capture(target)
        try:
            if not capture.isOpened():
                raise SourceNotFoundError(
                    f"{self._id}: no such camera, or it is in use, or permission is denied; "
                    "streamdepth cameras lists the cameras",
                    source=self._id,
                )
            self._request(capture)
            for _ in range(_BAD_READS_AT_MOST):
                good, array = capture.read()
                if good and array is not None:
                    return capture, (self._clock.monotonic_ns(), array)
            raise SourceError(f"{self._id}: opens but gives no frame; close other programs using it", source=self._id)
        except BaseException:
            capture.release()
            raise

    def _request(self, capture: Capture) -> None:
        if self._size is not None:
            if self._size[0] * self._size[1] > _VGA_PX:
                # Uncompressed video beyond VGA does not fit USB 2 at 30 fps; a camera without Motion JPEG ignores this.
                capture.set(_FOURCC, float(int.from_bytes(b"MJPG", "little")))
            capture.set(_WIDTH, self._size[0])
            capture.set(_HEIGHT, self._size[1])
        if self._rate is not None:
            capture.set(_FPS, float(self._rate))
        capture.set(_BUFFERSIZE, 1)

    def _describe(self, capture: Capture, first: NDArray[np.uint8]) -> StreamInfo:
        height, width = first.shape[:2]
        fps = capture.get(_FPS)
        rate = Fraction(fps).limit_denominator(1001) if np.isfinite(fps) and fps in limits.SOURCE_RATE else None
        code = int(capture.get(_FOURCC)) & 0xFFFFFFFF
        fourcc = "".join(
            char for char in code.to_bytes(4, "little").decode("ascii", "replace") if char.isprintable()
        ).strip()
        note = (
            f"{width}x{height}"
            + (f" at {float(rate):g} fps" if rate else "")
            + (f", {fourcc}" if code and fourcc else "")
        )
        refused = []
        if self._size is not None and self._size != (width, height):
            refused.append(f"{self._size[0]}x{self._size[1]}")
        if self._rate is not None and (rate is None or abs(float(self._rate) - float(rate)) > 0.5):
            refused.append(f"{float(self._rate):g} fps")
        if refused:
            note += f" (requested {' at '.join(refused)} is not supported)"
        return StreamInfo(
            source_id=self._id,
            width_px=width,
            height_px=height,
            pix_fmt="gray" if first.ndim == 2 else "bgr24",
            time_base=_TIME_BASE,
            rate=rate,
            live=True,
            color=ColorTags(range=2),
            note=note,
        )

    def _read(
        self, capture: Capture, first: tuple[int, NDArray[np.uint8]]
    ) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        yield 0, *first
        index, bad = 1, 0
        while bad < _BAD_READS_AT_MOST:
            good, array = capture.read()
            if not good or array is None:
                bad += 1
                continue
            bad = 0
            yield index, self._clock.monotonic_ns(), array
            index += 1
        raise SourceError(f"{self._id}: no more frames after {index}; check the connection", source=self._id)

    def _release(self, capture: Capture) -> None:
        with self._release_lock:
            if self._capture is not None:
                self._capture = None
                capture.release()


def _open_opencv(target: int | str) -> Capture:
    import cv2

    backend = cv2.CAP_V4L2 if platform.system() == "Linux" else cv2.CAP_ANY
    capture: Any = cv2.VideoCapture(target, backend)
    return cast("Capture", capture)

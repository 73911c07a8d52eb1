"""Cameras of this machine, read with OpenCV."""

from __future__ import annotations

import os
import re
import sys
import threading
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from streamdepth.core import limits
from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError
from streamdepth.core.frame import ColorTags, Frame, StreamInfo
from streamdepth.media.images import image_from_array
from streamdepth.net.calls import AbandonableCalls
from streamdepth.sources.cameras import Camera, backends, cameras_of, find_camera, list_cameras

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from streamdepth.core.clock import Clock

_TIME_BASE = Fraction(1, 90_000)
_BAD_READS_AT_MOST = 3
_SLICE_SECONDS, _RELEASE_SECONDS = 0.5, 1.0
_SLOW_OPEN_SECONDS = 60.0
"""Windows: Media Foundation was measured by others at up to 40 s for cameras with many modes."""
_CSI_HINTS = (
    (
        ("unicam", "rp1-cfe", "bcm2835-isp", "pispbe"),
        "Raspberry Pi camera: run rpicam-vid -t 0 --inline --listen -o tcp://127.0.0.1:8888, read tcp://127.0.0.1:8888",
    ),
    (
        ("vi-output", "tegra"),
        "Jetson camera: serve it with GStreamer and read tcp://127.0.0.1:8888 (see configs/README.md)",
    ),
)
"""Parts of Video4Linux names of cameras behind an image processor that OpenCV does not control, and what to do."""
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

    OpenCV does not report interlaced frames, so those of analog capture devices are not deinterlaced.
    Frames are bgr24 and share OpenCV's memory. pts are the time since the first frame, in 1/90000 s.

    A separate thread opens, reads and releases the device, so ``interrupt`` works while the device hangs. Tested with
    simulated devices at OpenCV's interface, not with a real camera.

    Args:
        device: index (0 = first), device path, or the camera's name or a part of it.
        width, height, rate: the mode to request. ``StreamInfo.note`` says if the camera chose another one.
        clock: stamps frames as they are read.
        timeout_seconds: limit for opening the camera and for each frame.
        open_capture, cameras, system: OpenCV, the list of cameras and the operating system; tests replace them.
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
        system: str = sys.platform,
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
        self._system = system
        self._detached = AbandonableCalls(f"streamdepth-{self._id}")
        self._reading = threading.Event()
        self._released = threading.Event()
        self._capture: Capture | None = None
        self._images: Iterator[tuple[int, int, NDArray[np.uint8]]] | None = None
        self._first: tuple[int, int, NDArray[np.uint8]] | None = None
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
        if self._system == "darwin" and threading.current_thread() is threading.main_thread():
            self._open_capture(target).release()  # macOS asks for permission on the main thread only
        seconds = max(self._timeout_seconds, _SLOW_OPEN_SECONDS) if self._system == "win32" else self._timeout_seconds
        self._images = self._detached.iterate(
            self._read(target),
            depth=1,
            finished=self._release,
            overtaken=lambda _: self._dropped.update(overtaken=1),
            timeout_seconds=self._timeout_seconds,
            first_seconds=seconds,
        )
        try:
            self._first = next(self._images)
        except StopIteration as ended:
            raise SourceError(f"{self._id}: interrupted while opening", source=self._id) from ended
        except TimeoutError as error:
            raise SourceError(
                f"{self._id}: no frame within {seconds:g} s; reconnect the camera, or close other programs that use it",
                source=self._id,
            ) from error
        return cast("StreamInfo", self._info)  # set before the first frame

    def frames(self) -> Iterator[Frame]:
        if self._images is None or self._first is None:
            raise SourceError(f"{self._id}: call open() before frames(), and frames() once", source=self._id)
        first, self._first = self._first, None
        begun_ns = first[1]
        last_pts = -1
        self._reading.set()
        try:
            for index, captured_ns, array in chain([first], self._images):
                if self._detached.interrupted:
                    return
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
        self._reading.set()

    def close(self) -> None:
        """Release the camera; returns after a second if it hangs, and its thread releases it later."""
        self.interrupt()
        self._first = None
        if self._images is not None:
            self._released.wait(_RELEASE_SECONDS)

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

    def _read(self, target: int | str) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """Index, time in ns and image of each frame. The device is used on the thread that iterates, and nowhere else:
        Media Foundation and DirectShow belong to the thread that opened them."""
        capture = self._capture = self._open_capture(target)
        if not capture.isOpened():
            raise SourceNotFoundError(
                f"{self._id}: no such camera, or it is in use, or permission is denied; "
                f"streamdepth cameras lists the cameras{self._hint(target)}",
                source=self._id,
            )
        self._request(capture)
        index, bad = 0, 0
        while bad < _BAD_READS_AT_MOST:
            good, array = capture.read()
            if not good or array is None:
                bad += 1
                continue
            bad = 0
            captured_ns = self._clock.monotonic_ns()
            if index == 0:
                self._info = self._describe(capture, array)
            yield index, captured_ns, array
            index += 1
            while not self._reading.wait(_SLICE_SECONDS):  # set by frames(), interrupt() and close()
                pass
            if self._detached.interrupted:
                return
        if not index:
            raise SourceError(
                f"{self._id}: opens but gives no frame; close other programs using it{self._hint(target)}",
                source=self._id,
            )
        raise SourceError(f"{self._id}: no more frames after {index}; check the connection", source=self._id)

    def _hint(self, target: int | str) -> str:
        """What to do about cameras that OpenCV cannot read, empty for others."""
        name = next((camera.name for camera in self._cameras() if camera.index == target), "")
        return "".join(f"; {hint}" for names, hint in _CSI_HINTS if any(part in name for part in names))

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

    def _release(self) -> None:
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()
        self._released.set()


def _open_opencv(target: int | str) -> Capture:
    # Media Foundation otherwise takes up to a minute to open a camera; read by OpenCV when it is loaded.
    os.environ.setdefault("OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS", "0")
    import cv2

    return open_with(backends(), target, cast("Callable[[int | str, int], Capture]", cv2.VideoCapture))


def open_with(
    apis: Sequence[int],
    target: int | str,
    capture: Callable[[int | str, int], Capture],
    cameras_of: Callable[[int], Sequence[Camera]] = cameras_of,
) -> Capture:
    """Open a camera with the first interface that gives an image, else with the last.

    Args:
        apis: OpenCV's ``CAP_*`` numbers.
        target: index for the first interface, or device path. Other interfaces may have another order: the camera of
            the same name is opened.
        capture: ``cv2.VideoCapture``.
    """
    name = ""
    for number, api in enumerate(apis):
        index = target
        if len(apis) > 1 and isinstance(target, int):
            listed = cameras_of(api)
            if number == 0:
                name = next((camera.name for camera in listed if camera.index == target), "")
            index = next((camera.index for camera in listed if name and camera.name == name), target)
        opened = capture(index, api)
        if number == len(apis) - 1 or (opened.isOpened() and opened.read()[0]):
            return opened
        opened.release()
    raise ValueError("no interface given")

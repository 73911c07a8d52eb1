"""Sinks that pass results on: to a callback, a virtual camera, object storage, or nothing."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import (
    MissingDependencyError,
    OutputExistsError,
    SinkError,
    StageError,
    StopPipeline,
    StreamDepthError,
    UsageError,
    install_command,
    redact,
)
from streamdepth.core.host import install_system
from streamdepth.media.filters import Letterbox
from streamdepth.net.url import ObjectStore, explained
from streamdepth.sinks.files import reason
from streamdepth.sinks.names import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import DepthMap, Frame, ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl


class CallbackSink(BaseSink):
    """Calls ``function(frame, depth)`` for each result, on the sink's thread, in order.

    The memory of the depth is reused: copy ``depth.values`` to use it after the call. An exception of the function
    ends the run and is raised to the caller with the name of the function; ``StopPipeline`` ends it normally.

    Args:
        live: True = a slow function drops old frames (counted by the pipeline) instead of blocking the source.
        on_caller_thread: True = call the function on the thread that runs the pipeline.
    """

    def __init__(
        self,
        function: Callable[[Frame, DepthMap], object],
        *,
        live: bool = False,
        on_caller_thread: bool = False,
        name: str = "",
    ) -> None:
        called = getattr(function, "__qualname__", type(function).__name__).replace("<locals>.", "")
        super().__init__(name or f"callback {called}")
        self._function = function
        self._live = live
        self._on_caller_thread = on_caller_thread

    @property
    def live(self) -> bool:
        return self._live

    @property
    def on_caller_thread(self) -> bool:
        return self._on_caller_thread

    def process(self, result: Result) -> None:
        try:
            self._function(result.frame, result.depth)
        except (StreamDepthError, StopPipeline):
            raise
        except Exception as error:
            failure = f"{self.name}: {type(error).__name__}: {error}"
            raise StageError(failure, stage="callback", source=self.name) from error


class NullSink(BaseSink):
    """Discards every result.

    Args:
        control: a look, to include colouring in the measurement; None = depth only.
    """

    reads_pixels = False

    def __init__(self, *, control: LookControl | None = None) -> None:
        super().__init__("null:", control)

    def process(self, result: Result) -> None:
        pass


_DEFAULT_RATE = 30.0
_TAGS_RGB = (0, 2, 2, 2)


def _hint() -> str:
    if sys.platform == "linux":
        steps = (install_system("v4l2loopback"), "sudo modprobe v4l2loopback")
        return f"create a camera with: {' && '.join(filter(None, steps))}"
    else:  # noqa: RET505 - type checkers take code after the branch for unreachable on Linux
        return "start the virtual camera of OBS once"


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
            raise SinkError(f"{self.name}: cannot be opened ({words}); {_hint()}") from exc
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


class ObjectSink(BaseSink):
    """Writes a file with another sink and uploads it when the run has ended.

    After an error nothing is uploaded. The object appears under its name only when all of it has arrived.

    Args:
        url: of the object; its suffix chooses the format.
        make: gives the sink that writes a local file of the same suffix.
        overwrite: replace an existing object.

    Raises:
        UsageError: the URL contains credentials.
        MissingDependencyError: the package for the service is not installed.
    """

    def __init__(self, url: str, make: Callable[[str], Sink], *, overwrite: bool) -> None:
        super().__init__(redact(url))
        self._url = url
        self._overwrite = overwrite
        self._store = ObjectStore(url)
        self._folder = tempfile.TemporaryDirectory(prefix="streamdepth-", ignore_cleanup_errors=True)
        self._path = Path(self._folder.name) / PurePosixPath(url).name
        self._sink = make(str(self._path))
        self._complete = self._closed = False

    @property
    def control(self) -> LookControl | None:
        return self._sink.control

    @property
    def note(self) -> str:
        return self._sink.note.replace(str(self._path), self.name)

    @property
    def counts(self) -> Mapping[str, int]:
        return self._sink.counts

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """
        Raises:
            OutputExistsError: the object exists and ``overwrite`` is False.
            SinkError: the service cannot be reached, or the file cannot be written.
        """
        with explained(self._url, SinkError, "cannot be written"):
            exists = self._store.exists()
        if exists and not self._overwrite:
            raise OutputExistsError(f"{self.name}: already exists; --overwrite replaces it")
        self._sink.open(stream, image)

    def process(self, result: Result) -> None:
        self._sink.process(result)

    def idle(self) -> None:
        self._sink.idle()

    def flush(self) -> None:
        self._sink.flush()
        self._complete = True

    def interrupt(self) -> None:
        self._sink.interrupt()

    def close(self) -> None:
        """Raises ``SinkError``: the file could not be completed or uploaded."""
        if self._closed:
            return
        self._closed = True
        try:
            self._sink.close()
            if self._complete and self._path.exists():
                with explained(self._url, SinkError, "cannot be uploaded"):
                    self._store.put(str(self._path))
        finally:
            self._folder.cleanup()


def uploaded(url: str, files: Mapping[str, Callable[[Output, Any], Sink]], options: Mapping[str, Any]) -> ObjectSink:
    """The sink for a URL of object storage.

    Args:
        files: by suffix, gives the sink that writes a local file.
        options: of that sink.

    Raises:
        UsageError: there is no sink for the suffix of the URL.
    """
    suffix = PurePosixPath(url).suffix.lower()
    make = files.get(suffix)
    if make is None:
        raise UsageError(f"{redact(url)}: cannot be uploaded as {suffix!r}; name one file, {', '.join(files)}")
    return ObjectSink(url, lambda path: make(Output(path), options), overwrite=options.get("overwrite", False))

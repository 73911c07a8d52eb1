"""The interface of a window, and a window of OpenCV in a child process, which runs :func:`main`.

Qt aborts its process if there is no usable display, and HighGUI hangs in a process that loaded PyAV before OpenCV
(measured with PyAV 18.1 and opencv-python 5.0 on Linux: ``namedWindow`` never returns). In a child process neither
affects the pipeline. Window events are also handled between requests, so that a window is drawn and can be closed while
the pipeline loads a model.

Requests on standard input, one reply each on standard output. Request: kind (1 byte), two uint32, then for ``show``
their product x 3 bytes, for ``create`` as many bytes of title as the third uint32 says. Reply: key (int32, -1 = none),
visible (uint8), length of an error's text (uint32), the text. The end of input ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from streamdepth.core.errors import DisplayError
from streamdepth.core.host import own_process_group

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from numpy.typing import NDArray

_REQUEST = struct.Struct("<cIII")
_REPLY = struct.Struct("<iBI")
_WAITING = 32
_EVENTS_SECONDS = 0.004
_KEYS_KEPT = 32
_CREATE, _SHOW, _POLL, _RESIZE, _FULLSCREEN = b"C", b"S", b"P", b"R", b"F"

_Request = tuple[bytes, int, int, bytes]
_START_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_END_SECONDS = 2.0
_PIPE_BYTES = 1 << 20
_ELSE = "omit --show and use -o or --serve"


class Backend(Protocol):
    """One window. All methods are called on one thread."""

    def create(self, title: str, width_px: int, height_px: int) -> None:
        """Raises ``DisplayError``: the window cannot be shown."""
        ...

    def show(self, image: NDArray[np.uint8]) -> None:
        """uint8 [H, W, 3], BGR."""
        ...

    def poll(self, wait_ms: int) -> int:
        """Handle events for ``wait_ms`` >= 1 or until a key is pressed. Returns its ASCII code, or -1."""
        ...

    @property
    def visible(self) -> bool:
        """False once the user has closed it."""
        ...

    def resize(self, width_px: int, height_px: int) -> None: ...

    def set_fullscreen(self, on: bool) -> None: ...

    def destroy(self) -> None: ...


class Cv2Backend:
    """A window of OpenCV's HighGUI in a child process.

    Costs one copy of each image through a pipe. The child ends with its parent, however that ends.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = environ
        self._child: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None
        self._replies: queue.Queue[tuple[int, bool, str] | None] = queue.Queue(4)
        self._reader: threading.Thread | None = None
        self._visible = False

    @property
    def visible(self) -> bool:
        return self._visible

    def create(self, title: str, width_px: int, height_px: int) -> None:
        environ = dict(os.environ if self._environ is None else self._environ)
        check_display(environ, sys.platform)
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by destroy
        self._replies = queue.Queue(4)
        root = str(Path(__file__).parents[3])
        start = f"import sys; sys.path.append({root!r}); from streamdepth.sinks.window.backend import main; main()"
        self._child = subprocess.Popen(
            [sys.executable, "-c", start],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            pipesize=_PIPE_BYTES,
            **own_process_group(),
        )
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout,), name="window", daemon=True)
        self._reader.start()
        try:
            self._ask(_CREATE, width_px, height_px, title.encode(), seconds=_START_SECONDS)
        except DisplayError:
            self.destroy()
            raise

    def show(self, image: NDArray[np.uint8]) -> None:
        self._ask(_SHOW, image.shape[1], image.shape[0], np.ascontiguousarray(image).data.cast("B"))

    def poll(self, wait_ms: int) -> int:
        return self._ask(_POLL, max(1, wait_ms))

    def resize(self, width_px: int, height_px: int) -> None:
        self._ask(_RESIZE, width_px, height_px)

    def set_fullscreen(self, on: bool) -> None:
        self._ask(_FULLSCREEN, int(on))

    def destroy(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        self._visible = False
        if child.stdin is not None:
            with contextlib.suppress(OSError):  # the child has ended
                child.stdin.close()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(_END_SECONDS)
        if self._reader is not None:
            self._reader.join(_END_SECONDS)
        if child.stdout is not None:
            child.stdout.close()
        if self._words is not None:
            self._words.close()

    def _ask(
        self,
        kind: bytes,
        first: int = 0,
        second: int = 0,
        content: bytes | memoryview = b"",
        *,
        seconds: float = _ANSWER_SECONDS,
    ) -> int:
        child = self._child
        if child is None or child.stdin is None:
            raise DisplayError("the window is closed; start the run again")
        try:
            child.stdin.write(_REQUEST.pack(kind, first, second, len(content)))
            child.stdin.write(content)
            child.stdin.flush()
            reply = self._replies.get(timeout=seconds)
        except OSError:
            reply = None
        except queue.Empty as exc:
            raise DisplayError(f"the display does not respond; {_ELSE}") from exc
        if reply is None:
            raise DisplayError(self._last_words())
        key, self._visible, error = reply
        if error:
            raise DisplayError(_no_windows(error))
        return key

    def _read(self, source: IO[bytes]) -> None:
        while len(head := source.read(_REPLY.size)) == _REPLY.size:
            key, visible, size = _REPLY.unpack(head)
            self._replies.put((key, bool(visible), source.read(size).decode(errors="replace") if size else ""))
        self._replies.put(None)

    def _last_words(self) -> str:
        if self._words is None:
            return f"the window was closed; {_ELSE}"
        self._words.seek(0)
        words = self._words.read().decode(errors="replace")
        if "ModuleNotFoundError" in words or "ImportError" in words:
            return f"OpenCV cannot be loaded; pip install opencv-python, or {_ELSE}"
        environ = os.environ if self._environ is None else self._environ
        name = environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY") or ""
        return f"the display {name} cannot be used; check DISPLAY and xhost, or {_ELSE}"


def check_display(environ: Mapping[str, str], platform: str) -> None:
    """Raises ``DisplayError``: Linux without any display."""
    if platform.startswith("linux") and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        raise DisplayError(f"there is no display for a window (DISPLAY is not set); {_ELSE}")


def _no_windows(words: str) -> str:
    if "not implemented" in words:
        return (
            "this OpenCV is built without windows; "
            f"pip uninstall opencv-python-headless && pip install --force-reinstall opencv-python, or {_ELSE}"
        )
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    return f"OpenCV cannot show the window ({lines[-1] if lines else 'no reason given'}); {_ELSE}"


class Window:
    """One window of HighGUI. Keys are queued until they are polled."""

    def __init__(self) -> None:
        own_events()
        import cv2

        self._toolkit: Any = cv2
        self._title = ""
        self._keys: deque[int] = deque(maxlen=_KEYS_KEPT)

    def do(self, request: _Request) -> tuple[int, str]:
        """Execute a request. Returns the key (-1 for none) and an error message of OpenCV."""
        import numpy as np

        cv2, (kind, first, second, content) = self._toolkit, request
        try:
            if kind == _CREATE:
                self._title = content.decode()
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                cv2.resizeWindow(self._title, first, second)
                cv2.imshow(self._title, np.full((second, first, 3), _WAITING, np.uint8))
                self.handle_events()
            elif kind == _SHOW:
                cv2.imshow(self._title, np.frombuffer(content, np.uint8).reshape(second, first, 3))
            elif kind == _POLL:
                if not self._keys:
                    self._keep(int(cv2.waitKey(max(1, first))))
                return (self._keys.popleft() if self._keys else -1), ""
            elif kind == _RESIZE:
                cv2.resizeWindow(self._title, first, second)
            elif kind == _FULLSCREEN:
                mode = cv2.WINDOW_FULLSCREEN if first else cv2.WINDOW_NORMAL
                cv2.setWindowProperty(self._title, cv2.WND_PROP_FULLSCREEN, mode)
        except cv2.error as exc:
            return -1, str(exc)
        return -1, ""

    def handle_events(self) -> None:
        if self._title:
            self._keep(int(self._toolkit.waitKey(1)))

    @property
    def visible(self) -> bool:
        try:
            return float(self._toolkit.getWindowProperty(self._title, self._toolkit.WND_PROP_VISIBLE)) >= 1
        except self._toolkit.error:
            return False

    def _keep(self, key: int) -> None:
        if key >= 0:
            self._keys.append(key & 0xFF)


def own_events() -> None:
    """Load the system's X11 libraries before OpenCV's Qt does.

    Without it a window stays black for ever in 1 start of 6 under Xvfb (0 of 80 with it): its MapNotify and first
    Expose never reach Qt's event queue, which reads the connection Xlib opened on a thread of its own.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a display without X11
            ctypes.CDLL("libX11-xcb.so.1", mode=ctypes.RTLD_GLOBAL)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Never returns: the process ends with its input, even while a call of the toolkit blocks."""
    requests: queue.Queue[_Request] = queue.Queue(1)

    def read() -> None:
        while len(head := source.read(_REQUEST.size)) == _REQUEST.size:
            kind, first, second, size = _REQUEST.unpack(head)
            requests.put((kind, first, second, source.read(size) if size else b""))
        os._exit(0)

    window = Window()
    threading.Thread(target=read, name="requests", daemon=True).start()
    while True:
        try:
            request = requests.get(timeout=_EVENTS_SECONDS)
        except queue.Empty:
            window.handle_events()
            continue
        key, error = window.do(request)
        text = error.encode()
        sink.write(_REPLY.pack(key, window.visible, len(text)) + text)
        sink.flush()


def main() -> None:
    """The program of the child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pipeline to handle
    serve(sys.stdin.buffer, sys.stdout.buffer)

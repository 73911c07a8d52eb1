"""The interface of a window, and a window of OpenCV in a child process."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from streamdepth.core.errors import DisplayError
from streamdepth.core.host import own_process_group
from streamdepth.sinks.window.process import CREATE, FULLSCREEN, POLL, REPLY, REQUEST, RESIZE, SHOW

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from numpy.typing import NDArray

_START_SECONDS = 30.0
_ANSWER_SECONDS = 10.0
_END_SECONDS = 2.0
_PIPE_BYTES = 1 << 20
_ELSE = "omit --show and use -o or --serve"


class Backend(Protocol):
    """One window. All methods are called on one thread."""

    def create(self, title: str, width_px: int, height_px: int) -> None:
        """
        Raises:
            DisplayError: the window cannot be shown.
        """
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
    """A window of OpenCV's HighGUI in a child process, for the reasons in :mod:`streamdepth.sinks.window.process`.

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
        program = str(Path(__file__).with_name("process.py"))
        # Not by file name: its folder would be first on the module path and shadow modules of the standard library.
        start = f"import runpy; runpy.run_path({program!r}, run_name='__main__')"
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
            self._ask(CREATE, width_px, height_px, title.encode(), seconds=_START_SECONDS)
        except DisplayError:
            self.destroy()
            raise

    def show(self, image: NDArray[np.uint8]) -> None:
        self._ask(SHOW, image.shape[1], image.shape[0], np.ascontiguousarray(image).data.cast("B"))

    def poll(self, wait_ms: int) -> int:
        return self._ask(POLL, max(1, wait_ms))

    def resize(self, width_px: int, height_px: int) -> None:
        self._ask(RESIZE, width_px, height_px)

    def set_fullscreen(self, on: bool) -> None:
        self._ask(FULLSCREEN, int(on))

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
            child.stdin.write(REQUEST.pack(kind, first, second, len(content)))
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
        while len(head := source.read(REPLY.size)) == REPLY.size:
            key, visible, size = REPLY.unpack(head)
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
    """
    Raises:
        DisplayError: Linux without any display.
    """
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

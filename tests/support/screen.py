"""A display of its own for tests of real windows, and fakes of both for the rest."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import subprocess
from typing import TYPE_CHECKING

import numpy as np

from tests.support import need

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.support.clock import ManualClock


@contextlib.contextmanager
def x_display(size: str = "1280x800") -> Iterator[str]:
    """Start Xvfb on a free display and yield its name. Skips the test where Xvfb or xdotool is missing."""
    for tool in ("Xvfb", "xdotool"):
        need.program(tool)
    read_end, write_end = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(write_end), "-screen", "0", f"{size}x24", "-nolisten", "tcp", "-noreset"],
        pass_fds=(write_end,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(write_end)
    try:
        with os.fdopen(read_end) as ready:
            number = ready.readline().strip()
        if not number:
            need.missing("Xvfb does not start here")
        yield f":{number}"
    finally:
        server.terminate()
        server.wait(10)


def xdotool(display: str, *command: str) -> str:
    ran = subprocess.run(
        ["xdotool", *command], env=os.environ | {"DISPLAY": display}, capture_output=True, text=True, timeout=20
    )
    return ran.stdout.strip()


def screenshot(display: str, path: Path) -> NDArray[np.uint8]:
    """The whole screen as RGB [H, W, 3]."""
    from PIL import Image

    command = [need.program("import"), "-display", display, "-window", "root", str(path)]
    subprocess.run(command, check=True, timeout=20, capture_output=True)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


class FakeWindow:
    """A backend whose keys are typed by the test and whose waits move a clock."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.keys: list[str] = []
        self.shown: list[tuple[int, NDArray[np.uint8]]] = []
        self.visible = True
        self.fullscreen = False
        self.size = (0, 0)
        self.destroyed = 0
        self.on_poll: Callable[[], None] | None = None

    def create(self, title: str, width_px: int, height_px: int) -> None:
        assert title
        self.size = (width_px, height_px)

    def show(self, image: NDArray[np.uint8]) -> None:
        self.shown.append((self.clock.now_ns, image))

    def poll(self, wait_ms: int) -> int:
        assert wait_ms >= 1
        if self.on_poll is not None:
            self.on_poll()
        if self.keys:
            return ord(self.keys.pop(0))
        self.clock.advance(wait_ms / 1000)
        return -1

    def resize(self, width_px: int, height_px: int) -> None:
        self.size = (width_px, height_px)

    def set_fullscreen(self, on: bool) -> None:
        self.fullscreen = on

    def destroy(self) -> None:
        self.destroyed += 1


def close_window(display: str, window: int) -> None:
    """Ask a window to close as its title bar's button does: WM_DELETE_WINDOW (ICCCM 4.2.8.1), by Xlib itself."""
    name = ctypes.util.find_library("X11")
    if name is None:
        need.missing("libX11 is not installed")
    x11 = ctypes.CDLL(name)
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    x11.XInternAtom.restype = ctypes.c_ulong
    x11.XSendEvent.argtypes = [ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    # A window that has just closed is an X error, for which Xlib's own handler ends the process without a word.
    ignore = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: 0)
    x11.XSetErrorHandler(ignore)
    connection = x11.XOpenDisplay(display.encode())
    assert connection
    # XClientMessageEvent: type, serial, send_event, display, window, message_type, format, data.l[5]; 24 longs in all.
    event = (ctypes.c_long * 24)()
    event[0] = 33
    event[4] = window
    event[5] = x11.XInternAtom(connection, b"WM_PROTOCOLS", 0)
    event[6] = 32
    event[7] = x11.XInternAtom(connection, b"WM_DELETE_WINDOW", 0)
    x11.XSendEvent(connection, window, 0, 0, event)
    x11.XCloseDisplay(connection)

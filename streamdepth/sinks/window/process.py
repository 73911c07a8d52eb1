"""The child process of a window: a separate program that loads only OpenCV.

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
import sys
import threading
from collections import deque
from typing import Any, BinaryIO

REQUEST = struct.Struct("<cIII")
REPLY = struct.Struct("<iBI")
_WAITING = 32
_EVENTS_SECONDS = 0.004
_KEYS_KEPT = 32
CREATE, SHOW, POLL, RESIZE, FULLSCREEN = b"C", b"S", b"P", b"R", b"F"

_Request = tuple[bytes, int, int, bytes]


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
            if kind == CREATE:
                self._title = content.decode()
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                cv2.resizeWindow(self._title, first, second)
                cv2.imshow(self._title, np.full((second, first, 3), _WAITING, np.uint8))
                self.handle_events()
            elif kind == SHOW:
                cv2.imshow(self._title, np.frombuffer(content, np.uint8).reshape(second, first, 3))
            elif kind == POLL:
                if not self._keys:
                    self._keep(int(cv2.waitKey(max(1, first))))
                return (self._keys.popleft() if self._keys else -1), ""
            elif kind == RESIZE:
                cv2.resizeWindow(self._title, first, second)
            elif kind == FULLSCREEN:
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
        while len(head := source.read(REQUEST.size)) == REQUEST.size:
            kind, first, second, size = REQUEST.unpack(head)
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
        sink.write(REPLY.pack(key, window.visible, len(text)) + text)
        sink.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pipeline to handle
    serve(sys.stdin.buffer, sys.stdout.buffer)

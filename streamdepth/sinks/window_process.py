"""The other end of a window: run as a program of its own, with OpenCV and nothing else in it.

Qt aborts the process it is in where it finds no usable display, and HighGUI hangs for ever in a process that loaded
PyAV before OpenCV (measured with PyAV 18.1 and opencv-python 5.0 on Linux: ``namedWindow`` never returns). Neither can
happen to the pipeline from here.

Requests on standard input, one reply each on standard output. Request: kind (1 byte), two uint32, then for ``show``
their product x 3 bytes, for ``create`` as many bytes of title as the third uint32 says. Reply: key (int32, -1 = none),
visible (uint8), length of an error's text (uint32), the text. Ends at the end of input.
"""

from __future__ import annotations

import struct
import sys
from typing import Any, BinaryIO

REQUEST = struct.Struct("<cIII")
REPLY = struct.Struct("<iBI")
_WAITING = 32
CREATE, SHOW, POLL, FULLSCREEN = b"C", b"S", b"P", b"F"


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    import cv2
    import numpy as np

    toolkit: Any = cv2
    title = ""
    while len(head := source.read(REQUEST.size)) == REQUEST.size:
        kind, first, second, size = REQUEST.unpack(head)
        content = source.read(size) if size else b""
        key, error = -1, ""
        try:
            if kind == CREATE:
                title = content.decode()
                toolkit.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
                toolkit.resizeWindow(title, first, second)
                toolkit.imshow(title, np.full((second, first, 3), _WAITING, np.uint8))
                toolkit.waitKey(1)
            elif kind == SHOW:
                toolkit.imshow(title, np.frombuffer(content, np.uint8).reshape(second, first, 3))
            elif kind == POLL:
                key = int(toolkit.waitKey(max(1, first)))
            elif kind == FULLSCREEN:
                mode = cv2.WINDOW_FULLSCREEN if first else cv2.WINDOW_NORMAL
                toolkit.setWindowProperty(title, cv2.WND_PROP_FULLSCREEN, mode)
        except cv2.error as exc:
            error = str(exc)
        text = error.encode()
        sink.write(REPLY.pack(key if key < 0 else key & 0xFF, _visible(toolkit, title), len(text)) + text)
        sink.flush()


def _visible(toolkit: Any, title: str) -> bool:
    try:
        return float(toolkit.getWindowProperty(title, toolkit.WND_PROP_VISIBLE)) >= 1
    except toolkit.error:
        return False


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)

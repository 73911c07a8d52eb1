"""A real window on a display: it paints, takes keys, and ends with the run."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamdepth.core.errors import DisplayError
from streamdepth.sinks.window.backend import Cv2Backend
from tests.support import need
from tests.support.screen import close_window, screenshot, x_display, xdotool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    with x_display() as name:
        yield name


_SHOW = """
import sys
from streamdepth.core.errors import StopPipeline
from streamdepth.sinks.window.sink import WindowSink
from tests.support.sinks import control, image_info
from tests.unit.test_sinks_window import INFO, image_at
look = control()
sink = WindowSink("depth window", control=look)
sink.open(INFO, image_info(INFO))
print("child", sink._backend._child.pid, flush=True)
index = 0
said = look.look


def tell():
    global said
    if look.look != said:
        said = look.look
        print("look", said.style, said.view, flush=True)


try:
    while True:
        sink.process(image_at(index % 8))
        tell()
        for _ in range(5):
            sink.idle()
            tell()
        index += 1
        if index == 3:
            print("ready", flush=True)
except StopPipeline:
    print("stopped", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    try:
        sink.idle()
    except StopPipeline:
        print("stopped", flush=True)
finally:
    sink.close()
"""


class Shown:
    """A process that shows a window, and what it says."""

    def __init__(self, display: str) -> None:
        self.display = display
        self._lines: queue.Queue[str] = queue.Queue()
        self._heard: list[str] = []
        environ = os.environ | {"DISPLAY": display}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SHOW], env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self.window_process = int(self.until("child").split()[1])
        self.until("ready")
        self.window = xdotool(display, "search", "--sync", "--name", "depth window").split()[-1]
        xdotool(display, "windowfocus", "--sync", self.window)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._listener.join(10)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.strip())

    def _next(self) -> str:
        self._heard.append(self._lines.get(timeout=1))
        return self._heard[-1]

    def until(self, said: str, act: Callable[[], object] = lambda: None, tries: int = 20) -> str:
        """The first line with these words. Acts again until then: a window only just mapped may miss an event."""
        for _ in range(tries):
            act()
            with contextlib.suppress(queue.Empty):
                while said not in (line := self._next()):
                    pass
                return line
        raise AssertionError(f"the window never said {said!r} but {self._heard[-5:]}")

    def press(self, key: str) -> Callable[[], object]:
        return lambda: xdotool(self.display, "key", "--window", self.window, key)

    def looks(self, path: Path, right: Callable[[NDArray[np.uint8]], bool]) -> NDArray[np.uint8]:
        """The screen, once it looks right or after 20 tries."""
        for _ in range(20):
            screen = screenshot(self.display, path)
            if right(screen):
                break
        return screen


@pytest.fixture
def shown(display: str) -> Iterator[Shown]:
    window = Shown(display)
    try:
        yield window
    finally:
        window.end()


def gone(process: int) -> bool:
    """Wait until a process that is not ours to wait for has ended."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        threading.Event().wait(0.05)
    return False


def test_a_real_window_paints_takes_keys_and_ends_the_run(shown: Shown, tmp_path: Path) -> None:
    def painted(screen: NDArray[np.uint8]) -> bool:
        # Red rises to the right and green downwards in every image of the test's.
        part = screen[:270, :480].astype(int)
        return bool(part[60, 100:230, 0].std() > 20 and part[60:180, 300, 1].std() > 20)

    assert painted(shown.looks(tmp_path / "screen.png", painted))
    shown.until("look jet depth", shown.press("s"))
    shown.until("overlay", shown.press("v"))
    shown.until("stopped", shown.press("q"))
    assert shown.process.wait(20) == 0
    assert gone(shown.window_process)


def test_closing_a_real_window_ends_the_run(shown: Shown) -> None:
    def close() -> None:
        for window in xdotool(shown.display, "search", "--name", "depth window").split():
            close_window(shown.display, int(window))

    shown.until("stopped", close, tries=10)
    assert shown.process.wait(20) == 0
    assert gone(shown.window_process)


@need.posix_signals
def test_an_interrupt_closes_a_real_window(shown: Shown) -> None:
    shown.process.send_signal(signal.SIGINT)
    shown.until("interrupted")
    shown.until("stopped")
    assert shown.process.wait(20) == 0
    assert gone(shown.window_process)


def test_a_window_does_not_outlive_a_killed_run(shown: Shown) -> None:
    shown.process.kill()
    shown.process.wait()
    assert gone(shown.window_process)


def test_a_window_whose_process_dies_is_an_error(display: str) -> None:
    window = Cv2Backend(os.environ | {"DISPLAY": display})
    window.create("dies", 64, 48)
    assert window.poll(1) == -1
    assert window.visible
    assert window._child is not None
    window._child.kill()
    window._child.wait()
    with pytest.raises(DisplayError, match="cannot be used"):
        window.show(np.zeros((48, 64, 3), np.uint8))
    window.destroy()
    window.destroy()
    with pytest.raises(DisplayError, match="the window is closed"):
        window.poll(1)

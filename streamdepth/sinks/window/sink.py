"""A window on the desktop."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.clock import Clock, SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, StopPipeline, UsageError
from streamdepth.core.frame import converted
from streamdepth.media.filters import has_alpha
from streamdepth.sinks.files import write_whole
from streamdepth.sinks.window.backend import Backend, Cv2Backend
from streamdepth.sinks.window.controls import HELP, Repainter, change_look, draw_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import av
    from numpy.typing import NDArray

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl

_LARGEST_PX = (1280, 800)
_SMALLEST_WIDTH_PX = 480
_WAIT_MS = 10
_MESSAGE_NS = 2_000_000_000
_RATE_WINDOW_NS = 1_000_000_000
# Motion is not smooth below 10 frames per second: late frames are skipped only above that rate.
_LONGEST_GAP_NS = 100_000_000
_GIVE_UP_NS = 500_000_000
_ESCAPE = "\x1b"
_CHECKER = (102, 153)
_CHECKER_PX = 16


class WindowSink(BaseSink):
    """Shows frames in a window, with keys for the look (``h`` lists them). ``q``, Esc or closing it ends the run.

    Runs on the thread that called the pipeline, as window systems require. A change of the look is visible at once,
    also while paused: the window colours the frame itself until frames in the new look come.

    Live (not ``paced``): an old frame is replaced by a newer one, and pause holds the frame while the run continues.
    Paced: frames are shown at their own times, pause blocks the run, and a late frame is not shown (counted as
    ``late``); if the run cannot keep up at all, playback is slower instead.

    Args:
        title: unique title of the window.
        control: the look, changed by keys.
        paced: play a file at its own speed.
        styles: palettes of the key ``s``; None = the 44 of the package.
        snapshot_folder: folder for images saved with ``p``.
        figures: show frame rate and latency from the beginning.
    """

    def __init__(
        self,
        title: str = "streamdepth",
        *,
        control: LookControl,
        paced: bool = False,
        styles: Sequence[str] | None = None,
        snapshot_folder: str | Path = ".",
        figures: bool = False,
        clock: Clock | None = None,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(f"window {title}", control)
        if styles is not None and not styles:
            raise UsageError("a window needs at least one style; omit styles for all of them")
        self._title = title
        self._look = control
        self._paced = paced
        self._styles = styles
        self._snapshots = Path(snapshot_folder)
        self._figures = figures
        self._clock: Clock = clock or SystemClock()
        self._backend: Backend = backend or Cv2Backend()
        self._stop = threading.Event()
        self._open = self._help = self._paused = self._fullscreen = self._ended = False
        self._repainter: Repainter | None = None
        self._seen_look = control.look
        self._look_changed_ns: int | None = None
        self._size_px = (0, 0)
        self._shown: NDArray[np.uint8] | None = None
        self._shown_index = 0
        self._shown_ns: deque[int] = deque(maxlen=240)
        self._latency_ms = 0.0
        self._anchor: tuple[float, int] | None = None
        self._last_seconds = 0.0
        self._message, self._message_until_ns = "h for help", 0
        self._dirty = False
        self._counts: Counter[str] = Counter()

    @property
    def live(self) -> bool:
        return not self._paced

    @property
    def lasting(self) -> bool:
        return False

    @property
    def on_caller_thread(self) -> bool:
        return True

    @property
    def counts(self) -> Mapping[str, int]:
        """Frames not shown: ``late`` (paced) and ``paused`` (live)."""
        return MappingProxyType(dict(self._counts))

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:
        """Raises ``DisplayError``: the window cannot be shown."""
        if image is None:
            raise UsageError(f"{self.name}: a window needs images")
        if self._styles is None:
            from streamdepth.colorize.palettes import listed_names

            self._styles = listed_names()
        self._size_px = (image.width_px, image.height_px)
        self._backend.create(self._title, *window_size_px(*self._size_px))
        self._repainter = Repainter(stream)
        self._seen_look = self._look.look
        self._open = True
        self._message_until_ns = self._clock.monotonic_ns() + 2 * _MESSAGE_NS

    def process(self, result: Result) -> None:
        """Raises ``StopPipeline``: the user ended the run."""
        if not self._open or result.image is None:
            raise SinkError(f"{self.name}: not open, or no image to show")
        with self._ending():
            self._take(result)

    def idle(self) -> None:
        """Raises ``StopPipeline``: the user ended the run."""
        if self._open:
            with self._ending():
                self._pump(1)

    def interrupt(self) -> None:
        self._stop.set()

    def close(self) -> None:
        if self._open:
            self._open = False
            self._backend.destroy()
            if self._repainter is not None:
                self._repainter.close()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Ctrl-C closes the window: it interrupts a request, after which the next one would be misread."""
        if self._ended:
            raise StopPipeline
        try:
            yield
        except KeyboardInterrupt:
            self._ended = True
            self._backend.destroy()
            raise

    def _take(self, result: Result) -> None:
        if self._paced:
            self._hold_while_paused()
            if not self._wait_until_due(result.frame.seconds):
                self._counts["late"] += 1
                return
        elif self._paused:
            self._counts["paused"] += 1
            self._pump(1)
            return
        self._follow_look()
        self._shown = to_bgr(self._in_current_look(result))
        self._shown_index = result.frame.index
        now = self._clock.monotonic_ns()
        self._shown_ns.append(now)
        self._latency_ms = (now - result.frame.captured_ns) / 1e6
        self._draw()
        self._pump(1)

    def _in_current_look(self, result: Result) -> av.VideoFrame:
        """The image of a result, coloured again if the frame was captured before the look changed."""
        assert self._repainter is not None  # noqa: S101 - made in open()
        assert result.image is not None  # noqa: S101 - process() looked
        self._repainter.keep(result)
        if self._look_changed_ns is None or result.frame.captured_ns > self._look_changed_ns:
            return result.image
        return self._repainter.paint(result, self._seen_look)

    def _follow_look(self) -> None:
        """Colour the shown frame again if the look has changed."""
        look = self._look.look
        if look == self._seen_look or self._repainter is None:
            return
        self._seen_look, self._look_changed_ns = look, self._clock.monotonic_ns()
        image = self._repainter.again(look)
        if image is not None:
            self._shown, self._dirty = to_bgr(image), True

    def _hold_while_paused(self) -> None:
        if not self._paused:
            return
        while self._paused and not self._stop.is_set():
            self._pump(_WAIT_MS)
        self._anchor = None

    def _wait_until_due(self, seconds: float) -> bool:
        """Wait for the time of a frame; False if it is too late to be shown."""
        now = self._clock.monotonic_ns()
        step_ns = int((seconds - self._last_seconds) * 1e9)
        if self._anchor is None or seconds < self._last_seconds:
            self._anchor, step_ns = (seconds, now), 0
        self._last_seconds = seconds
        due_ns = self._anchor[1] + int((seconds - self._anchor[0]) * 1e9)
        while (left_ns := due_ns - self._clock.monotonic_ns()) > 0 and not self._stop.is_set():
            self._pump(max(1, min(_WAIT_MS, left_ns // 1_000_000)))
            if self._paused:
                self._hold_while_paused()
                self._anchor = (seconds, self._clock.monotonic_ns())
                return True
        late_ns = self._clock.monotonic_ns() - due_ns
        if late_ns > _GIVE_UP_NS:
            self._anchor = (seconds, self._clock.monotonic_ns())
            return True
        since_ns = self._clock.monotonic_ns() - self._shown_ns[-1] if self._shown_ns else _LONGEST_GAP_NS
        return late_ns <= max(step_ns, 1) or since_ns >= _LONGEST_GAP_NS

    def _pump(self, wait_ms: int) -> None:
        key = self._backend.poll(wait_ms)
        if not self._backend.visible:
            raise StopPipeline
        if 0 <= key < 128:
            self._on_key(chr(key))
        if self._message and self._clock.monotonic_ns() >= self._message_until_ns:
            self._message, self._dirty = "", True
        self._follow_look()
        if self._dirty:
            self._draw()

    def _on_key(self, key: str) -> None:
        if key in ("q", "Q", _ESCAPE):
            raise StopPipeline
        if key == " ":
            self._paused = not self._paused
            self._say("paused" if self._paused else "playing")
        elif key in "hH?":
            self._help, self._dirty = not self._help, True
        elif key in "iI":
            self._figures, self._dirty = not self._figures, True
        elif key in "fF":
            self._fullscreen = not self._fullscreen
            self._backend.set_fullscreen(self._fullscreen)
        elif key in "pP":
            self._save()
        else:
            message = change_look(key, self._look, self._styles or ())
            if message is not None:
                self._say(message)

    def _say(self, message: str) -> None:
        self._message = message
        self._message_until_ns = self._clock.monotonic_ns() + _MESSAGE_NS
        self._dirty = True

    def _save(self) -> None:
        if self._shown is None:
            return
        import cv2

        path = self._snapshots / f"{self._title.replace('/', '_')}-{self._shown_index:06d}.png"
        try:
            write_whole(path, cv2.imencode(".png", self._shown)[1].data)
        except SinkError as exc:
            self._say(exc.message)
        else:
            self._say(f"saved {path.name}")

    def _draw(self) -> None:
        self._dirty = False
        if self._shown is None:
            return
        rows: list[tuple[str, ...]] = []
        if self._figures:
            rows.append((f"{self._rate():.1f} fps   {self._latency_ms:.0f} ms",))
        if self._help:
            rows += HELP
        image = self._shown
        self._fit(image.shape[1], image.shape[0])
        if rows or self._message:
            image = image.copy()
            draw_lines(image, rows)
            draw_lines(image, [(self._message,)] if self._message else [], bottom=True)
        self._backend.show(image)

    def _fit(self, width_px: int, height_px: int) -> None:
        """Resize the window if the aspect of its image has changed, as it does with the view."""
        if width_px * self._size_px[1] == height_px * self._size_px[0] or self._fullscreen:
            return
        self._size_px = (width_px, height_px)
        self._backend.resize(*window_size_px(width_px, height_px))

    def _rate(self) -> float:
        newest = self._shown_ns[-1] if self._shown_ns else 0
        recent = [at for at in self._shown_ns if newest - at <= _RATE_WINDOW_NS]
        return (len(recent) - 1) * 1e9 / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0


def window_size_px(width_px: int, height_px: int) -> tuple[int, int]:
    """The size of a window for an image: its own, limited to small screens and to a smallest width."""
    ratio = min(_LARGEST_PX[0] / width_px, _LARGEST_PX[1] / height_px, max(1.0, _SMALLEST_WIDTH_PX / width_px))
    return max(1, round(width_px * ratio)), max(1, round(height_px * ratio))


def to_bgr(image: av.VideoFrame) -> NDArray[np.uint8]:
    """A new uint8 [H, W, 3] BGR array of a frame of any format; alpha over a gray checkerboard."""
    if not has_alpha(image.format.name):
        return np.array(converted(image, format="bgr24").to_ndarray(), np.uint8)
    bgra = converted(image, format="bgra").to_ndarray()
    height, width = bgra.shape[:2]
    y, x = np.ogrid[:height, :width]
    board = np.where((x // _CHECKER_PX + y // _CHECKER_PX) % 2 == 0, *_CHECKER).astype(np.float32)[..., None]
    alpha = bgra[..., 3:].astype(np.float32) / 255
    return (bgra[..., :3] * alpha + board * (1 - alpha) + 0.5).astype(np.uint8)

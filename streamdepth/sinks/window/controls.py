"""What a window does with keys, text and the look: apply a key, draw lines, colour the frame shown again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.look import Look, Upsampling, View

if TYPE_CHECKING:
    from collections.abc import Sequence

    import av
    from numpy.typing import NDArray

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.frame import Result, StreamInfo
    from streamdepth.core.look import LookControl

HELP = (
    ("space", "pause"),
    ("s  S", "next, previous style"),
    ("v", "view"),
    ("a  A", "next, previous opacity"),
    ("[  ]", "near opacity - +"),
    ("{  }", "far opacity - +"),
    ("r", "reverse"),
    ("c", "contours"),
    ("b", "bar"),
    ("g", "follow edges"),
    ("i", "figures"),
    ("p", "save image"),
    ("f", "full screen"),
    ("h", "this help"),
    ("q", "quit"),
)

_VIEWS = tuple(View)
_CONTOURS = (0, 8, 16, 32)
_ALPHAS: tuple[tuple[float, float] | None, ...] = (None, (0.3, 0.3), (0.6, 0.6), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
_STEP = 0.05
_LINE_OF_HEIGHT = 1 / 26
_LINE_OF_WIDTH = 1 / 46
_LINE_PX = (15, 64)
_CAP_OF_LINE = 0.55
_DIM = 0.35


def change_look(key: str, control: LookControl, styles: Sequence[str]) -> str | None:
    """Apply a key to the look. Returns a message for the user, None if the key does not change the look."""
    look = control.look
    if key in "sS":
        name = _after(styles, look.style, -1 if key == "S" else 1)
        return f"style {control.update(style=name).style}"
    if key == "v":
        return f"view {control.update(view=_after(_VIEWS, look.view, 1)).view}"
    if key in "aA":
        control.update(alpha=_after(_ALPHAS, look.alpha, -1 if key == "A" else 1))
        return _alpha_words(control.look)
    if key in "[]{}":
        near, far = look.alpha_ends
        step = _STEP if key in "]}" else -_STEP
        changed = (_clamped(near + step), far) if key in "[]" else (near, _clamped(far + step))
        control.update(alpha=changed)
        return _alpha_words(control.look)
    if key == "r":
        return "near is bright" if not control.update(reverse=not look.reverse).reverse else "far is bright"
    if key == "c":
        count = control.update(contours=_after(_CONTOURS, look.contours, 1)).contours
        return f"{count} contours" if count else "no contours"
    if key == "b":
        return "bar" if control.update(bar=not look.bar).bar else "no bar"
    if key == "g":
        guided = look.upsampling is Upsampling.GUIDED
        control.update(upsampling=Upsampling.BILINEAR if guided else Upsampling.GUIDED)
        return "smooth borders" if guided else "borders follow the image's edges"
    return None


def _after(choices: Sequence[object], current: object, step: int) -> object:
    """The choice ``step`` after the current one, cyclic; the first (last) if the current one is not among them."""
    if current not in choices:
        return choices[0 if step > 0 else -1]
    return choices[(list(choices).index(current) + step) % len(choices)]


def _clamped(value: float) -> float:
    return round(min(1.0, max(0.0, value)), 2)


def _alpha_words(look: Look) -> str:
    near, far = look.alpha_ends
    return f"opacity {near:.2f}" if near == far else f"opacity near {near:.2f}, far {far:.2f}"


def draw_lines(image: NDArray[np.uint8], columns: Sequence[Sequence[str]], *, bottom: bool = False) -> None:
    """Draw rows of text with aligned columns on a darkened panel in the top (bottom) left corner, in place.

    A row of one cell is not aligned.

    Args:
        image: uint8 [H, W, 3], BGR, C-contiguous.
        columns: rows, each of one or more cells.
    """
    import cv2

    if not columns:
        return
    height, width = image.shape[:2]
    # At most the height at which all rows fit into the image.
    preferred = int(min(height * _LINE_OF_HEIGHT, width * _LINE_OF_WIDTH))
    line = min(max(preferred, _LINE_PX[0]), _LINE_PX[1], max(4, (height - 4) // (len(columns) + 1)))
    font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, line // 18)
    scale = line * _CAP_OF_LINE / 22.0

    def measure(text: str) -> int:
        return int(cv2.getTextSize(text, font, scale, thick)[0][0])

    count = max(len(row) for row in columns)
    aligned = [row for row in columns if len(row) > 1]
    widths = [max((measure(row[cell]) for row in aligned if cell < len(row)), default=0) for cell in range(count)]
    starts = [line // 2 + sum(widths[:cell]) + cell * line for cell in range(count)]
    ends = [starts[-1] + widths[-1]] + [starts[0] + measure(row[0]) for row in columns if len(row) == 1]
    panel_width = min(width, max(ends) + line // 2)
    panel_height = min(height, line * len(columns) + line // 2)
    top = height - panel_height if bottom else 0
    panel = image[top : top + panel_height, :panel_width]
    panel[:] = (panel * np.float32(_DIM)).astype(np.uint8)
    for number, row in enumerate(columns):
        base = top + line * (number + 1)
        for cell, text in enumerate(row):
            cv2.putText(image, text, (starts[cell], base), font, scale, (255, 255, 255), thick, cv2.LINE_AA)


class Repainter:
    """Colours the last frame again in another look. Used by one thread.

    Without it a key would change only frames coloured later: none while paused, and late behind a queue.
    """

    def __init__(self, stream: StreamInfo) -> None:
        self._stream = stream
        self._colorizer: Colorizer | None = None
        self._kept: Result | None = None

    def keep(self, result: Result) -> None:
        """Keep a result. The depth is copied, because its memory is reused."""
        depth = result.depth
        valid = None if depth.valid is None else depth.valid.copy()
        self._kept = replace(result, depth=replace(depth, values=depth.values.copy(), valid=valid), image=None)

    def again(self, look: Look) -> av.VideoFrame | None:
        """The kept frame in another look; None if there is none yet."""
        return None if self._kept is None else self.paint(self._kept, look)

    def paint(self, result: Result, look: Look) -> av.VideoFrame:
        if self._colorizer is None:
            from streamdepth.colorize.colorizer import Colorizer

            self._colorizer = Colorizer(self._stream)
        return self._colorizer.render(result.frame.image, result.depth, result.range, look)

    def close(self) -> None:
        """Idempotent."""
        self._kept = None
        if self._colorizer is not None:
            self._colorizer.close()

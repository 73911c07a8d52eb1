"""Text over an image in the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_LINE_OF_HEIGHT = 1 / 26
_LINE_OF_WIDTH = 1 / 46
_LINE_PX = (15, 64)
_CAP_OF_LINE = 0.55
_DIM = 0.35


def draw_lines(image: NDArray[np.uint8], columns: Sequence[Sequence[str]], *, bottom: bool = False) -> None:
    """Write rows of text on a darkened panel in the top (bottom) left corner, columns aligned. In place.

    A row of one cell has no part in the columns.

    Args:
        image: uint8 [H, W, 3], BGR, C-contiguous.
        columns: rows, each of one or more cells.
    """
    import cv2

    if not columns:
        return
    height, width = image.shape[:2]
    # As high as fits: the panel never needs more than the image has.
    wanted = int(min(height * _LINE_OF_HEIGHT, width * _LINE_OF_WIDTH))
    line = min(max(wanted, _LINE_PX[0]), _LINE_PX[1], max(4, (height - 4) // (len(columns) + 1)))
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

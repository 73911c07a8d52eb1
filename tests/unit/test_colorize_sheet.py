"""The sheet of all palettes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from streamdepth.colorize.images import preview, write_preview
from streamdepth.colorize.palettes import palette
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.frame import Sense

if TYPE_CHECKING:
    from pathlib import Path


DEPTH = np.linspace(0.1, 1, 60 * 40, dtype=np.float32).reshape(40, 60)


def test_every_palette_gets_a_cell_of_its_colours(tmp_path: Path) -> None:
    names = ["viridis", "cmocean:thermal", "grayscale"]
    sheet = preview(names, depth=DEPTH, columns=3, cell_width_px=120)
    write_preview(tmp_path / "sheet.png", sheet)
    stored = np.asarray(Image.open(tmp_path / "sheet.png"))
    np.testing.assert_array_equal(stored, sheet)
    for column, name in enumerate(names):
        cell = sheet[:, sheet.shape[1] * column // 3 : sheet.shape[1] * (column + 1) // 3].reshape(-1, 3)
        for entry in palette(name)[[0, 60, 128, 200, 255], :3]:
            assert np.abs(cell.astype(int) - entry).max(axis=1).min() <= 6


def test_all_palettes_by_default_and_the_input_first() -> None:
    plain = preview(depth=DEPTH, cell_width_px=60, columns=9)
    image = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    with_input = preview(depth=DEPTH, image=image, sense=Sense.METRIC_M, cell_width_px=60, columns=9)
    assert plain.shape[1] == with_input.shape[1]
    assert (with_input[20, 20] == (10, 200, 30)).all()


def test_depth_with_holes_or_nothing_at_all() -> None:
    holes = DEPTH.copy()
    holes[:10] = np.nan
    preview(["jet"], depth=holes, cell_width_px=60)
    preview(["jet"], depth=np.full((4, 6), np.nan, np.float32), cell_width_px=60)


def test_wrong_names_and_places(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="viridis"):
        preview(["viridiss"], depth=DEPTH)
    with pytest.raises(SinkError, match=r"no\.png"):
        write_preview(tmp_path / "missing" / "no.png", preview(["jet"], depth=DEPTH, cell_width_px=60))

"""Compiling: cached after the first start, also where the package's own folder cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import streamdepth
from streamdepth.media import jit

PROGRAM = """
import sys
import av, numpy as np
from fractions import Fraction
from streamdepth.colorize.colorizer import Colorizer
from streamdepth.core.frame import DepthMap, DepthRange, Sense, StreamInfo
from streamdepth.core.look import Look, View
import streamdepth
image = av.VideoFrame(64, 48, "yuv420p")
colorizer = Colorizer(StreamInfo("x", 64, 48, "yuv420p", Fraction(1, 25)))
depth = DepthMap(np.ones((4, 4), np.float32), Sense.METRIC_M)
colorizer.render(image, depth, DepthRange(0, 2), Look(view=View.OVERLAY))
print(streamdepth.__file__, int("numba" in sys.modules))
"""


SMALL_PROGRAM = """
import numpy as np
import streamdepth
from streamdepth.colorize.resize import resize_bilinear
print(streamdepth.__file__, int(resize_bilinear(np.ones((2, 2), np.float32), 3, 3).sum()))
"""


def start(environment: dict[str, str], program: str = PROGRAM) -> tuple[Path, int]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA", "XDG"))}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**clean, **environment}, capture_output=True, text=True, timeout=90
    )
    assert result.returncode == 0, result.stderr
    path, number = result.stdout.split()
    return Path(path), int(number)


def copy_package(folder: Path) -> Path:
    """A copy whose ``__pycache__`` cannot be written: a file stands in its place (root may write anywhere else)."""
    package = folder / "streamdepth"
    shutil.copytree(Path(streamdepth.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    for sub in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (sub / "__pycache__").touch()
    return package


def test_second_start_compiles_nothing_even_where_the_package_is_read_only(tmp_path: Path) -> None:
    package = copy_package(tmp_path / "site")
    environment = {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1", "HOME": str(tmp_path / "home")}
    path, compiled = start(environment)
    assert path.parent == package
    assert compiled
    stored = "*.kernel" if jit._LOADABLE else "*.nbi"
    assert list((tmp_path / "home").rglob(stored)), "kernels are kept in the user's cache folder"
    assert start(environment) == (path, int(not jit._LOADABLE)), "numba is not imported where kernels can be loaded"


def test_without_any_folder_to_write_kernels_still_run(tmp_path: Path) -> None:
    package = copy_package(tmp_path / "site")
    home = tmp_path / "home"
    home.touch()
    environment = {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1", "HOME": str(home)}
    assert start(environment, SMALL_PROGRAM) == (package / "__init__.py", 9)

"""What people install: the wheel's content, and names that load on first use."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

import streamdepth
from streamdepth.core import errors
from tests.support import need
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def test_the_wheel_holds_all_that_is_needed(tmp_path: Path) -> None:
    need.module("hatchling", "the extra test")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    (wheel,) = tmp_path.glob("streamdepth-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert {"streamdepth/py.typed", "streamdepth/__init__.pyi"} <= set(names)
    assert "streamdepth/colorize/palettes.json" in names
    (model,) = (name for name in names if name.startswith("streamdepth/models/builtin/") and name.endswith(".onnx"))
    assert sizes[model] <= 8_000_000
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "training/"))]
    assert wheel.stat().st_size < 10_000_000


@pytest.mark.parametrize("name", dir(streamdepth))
def test_every_public_name_can_be_had(name: str) -> None:
    value = getattr(streamdepth, name)
    assert value is not None
    assert vars(streamdepth)[name] is value  # the second access is a plain one


def test_a_star_import_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from streamdepth import *", names)  # noqa: S102 - a star import is not allowed in a function
    assert set(names) - {"__builtins__"} == set(dir(streamdepth))


def test_every_error_class_is_public() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert {name for name in classes if issubclass(vars(errors)[name], Exception)} <= set(dir(streamdepth))


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = streamdepth.nonsense  # type: ignore[attr-defined]  # the stub knows it too


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, streamdepth; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(loaded.stdout.split()) & {"numpy", "av", "cv2", "numba", "onnxruntime", "pydantic", "typer"}

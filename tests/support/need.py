"""What a test needs beside the package and its test extra.

With ``STREAMDEPTH_REQUIRE_ALL=1`` a missing program or module fails the test instead of skipping it. ``.ci/run`` sets
it, since it installs all of them. Always skips are: a GPU that is absent (in tests of its absence: present), files of
``../shared``, the extras ``openvino`` and ``rerun``, a package registry, rights (mounts, namespaces), and what an
operating system or a build of FFmpeg does not have.
"""

from __future__ import annotations

import importlib
import os
import shutil
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.support.paths import SHARED

if TYPE_CHECKING:
    from pathlib import Path


posix_signals = pytest.mark.skipif(os.name == "nt", reason="sends signals, which Windows does not have")


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where everything is required."""
    if os.environ.get("STREAMDEPTH_REQUIRE_ALL") == "1":
        pytest.fail(f"{reason}, and STREAMDEPTH_REQUIRE_ALL is set")
    pytest.skip(reason)


def program(*names: str) -> str:
    """Path of the first of these programs that is installed."""
    found = next(filter(None, map(shutil.which, names)), None)
    return found or missing(f"{names[0]} is not installed")


def module(name: str, source: str) -> Any:
    """A module that ``source`` (an extra, a package) brings."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"{name} is not installed ({source} brings it)")


def shared(name: str) -> Path:
    """A file or folder of ``../shared``."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path

"""What holds for the whole suite."""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A test that leaves the process must not look like a suite that has passed."""
    leave, process = os._exit, os.getpid()

    def left(code: int) -> None:
        if os.getpid() != process:
            leave(code)
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            capture.suspend_global_capture()
        sys.stderr.write("".join(traceback.format_stack()))
        sys.stderr.write(f"a test left the process with code {code}\n")
        sys.stderr.flush()
        leave(code or 70)

    os._exit = left  # type: ignore[assignment]

"""What holds for the whole suite: what tests may need, which are slow, and fixtures of more than one file."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import need
from tests.support.media import draw_index, write_clip
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamdepth.image.estimator import DepthEstimator

# Tests import ONNX Runtime themselves, some before streamdepth; see streamdepth/inference/__init__.py.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A loaded machine fails no test for the time that an example takes.
settings.register_profile("no times", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no times")

_SYSTEM = ROOT / "tests" / "system"


def pytest_configure(config: pytest.Config) -> None:
    """A test that leaves the process must not look like a suite that has passed; signals work in one run with ``&``.

    Shells start background jobs with SIGINT ignored, nohup starts with SIGHUP ignored, and child processes inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_SYSTEM):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            need.program(name)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` is the CPU: a session of OpenVINO's plugin takes 0.3 s of CPU time more to open."""
    from streamdepth.inference import providers

    monkeypatch.setattr(providers, "AUTO_ORDER", ("cpu",))


@pytest.fixture
def no_threads_left() -> Callable[[], bool]:
    """Tells whether every thread that a run of this test started has ended; waits a few seconds for it.

    A call that an earlier test in the process abandoned, such as a connection to a silent camera, may last longer.
    """
    earlier = set(threading.enumerate())

    def ended() -> bool:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            left = [t for t in set(threading.enumerate()) - earlier if t.name.startswith("streamdepth-")]
            if not left:
                return True
            left[0].join(0.05)
        return False

    return ended


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """``tmp_path / "clip.mp4"``: 12 frames of 64x48."""
    return write_clip(tmp_path / "clip.mp4", frames=12, width=64, height=48)


@pytest.fixture(scope="session")
def numbered_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 frames that show their own index, with sound and subtitles. Read only."""
    path = tmp_path_factory.mktemp("numbered") / "clip.mp4"
    return write_clip(path, frames=50, draw=draw_index, audio=True, subtitles=True)


@pytest.fixture(scope="session")
def dpt_estimator() -> Iterator[DepthEstimator]:
    """The small DPT of the goldens, on the CPU."""
    from streamdepth.image.estimator import DepthEstimator
    from tests.support.goldens import FOLDER

    with DepthEstimator(FOLDER / "dpt" / "model.onnx", provider="cpu") as made:
        yield made

"""The ROS 2 node of the examples: type-checked against stubs, and run against modules that take the place of ROS."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from array import array
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import streamdepth as sd

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "configs" / "examples" / "ros2_node.py"


@pytest.mark.slow
@pytest.mark.timeout(310)
def test_types(tmp_path: Path) -> None:
    stubs = {"MYPYPATH": os.pathsep.join([str(ROOT / "tests" / "support" / "ros2"), str(ROOT)])}
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", str(EXAMPLE)]
    done = subprocess.run(
        [*command, "--ignore-missing-imports", f"--cache-dir={tmp_path}"],
        capture_output=True,
        text=True,
        env={**os.environ, **stubs},
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert len(EXAMPLE.read_text().splitlines()) <= 40


class _Node:
    def __init__(self, name: str) -> None:
        self.name = name

    def create_publisher(self, kind: Any, topic: str, depth: int) -> Any:  # noqa: ARG002
        self.sent: list[Any] = []
        self.topic = topic
        return SimpleNamespace(publish=self.sent.append)

    def create_timer(self, period: float, callback: Any) -> None:  # noqa: ARG002
        self.callback = callback


def _image(**given: Any) -> Any:
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0), frame_id="")
    return SimpleNamespace(header=header, data=array("B"), **given)


def test_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[Any] = []

    def spin(node: Any) -> None:
        nodes.append(node)
        while not node.results.ended:
            node.callback()

    modules: dict[str, dict[str, Any]] = {
        "rclpy": {"init": lambda: None, "spin": spin},
        "rclpy.node": {"Node": _Node},
        "sensor_msgs": {},
        "sensor_msgs.msg": {"Image": _image},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    values = np.full((3, 4), 2.5, np.float32)
    depth = sd.DepthMap(values, sd.Sense.METRIC_M, np.eye(3, 4) == 0)
    frame = SimpleNamespace(captured_ns=5)

    class Results:
        ended = False

        def latest(self) -> Any:
            self.ended = True
            return frame, depth

        def captured_wall_ns(self, frame: Any) -> int:
            return 7_000_000_000 + int(frame.captured_ns)

        def __enter__(self) -> Results:
            return self

        def __exit__(self, *given: object) -> None:
            pass

    asked: list[Any] = []

    def stream(*given: Any, **more: Any) -> Results:
        asked.append((given, more))
        return Results()

    monkeypatch.setattr(sd, "stream", stream)
    monkeypatch.setattr(sd, "DepthEstimator", lambda model: model)
    monkeypatch.setattr(sys, "argv", ["ros2_node.py", "0", "metric.onnx"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert asked == [(("0", "metric.onnx"), {"policy": "latest"})]
    assert nodes[0].topic == "camera/depth/image"
    message = nodes[0].sent[0]
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", 3, 4, 16)
    assert (message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec) == (
        "camera_optical_frame",
        7,
        5,
    )
    read = np.frombuffer(message.data.tobytes(), "<f4").reshape(3, 4)
    np.testing.assert_array_equal(np.isnan(read), np.eye(3, 4) == 1)
    assert np.nanmax(read) == 2.5

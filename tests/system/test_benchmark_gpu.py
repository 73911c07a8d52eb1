"""The GPU benchmark, tried on the CPU: its logic, not its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from streamdepth.inference import nvidia
from tests.support.models import write_depth_model
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = ROOT / "benchmarks" / "gpu.py"


def benchmark(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_part_runs_and_what_cannot_is_said(tmp_path: Path) -> None:
    model = write_depth_model(tmp_path / "m.onnx")
    report = tmp_path / "report.json"
    said = benchmark(
        *("--model", str(model), "--size", "70x42", "--batches", "1,2", "--seconds", "0.05"),
        *("--provider", "cpu", "--provider", "cuda", "--streams", "1,2", "--stream-size", "64x36"),
        *("--stream-seconds", "1", "--json", str(report)),
    )
    found: dict[str, Any] = json.loads(report.read_text())
    assert [row["setting"]["batch"] for row in found["settings"]] == [1, 2]
    for row in found["settings"]:
        assert row["ratio"] == pytest.approx(row["bare_ms"] / row["frame_ms"], rel=0.2)
        assert row["error"] == 0
        assert row["bound_ms"] > 0
    assert found["streams"][0]["streams"] == 1
    assert found["streams"][0]["provider"] == "cpu"
    assert "| cpu fp32 batch 2 without CUDA graph | no |" in said
    assert "sustained: " in said
    if not nvidia.gpu_name():
        assert any(line.startswith("cuda: there is no NVIDIA driver") for line in found["skipped"])


def test_a_graph_of_another_batch_and_the_time_that_is_over_are_skipped(tmp_path: Path) -> None:
    model = write_depth_model(tmp_path / "m.onnx", batch=1, height=36, width=64)
    report = tmp_path / "report.json"
    benchmark(
        *("--model", str(model), "--batches", "1,2,4", "--seconds", "0.01", "--provider", "cpu", "--minutes", "0.001"),
        *("--streams", "1", "--stream-size", "64x36", "--stream-seconds", "1", "--json", str(report)),
    )
    found: dict[str, Any] = json.loads(report.read_text())
    assert [row["setting"]["batch"] for row in found["settings"]] == [1]
    assert len(found["skipped"]) == 3
    assert all("s left" in line for line in found["skipped"])


def test_no_provider_is_no_figures(tmp_path: Path) -> None:
    if nvidia.gpu_name():
        pytest.skip("there is a GPU")
    report = tmp_path / "report.json"
    said = benchmark("--json", str(report))
    assert said.count("skipped: ") == 3
    assert json.loads(report.read_text())["settings"] == []

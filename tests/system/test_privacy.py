"""No library that a run loads uses the network or leaves files unasked."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import streamdepth
from tests.support.models import write_depth_model

PACKAGE = Path(streamdepth.__file__).parent
RUN = ("-B", "-m", "streamdepth", "run", "test:?size=160x120&rate=25&frames=25", "-y", "-q", "--provider", "cpu", "-o")


def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_", "HF_"))}
    return {**kept, "HOME": str(home), "TMPDIR": str(home / "tmp"), "PYTHONPATH": str(PACKAGE.parent)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_leaves_its_output_only(home: Path) -> None:
    subprocess.run([sys.executable, *RUN, str(home / "out.mkv")], env=environment(home), check=True, timeout=100)
    assert files(home) == ["out.mkv"]


def test_a_run_opens_no_connection(home: Path) -> None:
    """Runs in a separate network namespace, with every system call for a connection listed."""
    strace, unshare = shutil.which("strace"), shutil.which("unshare")
    if strace is None or unshare is None:
        pytest.skip("strace or unshare is not installed")
    namespace = [unshare, "-n"] if os.geteuid() == 0 else [unshare, "-r", "-n"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network namespace can be made here")
    trace = home / "trace"
    listed = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(trace)]
    done = subprocess.run(
        [*namespace, *listed, sys.executable, *RUN, str(home / "out.mkv")],
        env=environment(home), capture_output=True, check=False, timeout=110,
    )  # fmt: skip
    if b"ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert not re.findall(r".*(?:AF_INET|:53\b).*", trace.read_text())
    trace.unlink()
    assert files(home) == ["out.mkv"]


def test_telemetry_is_off_before_its_library_is_imported() -> None:
    """ONNX Runtime reads its switch at import: every module that imports it is below one that has set it."""
    for library, package, others in (
        ("onnxruntime", "inference", {"doctor.py", "bench/run.py"}),
        ("huggingface_hub", "models", set()),
    ):
        for path in PACKAGE.rglob("*.py"):
            place = path.relative_to(PACKAGE)
            if "training" in place.parts or library not in path.read_text(encoding="utf-8"):
                continue
            names = {
                name
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
            }
            if any(name.partition(".")[0] == library for name in names):
                assert place.parts[0] == package or place.as_posix() in others, place
    script = (
        "import os, sys, streamdepth.doctor, streamdepth.bench.run, streamdepth.models.hub\n"
        "assert 'onnxruntime' not in sys.modules and 'huggingface_hub' not in sys.modules\n"
        "from streamdepth.bench.run import machine; machine(); streamdepth.doctor._providers()\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], os.environ['HF_HUB_DISABLE_TELEMETRY'])\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "HF_"))}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1 1\n"


def test_openvino_is_loaded_without_its_telemetry(tmp_path: Path) -> None:
    """Its package reports to Intel, and finds its consent file by the home folder, which a user may lack."""
    pytest.importorskip("openvino", reason="the extra openvino brings it")
    model = write_depth_model(tmp_path / "model.onnx")
    script = (
        "import sys, pathlib\n"
        "from streamdepth.inference.openvino_runtime import RuntimeSession\n"
        "RuntimeSession(pathlib.Path(sys.argv[1]), threads=1, streams=1)\n"
        "print(*(name for name, module in sys.modules.items() if name.startswith('openvino_telemetry') and module))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr

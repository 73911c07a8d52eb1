"""Base and extras resolve to wheels on every platform that README names. Needs a package registry."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# pip evaluates markers for the interpreter that runs it, whatever --platform says; so the environment is exchanged.
_PIP = """
import json, sys
from pip._internal.cli.main import main
from pip._vendor.packaging import markers
here = markers.default_environment()
markers.default_environment = lambda: here | json.loads(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""

PLATFORMS: dict[str, tuple[list[str], dict[str, str]]] = {
    "linux-x86_64": (
        [f"manylinux_2_{minor}_x86_64" for minor in range(5, 36)] + ["manylinux2014_x86_64"],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"},
    ),
    "linux-aarch64": (
        [f"manylinux_2_{minor}_aarch64" for minor in range(17, 36)] + ["manylinux2014_aarch64"],
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64", "os_name": "posix"},
    ),
    "macos-arm64": (
        ["macosx_14_0_arm64"],
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"},
    ),
    "windows-x64": (
        ["win_amd64"],
        {"sys_platform": "win32", "platform_system": "Windows", "platform_machine": "AMD64", "os_name": "nt"},
    ),
}
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
DEVELOPMENT = {"test", "train"}
"""Extras for work on the project, and for training the model in the package."""


def resolve(platform: str, python: str, folder: Path) -> tuple[str, set[str]]:
    """(what pip says, the packages it would install) for the base and every extra."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra not in DEVELOPMENT]
    wanted = [name for names in (project["dependencies"], *extras) for name in names if "streamdepth[" not in name]
    tags, environment = PLATFORMS[platform]
    report = folder / "report.json"
    environment = environment | {"python_version": python, "python_full_version": f"{python}.0"}
    command = [sys.executable, "-c", _PIP, json.dumps(environment), "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [*(f"--platform={tag}" for tag in tags), "--target", str(folder), "--report", str(report), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        return done.stderr, set()
    return "", {one["metadata"]["name"] for one in json.loads(report.read_text(encoding="utf-8"))["install"]}


@pytest.mark.timeout(900)
def test_base_and_extras_resolve_to_wheels(tmp_path: Path) -> None:
    probe = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(tmp_path), "mdurl"]
    if subprocess.run(probe, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("no package registry can be reached")
    ends = PYTHONS[0], PYTHONS[-1]  # what has wheels for both has them for those between; Linux shows it
    jobs = [
        (platform, python)
        for platform in PLATFORMS
        for python in PYTHONS
        if platform == "linux-x86_64" or python in ends
    ]
    folders = [tmp_path / f"{platform}-{python}" for platform, python in jobs]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(jobs, pool.map(resolve, *zip(*jobs, strict=True), folders), strict=True))
    assert {job: error.splitlines()[-1] for job, (error, _) in found.items() if error} == {}
    for (platform, _), (_, packages) in found.items():
        has_gpu = platform in ("linux-x86_64", "windows-x64")
        assert ("onnxruntime-gpu" in packages, "onnxruntime" in packages) == (has_gpu, not has_gpu)
        assert ("onnxruntime-ep-openvino" in packages) == has_gpu

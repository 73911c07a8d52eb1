"""Cores of a process: affinity, and the quotas of its control groups."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from streamdepth.core.threads import cores, plan_threads

if TYPE_CHECKING:
    from pathlib import Path

_PROCESS = "10:memory:/docker/0c4f\n4:cpu,cpuacct:/docker/0c4f\n0::/docker/0c4f\n"


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def _write(files: dict[str, str], root: Path) -> tuple[Path, Path]:
    """Control groups below ``root`` as files, and the process's membership."""
    for name, content in files.items():
        path = root / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    membership = root / "membership"
    membership.write_text(_PROCESS)
    return membership, root / "cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "150000 100000\n"}, 2),  # --cpus=1.5, with the container's own root
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"docker/0c4f/cpu.max": "400000 100000\n"}, 4),  # with the host's root
        ({"docker/cpu.max": "300000 100000\n", "docker/0c4f/cpu.max": "max 100000\n"}, 3),  # of the parent
        ({"unified/docker/0c4f/cpu.max": "200000 50000\n"}, 4),  # version 2 beside version 1
        ({"cpu/docker/0c4f/cpu.cfs_quota_us": "-1\n", "cpu/docker/0c4f/cpu.cfs_period_us": "100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu,cpuacct/docker/0c4f/cpu.cfs_quota_us": "2500\n", "cpu,cpuacct/docker/0c4f/cpu.cfs_period_us": "1000\n"}, 3),
        ({"memory/docker/0c4f/cpu.max": "100000 100000\n"}, 64),  # not a place for it
        ({"cpu.max": "9900000 100000\n"}, 64),  # more than there are
    ],
)  # fmt: skip
def test_quotas_limit_the_cores(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert cores(*_write(files, tmp_path)) == expected


def test_a_system_without_control_groups_has_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cores(tmp_path / "none", tmp_path) == 64
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores(tmp_path / "none", tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores(tmp_path / "none", tmp_path) == 1


def test_threads_are_planned_for_the_quota(tmp_path: Path) -> None:
    planned = plan_threads(cores(*_write({"cpu.max": "150000 100000"}, tmp_path)))
    assert (planned.session, planned.decoder, planned.encoder, planned.kernels) == (2, 3, 3, 1)

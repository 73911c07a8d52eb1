"""The process's share of its machine: cores and folders."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_MEMBERSHIP, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cores(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int:
    """Number of cores this process may use: its CPU affinity, limited by the CPU quota of its control groups.

    A quota of 1.5 cores (``docker run --cpus=1.5``) counts as 2.

    Args:
        membership: control groups of the process, in the format of ``/proc/self/cgroup``.
        mount: where control groups are mounted.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([available, *_quotas(membership, mount)])))


def _quotas(membership: Path, mount: Path) -> Iterator[float]:
    """Quotas in cores of the process's control groups and their parents, version 1 and 2."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # A container has its own root: the path is then that of the host, and the limits are at the root.
        names = [path.strip("/"), *(str(parent) for parent in PurePosixPath(path.strip("/")).parents)]
        if not controllers:
            yield from (_quota_v2(base / name) for base in (mount, mount / "unified") for name in names)
        elif "cpu" in controllers.split(","):
            yield from (_quota_v1(base / name) for base in (mount / controllers, mount / "cpu") for name in names)


def _quota_v2(group: Path) -> float:
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdecimal() else math.inf


def _quota_v1(group: Path) -> float:
    quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else math.inf  # -1: no limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def cache_root() -> Path:
    """Cache folder of streamdepth: ``STREAMDEPTH_CACHE``, or the user's.

    A user without a home (a container's with any uid) gets one below the temporary folder, of this process alone if
    another user's lies there.
    """
    own = os.environ.get("STREAMDEPTH_CACHE")
    if own:
        return Path(own)
    if sys.platform == "win32" or has_home():
        from platformdirs import user_cache_path

        return user_cache_path("streamdepth", appauthor=False)
    folder = Path(tempfile.gettempdir()) / f"streamdepth-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    return folder if folder.stat().st_uid == os.getuid() else Path(tempfile.mkdtemp(prefix="streamdepth-"))


def has_home() -> bool:
    """False for a user without an entry in the user database and without ``HOME``, as in containers with any uid."""
    return bool(os.environ.get("XDG_CACHE_HOME")) or os.path.expanduser("~") != "~"  # noqa: PTH111 - Path raises

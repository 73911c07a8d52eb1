"""Cores of a process: affinity, and the quotas of its control groups."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import UsageError, plain_reason
from streamdepth.core.host import (
    ThreadPlan,
    cache_note,
    cache_root,
    cores,
    file_key,
    install_system,
    lower_priority,
    own_process_group,
    plan_threads,
    prepare_listener,
    remove,
    rename,
)
from streamdepth.sinks.names import safe_name
from tests.support.paths import ROOT

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
        ({"cpu,cpuacct/docker/0c4f/cpu.cfs_quota_us": "25\n", "cpu,cpuacct/docker/0c4f/cpu.cfs_period_us": "10\n"}, 3),
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
    assert (planned.session, planned.decoder, planned.kernels) == (2, 3, 1)


class TestCacheFolder:
    @pytest.fixture(autouse=True)
    def homeless(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user without a home."""
        for name in ("HOME", "XDG_CACHE_HOME", "STREAMDEPTH_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("os.path.expanduser", lambda path: path)

    def test_a_user_without_a_home_gets_one_below_the_temporary_folder(self, tmp_path: Path) -> None:
        created = tmp_path / f"streamdepth-{os.getuid()}"
        assert cache_root() == created
        assert created.stat().st_mode & 0o777 == 0o700

    def test_a_folder_of_another_user_is_not_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        uid = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: uid)
        (tmp_path / f"streamdepth-{uid}").mkdir()
        assert cache_root() == Path(os.devnull, "streamdepth")
        assert cache_note() == (
            "there is no folder for caches, so every start compiles and checks again; "
            "set STREAMDEPTH_CACHE to a writable folder"
        )

    def test_a_user_with_a_home_has_it_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if sys.platform == "linux":
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
            assert cache_root() == tmp_path / "caches" / "streamdepth"
        monkeypatch.setenv("STREAMDEPTH_CACHE", str(tmp_path / "own"))
        assert cache_root() == tmp_path / "own"


@pytest.mark.slow
def test_a_run_by_a_user_without_a_home_leaves_nothing_in_the_folder() -> None:
    """A container's uid without an entry: only the output and the caches below the temporary folder are written."""
    setpriv = shutil.which("setpriv")
    if setpriv is None or os.getuid() != 0:
        pytest.skip("changing the uid needs root and setpriv")
    command = [setpriv, "--reuid", "54321", "--regid", "54321", "--clear-groups", sys.executable]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        work, temporary = Path(folder) / "work", Path(folder) / "tmp"
        for path in (Path(folder), work, temporary):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        environ = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        if subprocess.run([*command, "-c", "import streamdepth, av"], cwd=work, env=environ).returncode:
            pytest.skip("another user cannot reach the interpreter or the package")
        done = subprocess.run(
            [
                *command,
                "-m",
                "streamdepth",
                *["run", "test:", "-o", "out.mkv", "--max-frames", "3", "--provider", "cpu"],
            ],
            cwd=work,
            env=environ,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert [path.name for path in work.iterdir()] == ["out.mkv"]
        assert [path.name for path in temporary.iterdir()] == ["streamdepth-54321"]


@pytest.mark.parametrize(
    ("system", "error", "words"),
    [
        ("linux", ConnectionRefusedError(111, "Connection refused"), "connection refused"),
        ("win32", OSError(10061, "No connection could be made because the target actively refused it"),
         "connection refused"),
        ("win32", OSError(10060, "A connection attempt failed"), "connection timed out"),
        ("win32", OSError(10048, "Only one usage of each socket address is permitted"), "address already in use"),
        ("win32", OSError(10013, "An attempt was made to access a socket in a way forbidden"), "permission denied"),
        ("win32", OSError(107, "Unknown error"), "connection refused"),  # FFmpeg's
        ("win32", OSError(138, "Unknown error"), "connection timed out"),
        ("linux", OSError(107, "Transport endpoint is not connected"), "transport endpoint is not connected"),
        ("win32", OSError(2, "No such file or directory"), "no such file or directory"),
        ("win32", ValueError("Odd"), "odd"),
        ("linux", ValueError(), "valueerror"),
    ],
)  # fmt: skip
def test_network_errors_have_the_same_words_on_every_system(system: str, error: Exception, words: str) -> None:
    assert plain_reason(error, system) == words


@pytest.mark.parametrize(
    ("system", "managers", "command"),
    [
        ("linux", {"apt-get", "dnf"}, "sudo apt-get install xvfb"),
        ("linux", {"dnf"}, "sudo dnf install xorg-x11-server-Xvfb"),
        ("linux", {"pacman"}, "sudo pacman -S xorg-server-xvfb"),
        ("linux", {"apk"}, ""),
        ("darwin", {"brew", "apt-get"}, ""),
        ("win32", {"winget"}, ""),
    ],
)
def test_hints_name_the_package_manager_at_hand(
    system: str, managers: set[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert install_system("xvfb", lambda name: name if name in managers else None) == command


def test_no_other_text_of_the_package_names_a_package_manager() -> None:
    named = re.compile(r"apt(-get)? install|brew install|winget install|dnf install|pacman -S")
    package = ROOT / "streamdepth"
    found = [str(path) for path in package.rglob("*.py") if named.search(path.read_text(encoding="utf-8"))]
    assert found == []


class TestFiles:
    def test_names_of_one_file_have_one_key(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "out.mkv")
        assert file_key(tmp_path / "out.mkv") == file_key(tmp_path / "x" / ".." / "out.mkv")
        assert file_key(tmp_path / "out.mkv") == file_key(tmp_path / "link")
        assert file_key("Out.mkv") != file_key("out.mkv")
        for system in ("win32", "darwin"):
            monkeypatch.setattr(sys, "platform", system)
            assert file_key("Out.mkv") == file_key("out.mkv")
            assert file_key("caf\u00e9.mkv") == file_key("cafe\u0301.mkv")

    @pytest.mark.parametrize(
        ("system", "failures", "gone"), [("win32", 3, True), ("win32", 99, False), ("linux", 1, False)]
    )
    def test_a_file_that_another_program_holds_is_deleted_later(
        self, system: str, failures: int, gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, calls, pauses = tmp_path / "x", [0], [0.0]
        path.touch()
        delete = Path.unlink

        def unlink(one: Path, missing_ok: bool = False) -> None:
            calls[0] += 1
            if calls[0] <= failures:
                raise PermissionError
            delete(one, missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr("time.sleep", lambda seconds: pauses.append(seconds))
        assert remove(path) is gone
        assert path.exists() is not gone
        assert sum(pauses) <= 1.01

    def test_a_rename_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = [0]
        (tmp_path / "a").write_text("new")
        (tmp_path / "b").write_text("old")
        move = Path.replace

        def replace(source: Path, target: Path) -> Path:
            calls[0] += 1
            if calls[0] < 4:
                raise PermissionError
            return move(source, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(PermissionError):
            rename(tmp_path / "a", tmp_path / "b")
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr("time.sleep", lambda _: None)
        rename(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_text() == "new"

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("a b", "a b"),
            ("caméra: 2*", "caméra_ 2"),
            ("test:", "test"),
            ("CON", "CON_"),
            ("nul.mkv", "nul.mkv_"),
            ("console", "console"),
            ("ends. ", "ends"),
            ("a\\b/c", "a_b_c"),
            ("...", "_"),
        ],
    )
    def test_names_are_free_of_what_windows_reserves(self, text: str, name: str) -> None:
        assert safe_name(text) == name


def test_children_are_out_of_reach_of_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_process_group() == {"start_new_session": True}
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    assert own_process_group() == {"creationflags": 0x200}


@pytest.mark.parametrize(("system", "option"), [("linux", socket.SO_REUSEADDR), ("win32", 77)])
def test_ports_are_exclusive(system: str, option: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[tuple[int, ...]] = []
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", 77, raising=False)

    def noted(*option: int) -> None:
        options.append(option)

    for family in (socket.AF_INET, socket.AF_INET6):
        prepare_listener(SimpleNamespace(family=family, setsockopt=noted), system)  # type: ignore[arg-type]
    exclusive = (socket.SOL_SOCKET, option, 1)
    assert options == [exclusive, exclusive, (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)]


def test_the_clock_of_windows_is_the_performance_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter_ns", lambda: 7)
    monkeypatch.setattr("time.monotonic_ns", lambda: 15_600_000)
    assert SystemClock("win32").monotonic_ns() == 7
    assert SystemClock("linux").monotonic_ns() == 15_600_000


@pytest.mark.skipif(sys.platform != "linux", reason="a nice value belongs to a thread on Linux only")
def test_a_background_thread_yields_with_the_threads_that_it_starts() -> None:
    found: list[int] = []

    def note() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def work() -> None:
        lower_priority()
        child = threading.Thread(target=note)
        child.start()
        child.join()

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] > before
    note()
    assert found[1] == before


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"cores": 1}, ThreadPlan(1, 1, 1)),
        ({"cores": 2}, ThreadPlan(2, 3, 1)),
        ({"cores": 1, "decoders": 2, "encoders": 2}, ThreadPlan(1, 1, 1)),
        ({"cores": 2, "decoders": 2, "encoders": 2}, ThreadPlan(2, 3, 1)),
        ({"cores": 8, "decoders": 2, "encoders": 1}, ThreadPlan(8, 4, 2)),
        ({"cores": 8, "decoders": 8, "encoders": 8}, ThreadPlan(8, 3, 1)),
        ({"cores": 64}, ThreadPlan(16, 4, 4)),
    ],
)
def test_threads_are_planned_together(given: dict[str, Any], wanted: ThreadPlan) -> None:
    assert plan_threads(**given) == wanted


@pytest.mark.parametrize("wrong", [{"cores": 0}, {"cores": 2, "decoders": 0}, {"cores": 2, "encoders": -1}])
def test_threads_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan_threads(**wrong)


def test_there_is_a_core() -> None:
    assert cores() >= 1

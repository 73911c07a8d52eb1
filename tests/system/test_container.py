"""Containers: a read-only root, no ``/dev/shm``, a uid without an entry or a home, no folder for temporary files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.system.test_serve_cli import free_port

_ENTER = """
set -e
mount -t tmpfs -o mode=1777 volume "$VOLUME"
while umount -l /dev/shm 2>/dev/null; do :; done
for folder in /dev/shm /tmp /var/tmp; do mount -t tmpfs -o ro,mode=1777 none $folder; done
mount -o remount,ro,bind /
cd /
exec unshare --user --map-user 54321 --map-group 54321 env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" "$@"
"""
"""Mounts as root of a user namespace; then runs as another user without rights."""

_USE = """
import json, os, signal, sys, tempfile, threading, urllib.request
from pathlib import Path
from streamdepth.cli import main

def run(*arguments):
    print("==", arguments[0], flush=True)
    print("code", main(list(arguments)), file=sys.stderr, flush=True)

def stop_when_it_answers():
    while True:
        try:
            print(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz").status, flush=True)
        except OSError:
            threading.Event().wait(0.05)
            continue
        os.kill(os.getpid(), signal.SIGINT)
        return

volume, port = Path(sys.argv[1]), sys.argv[2]
for path in (Path("/dev/shm/x"), Path("/tmp/x"), Path("/var/tmp/x"), Path("/x")):
    try:
        path.touch()
    except OSError:
        continue
    sys.exit(f"{path} can be written")
assert os.getuid() == 54321 and "HOME" not in os.environ
run("doctor")
cpu = ("--provider", "cpu")
run("run", "test:?size=96x64&frames=4", "-o", "null:", *cpu)
outputs = ("-o", f"{volume}/out.mkv", "--data", f"{volume}/data.mkv", "-o", f"{volume}/i/")
run("run", "test:?size=96x64&frames=4", *outputs, *cpu)
run("restyle", f"{volume}/data.mkv", "-o", f"{volume}/again.mkv")
run("image", f"{volume}/i/000000.png", "-o", f"{volume}/depth.png", "--quiet", *cpu)
tempfile.tempdir = None
run("serve", "--listen", f"http://127.0.0.1:{port}", "--quiet")
tempfile.tempdir = str(volume)
threading.Thread(target=stop_when_it_answers, daemon=True).start()
run("serve", "--listen", f"http://127.0.0.1:{port}", "--quiet")
print(*sorted(path.name for path in volume.iterdir()), sep="\\n", flush=True)
"""

_NO_CACHE = (
    "streamdepth: there is no folder for caches, so every start compiles and checks again; "
    "set STREAMDEPTH_CACHE to a writable folder"
)
_NO_SPOOL = (
    "streamdepth: no temporary file for depth can be written (No usable temporary directory found in "
    "['/tmp', '/var/tmp', '/usr/tmp', '/']); set TMPDIR to a writable folder, or use --range ema"
)
_NO_FOLDER = (
    "streamdepth: no folder for temporary files can be written; set TMPDIR to a writable folder, or mount one at /tmp"
)


@pytest.mark.skipif(sys.platform != "linux", reason="containers of Linux")
def test_the_main_job_runs_in_a_container_that_can_write_its_volume_only() -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    volume = Path("/mnt")
    enter = ["unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "bash", "-c", _ENTER, "x"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "VOLUME": str(volume)}
    probe = subprocess.run([*enter, sys.executable, "-c", "import streamdepth"], env=environ, capture_output=True)
    if probe.returncode:
        pytest.skip(f"no namespaces of mounts and users here: {probe.stderr.decode().strip()}")
    done = subprocess.run(
        [*enter, sys.executable, "-c", _USE, str(volume), str(free_port())],
        env=environ,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stderr.splitlines() == [
        "code 0",
        _NO_CACHE,
        _NO_SPOOL,
        "code 1",
        _NO_CACHE,
        *["code 0"] * 3,
        _NO_FOLDER,
        "code 1",
        "streamdepth: interrupted",
        "code 130",
    ]
    assert "cache\tthere is no folder for caches" in done.stdout
    assert done.stdout.splitlines()[-6:] == ["200", "again.mkv", "data.mkv", "depth.png", "i", "out.mkv"]

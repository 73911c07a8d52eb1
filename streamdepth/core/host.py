"""What differs between machines: cores and the threads planned for them, folders, files, child processes."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PAUSE_SECONDS, _RETRIES = 0.1, 10
_MEMBERSHIP, _MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_NO_CACHE = Path(os.devnull, "streamdepth")
CACHE_HINT = "set STREAMDEPTH_CACHE to a writable folder"
_MOST_DECODING = 4
"""One core decodes 200 to 400 frames of 1080p H.264 per second; more threads only add decoder delay."""
_MOST_SESSION = 16
_BACKGROUND_NICE = 5
"""A third of the weight of a normal thread. With 10 live frames waited longer at times: for the interpreter lock that a
background thread held without a core. On two cores with a load of 12, attacked servers showed 0.68 (nice 0), 0.96 (5)
and 0.79 (10) of the frames of a server that was not attacked."""
_LEAST_SHARE = 3
"""The defaults of FFmpeg and x264 on two cores. Fewer threads per stage are not faster: relative to this, two decoders
with one thread each ran at 0.98 to 1.01, two encoders at 0.73 with one thread each and at 0.82 with two, with equal CPU
time per frame (medians of paired runs, 720p, loaded machine). More cores were not measured."""


def cores(membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int:
    """Number of cores this process may use: its CPU affinity, limited by the CPU quota of its control groups.

    A quota of 1.5 cores (``docker run --cpus=1.5``) counts as 2.

    Args:
        membership: control groups of the process, in the format of ``/proc/self/cgroup``.
        mount: where control groups are mounted.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([available, *_quotas(membership, mount)])))


def processor() -> tuple[str, frozenset[str]]:
    """Name and instruction sets of the processor as LLVM calls them: ``"znver5"``, ``{"avx512bf16", ...}``."""
    binding: Any = importlib.import_module("llvmlite.binding")  # numba's
    features = binding.get_host_cpu_features()
    return str(binding.get_host_cpu_name()), frozenset(name for name, there in features.items() if there)


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


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads per stage. Stages overlap, so the sum may exceed the number of cores. No thread spins.

    Attributes:
        session: intra-op threads of the inference session.
        decoder: threads of each decoder.
        kernels: threads that share the rows of one image in the colour stage.
    """

    session: int
    decoder: int
    kernels: int


def plan_threads(cores: int, *, decoders: int = 1, encoders: int = 1) -> ThreadPlan:
    """Divide ``cores`` among the stages.

    The session gets all cores: it is the slowest stage, and its threads sleep between runs. Decoders share the cores
    among themselves; a single one gets one extra thread, because frame threads mostly wait for rows of the previous
    frame. The colour stage gets a second thread only if a core is likely to be idle. Encoders are not planned here:
    their threads follow from the frame size (:func:`streamdepth.sinks.encoding.encoder_threads`).

    Args:
        decoders, encoders: number running at the same time; ``--range shot`` decodes twice.
    Raises:
        UsageError: ``cores`` or ``decoders`` below 1, or ``encoders`` below 0.
    """
    for name, count in (("cores", cores), ("decoders", decoders)):
        if count < 1:
            raise UsageError(f"{name} is at least 1, not {count}")
    if encoders < 0:
        raise UsageError(f"encoders is at least 0, not {encoders}")
    return ThreadPlan(
        session=min(cores, _MOST_SESSION),
        decoder=_share(cores, decoders, _MOST_DECODING),
        kernels=max(1, min(4, cores // (4 * max(1, encoders)))),
    )


def _share(cores: int, users: int, most: int) -> int:
    if cores == 1:
        return 1
    return min(most, cores + 1 if users == 1 else max(_LEAST_SHARE, cores // users))


_PACKAGES: dict[str, dict[str, str]] = {
    "opengl": {
        "apt-get": "libgl1 libglib2.0-0",
        "dnf": "mesa-libGL glib2",
        "zypper": "Mesa-libGL1 libglib-2_0-0",
        "pacman": "libglvnd glib2",
    },
    "v4l2loopback": {"apt-get": "v4l2loopback-dkms", "dnf": "akmod-v4l2loopback", "pacman": "v4l2loopback-dkms"},
    "xvfb": {
        "apt-get": "xvfb",
        "dnf": "xorg-x11-server-Xvfb",
        "zypper": "xorg-x11-server-Xvfb",
        "pacman": "xorg-server-xvfb",
    },
}
"""System packages of Linux by package manager. macOS and Windows need none."""
_VERBS = {"apt-get": "install", "dnf": "install", "zypper": "install", "pacman": "-S"}


def install_system(what: str, which: Callable[[str], str | None] = shutil.which) -> str:
    """The command that installs a system package with the package manager at hand; empty if none is known.

    Args:
        what: ``opengl``, ``v4l2loopback`` or ``xvfb``.
    """
    managers = _PACKAGES[what] if sys.platform == "linux" else {}
    return next((f"sudo {name} {_VERBS[name]} {managers[name]}" for name in managers if which(name)), "")


def cache_root() -> Path:
    """Cache folder of streamdepth: ``STREAMDEPTH_CACHE``, or the user's.

    A user without a home (a container's with any uid) gets one below the folder for temporary files. Where that cannot
    be written or the folder belongs to another user, the path returned cannot be made, and nothing is cached.
    """
    own = os.environ.get("STREAMDEPTH_CACHE")
    if own:
        return Path(own)
    if sys.platform != "win32" and not has_home():
        for place in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp"):  # noqa: S108 - the folder's owner is checked
            if place and os.access(place, os.W_OK | os.X_OK):
                return _temporary_root(Path(place), os.getuid())
        return _NO_CACHE
    from platformdirs import user_cache_path

    return user_cache_path("streamdepth", appauthor=False)


def _temporary_root(place: Path, uid: int) -> Path:
    folder = place / f"streamdepth-{uid}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        return folder if folder.stat().st_uid == uid else _NO_CACHE
    except OSError:
        return _NO_CACHE


def temporary_folder() -> str:
    """Folder for large temporary files: Python's, but ``/var/tmp`` instead of ``/tmp``, which may be in memory."""
    found = tempfile.gettempdir()
    if found == "/tmp" and "TMPDIR" not in os.environ and os.access("/var/tmp", os.W_OK):  # noqa: S108
        return "/var/tmp"  # noqa: S108
    return found


def cache_note() -> str:
    """What it means that the cache folder cannot be written, and what helps; empty if it can. Makes the folder."""
    folder = cache_root()
    if writable(folder):
        return ""
    what = "there is no folder for caches" if folder == _NO_CACHE else f"cache folder {folder} cannot be written"
    return f"{what}, so every start compiles and checks again; {CACHE_HINT}"


def writable(folder: Path) -> bool:
    """Make a folder if necessary; whether files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def has_home() -> bool:
    """False for a user without an entry in the user database and without ``HOME``, as in containers with any uid."""
    return bool(os.environ.get("XDG_CACHE_HOME")) or os.path.expanduser("~") != "~"  # noqa: PTH111 - Path raises


def own_process_group() -> dict[str, Any]:
    """Keywords of ``subprocess.Popen`` for a child that Ctrl-C in the terminal does not reach."""
    keywords: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        keywords = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return keywords


def lower_priority(system: str = sys.platform) -> None:
    """Let other threads of the process run before this one and the threads that it starts.

    On Linux only: elsewhere a thread has no nice value of its own, and this does nothing.
    """
    if sys.platform != "win32" and system == "linux":
        with contextlib.suppress(OSError):
            own = os.getpriority(os.PRIO_PROCESS, os.getpid())  # of the main thread: the process may be niced
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), own + _BACKGROUND_NICE)


def remove(path: Path) -> bool:
    """Delete a file if it exists; False if it cannot be deleted.

    Windows does not delete a file that is open, and virus scanners open new files: retried for a second.
    """
    try:
        _retried(lambda: path.unlink(missing_ok=True))
    except PermissionError:
        return False
    return True


def lock(file: IO[bytes]) -> bool:
    """Lock an open file against other processes until it is closed; False if another one has locked it.

    Always True on systems without ``flock``.
    """
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def rename(source: Path, target: Path) -> None:
    """Rename a file over an existing one. Retried for a second, as :func:`remove`.

    Raises:
        OSError: as ``Path.replace``.
    """
    _retried(lambda: source.replace(target))


@contextlib.contextmanager
def written_whole(path: Path, partial: Path, *, durable: bool = False) -> Iterator[Path]:
    """``partial``, to be written in the block; it then becomes ``path``, so that a reader sees all of it or nothing.

    An exception in the block deletes it.

    Args:
        durable: the file survives a crash of the machine.
    """
    try:
        yield partial
        if durable:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        rename(partial, path)
        if durable and sys.platform != "win32":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        remove(partial)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing, even where two processes write it at once.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path, path.with_name(f"{uuid.uuid4().hex}.part")) as partial:
        partial.write_bytes(content)


def digest(key: str, length: int = 24) -> str:
    """A file name for a key: the first ``length`` hexadecimal digits of its SHA-256."""
    return hashlib.sha256(key.encode()).hexdigest()[:length]


def content_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of the contents of files in order, hexadecimal."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def prune(folder: Path, most_bytes: int) -> None:
    """Delete the least recently used files of a folder until at most ``most_bytes`` are left."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may prune the folder too
            status = path.stat()
            found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    left_bytes = most_bytes
    for _, size_bytes, path in sorted(found, reverse=True):
        left_bytes -= size_bytes
        if left_bytes < 0:
            with contextlib.suppress(OSError):
                path.unlink()


def _retried(work: Callable[[], object]) -> None:
    for _ in range(_RETRIES if sys.platform == "win32" else 0):
        try:
            work()
        except PermissionError:
            time.sleep(_PAUSE_SECONDS)
        else:
            return
    work()


def file_key(path: str | os.PathLike[str]) -> str:
    """Equal for two names of one file: absolute, links followed, and without regard to case and Unicode form on systems
    that ignore them (Windows, macOS)."""
    whole = os.path.realpath(path)
    return unicodedata.normalize("NFC", whole).casefold() if sys.platform in ("win32", "darwin") else whole


def prepare_listener(listener: socket.socket, system: str = sys.platform) -> None:
    """Give a socket that will listen the same meaning on every system.

    No other program may listen on its port, and the port of ended connections may be reused: ``SO_REUSEADDR`` does that
    on POSIX, while on Windows it would let any program take the port over. ``[::]`` includes IPv4.
    """
    option = getattr(socket, "SO_EXCLUSIVEADDRUSE", 0) if system == "win32" else socket.SO_REUSEADDR
    listener.setsockopt(socket.SOL_SOCKET, option, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)

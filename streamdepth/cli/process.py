"""A command's process and terminal: signals, garbage collection, the end; progress, notes and tables."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import signal
import sys
import tempfile
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from streamdepth.core.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

    from rich.console import Console
    from rich.progress import TaskID

    from streamdepth.config.settings import Settings
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.inference.model import ModelOptions
    from streamdepth.pipeline import Snapshot

_BURST_NS = 500_000_000
_JOIN_NS = 300_000_000
_WAIT_SECONDS = 0.5
_M_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's ``malloc.h``."""


def hold_collections() -> None:
    """Disable garbage collection until :func:`resume_collections`.

    The imports of a run create 140,000 objects that stay; collecting among them takes 0.2 s and finds nothing.
    """
    gc.disable()


def resume_collections() -> None:
    """Enable garbage collection and exclude the present objects from it. Does nothing unless collections are held.

    A WebRTC connection that has ended is a cycle of old objects, its encoder included. By default old objects are
    collected after 70,000 new ones: every four minutes with a viewer every five seconds, and 20 MB later than here.
    """
    if not gc.isenabled():
        gc.freeze()
        gc.set_threshold(*gc.get_threshold()[:2], 2)
        gc.enable()


def skip_final_collection() -> None:
    """Leave all memory to the operating system: the interpreter's collection at exit takes 0.3 s."""
    gc.freeze()


def hide_warnings() -> None:
    """Hide warnings of libraries, unless the interpreter was started with ``-W``."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def route_logs() -> None:
    """Print errors that the package logs, one line each, and nothing that libraries log."""
    import logging

    printed = logging.StreamHandler()
    printed.setLevel(logging.ERROR)
    printed.setFormatter(logging.Formatter("streamdepth: %(message)s"))
    logging.getLogger("streamdepth").addHandler(printed)
    # Without a handler of its own the root logger prints warnings and errors.
    logging.getLogger().addHandler(logging.NullHandler())


def share_allocations() -> None:
    """Let all threads allocate from two pools, where the C library is glibc. Call it before threads start.

    By default each thread gets a pool, and pools keep what was freed: 542 instead of 449 MB for a 720p clip.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def open_closed_streams() -> None:
    """Open ``/dev/null`` in place of closed standard streams, so that no output file gets one of their descriptors.

    A closed standard error means no messages. ``sys.stdin`` stays None: its reader reports that it is closed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - for the rest of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def escape_unencodable() -> None:
    """Print characters that the output's encoding lacks as escapes, e.g. a Japanese path on a cp1252 pipe."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def find_temporary_folder(outputs: Iterable[str]) -> None:
    """Put temporary files beside an output where none of the usual folders can be written (a read-only container)."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        folders = (Path(output) if output.endswith("/") else Path(output).absolute().parent for output in outputs)
        tempfile.tempdir = next((str(folder) for folder in folders if os.access(folder, os.W_OK)), None)


def flush_output() -> None:
    """Raises ``OSError``: standard output cannot be written; what is left of it is discarded."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        discard_output()
        raise


def discard_output() -> None:
    """Send standard output nowhere, so that the interpreter's flush at exit does not fail."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave_stuck_threads(code: int) -> None:
    """Exit at once if a thread is still in a call that may never return, for example a read of a silent camera.

    The interpreter must not be finalized under it: FFmpeg's interrupt callback takes the GIL, and crashes without one.
    """
    clock = SystemClock()
    ends_ns = clock.monotonic_ns() + _JOIN_NS
    daemons = [thread for thread in threading.enumerate() if thread.daemon and thread is not threading.current_thread()]
    for thread in daemons:
        thread.join(max(0.0, (ends_ns - clock.monotonic_ns()) / 1e9))
    if any(thread.is_alive() for thread in daemons):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
                stream.flush()
        os._exit(code)


@contextlib.contextmanager
def signals_as_interrupts() -> Iterator[Callable[[], bool]]:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP as for SIGINT, once for signals within half a second.

    ``timeout`` signals the process and then its group, and wrappers pass on what the terminal has sent to all: a second
    interrupt would abort the shutdown that the first one began. Does nothing outside the main thread. Restores the
    caller's handlers. Gives a function that tells whether a signal has come.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    clock = SystemClock()
    begun_ns: int | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        nonlocal begun_ns
        now_ns = clock.monotonic_ns()
        if begun_ns is not None and now_ns - begun_ns < _BURST_NS:
            return
        begun_ns = now_ns
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # in the background, under nohup
            before[number] = signal.signal(number, interrupt)
    try:
        yield lambda: begun_ns is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python


def wait_for_interrupt() -> None:
    """Block until KeyboardInterrupt. The waits are short: on Windows Ctrl-C does not end a wait, only follows it."""
    forever = threading.Event()
    while not forever.wait(_WAIT_SECONDS):
        pass


_REFRESH_SECONDS, _JOIN_SECONDS = 0.2, 2.0


def progress_shown(quiet: bool) -> bool:
    """True if standard error is a terminal and output is not silenced."""
    return not quiet and sys.stderr.isatty()


def say(message: str, *, quiet: bool = False) -> None:
    """Print one line on standard error."""
    if not quiet:
        sys.stderr.write(f"streamdepth: {message}\n")


@contextlib.contextmanager
def frames_bar(title: str, snapshot: Callable[[], Snapshot], *, quiet: bool) -> Iterator[None]:
    """Show frames, fps, remaining time and drops of a running pipeline while the block runs."""
    if not progress_shown(quiet):
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        TextColumn("{task.fields[frames]} frames"),
        TextColumn("{task.fields[behind]}"),
        TextColumn("{task.fields[fps]:.1f} fps"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[drops]}"),
    )
    ended = threading.Event()
    with Progress(*columns, console=progress_console(), transient=False) as progress:
        task = progress.add_task(title, total=None, frames="0", behind="", fps=0.0, drops="")

        def refresh() -> None:
            now = snapshot()
            # The model takes most of the time. The frames of a shot are written after its end, which may be never.
            done = now.estimated
            progress.update(
                task,
                description=f"{title.rstrip(':')}: finishing, Ctrl-C again ends at once" if now.stopping else title,
                total=now.expected,
                completed=done,
                frames=f"{done}/{now.expected}" if now.expected else str(done),
                behind=f"{now.written} written" if now.written and done > now.processed else "",
                fps=done / now.seconds if now.seconds > 0 else 0.0,
                drops=f"{now.dropped_total} dropped" if now.dropped_total else "",
            )

        def watch() -> None:
            while not ended.wait(_REFRESH_SECONDS):
                refresh()

        watcher = threading.Thread(target=watch, name="progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join(_JOIN_SECONDS)
            refresh()


@contextlib.contextmanager
def bytes_bar(*, quiet: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """Progress bar for downloads: yields the callback that updates it, None if no progress is shown."""
    if not progress_shown(quiet):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console()) as progress:
        tasks: dict[str, TaskID] = {}

        def update(file: str, done_bytes: int, total_bytes: int | None, /) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=done_bytes, total=total_bytes)

        yield update


def load_estimator(config: Settings, **options: Unpack[ModelOptions]) -> DepthEstimator:
    """The model of a command; shows downloads and what takes long."""
    from streamdepth.image.estimator import DepthEstimator

    with bytes_bar(quiet=config.quiet) as downloading:
        given = config.model_options(progress=downloading, on_status=partial(say, quiet=config.quiet))
        given.update(options)
        return DepthEstimator(config.model, **given)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", headings: bool = False) -> None:
    """Print a table on standard output: formatted on a terminal, tab-separated lines elsewhere.

    Args:
        headings: tab-separated lines begin with title and columns; otherwise scripts get the rows alone.
    """
    if not sys.stdout.isatty():
        heading = [[title], columns] if headings else []
        for row in (*heading, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    formatted = Table(title=Text(title) if title else None, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        formatted.add_column(column, no_wrap=not number, overflow="fold")  # a name can be copied
    for row in rows:
        formatted.add_row(*map(Text, row))  # brackets in names are no markup
    Console().print(formatted)


def progress_console() -> Console:
    """The console of progress bars, standard error."""
    from rich.console import Console

    return Console(stderr=True)

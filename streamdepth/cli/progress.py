"""A progress bar on a terminal, nothing anywhere else."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import TaskID

    from streamdepth.pipeline import Snapshot

_REFRESH_SECONDS = 0.2


def wanted(quiet: bool) -> bool:
    """True where somebody is there to look."""
    return not quiet and sys.stderr.isatty()


def say(message: str, *, quiet: bool = False) -> None:
    """One line for people, on standard error."""
    if not quiet:
        sys.stderr.write(f"streamdepth: {message}\n")


@contextmanager
def frames_bar(title: str, snapshot: Callable[[], Snapshot], *, quiet: bool) -> Iterator[None]:
    """Show frames, fps, ETA and drops of a running pipeline while the block runs."""
    if not wanted(quiet):
        yield
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[frames]} frames"),
        TextColumn("{task.fields[behind]}"),
        TextColumn("{task.fields[fps]:.1f} fps"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[drops]}"),
    )
    ended = threading.Event()
    with Progress(*columns, console=_console(), transient=False) as progress:
        task = progress.add_task(title, total=None, frames="0", behind="", fps=0.0, drops="")

        def refresh() -> None:
            now = snapshot()
            # Depth is what takes the time. A shot's images follow it once the shot has ended, which may be never.
            done = now.estimated
            progress.update(
                task,
                description=f"{title}: finishing, Ctrl-C again ends at once" if now.stopping else title,
                total=now.expected,
                completed=done,
                frames=f"{done}/{now.expected}" if now.expected else str(done),
                behind=f"{now.written} written" if done > now.processed else "",
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
            watcher.join()
            refresh()


@contextmanager
def bytes_bar(*, quiet: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar for downloads: yields the callback that moves it, or None where nobody looks."""
    if not wanted(quiet):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console()) as progress:
        tasks: dict[str, TaskID] = {}

        def update(file: str, done_bytes: int, total_bytes: int | None, /) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=done_bytes, total=total_bytes)

        yield update


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)

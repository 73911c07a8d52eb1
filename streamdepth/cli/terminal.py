"""Output for people: progress and notes on standard error, tables on standard output."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.progress import TaskID

    from streamdepth.pipeline import Snapshot

_REFRESH_SECONDS, _JOIN_SECONDS = 0.2, 2.0


def progress_shown(quiet: bool) -> bool:
    """True if standard error is a terminal and output is not silenced."""
    return not quiet and sys.stderr.isatty()


def say(message: str, *, quiet: bool = False) -> None:
    """Print one line on standard error."""
    if not quiet:
        sys.stderr.write(f"streamdepth: {message}\n")


@contextmanager
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


@contextmanager
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

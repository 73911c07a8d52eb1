"""The file of ``--stats``: where it may be written, and its content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.core.errors import OutputExistsError, SinkError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamdepth.pipeline import RunStats


def check_place(path: Path, *, sources: Iterable[str], outputs: Iterable[str]) -> None:
    """Check before a run that its statistics can be written. Only an earlier file of statistics is replaced.

    Raises:
        UsageError: it is a source or an output of the run.
        OutputExistsError: another kind of file exists there.
        SinkError: it cannot be written.
    """
    from streamdepth.sinks.files import is_same_file

    if any(is_same_file(path, source) for source in sources):
        raise UsageError(f"statistics {path} is the input; choose another name for --stats")
    place = path.resolve()
    if any(Path(output).resolve() == place for output in outputs):
        raise UsageError(f"statistics {path} is an output too; choose another name for --stats")
    if path.is_dir():
        raise SinkError(f"statistics {path} is a folder; give --stats a file that can be written")
    if not path.exists():
        if not place.parent.is_dir():
            raise SinkError(f"statistics {path}: there is no folder {place.parent}; make it, or name another file")
        place = place.parent
    elif path.is_file() and not _is_statistics(path):
        raise OutputExistsError(f"statistics {path} is there already and is no statistics file; name another")
    if not os.access(place, os.W_OK):
        raise SinkError(f"statistics {path} may not be written; give --stats a file that can be written")


def write(path: Path, done: Sequence[tuple[str, RunStats, str]]) -> None:
    """Write the statistics of a run, or the sums of several with each under ``runs``. ``error`` is the first, or null.

    Args:
        done: title, statistics and error (one line without secrets, or empty) of each run.

    Raises:
        SinkError: it cannot be written.
    """
    from streamdepth.pipeline.stats import combined

    first_error = next((error for _, _, error in done if error), None)
    content = {**combined([stats for _, stats, _ in done]).to_dict(), "error": first_error}
    if len(done) > 1:
        content["runs"] = [{"source": title, **stats.to_dict(), "error": error or None} for title, stats, error in done]
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(f"statistics {path}: {error.strerror}; give --stats a file that can be written") from None


def _is_statistics(path: Path) -> bool:
    """True for a file of ``write``, and for an empty one."""
    try:
        text = path.read_bytes()
        content = json.loads(text) if text.startswith(b"{") else {} if text else {"captured": 0}
    except (OSError, ValueError):
        return False
    return "captured" in content

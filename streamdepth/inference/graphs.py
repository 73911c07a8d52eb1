"""Graphs made of a model, kept in the user's cache."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from streamdepth.core.errors import ModelError
from streamdepth.core.host import cache_root


def graphs_folder() -> Path:
    """Where they are kept. Not created."""
    return cache_root() / "graphs"


def keep(path: Path, content: bytes, name: str) -> None:
    """Write a graph of the model called ``name``; whoever reads ``path`` sees all of it or nothing.

    Raises:
        ModelError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # two processes may make the same graph at once: each writes its own file, the last name wins
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).replace(path)
    except OSError as error:
        raise ModelError(
            f"{name}: a graph made of it cannot be kept in {path.parent} ({error.strerror}); point STREAMDEPTH_CACHE "
            "to a folder that can be written"
        ) from error

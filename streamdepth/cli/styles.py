"""``streamdepth styles``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamdepth.cli import options


def styles(
    everything: Annotated[bool, typer.Option("--all", help="The names of the cmap catalogue too.")] = False,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="Paint them all, with their names, into this PNG.")
    ] = None,
    overwrite: options.Overwrite = None,
) -> None:
    """List the palettes, or paint them on a real depth picture."""
    from streamdepth.colorize.palettes import catalogue_names, palette_names

    if preview is None:
        for name in (*palette_names(), *(catalogue_names() if everything else ())):
            typer.echo(name)
        return
    from streamdepth.cli.preview import write_preview

    write_preview(preview, everything=everything, overwrite=bool(overwrite))

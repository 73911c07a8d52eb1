"""``streamdepth styles``."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from streamdepth.cli import options
from streamdepth.core.errors import OutputExistsError, UsageError

_SCENE, _FRAME = "test:?size=640x480", 45


def styles(
    everything: Annotated[bool, typer.Option("--all", help="The names of the cmap catalogue too.")] = False,
    preview: Annotated[
        Path | None, typer.Option("--preview", help="Paint them all, with their names, into this PNG.")
    ] = None,
    overwrite: options.Overwrite = None,
) -> None:
    """List the palettes, or paint them on a real depth image."""
    from streamdepth.colorize.palettes import catalogue_names, palette_names

    if preview is None:
        for name in (*palette_names(), *(catalogue_names() if everything else ())):
            typer.echo(name)
        return
    if preview.suffix.lower() != ".png":
        raise UsageError(f"{preview}: the preview is a PNG; end its name with .png")
    if preview.exists() and not overwrite:
        raise OutputExistsError(f"{preview} is there already; --overwrite replaces it")
    from streamdepth.colorize.sheet import preview as paint
    from streamdepth.colorize.sheet import write_preview
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.sources.pattern import PatternSource

    scene = PatternSource.from_text(_SCENE)
    scene.open()
    with DepthEstimator() as estimator:
        frame = next(islice(scene.frames(), _FRAME, None))
        (depth,) = estimator([frame])
    scene.close()
    names = catalogue_names() if everything else None
    write_preview(preview, paint(names, depth=depth.data, sense=depth.sense, image=frame.to_rgb()))

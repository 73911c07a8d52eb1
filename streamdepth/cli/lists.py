"""``streamdepth cameras``, ``doctor`` and ``styles``."""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING

import typer

from streamdepth.cli.terminal import table
from streamdepth.core.errors import OutputExistsError, UsageError

if TYPE_CHECKING:
    from streamdepth.config.commands import StylesConfig
    from streamdepth.config.shared import Settings

_SCENE, _FRAME = "test:?size=640x480", 45


def cameras() -> None:
    """List cameras with their names and modes."""
    from streamdepth.sources.cameras import list_cameras

    found = list_cameras()
    if not found:
        permission = ", and check that you may read /dev/video*" if sys.platform == "linux" else ""
        typer.echo(f"no cameras found; connect one{permission}", err=True)
        raise typer.Exit(1)
    table(
        ("index", "name", "path", "modes"),
        [
            (str(camera.index), camera.name, camera.path, "; ".join(map(str, camera.modes)) or camera.note)
            for camera in found
        ],
    )


def doctor(config: Settings) -> None:
    """Show versions, providers, encoders, display and cameras. Exit code 1 if a requirement is missing."""
    from dataclasses import asdict

    from streamdepth.doctor import examine

    findings = examine()
    if config.as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        table(
            ("", "", "found", "what helps"),
            [("MISSING" if not f.ok else "ok" if f.there else "-", f.topic, f.found, f.hint) for f in findings],
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def styles(config: StylesConfig) -> None:
    """List the palettes, or show them on a depth image."""
    from streamdepth.colorize.palettes import catalogue_names, listed_names

    preview = config.preview
    if preview is None:
        for name in (*listed_names(), *(catalogue_names() if config.everything else ())):
            typer.echo(name)
        return
    if preview.suffix.lower() != ".png":
        raise UsageError(f"{preview}: the preview is a PNG; end its name with .png")
    if preview.exists() and not config.overwrite:
        raise OutputExistsError(f"{preview}: already exists; --overwrite replaces it")
    from streamdepth.colorize.still import preview as paint
    from streamdepth.colorize.still import write_preview
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.sources.pattern import PatternSource

    scene = PatternSource.from_text(_SCENE)
    scene.open()
    with DepthEstimator() as estimator:
        frame = next(islice(scene.frames(), _FRAME, None))
        (depth,) = estimator([frame])
    scene.close()
    names = catalogue_names() if config.everything else None
    write_preview(preview, paint(names, depth=depth.data, sense=depth.sense, image=frame.to_rgb()))

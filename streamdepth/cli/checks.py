"""``streamdepth cameras``, ``doctor`` and ``verify``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from streamdepth.cli import options, tables

_AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def cameras() -> None:
    """List cameras with their names and modes."""
    from streamdepth.sources.cameras import list_cameras

    found = list_cameras()
    if not found:
        typer.echo("no cameras found; is one plugged in, and may you read /dev/video*?", err=True)
        raise typer.Exit(1)
    tables.show(
        ("index", "name", "path", "modes"),
        [
            (str(camera.index), camera.name, camera.path, "; ".join(map(str, camera.modes)) or camera.note)
            for camera in found
        ],
    )


def doctor(as_json: _AsJson = False) -> None:
    """Show what this machine has: versions, providers, encoders, display, cameras; exit code 1 if a need is missing."""
    from dataclasses import asdict

    from streamdepth.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        tables.show(
            ("", "", "found", "what helps"),
            [("MISSING" if not f.ok else "ok" if f.there else "-", f.topic, f.found, f.hint) for f in findings],
        )
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="built-in, a path, or a Hub name.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="Images to compare on; default: built-in ones.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", help="Compare with this model instead of with the exact path.")
    ] = None,
    dtype: options.Dtype = None,
    reference_dtype: Annotated[str | None, typer.Option("--reference-dtype", help="Its dtype.")] = None,
    revision: options.Revision = None,
    size: options.Size = None,
    sense: options.Sense = None,
    provider: options.Provider = None,
    as_json: _AsJson = False,
) -> None:
    """Check a model: finite, not flat, and how far from a reference, e.g. q8 against fp32."""
    from streamdepth.image.verify import verify as compare

    report = compare(
        model,
        reference=reference,
        images=images or None,
        dtype=dtype or "auto",
        reference_dtype=reference_dtype,
        revision=revision,
        size=size,
        sense=sense,
        provider=provider or "auto",
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        tables.show(report.COLUMNS, report.rows(), title=report.title)
    if not report.ok:
        raise typer.Exit(1)

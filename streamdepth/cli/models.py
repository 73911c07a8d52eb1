"""``streamdepth models list | show | pull``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamdepth.cli import options, tables

if TYPE_CHECKING:
    from streamdepth.models.catalog import ModelDetails

app = typer.Typer(help="What models there are, what is known of one, and fetching them.", no_args_is_help=True)

_AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
_Name = Annotated[str, typer.Argument(metavar="NAME", help="built-in, a path, or a Hub name.")]


@app.command("list")
def list_() -> None:
    """Known models, and what the cache holds."""
    from streamdepth.models.catalog import list_models

    rows = [
        (
            entry.name,
            entry.sense.value if entry.sense else "?",
            entry.licence or "?",
            " ".join(f"{dtype}:{size}" for dtype, size in entry.sizes_mb.items()),
            " ".join(f"{what} {ms:g} ms" for what, ms in entry.speed_ms.items()),
            " ".join(entry.cached) or ("in the package" if entry.kind == "built-in" else ""),
        )
        for entry in list_models()
    ]
    tables.show(("model", "means", "licence", "MB by dtype", "measured", "on this machine"), rows)


@app.command("show")
def show(
    name: _Name,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    provider: options.Provider = None,
    as_json: _AsJson = False,
) -> None:
    """Everything known of a model, and where each fact comes from."""
    from streamdepth.inference.providers import likely
    from streamdepth.models.catalog import show_model

    details = show_model(name, dtype=dtype or "auto", revision=revision, provider=likely(provider or "auto"))
    if as_json:
        typer.echo(json.dumps(_plain(details), indent=2))
    else:
        tables.show(("", "", "from"), _rows(details), title=details.name)


def _plain(details: ModelDetails) -> dict[str, Any]:
    return {
        "name": details.name,
        "revision": details.revision,
        "licence": details.licence,
        "variants": [asdict(variant) for variant in details.variants],
        "chosen": details.chosen,
        "spec": details.spec.to_dict() if details.spec is not None else None,
        "notes": list(details.notes),
    }


def _rows(details: ModelDetails) -> list[tuple[str, str, str]]:
    rows = [("revision", details.revision, ""), ("licence", details.licence, "")]
    for variant in details.variants:
        size = f"{variant.size_bytes / 1e6:.1f} MB" if variant.size_bytes else "?"
        here = "here" if variant.local else "on the Hub"
        chosen = ", chosen" if variant.dtype == details.chosen else ""
        rows.append((f"dtype {variant.dtype}", f"{size}, {here}{chosen}", variant.file))
    if details.spec is not None:
        origins = details.spec.origins
        for key, value in details.spec.to_dict().items():
            if key in ("name", "revision", "licence", "notes", "origins", "dtype") or value in (None, "", [], {}):
                continue
            shown = json.dumps(value) if isinstance(value, dict | list) else str(value)
            rows.append((key, shown, origins.get(key, "")))
    if details.spec is not None and details.spec.source == "built-in":
        rows += _builtin_rows()
    rows += [("note", note, "") for note in details.notes]
    return [row for row in rows if row[1]]


def _builtin_rows() -> list[tuple[str, str, str]]:
    """Hash, measured accuracy, and the limits its card states."""
    from importlib.resources import files

    from streamdepth.models.locate import builtin_record

    record = builtin_record()
    card = (files("streamdepth.models.builtin") / "MODEL_CARD.md").read_text(encoding="utf-8")
    limits = card.partition("## Limits\n")[2].partition("\n## ")[0]
    rows = [("sha256", str(record["sha256"]), "")]
    for name, (abs_rel, delta1) in record["accuracy"].items():
        rows.append((f"accuracy {name}", f"AbsRel {abs_rel:.3f}, delta1 {delta1:.3f}", "benchmarks/accuracy.py"))
    rows += [
        ("limit", " ".join(line.split()), "") for line in re.split(r"^- ", limits, flags=re.MULTILINE) if line.strip()
    ]
    return rows


@app.command("pull")
def pull(
    name: _Name,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    provider: options.Provider = None,
    force: Annotated[bool, typer.Option("--force", help="Download again even what is sound.")] = False,
    quiet: options.Quiet = None,
) -> None:
    """Fetch a Hub model, check every file, repair what is damaged."""
    from streamdepth.cli.progress import bytes_bar
    from streamdepth.inference.providers import likely
    from streamdepth.models.catalog import pull as fetch

    with bytes_bar(quiet=bool(quiet)) as downloading:
        pulled = fetch(
            name,
            dtype=dtype or "auto",
            revision=revision,
            provider=likely(provider or "auto"),
            force=force,
            progress=downloading,
        )
    for path in pulled.files:
        typer.echo(path)

"""``streamdepth bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamdepth.cli import options, tables

if TYPE_CHECKING:
    from streamdepth.bench import BenchReport


def bench(
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="A clip; default: a made-up one of 1280x720.")
    ] = None,
    model: options.Model = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Repeatable; default: all that can run here.")
    ] = None,
    dtype: Annotated[list[str] | None, typer.Option("--dtype", help="Repeatable; default: auto.")] = None,
    size: Annotated[list[str] | None, typer.Option("--size", help="Repeatable; default: the model's own.")] = None,
    batch: Annotated[list[int] | None, typer.Option("--batch", help="Repeatable; default: 1, 2, 4.")] = None,
    frames: Annotated[int, typer.Option("--max-frames", help="Of the source.")] = 150,
    seconds: Annotated[float, typer.Option("--seconds", help="For each setting.")] = 1.0,
    threads: options.Threads = None,
    sense: options.Sense = None,
    revision: options.Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for --compare.")] = False,
    compare: Annotated[Path | None, typer.Option("--compare", help="Set against a report written with --json.")] = None,
    quiet: options.Quiet = None,
) -> None:
    """Measure providers, dtypes, sizes and batches here, recommend one, and show where the time goes."""
    from streamdepth.bench import bench as measure
    from streamdepth.bench import compare as against
    from streamdepth.bench import load_report
    from streamdepth.cli.progress import say, wanted

    before = load_report(compare) if compare is not None else None
    report = measure(
        source,
        model or "built-in",
        providers=provider or (),
        dtypes=dtype or ("auto",),
        sizes=size or (),
        batches=batch or (1, 2, 4),
        frames=frames,
        seconds=seconds,
        threads=threads,
        sense=sense,
        revision=revision,
        progress=say if wanted(bool(quiet)) else None,
    )
    compared = against(before, report) if before is not None else ()
    if as_json:
        content = report.to_dict()
        if before is not None:
            content["compared"] = [
                {"name": c.name, "before_ms": c.before_ms, "now_ms": c.now_ms, "ratio": round(c.ratio, 3)}
                for c in compared
            ]
        typer.echo(json.dumps(content, indent=2))
        return
    _print(report)
    if before is not None:
        tables.show(
            ("", "before, ms", "now, ms", "times as fast", ""),
            [(c.name, f"{c.before_ms:.2f}", f"{c.now_ms:.2f}", f"{c.ratio:.2f}", c.verdict) for c in compared],
            title=f"against {compare}",
        )


def _print(report: BenchReport) -> None:
    tables.show(
        ("provider", "dtype", "size", "batch", "ms / frame", "CPU ms / frame", "correlation", ""),
        [
            (
                run.provider,
                run.dtype,
                run.size,
                str(run.batch),
                _figure(run.frame_ms, ".2f"),
                _figure(run.cpu_ms, ".2f"),
                _figure(run.correlation, ".5f"),
                run.note,
            )
            for run in report.runs
        ],
        title=f"{report.model}, {', '.join(value for value in report.machine.values() if value)}",
    )
    rows = [(stage.name, f"{stage.wall_ms:.2f}", f"{stage.cpu_ms:.2f}") for stage in report.stages]
    if report.whole is not None:
        rows.append(("elsewhere", "", f"{report.whole.elsewhere_cpu_ms:.2f}"))
        rows.append(("whole run", f"{1000 / report.whole.fps:.2f}" if report.whole.fps else "-",
                     f"{report.whole.cpu_ms:.2f}"))  # fmt: skip
    tables.show(("stage alone", "ms / frame", "CPU ms / frame"), rows, title=f"{report.source}")
    if report.whole is not None:
        whole = report.whole
        typer.echo(
            f"{whole.fps:.1f} fps of the {whole.bound_fps:.1f} that decoding, model and encoding alone allow "
            f"({whole.efficiency:.0%}); cores idle {whole.idle:.0%}"
        )
    if report.sparing is not None:
        every = report.sparing.model_every
        typer.echo(
            f"{report.sparing.fps:.1f} fps with --model-every {every}, depth of the frames between propagated along"
        )
    if report.recommended is not None:
        typer.echo(f"recommended: {report.recommended.options}")


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""``streamdepth bench``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from streamdepth.cli.terminal import progress_shown, say, table

if TYPE_CHECKING:
    from streamdepth.bench import BenchReport
    from streamdepth.config.commands import BenchConfig


def bench(config: BenchConfig) -> None:
    """Measure providers, dtypes, sizes and batches on this machine, recommend one, and show where the time goes."""
    from streamdepth.bench import bench as measure
    from streamdepth.bench import compare as against
    from streamdepth.bench import load_report

    before = load_report(config.compare) if config.compare is not None else None
    report = measure(
        config.source,
        config.model,
        providers=config.providers,
        dtypes=config.dtypes,
        sizes=config.sizes,
        batches=config.batches,
        frames=config.max_frames,
        seconds=config.seconds,
        threads=config.threads,
        sense=config.sense,
        revision=config.revision,
        progress=say if progress_shown(config.quiet) else None,
    )
    compared = against(before, report) if before is not None else ()
    if config.as_json:
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
        table(
            ("", "before, ms", "now, ms", "times as fast", ""),
            [(c.name, f"{c.before_ms:.2f}", f"{c.now_ms:.2f}", f"{c.ratio:.2f}", c.outcome) for c in compared],
            title=f"compared with {config.compare}",
            headings=True,
        )


def _print(report: BenchReport) -> None:
    table(
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
        headings=True,
    )
    rows = [(stage.name, f"{stage.wall_ms:.2f}", f"{stage.cpu_ms:.2f}") for stage in report.stages]
    if report.whole is not None:
        rows.append(("other", "", f"{report.whole.elsewhere_cpu_ms:.2f}"))
        rows.append(("whole run", f"{1000 / report.whole.fps:.2f}" if report.whole.fps else "-",
                     f"{report.whole.cpu_ms:.2f}"))  # fmt: skip
    table(("stage", "ms / frame", "CPU ms / frame"), rows, title=report.source, headings=True)
    if report.whole is not None:
        whole = report.whole
        typer.echo(
            f"{whole.fps:.1f} fps, {whole.efficiency:.0%} of the {whole.bound_fps:.1f} fps that decoding, model and "
            f"encoding alone allow; cores idle {whole.idle:.0%}"
        )
    if report.propagating is not None:
        every = report.propagating.model_every
        typer.echo(f"{report.propagating.fps:.1f} fps with --model-every {every}, depth of the other frames propagated")
    for note in report.notes:
        say(note)
    if report.recommended is not None:
        typer.echo(f"recommended: {report.recommended.options}")


def _figure(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""The commands. Their modules load nothing heavy: ``--help`` must answer at once."""

from __future__ import annotations

from typing import Annotated

import typer

from streamdepth.cli import bench, build, checks, garbage_collector, image, models, run, serve, styles
from streamdepth.version import __version__

app = typer.Typer(
    name="streamdepth",
    help="Turn video into depth, live or offline: any ONNX depth model, any camera or file, in one command.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"streamdepth {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - acts in its own callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[  # noqa: ARG001 - main has taken it off the line
        bool, typer.Option("--debug", help="Show tracebacks; works anywhere on the line.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "run":  # which releases once all is open
        garbage_collector.release()


app.command("run")(run.run)
app.command("image")(image.image)
app.command("serve")(serve.serve)
app.command("styles")(styles.styles)
app.command("cameras")(checks.cameras)
app.command("doctor")(checks.doctor)
app.command("verify")(checks.verify)
app.command("bench")(bench.bench)
app.command("build")(build.build)
app.add_typer(models.app, name="models")

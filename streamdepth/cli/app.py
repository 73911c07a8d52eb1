"""The commands. Their modules load nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamdepth.cli import bench, image, lists, models, process, run, serve
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_FUNCTIONS: Mapping[str, Callable[[Any], None]] = {
    "run": run.run,
    "image": image.image,
    "serve": serve.serve,
    "styles": lists.styles,
    "doctor": lists.doctor,
    "verify": models.verify,
    "bench": bench.bench,
    "build": models.build,
    "models show": models.show,
    "models pull": models.pull,
}


def make_app(words: Collection[str] | None = None) -> typer.Typer:
    """The command line.

    Args:
        words: arguments to come. Commands that are not among them get no options, which halves the time of ``--help``;
            None = all get them.
    """
    app = typer.Typer(
        name="streamdepth",
        help="Turn video into depth, live or offline: any ONNX depth model, any camera or file, in one command.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
    )
    group = typer.Typer(help="List, inspect and download models.", no_args_is_help=True)
    app.callback()(_common)
    for name, function in _FUNCTIONS.items():
        parent, _, verb = name.rpartition(" ")
        needed = words is None or verb in words
        (group if parent else app).command(verb)(
            _with_options(name, function) if needed else _without_options(function)
        )
    app.command("cameras")(lists.cameras)
    group.command("list")(models.list_models)
    app.add_typer(group, name="models")
    return app


def _with_options(name: str, function: Callable[[Any], None]) -> Callable[..., None]:
    from streamdepth.cli.options import entry
    from streamdepth.config.commands import COMMANDS

    return entry(name, COMMANDS[name], function)


def _without_options(function: Callable[[Any], None]) -> Callable[[], None]:
    def listed() -> None:
        """Never called: its name is not among the arguments."""

    listed.__doc__ = function.__doc__
    return listed


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"streamdepth {__version__}")
        raise typer.Exit


def _common(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - acts in its own callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[  # noqa: ARG001 - main has removed it from the arguments
        bool, typer.Option("--debug", help="Show tracebacks; allowed anywhere on the command line.")
    ] = False,
) -> None:
    if context.invoked_subcommand != "run":  # which resumes them once everything is open
        process.resume_collections()

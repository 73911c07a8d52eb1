"""The command line, derived from the declared options. Nothing heavy is loaded, so that ``--help`` answers at once."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamdepth.cli import bench, image, lists, models, process, restyle, run, serve
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from streamdepth.config.options import Declared
    from streamdepth.config.shared import Settings

_FUNCTIONS: Mapping[str, Callable[[Any], None]] = {
    "run": run.run,
    "image": image.image,
    "serve": serve.serve,
    "restyle": restyle.restyle,
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
    from streamdepth.config.commands import COMMANDS

    return entry(name, COMMANDS[name], function)


def _without_options(function: Callable[[Any], None]) -> Callable[[], None]:
    def listed() -> None:
        """Never called: its name is not among the arguments."""

    listed.__doc__ = function.__doc__
    return listed


def entry(command: str, kind: type[Settings], function: Callable[[Any], None]) -> Callable[..., None]:
    """A function for Typer whose parameters are the options declared for a command.

    Args:
        command: as the declarations spell it, with its group: ``run``, ``models show``.
        kind: configuration that declares the options.
        function: called with the validated configuration.
    """

    def run(**given: Any) -> None:
        file = given.get("config")
        function(kind.load(given, Path(file) if file else None, command=command))

    run.__doc__ = function.__doc__
    run.__signature__ = Signature(_parameters(kind, command))  # type: ignore[attr-defined]  # inspect reads it
    return run


def _parameters(kind: type[Settings], command: str) -> list[Parameter]:
    from streamdepth.config.shared import PANELS

    declared = sorted(kind.declared(command), key=lambda one: PANELS.index(one.option.panel))
    return [
        Parameter(
            one.key,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if one.field.is_required() else None,
            annotation=Annotated[_annotation(one), _typer_info(one)],
        )
        for one in declared
        if one.option.cli
    ]


def _annotation(one: Declared) -> Any:
    """Values stay text: they are checked where those of a configuration file are, with the same messages."""
    if one.repeatable:
        return list[str] if one.field.is_required() else list[str] | None
    return bool | None if one.switch else str if one.field.is_required() else str | None


def _typer_info(one: Declared) -> Any:
    details: dict[str, Any] = {
        "help": one.description.replace("[", r"\["),
        "rich_help_panel": one.option.panel or None,
        "show_default": False,
        "autocompletion": _completion(one),
    }
    if one.option.argument:
        return typer.Argument(metavar=one.option.metavar, **details)
    names = [name for name in (one.flag, one.option.short) if name]
    return typer.Option(*names, metavar=None if one.switch else one.metavar, **details)


def _completion(one: Declared) -> Callable[[str], list[str]] | None:
    if not one.choices and one.option.suggest is None:
        return None

    def complete(incomplete: str) -> list[str]:
        values = one.choices or (one.option.suggest() if one.option.suggest is not None else ())
        return [value for value in values if value.startswith(incomplete)]

    return complete


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

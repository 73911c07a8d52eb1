"""Command lines, derived from the declared options."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamdepth.config.shared import PANELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.config.options import Declared
    from streamdepth.config.shared import Settings


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

"""Entry point, and the commands of Typer, derived from the declared options.

One line per error, the exit code, a traceback only with ``--debug``. Nothing heavy is loaded here, so that ``--help``
answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from streamdepth.cli import process, run, serve, tools
from streamdepth.core.errors import StreamDepthError, one_line, redact
from streamdepth.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from streamdepth.config.options import Declared
    from streamdepth.config.settings import Settings

FAILED, INTERRUPTED = 1, 130
_DEBUG = "--debug"
_COMPLETION = "_STREAMDEPTH_COMPLETE"
"""Set by the shell when it asks for completions."""

_FUNCTIONS: Mapping[str, Callable[[Any], None]] = {
    "run": run.run,
    "image": serve.image,
    "serve": serve.serve,
    "restyle": run.restyle,
    "styles": tools.styles,
    "doctor": tools.doctor,
    "verify": tools.verify,
    "bench": tools.bench,
    "build": tools.build,
    "models show": tools.show,
    "models pull": tools.pull,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: run these inside a process that goes on; None = this process's own, which may then be left at once.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    if arguments is not None:
        with process.signals_as_interrupts() as interrupted:
            return _invoke(list(arguments), interrupted)
    process.open_closed_streams()
    process.share_allocations()
    process.hide_warnings()
    process.route_logs()
    process.hold_collections()
    process.escape_unencodable()
    with process.signals_as_interrupts() as interrupted:
        code = _invoke(sys.argv[1:], interrupted)
    process.leave_stuck_threads(code)
    process.skip_final_collection()
    return code


def _invoke(arguments: list[str], interrupted: Callable[[], bool]) -> int:
    debug = _DEBUG in arguments
    if debug:
        arguments.remove(_DEBUG)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # OpenCV prints warnings beside our one line
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a banner; 1: errors only
    try:
        arguments = _with_values(arguments)
        result = make_app(None if _COMPLETION in os.environ else arguments)(
            arguments, prog_name="streamdepth", standalone_mode=False
        )
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, debug)
    except StreamDepthError as error:
        return _fail(str(error), error.exit_code, debug)
    except TyperException as error:
        if not error.format_message():  # no arguments: the help has been printed
            return error.exit_code
        hint = "" if "--help" in error.format_message() else "; see --help"
        return _fail(f"{error.format_message().rstrip('.')}{hint}", error.exit_code, debug)
    except typer.Exit as error:
        result = error.exit_code
    except typer.Abort:
        result = INTERRUPTED
    except BrokenPipeError:
        process.discard_output()
        return FAILED
    except Exception as error:
        if interrupted():  # extension modules raise ImportError for an interrupt while they are loaded
            return _fail("interrupted", INTERRUPTED, debug)
        return _fail(_explain(error), FAILED, debug)
    try:
        process.flush_output()
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        return _fail(_explain(error), FAILED, debug)
    # Typer turns Ctrl-C into this code.
    if result == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED, debug)
    return result if isinstance(result, int) else 0


def _with_values(arguments: list[str]) -> list[str]:
    """The arguments, with its value added to each option that may stand without one (``--show``)."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    if command not in _FUNCTIONS or _COMPLETION in os.environ:
        return arguments
    from streamdepth.config.commands import COMMANDS

    optional = {one.flag: one for one in COMMANDS[command].declared(command) if one.option.alone}
    words, rest = [], list(arguments)
    while rest and rest[0] != "--":
        word = rest.pop(0)
        if (one := optional.get(word)) is not None:
            word = f"{word}={rest.pop(0) if rest and rest[0] in one.choices else one.option.alone}"
        words.append(word)
    return words + rest


def _explain(error: Exception) -> str:
    """One line for an exception that is not ours: what the machine refused, or an internal error."""
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller --size, fewer sources or smaller frames"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return "the system allows no more threads; end other programs or raise the limit (ulimit -u)"
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "no folder for temporary files can be written; set TMPDIR to a writable folder, or mount one at /tmp"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        process.discard_output()
        return f"{error.filename or 'standard output'}: {os.strerror(error.errno).lower()}; free some space"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"{error.filename}: the name is too long for a file; choose a shorter one"
    return f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"


def _fail(message: str, code: int, debug: bool) -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is closed: the exit code remains
        if debug:
            sys.stderr.write(redact(traceback.format_exc()))
        sys.stderr.write(f"streamdepth: {one_line(message)}\n")
    return code


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
    app.command("cameras")(tools.cameras)
    group.command("list")(tools.list_models)
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
    from streamdepth.config.settings import PANELS

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

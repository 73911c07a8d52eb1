"""Entry point: one line per error, the exit code, a traceback only with ``--debug``."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback

import typer
from typer.exceptions import TyperException

from streamdepth.cli import process
from streamdepth.core.errors import StreamDepthError
from streamdepth.core.redact import one_line, redact

FAILED, INTERRUPTED = 1, 130
_DEBUG = "--debug"
_COMPLETION = "_STREAMDEPTH_COMPLETE"
"""Set by the shell when it asks for completions."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: run these inside a process that goes on; None = this process's own, which may then be left at once.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    if arguments is not None:
        with process.signals_as_interrupts():
            return _invoke(list(arguments))
    process.open_closed_streams()
    process.hide_warnings()
    process.hold_collections()
    process.escape_unencodable()
    with process.signals_as_interrupts():
        code = _invoke(sys.argv[1:])
    process.leave_stuck_threads(code)
    process.skip_final_collection()
    return code


def _invoke(arguments: list[str]) -> int:
    debug = _DEBUG in arguments
    if debug:
        arguments.remove(_DEBUG)
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # OpenCV prints warnings beside our one line
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a banner; 1: errors only
    from streamdepth.cli.app import make_app

    try:
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


def _explain(error: Exception) -> str:
    """One line for an exception that is not ours: what the machine refused, or an internal error."""
    if isinstance(error, MemoryError):
        return "out of memory; use a smaller --size, fewer sources or smaller frames"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return "the system allows no more threads; end other programs or raise the limit (ulimit -u)"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        process.discard_output()
        return f"{error.filename or 'standard output'}: {os.strerror(error.errno).lower()}; free some space"
    return f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"


def _fail(message: str, code: int, debug: bool) -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # standard error is closed: the exit code remains
        if debug:
            sys.stderr.write(redact(traceback.format_exc()))
        sys.stderr.write(f"streamdepth: {one_line(message)}\n")
    return code

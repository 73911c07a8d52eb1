"""Entry point: one line per error, the right exit code, never a traceback unless asked for."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from typing import TYPE_CHECKING

import typer
from typer.exceptions import TyperException

from streamdepth.cli import garbage_collector
from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import StreamDepthError
from streamdepth.core.redact import one_line, redact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

FAILED, INTERRUPTED = 1, 130
_DEBUG = "--debug"
_BURST_NS = 500_000_000


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.

    Args:
        arguments: what to run inside a process that goes on; None = this process's own, which may then be left at once.
    """
    if arguments is not None:
        with _signals_as_interrupts():
            return _invoke(list(arguments))
    garbage_collector.hold()
    with _signals_as_interrupts():
        code = _invoke(sys.argv[1:])
    _leave_stuck_threads(code)
    garbage_collector.spare()
    return code


def _invoke(arguments: list[str]) -> int:
    debug = _DEBUG in arguments
    if debug:
        arguments.remove(_DEBUG)
    # OpenCV writes warnings of its own beside our one line; whoever wants them sets the variable.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    from streamdepth.cli.app import app

    try:
        result = app(arguments, prog_name="streamdepth", standalone_mode=False)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, debug)
    except StreamDepthError as error:
        return _fail(str(error), error.exit_code, debug)
    except TyperException as error:
        if not error.format_message():  # no arguments: the help is all there is to say
            return error.exit_code
        hint = "" if "--help" in error.format_message() else "; see --help"
        return _fail(f"{error.format_message().rstrip('.')}{hint}", error.exit_code, debug)
    except typer.Exit as error:
        result = error.exit_code
    except typer.Abort:
        result = INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; let the interpreter's own flush at exit find nothing to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # a bug of ours: still one line
        message = f"internal error: {type(error).__name__}: {error}; run again with --debug and report it"
        return _fail(message, FAILED, debug)
    # Typer turns Ctrl-C into this code before anybody else sees it.
    if result == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED, debug)
    return result if isinstance(result, int) else 0


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        sys.stderr.write(redact(traceback.format_exc()))
    sys.stderr.write(f"streamdepth: {one_line(message)}\n")
    return code


def _leave_stuck_threads(code: int) -> None:
    """Leave without waiting for a thread that was reported stuck: its call may never return."""
    if any(thread.name.startswith("streamdepth-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM interrupt as SIGINT does: outputs are closed playable either way. A burst of them is one.

    ``timeout`` sends its signal to the process and again to its group, and wrappers pass on what the terminal had sent
    to all: where the second came after the first was handled, it aborted what the first had begun to finish. Does
    nothing on other threads than the main one; afterwards whoever called has its own handlers again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    clock = SystemClock()
    begun_ns: int | None = None

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        nonlocal begun_ns
        now_ns = clock.monotonic_ns()
        if begun_ns is not None and now_ns - begun_ns < _BURST_NS:
            return
        begun_ns = now_ns
        raise KeyboardInterrupt

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # started in the background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python

"""Errors: one root class; each error is also the matching builtin exception.

Every message is passed through :func:`streamdepth.core.redact.redact`, so credentials in a URL do not reach a log
through an exception. A message is one line: ``thing: what is wrong; what to do``.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from streamdepth.core.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALIKE = 0.7
"""One wrong letter in a word of four scores 0.75, as does ``.mp5``. Unrelated words that share letters score less
(``nope`` and ``copper``: 0.6)."""


class StreamDepthError(Exception):
    """Root of all errors this library raises.

    Attributes:
        stage: pipeline stage the error came from (``"capture"``, ``"infer"``, ...), empty outside a pipeline.
        source: redacted id of the source being processed, empty if there is none.
        exit_code: exit code of the command line.
    """

    exit_code = 1

    def __init__(self, message: str, *, stage: str = "", source: str = "") -> None:
        super().__init__(redact(message))
        self.stage = stage
        self.source = redact(source)

    @property
    def message(self) -> str:
        """The redacted message without stage and source."""
        return str(self.args[0])

    def __str__(self) -> str:
        where = " of ".join(part for part in (self.stage, self.source) if part and part not in self.message)
        return f"{where}: {self.message}" if where else self.message


class UsageError(StreamDepthError, ValueError):
    """An invalid option, argument or configuration value (exit code 2)."""

    exit_code = 2


class SourceError(StreamDepthError, OSError):
    """A source that cannot be opened or read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A source that does not exist."""


class ModelError(StreamDepthError, ValueError):
    """A model that cannot be loaded, or that is not a depth model."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """A model, revision or dtype that does not exist."""


class ProviderError(StreamDepthError, RuntimeError):
    """An execution provider that was requested by name and cannot run on this machine."""


class InferenceError(StreamDepthError, RuntimeError):
    """The model failed while running."""


class SinkError(StreamDepthError, OSError):
    """An output that cannot be opened or written."""


class OutputExistsError(SinkError, FileExistsError):
    """An output that already exists and may not be overwritten."""


class DisplayError(SinkError):
    """A window that cannot be opened, usually because there is no display."""


class DataFormatError(StreamDepthError, ValueError):
    """An image, tensor or depth file whose content does not match its description."""


class MissingDependencyError(StreamDepthError, ImportError):
    """An optional package that is not installed; the message contains the install command."""


class DeadlineError(StreamDepthError, TimeoutError):
    """An operation that did not finish within its deadline."""


class StageError(StreamDepthError, RuntimeError):
    """An exception from a callback or another library that ended a pipeline; ``__cause__`` is the original."""


class StopPipeline(Exception):  # noqa: N818 - a request, not an error
    """Raised by a sink or a callback to end the run normally, for example when a window is closed."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'X'?"`` for the most similar known word, or an empty string if none is similar."""
    found = difflib.get_close_matches(word, [one for one in known if one != word], n=1, cutoff=_ALIKE)
    return f", did you mean {found[0]!r}?" if found else ""


def install_command(extra: str) -> str:
    """The command that installs an extra. The package is not published, so the command names the source folder."""
    return f"pip install '.[{extra}]' in the source folder of streamdepth"

"""Errors: one root, each kind also the builtin a Python programmer would catch.

Every message goes through :func:`streamdepth.core.redact.redact`, so credentials in a URL cannot reach a log by way
of an exception. A message is one line that names the thing and, after the semicolon, the way out.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from streamdepth.core.redact import redact

if TYPE_CHECKING:
    from collections.abc import Iterable

_ALIKE = 0.7
"""A slip in a word of four letters is 0.75, ``.mp5`` as well; words that only share letters lie below (``nope`` and
``copper``: 0.6)."""


class StreamDepthError(Exception):
    """Root of everything this library raises on purpose.

    Attributes:
        stage: pipeline stage the error came from (``"capture"``, ``"infer"``, ...), empty outside a pipeline.
        source: redacted id of the source being worked on, empty when there is none.
        exit_code: what the command line exits with.
    """

    exit_code = 1

    def __init__(self, message: str, *, stage: str = "", source: str = "") -> None:
        super().__init__(redact(message))
        self.stage = stage
        self.source = redact(source)

    @property
    def message(self) -> str:
        """The message as given, redacted, without stage and source."""
        return str(self.args[0])

    def __str__(self) -> str:
        where = " of ".join(part for part in (self.stage, self.source) if part and part not in self.message)
        return f"{where}: {self.message}" if where else self.message


class UsageError(StreamDepthError, ValueError):
    """An option, argument or configuration value that cannot mean anything (exit code 2)."""

    exit_code = 2


class SourceError(StreamDepthError, OSError):
    """A source that cannot be opened or read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A source that is not there."""


class ModelError(StreamDepthError, ValueError):
    """A model that cannot be loaded, or whose graph or output is not that of a depth model."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """A model, revision or dtype that is not there."""


class ProviderError(StreamDepthError, RuntimeError):
    """An execution provider that was asked for by name and cannot run here."""


class InferenceError(StreamDepthError, RuntimeError):
    """The model failed while running."""


class SinkError(StreamDepthError, OSError):
    """An output that cannot be opened or written."""


class OutputExistsError(SinkError, FileExistsError):
    """An output that is already there and may not be overwritten."""


class DisplayError(SinkError):
    """A window that cannot be shown, usually because there is no display."""


class DataFormatError(StreamDepthError, ValueError):
    """An image, tensor or depth file whose content does not fit its description."""


class MissingDependencyError(StreamDepthError, ImportError):
    """An optional package that is not installed; the message holds the command that installs it."""


class DeadlineError(StreamDepthError, TimeoutError):
    """Something that did not answer or end within its deadline."""


class StageError(StreamDepthError, RuntimeError):
    """An exception of somebody else's (a callback, a library) that ended a pipeline; the original is ``__cause__``."""


class StopPipeline(Exception):  # noqa: N818 - a request, not an error
    """Raised by a sink or a callback to end the run normally, as closing the window does."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'X'?"``, or an empty string where nothing is near."""
    found = difflib.get_close_matches(word, [one for one in known if one != word], n=1, cutoff=_ALIKE)
    return f", did you mean {found[0]!r}?" if found else ""

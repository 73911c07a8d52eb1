"""What the command line said, run within the test's own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """All of standard error, which is one line of ours."""
    text = capsys.readouterr().err
    assert text.startswith("streamdepth: ")
    assert text.count("\n") == 1
    return text

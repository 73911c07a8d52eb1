"""The command line: parses, prints and exits; everything else is the library's."""

from streamdepth.cli.main import main

__all__ = ["main"]

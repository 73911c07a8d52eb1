"""The command line: parses, prints and exits; everything else is the library's."""

import sys

try:
    from streamdepth.cli.main import main
except KeyboardInterrupt:  # Ctrl-C right after the start
    sys.stderr.write("streamdepth: interrupted\n")
    sys.exit(130)

__all__ = ["main"]

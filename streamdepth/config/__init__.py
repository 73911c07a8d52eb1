"""The options of every command, each declared once, as an annotated field.

The fields are the only place that names an option, its type, default, range, help and commands. The command line
(:mod:`streamdepth.cli.main`), the configuration file, the messages about wrong values and the reference in
``configs/README.md`` (``python -m streamdepth.config FILE`` writes it) are derived from them.
"""

from streamdepth.config.commands import RunConfig

__all__ = ["RunConfig"]

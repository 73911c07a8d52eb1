"""``python -m streamdepth.config FILE``: write the option reference between its markers in a Markdown file."""

import sys
from pathlib import Path

from streamdepth.config.commands import BEGIN, END, reference

if len(sys.argv) != 2:
    sys.exit("usage: python -m streamdepth.config configs/README.md")
path = Path(sys.argv[1])
before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
path.write_text(f"{before}{BEGIN}\n{reference()}{END}{rest.partition(END)[2]}", encoding="utf-8")

"""``python -m streamdepth``."""

import sys

from streamdepth.cli import main

sys.exit(main())

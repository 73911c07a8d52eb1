"""Where a model comes from, and what is known of it before it runs; :mod:`~streamdepth.models.resolve` is the door."""

import os

# huggingface_hub reads this at its import, which must follow the import of this package.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

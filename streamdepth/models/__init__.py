"""Where a model comes from, and what is known of it before it runs; :mod:`~streamdepth.models.resolve` is the door."""

"""A window on the desktop."""

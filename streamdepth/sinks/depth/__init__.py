"""Depth as data: writing and reading."""

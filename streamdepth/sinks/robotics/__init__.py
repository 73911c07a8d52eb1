"""Outputs in the formats of robotics and compositing."""

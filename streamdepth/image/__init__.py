"""Depth of single images."""

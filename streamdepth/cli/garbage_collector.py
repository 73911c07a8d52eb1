"""Python's garbage collector in a process of our own, which starts by making 140,000 objects that all stay."""

from __future__ import annotations

import gc


def hold() -> None:
    """No collections until :func:`release`: those among the imports of a run take 0.2 s and find nothing."""
    gc.disable()


def release() -> None:
    """What is there stays out of all later collections. Does nothing where they were not held."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def spare() -> None:
    """Leave all there is to the operating system, for a process about to end: the interpreter would look through it
    once more, for 0.3 s."""
    gc.freeze()

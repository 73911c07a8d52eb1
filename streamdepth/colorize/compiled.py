"""How kernels are compiled: once per machine, without the global interpreter lock."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F")


def kernel(function: F, *, fastmath: bool = False) -> F:
    """Compile for the argument types of the first call and keep the machine code on disk.

    It is kept beside the source, or where that cannot be written (an installed package) in the user's cache folder;
    ``NUMBA_CACHE_DIR`` overrides both. Where no folder can be written at all, numba would refuse to start; the kernel
    is then compiled anew in every process instead.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return cast("F", njit(cache=True, **options)(function))
    except RuntimeError:
        return cast("F", njit(**options)(function))

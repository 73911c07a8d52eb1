"""How kernels are compiled: once per machine, without the global interpreter lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable


def kernel(function: Callable[..., Any], *, fastmath: bool = False, inline: bool = False) -> Callable[..., Any]:
    """Compile for the argument types of the first call and keep the machine code on disk.

    It is kept beside the source, or where that cannot be written (an installed package) in the user's cache folder;
    ``NUMBA_CACHE_DIR`` overrides both. Where no folder can be written at all, numba would refuse to start; the kernel
    is then compiled anew in every process instead.

    ``inline`` puts the function into its callers: an array is seven machine arguments, so a call for each row costs
    more than some of the work in it (0.3 us of 1 us a row of 640).
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "forceinline": inline}
    try:
        return cast("Callable[..., Any]", njit(cache=True, **options)(function))
    except RuntimeError:
        return cast("Callable[..., Any]", njit(**options)(function))


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of a kernel's loop over rows, inlined into it."""
    return kernel(function, inline=True)

"""Compiles numba kernels: cached on disk, without the global interpreter lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from numba import config, njit

from streamdepth.core.host import cache_root, has_home

if TYPE_CHECKING:
    from collections.abc import Callable


def kernel(function: Callable[..., Any], *, fastmath: bool = False, inline: bool = False) -> Callable[..., Any]:
    """Compile on the first call for its argument types, and cache the machine code on disk.

    The cache is next to the source file, or in the cache folder of the user if that is not writable (an installed
    package); ``NUMBA_CACHE_DIR`` overrides both. If no folder is writable, the kernel is compiled in every process.

    ``inline`` inlines the function into its callers. An array takes seven machine arguments, so a call per row costs
    0.3 us of the 1 us for a row of 640.
    """
    settings: Any = config  # its attributes are made at run time
    if not has_home() and not settings.CACHE_DIR:  # numba would create a folder named "~" in the current one
        settings.CACHE_DIR = str(cache_root() / "numba")
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "forceinline": inline}
    try:
        return cast("Callable[..., Any]", njit(cache=True, **options)(function))
    except RuntimeError:
        return cast("Callable[..., Any]", njit(**options)(function))


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of a kernel, inlined into the loop over rows."""
    return kernel(function, inline=True)

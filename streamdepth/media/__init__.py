"""Frames and images as memory: pixel formats, planes, colour conversion, orientation, codecs; and compiled kernels."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

from streamdepth.core.host import cache_root, has_home

if TYPE_CHECKING:
    from collections.abc import Callable


def kernel(function: Callable[..., Any], *, fastmath: bool = False, inline: bool = False) -> Callable[..., Any]:
    """Compile with numba on the first call for its argument types; releases the interpreter lock, cached on disk.

    The cache is next to the source file, or in the cache folder of the user if that is not writable (an installed
    package); ``NUMBA_CACHE_DIR`` overrides both. If neither is writable, it is in streamdepth's cache folder. If no
    folder is writable, the kernel is compiled in every process.

    ``inline`` inlines the function into its callers. An array takes seven machine arguments, so a call per row costs
    0.3 us of the 1 us for a row of 640.
    """
    from numba import config, njit

    settings: Any = config  # its attributes are made at run time
    own = str(cache_root() / "numba")
    if not has_home():  # numba would create a folder named "~" in the current one
        settings.CACHE_DIR = settings.CACHE_DIR or own
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath, "forceinline": inline}
    for folder in (settings.CACHE_DIR, settings.CACHE_DIR or own):
        settings.CACHE_DIR = folder
        with contextlib.suppress(RuntimeError):  # the folder cannot be written
            return cast("Callable[..., Any]", njit(cache=True, **options)(function))
    return cast("Callable[..., Any]", njit(**options)(function))


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of a kernel, inlined into the loop over rows."""
    return kernel(function, inline=True)

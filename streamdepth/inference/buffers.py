"""Buffers in rotation: lent out, and back by themselves once nobody refers to them."""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.inference.pinned import PAGE_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.inference.pinned import PageLock

_ALIGNMENT = 64
# Spare buffers kept beyond those in use: a run holds a handful, and a burst of kept maps must not stay allocated.
_SPARE = 16


class BufferPool:
    """Lends byte buffers of one size. Thread-safe and free of locks, so that a buffer may come back from anywhere.

    A lent buffer is wrapped in a fresh ctypes array. NumPy views of it, however derived, keep that array alive (NumPy
    collapses chains of bases only as far as the array made from the buffer), and its finaliser returns the memory. So
    an array somebody keeps is never overwritten, and one nobody keeps costs no allocation.

    Args:
        lock: locks the pages of each buffer for a GPU; None = ordinary memory.
    """

    def __init__(self, size_bytes: int, lock: PageLock | None = None) -> None:
        self._size_bytes = size_bytes
        self._lock = lock
        self._wrapper = ctypes.c_uint8 * size_bytes
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=_SPARE)
        self._made = 0

    @property
    def made(self) -> int:
        """Buffers allocated so far: constant in a steady state."""
        return self._made

    def lend(self) -> NDArray[np.uint8]:
        """uint8 [size_bytes], aligned to 64 bytes at least, of undefined content."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = aligned(self._size_bytes, whole_pages=self._lock is not None)
            if self._lock is not None:
                self._lock.lock(memory)
            self._made += 1
        lease = self._wrapper.from_buffer(memory.data)
        weakref.finalize(lease, self._free.append, memory).atexit = False
        lent: NDArray[np.uint8] = np.frombuffer(memoryview(lease), dtype=np.uint8)
        return lent


def aligned(size_bytes: int, *, whole_pages: bool = False) -> NDArray[np.uint8]:
    """uint8 [size_bytes] of zeros, aligned to 64 bytes; with ``whole_pages`` to pages, and as long as they are."""
    unit = PAGE_BYTES if whole_pages else _ALIGNMENT
    size = -(-size_bytes // unit) * unit if whole_pages else size_bytes
    raw = np.zeros(size + unit, dtype=np.uint8)
    start = -raw.ctypes.data % unit
    return raw[start : start + size]

"""Host memory that a GPU's copy engine reads and writes by itself.

A copy from or to ordinary memory goes through a small page-locked buffer of the driver's. ONNX Runtime 1.31 has such
memory inside (its allocator ``CudaPinned``), but no name for it in Python: ``OrtValue`` refuses ``cuda_pinned``, and
``HOST_ACCESSIBLE`` memory belongs to providers that register as plugins. So buffers that are there are locked in
place, with the driver's own ``cuMemHostRegister``; where that fails they stay what they were, and copies slower.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from typing import TYPE_CHECKING, Any

from streamdepth.inference import nvidia

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_BYTES = mmap.PAGESIZE
_PORTABLE = 0x01
"""CU_MEMHOSTREGISTER_PORTABLE: locked for every context of the process, ONNX Runtime's included."""


class PageLock:
    """Locks memory for one GPU. Thread-safe; loads only the driver.

    Args:
        driver: NVIDIA's driver library, None = the system's.
    """

    def __init__(self, device: int = 0, driver: Any = None) -> None:
        self._driver = driver if driver is not None else nvidia.driver()
        self._context = ctypes.c_void_p()
        handle = ctypes.c_int()
        # the primary context is the one the CUDA runtime, and with it ONNX Runtime, works in
        self._ready = (
            self._driver is not None
            and self._driver.cuInit(0) == 0
            and self._driver.cuDeviceGet(ctypes.byref(handle), ctypes.c_int(device)) == 0
            and self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), handle) == 0
        )

    def lock(self, memory: NDArray[np.uint8]) -> bool:
        """Lock ``memory`` until it is freed; False where the driver would not.

        Args:
            memory: whole pages: two locks on one page are refused.
        """
        address = memory.ctypes.data
        if not self._ready or self._in_context("cuMemHostRegister_v2", address, memory.nbytes) != 0:
            return False
        # the array that owns the memory: NumPy's views of views refer to it and not to each other
        owner = memory if memory.base is None else memory.base
        weakref.finalize(owner, self._in_context, "cuMemHostUnregister", address).atexit = False
        return True

    def _in_context(self, call: str, address: int, size_bytes: int | None = None) -> int:
        """Status of a driver call, 0 = done, made with the GPU's primary context on this thread."""
        if self._driver.cuCtxPushCurrent_v2(self._context) != 0:
            return -1
        try:
            further = () if size_bytes is None else (ctypes.c_size_t(size_bytes), ctypes.c_uint(_PORTABLE))
            return int(getattr(self._driver, call)(ctypes.c_void_p(address), *further))
        finally:
            self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

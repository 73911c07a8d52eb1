"""ONNX Runtime's boundary with things a machine without a GPU lacks: memory of a device's own, NVIDIA's driver."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np


class CopyingBinding:
    """A binding that copies host inputs when they are bound, as ONNX Runtime does for every provider but the CPU's."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        self._copies: dict[str, Any] = {}

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: list[int], address: int) -> None:
        size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        copy = np.frombuffer(ctypes.string_at(address, size_bytes), np.uint8).copy()
        self._copies[name] = copy
        self._binding.bind_input(name, device, number, dtype, shape, copy.ctypes.data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding, name)


class CopyingSession:
    """A session on a device that is not the CPU, made of one that is. Counts its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs = 0

    def io_binding(self) -> CopyingBinding:
        return CopyingBinding(self._session.io_binding())

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.runs += 1
        self._session.run_with_iobinding(getattr(binding, "_binding", binding), options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class FakeDriver:
    """NVIDIA's driver as far as memory is locked: keeps what is locked, refuses pages that are already."""

    def __init__(self, *, fails: str = "") -> None:
        self.locked: dict[int, int] = {}
        self.depth = 0
        self._fails = fails

    def _status(self, call: str) -> int:
        return 1 if call == self._fails else 0

    def cuInit(self, _: int) -> int:  # noqa: N802 - the driver's names
        return self._status("cuInit")

    def cuDeviceGet(self, *_: Any) -> int:  # noqa: N802
        return 0

    def cuDevicePrimaryCtxRetain(self, *_: Any) -> int:  # noqa: N802
        return self._status("cuDevicePrimaryCtxRetain")

    def cuCtxPushCurrent_v2(self, _: Any) -> int:  # noqa: N802
        self.depth += 1
        return 0

    def cuCtxPopCurrent_v2(self, _: Any) -> int:  # noqa: N802
        self.depth -= 1
        return 0

    def cuMemHostRegister_v2(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        assert (self.depth, flags.value) == (1, 1)
        pages = {address.value + offset for offset in range(0, size.value, 4096)}
        if pages & {start + offset for start, length in self.locked.items() for offset in range(0, length, 4096)}:
            return 712  # CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED
        self.locked[address.value] = size.value
        return self._status("cuMemHostRegister_v2")

    def cuMemHostUnregister(self, address: Any) -> int:  # noqa: N802
        assert self.depth == 1
        del self.locked[address.value]
        return 0

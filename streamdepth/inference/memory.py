"""Memory of a run: host buffers in rotation, page-locked where a GPU copies from them, and bindings on a device.

A CUDA graph needs inputs and outputs at fixed addresses on the device, hence the bindings in rotation.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.inference import nvidia

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_ALIGNMENT = 64
# Spare buffers kept beyond those in use. A run holds a few; after a burst the others are freed.
_SPARE = 16


class BufferPool:
    """Lends byte buffers of one size. Thread-safe without locks, because a finaliser may run on any thread at any time.

    A lent buffer is wrapped in a fresh ctypes array. NumPy views of it, however derived, keep that array alive (NumPy
    collapses chains of bases only as far as the array made from the buffer), and its finaliser returns the memory. An
    array with references is never overwritten, and a buffer without references is reused.

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
        """uint8 [size_bytes], aligned to 64 bytes at least, contents undefined."""
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
    """uint8 [size_bytes] of zeros, aligned to 64 bytes; ``whole_pages`` aligns to pages and rounds the size up."""
    unit = PAGE_BYTES if whole_pages else _ALIGNMENT
    size = -(-size_bytes // unit) * unit if whole_pages else size_bytes
    raw = np.zeros(size + unit, dtype=np.uint8)
    start = -raw.ctypes.data % unit
    return raw[start : start + size]


PAGE_BYTES = mmap.PAGESIZE
_PORTABLE = 0x01
"""CU_MEMHOSTREGISTER_PORTABLE: locked for every context of the process, which includes ONNX Runtime's."""


class PageLock:
    """Locks pages of host memory, so that a GPU's copy engine reads and writes them directly. Thread-safe.

    A copy from or to ordinary memory goes through a small page-locked buffer of the driver. ONNX Runtime 1.31 has
    page-locked memory (allocator ``CudaPinned``) without a name in Python: ``OrtValue`` refuses ``cuda_pinned``, and
    ``HOST_ACCESSIBLE`` memory belongs to providers that register as plugins. So existing buffers are locked in place
    with ``cuMemHostRegister`` of the driver. Where that fails, copies are slower.

    Args:
        driver: NVIDIA's driver library, None = load the system's.
    """

    def __init__(self, *, driver: Any = None) -> None:
        self._driver = driver if driver is not None else nvidia.driver()
        self._context = ctypes.c_void_p()
        handle = ctypes.c_int()
        # the CUDA runtime, and with it ONNX Runtime, uses the primary context
        self._ready = (
            self._driver is not None
            and self._driver.cuInit(0) == 0
            and self._driver.cuDeviceGet(ctypes.byref(handle), ctypes.c_int(0)) == 0
            and self._driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), handle) == 0
        )

    def lock(self, memory: NDArray[np.uint8]) -> bool:
        """Lock ``memory`` until it is freed; False if the driver refuses.

        Args:
            memory: whole pages: two locks on one page are refused.
        """
        address = memory.ctypes.data
        if not self._ready or self._in_context("cuMemHostRegister_v2", address, memory.nbytes) != 0:
            return False
        # NumPy's views of views refer to the array that owns the memory, not to each other
        owner = memory if memory.base is None else memory.base
        weakref.finalize(owner, self._in_context, "cuMemHostUnregister", address).atexit = False
        return True

    def _in_context(self, call: str, address: int, size_bytes: int | None = None) -> int:
        """Status of a driver call in the GPU's primary context on this thread, 0 = success."""
        if self._driver.cuCtxPushCurrent_v2(self._context) != 0:
            return -1
        try:
            further = () if size_bytes is None else (ctypes.c_size_t(size_bytes), ctypes.c_uint(_PORTABLE))
            return int(getattr(self._driver, call)(ctypes.c_void_p(address), *further))
        finally:
            self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


GRAPH_ID = "gpu_graph_id"
"""Run entry that names the recorded graph of a run: each set of addresses has its own graph."""
NO_GRAPH = (GRAPH_ID, "-1")
"""Run entry of a run that is not recorded."""


class DeviceBinding:
    """Memory on a device for one shape, bound once, and host memory for the results. One thread at a time.

    Args:
        session: an ONNX Runtime session on the device.
        name, like: the image input and a host array of its shape and dtype.
        fed: further inputs, uploaded once.
        outputs: name -> shape and dtype.
        device: ONNX Runtime's name of the device, ``cuda``.
        options: run options; they name the CUDA graph of these addresses.
        lock: locks the pages of the host memory; None = ordinary memory.
    """

    def __init__(
        self,
        session: Any,
        name: str,
        like: NDArray[Any],
        fed: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]],
        device: str,
        *,
        options: Any,
        lock: PageLock | None = None,
    ) -> None:
        import onnxruntime as ort

        self._session = session
        self._options = options
        self._input = ort.OrtValue.ortvalue_from_shape_and_type(list(like.shape), like.dtype.type, device, 0)
        self._fed = {key: ort.OrtValue.ortvalue_from_numpy(value, device, 0) for key, value in fed.items()}
        self._outputs: list[Any] = []
        self._host: list[NDArray[Any]] = []
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._input)
        for key, value in self._fed.items():
            self._binding.bind_ortvalue_input(key, value)
        for key, (shape, dtype) in outputs.items():
            output = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, device, 0)
            self._binding.bind_ortvalue_output(key, output)
            self._outputs.append(output)
            memory = aligned(int(np.prod(shape)) * dtype.itemsize, whole_pages=lock is not None)
            if lock is not None:
                lock.lock(memory)
            self._host.append(memory[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape))
        self._host_values = [ort.OrtValue.ortvalue_from_numpy(host) for host in self._host]
        self._copies_in_place = self._can_copy_in_place()

    def _can_copy_in_place(self) -> bool:
        """Whether this ONNX Runtime copies device memory into given host memory: 1.31 does, 1.23 does not."""
        try:
            self._host_values[0].update_inplace(self._outputs[0])
        except Exception:  # the class depends on the version; OrtValue.numpy() always works
            return False
        return True

    def upload(self, images: NDArray[Any]) -> None:
        """Copy a host array of the input's shape to the device."""
        self._input.update_inplace(images)

    def run(self) -> None:
        """Run the model on the uploaded images."""
        self._session.run_with_iobinding(self._binding, self._options)

    def download(self) -> list[NDArray[Any]]:
        """The outputs in host memory, in the order of ``outputs``; overwritten by the next download."""
        for host, value, output in zip(self._host, self._host_values, self._outputs, strict=True):
            if self._copies_in_place:
                value.update_inplace(output)
            else:
                np.copyto(host, output.numpy())
        return self._host


class DeviceRing:
    """Bindings of one shape in rotation, so that copies of one run overlap the computation of another. Thread-safe.

    There are as many as runs at once, each made on first use.
    """

    def __init__(self, make: Callable[[], DeviceBinding]) -> None:
        self._make = make
        self._free: deque[DeviceBinding] = deque()

    @contextmanager
    def lend(self) -> Iterator[DeviceBinding]:
        """A binding for exclusive use in the block; one whose run failed is not used again."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = self._make()
        yield binding
        self._free.append(binding)


class ModelState:
    """The state of a model for one source: what one run writes, the next run reads.

    Two sets of buffers change places after each run, so nothing is copied. One thread at a time.

    Args:
        tensors: for each state: name of the input, name of the output, shape and dtype.
        device: ONNX Runtime's name of the device that holds it; empty = host memory.
    """

    def __init__(self, tensors: Sequence[tuple[str, str, tuple[int, ...], np.dtype[Any]]], device: str = "") -> None:
        self._names = [(name, output) for name, output, _, _ in tensors]
        self._zeros = [np.zeros(shape, dtype) for _, _, shape, dtype in tensors]
        self._device = device
        self._read, self._written = self._made(), self._made()

    def restart(self) -> None:
        """Set the state to zero: the next frame has no history."""
        for value, zeros in zip(self._read, self._zeros, strict=True):
            if self._device:
                value.update_inplace(zeros)
            else:
                value[...] = 0

    def bind(self, binding: Any) -> None:
        """Bind the inputs and outputs of the state for the next run, after all other outputs."""
        for (name, output), read, written in zip(self._names, self._read, self._written, strict=True):
            if self._device:
                binding.bind_ortvalue_input(name, read)
                binding.bind_ortvalue_output(output, written)
                continue
            shape = list(read.shape)
            binding.bind_input(name, "cpu", 0, read.dtype.type, shape, read.ctypes.data)
            binding.bind_output(output, "cpu", 0, written.dtype.type, shape, written.ctypes.data)

    def advance(self) -> None:
        """After a run: the next one reads what it wrote."""
        self._read, self._written = self._written, self._read

    def _made(self) -> list[Any]:
        if not self._device:
            return [aligned(one.nbytes).view(one.dtype).reshape(one.shape) for one in self._zeros]
        import onnxruntime as ort

        made = []
        for zeros in self._zeros:
            made.append(ort.OrtValue.ortvalue_from_shape_and_type(list(zeros.shape), zeros.dtype.type, self._device, 0))
            made[-1].update_inplace(zeros)
        return made

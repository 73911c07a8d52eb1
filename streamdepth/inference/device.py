"""Runs whose inputs and outputs stay at fixed addresses on a device, as CUDA graphs need them; several in rotation."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.inference.buffers import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from streamdepth.inference.pinned import PageLock

GRAPH_ID = "gpu_graph_id"
"""Run configuration entry that names the recorded graph of a run: each set of addresses has a graph of its own."""
NO_GRAPH = (GRAPH_ID, "-1")
"""Keeps a run out of any graph."""


class DeviceBinding:
    """Memory on a device for one shape, bound once, and host memory that results land in. One thread at a time.

    Args:
        session: an ONNX Runtime session on the device.
        name, like: the image input and a host array of its shape and dtype.
        fed: further inputs, uploaded once.
        outputs: name -> shape and dtype.
        device: ONNX Runtime's name of it, ``cuda``.
        options: of every run; they name the CUDA graph that belongs to these addresses.
        lock: locks the landing's pages; None = ordinary memory.
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
        self._landings: list[NDArray[Any]] = []
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
            self._landings.append(memory[: int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape))
        self._landing_values = [ort.OrtValue.ortvalue_from_numpy(landing) for landing in self._landings]
        self._lands = self._can_land()

    def _can_land(self) -> bool:
        """Whether this ONNX Runtime copies a device's memory into given host memory: 1.31 does, 1.23 does not."""
        try:
            self._landing_values[0].update_inplace(self._outputs[0])
        except Exception:  # which one depends on the version; the other way down always works
            return False
        return True

    def upload(self, images: NDArray[Any]) -> None:
        """Bring a host array of the input's shape to the device."""
        self._input.update_inplace(images)

    def run(self) -> None:
        """Compute on the device what was uploaded."""
        self._session.run_with_iobinding(self._binding, self._options)

    def download(self) -> list[NDArray[Any]]:
        """The outputs in host memory, in the order they were given; overwritten by the next download."""
        for landing, value, output in zip(self._landings, self._landing_values, self._outputs, strict=True):
            if self._lands:
                value.update_inplace(output)
            else:
                np.copyto(landing, output.numpy())
        return self._landings


class DeviceRing:
    """Bindings of one shape in rotation, so that one run's copies overlap another's work. Thread-safe.

    There are as many as runs at once, made when first needed.
    """

    def __init__(self, make: Callable[[], DeviceBinding]) -> None:
        self._make = make
        self._free: deque[DeviceBinding] = deque()

    @contextmanager
    def lent(self) -> Iterator[DeviceBinding]:
        """A binding nobody else uses for as long as the block runs; one whose run failed is not used again."""
        try:
            binding = self._free.pop()
        except IndexError:
            binding = self._make()
        yield binding
        self._free.append(binding)

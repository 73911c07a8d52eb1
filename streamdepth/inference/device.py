"""A run whose input and output stay at fixed addresses on a device, as a CUDA graph needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NO_GRAPH = ("gpu_graph_id", "-1")
"""Run configuration entry that keeps a run out of the recorded graph."""


class DeviceBinding:
    """Memory on a device for one shape, bound once. Owned by the thread that runs the session.

    Args:
        session: an ONNX Runtime session on the device.
        name, like: the picture input and a host array of its shape and dtype.
        fed: further inputs, uploaded once.
        output, shape, dtype: the depth output.
        device: ONNX Runtime's name of it, ``cuda``.
    """

    def __init__(
        self,
        session: Any,
        name: str,
        like: NDArray[Any],
        fed: Mapping[str, NDArray[Any]],
        output: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: str,
    ) -> None:
        import onnxruntime as ort

        self._session = session
        self._input = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(like), device, 0)
        self._output = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, device, 0)
        self._fed = {key: ort.OrtValue.ortvalue_from_numpy(value, device, 0) for key, value in fed.items()}
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, self._input)
        for key, value in self._fed.items():
            self._binding.bind_ortvalue_input(key, value)
        self._binding.bind_ortvalue_output(output, self._output)

    def run(self, pictures: NDArray[Any], into: NDArray[Any], options: Any) -> None:
        """Upload ``pictures``, run, and download depth into ``into``, a host array of the output's size."""
        self._input.update_inplace(pictures)
        self._session.run_with_iobinding(self._binding, options)
        np.copyto(into.reshape(-1), self._output.numpy().reshape(-1), casting="unsafe")

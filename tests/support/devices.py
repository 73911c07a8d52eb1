"""ONNX Runtime's boundary with things a machine without a GPU lacks: memory of a device's own, NVIDIA's driver."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from streamdepth.inference import ort as ort_words
from streamdepth.inference import providers, sessions

if TYPE_CHECKING:
    import pytest


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


class Sessions:
    """Stands for ``onnxruntime.InferenceSession``: the CPU's, under the name of the provider asked for.

    Keeps the options each was asked for; sessions of the CPU's own are real.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, refuses_graphs: bool = False, left: int = 0) -> None:
        self.asked: list[dict[str, str]] = []
        real = ort.InferenceSession

        def make(model: Any, sess_options: Any, providers: list[Any] | None = None) -> Any:
            cpu = real(model, sess_options=sess_options, providers=["CPUExecutionProvider"])
            if not providers or isinstance(providers[0], str):
                return cpu
            name, options = providers[0]
            self.asked.append(options)
            if refuses_graphs and "1" in (options.get("enable_cuda_graph"), options.get("trt_cuda_graph_enable")):
                raise RuntimeError("This session cannot use the graph capture feature: control flow\nmore")
            return Named(cpu, name)

        monkeypatch.setattr(ort, "InferenceSession", make)
        monkeypatch.setattr(providers, "why_not", lambda _: "")
        given = ort_words.split_nodes([("it", "Conv")] * 3 + [("other", "Shape")] * left, "it")
        monkeypatch.setattr(sessions, "assignment_of", lambda *_: given)


class Named(SimpleNamespace):
    """A session of the CPU's that says it runs on another provider."""

    def __init__(self, session: Any, provider: str) -> None:
        super().__init__(session=session, get_providers=lambda: [provider])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

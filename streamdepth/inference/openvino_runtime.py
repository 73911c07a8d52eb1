"""OpenVINO's own runtime with the interface of an ONNX Runtime session.

ONNX Runtime's plugin for OpenVINO supports Intel hardware only. The runtime itself runs on any x86-64 or Arm processor
and uses its instructions, bf16 on AMD since Zen 4. CPU time of a run on one core of an AMD EPYC (Zen 5) with OpenVINO
and with ONNX Runtime's CPU provider: Depth Anything V2 small at 252x252 60 and 145 ms, at 518x518 321 and 673, the
built-in model 4.8 and 8.7, FastDepth 3.0 and 6.0.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from streamdepth.core.errors import InferenceError
from streamdepth.core.host import processor, prune, writable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

T = TypeVar("T")

PACKAGE = "openvino"
_SHAPES_KEPT = 8
_WAKE_MS = 50
"""Interval at which a run checks for an interruption."""
_CACHE_BYTES = 256 << 20
"""A compiled model is about as large as the model, one for each size, and OpenVINO never deletes them."""
_ORT_TYPES = {"f16": "tensor(float16)", "f32": "tensor(float)", "f64": "tensor(double)", "u8": "tensor(uint8)"}


def installed() -> bool:
    """Whether the package is installed. Imports nothing."""
    return importlib.util.find_spec(PACKAGE) is not None


def _package() -> Any:
    """The package without its telemetry, which also fails for a user without a home folder."""
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # importing it then fails, and the package uses its stub
    return importlib.import_module(PACKAGE)


def cpu_options(threads: int, streams: int) -> dict[str, int | bool | str]:
    """Configuration of OpenVINO on the CPU for this number of concurrent runs, with this number of threads each."""
    # decoder and encoder share the cores, so no thread is bound to one
    shared = {"INFERENCE_NUM_THREADS": threads * streams, "NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
    return shared | ({"INFERENCE_PRECISION_HINT": "f32"} if _slow_in_bf16() else {})


def _slow_in_bf16() -> bool:
    """Whether OpenVINO would compute in bf16 or fp16 although float32 is faster here.

    OpenVINO takes the narrower type wherever the processor has instructions for it. They are faster on AMD (Zen 4 and
    later) and with AMX. With Intel's AVX-512 alone, as in virtual machines that hide AMX, they are slower: a run of
    Depth Anything V2 small at 252x252 takes 150 ms in bf16 and 106 in float32, of the built-in model 12.1 and 8.2, of
    FastDepth 7.6 and 5.4 (Emerald Rapids, 2 cores).
    """
    name, features = processor()
    return "avx512bf16" in features and "amx-bf16" not in features and not name.startswith("znver")


def on_brief_thread(call: Callable[[], T]) -> T:
    """Call a function on a thread that ends with it.

    OpenVINO's CPU plugin gives the thread that loads it an alternate stack for signals, and frees that memory when it
    is unloaded, on whatever thread. It restores the previous stack only if the plugins of a thread are unloaded on this
    thread in reverse order. Otherwise the next signal, such as Ctrl-C, ends the process with a segmentation fault.
    """
    with ThreadPoolExecutor(1, "streamdepth-load") as executor:
        return executor.submit(call).result()


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as ONNX Runtime describes it; dynamic dimensions are None."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class RuntimeSession:
    """Runs a model with OpenVINO on the CPU; has the part of ``onnxruntime.InferenceSession`` that an engine uses.

    A model is compiled for each new shape of its inputs (0.4 s for the built-in one), which runs faster than one
    compiled for all shapes; the results are stored in ``cache``. Runs may overlap, each with its own binding.
    Thread-safe, except for concurrent use of one binding.

    Args:
        threads: threads of one run.
        streams: concurrent runs.
        cache: folder for compiled models, created if necessary; None, or one that cannot be written, stores none.
    Raises:
        RuntimeError: OpenVINO cannot read the model.
    """

    def __init__(self, path: Path, *, threads: int, streams: int, cache: Path | None = None) -> None:
        self._openvino = openvino = _package()
        self._core = openvino.Core()
        on_brief_thread(lambda: self._core.get_versions("CPU"))  # loads the CPU plugin
        self._path = path
        self._config: dict[str, Any] = {**cpu_options(threads, streams)}
        if cache is not None and writable(cache):
            prune(cache, _CACHE_BYTES)
            self._config["CACHE_DIR"] = str(cache)
        self._model: Any
        with _short_errors():
            self._model = self._core.read_model(path)
        self._inputs = tuple(_port(one) for one in self._model.inputs)
        self._outputs = tuple(_port(one) for one in self._model.outputs)
        self._compiled: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        self._compiling = threading.Lock()

    def get_inputs(self) -> Sequence[Port]:
        return self._inputs

    def get_outputs(self) -> Sequence[Port]:
        return self._outputs

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        """Run the model on the inputs of a binding.

        Args:
            options: ``onnxruntime.RunOptions``; its ``terminate`` ends the run.
        Raises:
            InferenceError: the run was interrupted.
            RuntimeError: OpenVINO cannot run the model on these shapes.
        """
        binding.run(options)

    def run(self, names: Sequence[str] | None, fed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs by name, None = all, in new memory."""
        binding = self.io_binding()
        for name, array in fed.items():
            whole = np.ascontiguousarray(array)
            binding.bind_input(name, "cpu", 0, whole.dtype.type, whole.shape, whole.ctypes.data, keep=whole)
        for name in names or [output.name for output in self._outputs]:
            binding.bind_output(name, "cpu")
        binding.run(None)
        return [value.numpy() for value in binding.get_outputs()]

    def request(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        """A new request for inputs of these shapes (``openvino.InferRequest``)."""
        key = tuple(shapes[one.name] for one in self._inputs)
        with self._compiling:
            compiled = self._compiled.get(key)
            if compiled is None:
                with _short_errors():
                    # the model read first serves the first shape, often the only one; others read it again
                    model, self._model = self._model, None
                    if model is None:
                        model = self._core.read_model(self._path)
                    model.reshape({one.name: list(shapes[one.name]) for one in self._inputs})
                    compiled = self._core.compile_model(model, "CPU", self._config)
                self._compiled[key] = compiled
                while len(self._compiled) > _SHAPES_KEPT:
                    self._compiled.popitem(last=False)
            else:
                self._compiled.move_to_end(key)
        return compiled.create_infer_request()

    def tensor(self, array: NDArray[Any]) -> Any:
        """An ``openvino.Tensor`` over the memory of an array."""
        return self._openvino.Tensor(array, shared_memory=True)


@dataclass(frozen=True, slots=True)
class Value:
    """An output with the interface of ``onnxruntime.OrtValue``."""

    array: NDArray[Any]

    def shape(self) -> list[int]:
        return list(self.array.shape)

    def numpy(self) -> NDArray[Any]:
        return self.array


class Binding:
    """Inputs and outputs of one run at the caller's addresses, as ``onnxruntime.IOBinding``.

    The memory must live as long as it is bound. One thread at a time.
    """

    def __init__(self, session: RuntimeSession) -> None:
        self._session = session
        self._inputs: dict[str, NDArray[Any]] = {}
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._outputs: dict[str, NDArray[Any] | None] = {}
        self._request: Any = None

    def bind_input(
        self, name: str, _device: str, _number: int, dtype: Any, shape: Sequence[int], address: int, keep: Any = None
    ) -> None:
        """
        Args:
            keep: an object that owns the memory, referenced while it is bound.
        """
        place, known = (address, tuple(shape)), self._places.get(name)
        if place == known:
            return  # every run reads from there; nothing is copied on binding
        self._places[name] = place
        self._inputs[name] = array = _at(address, dtype, shape) if keep is None else keep
        if known is None or known[1] != place[1]:
            self._request = None
        elif self._request is not None:
            self._request.set_tensor(name, self._session.tensor(array))

    def bind_output(
        self,
        name: str,
        _device: str = "cpu",
        _number: int = 0,
        dtype: Any = None,
        shape: Sequence[int] = (),
        address: int = 0,
    ) -> None:
        """Bind an output; without ``address`` it is copied from the request's memory."""
        array = _at(address, dtype, shape) if address else None
        self._outputs[name] = array
        if self._request is not None and array is not None:
            self._request.set_tensor(name, self._session.tensor(array))

    def run(self, options: Any) -> None:
        if self._request is None:
            self._request = self._session.request({name: array.shape for name, array in self._inputs.items()})
            bound = self._inputs | {name: array for name, array in self._outputs.items() if array is not None}
            for name, array in bound.items():
                self._request.set_tensor(name, self._session.tensor(array))
        request = self._request
        with _short_errors():
            request.start_async()
            while not (done := request.wait_for(_WAKE_MS)) and not (options is not None and options.terminate):
                pass
        if not done:
            request.cancel()
            self._request = None
            raise InferenceError("the run was interrupted")

    def get_outputs(self) -> list[Value]:
        found = []
        for name, array in self._outputs.items():
            found.append(Value(self._request.get_tensor(name).data.copy() if array is None else array))
        return found


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
    """OpenVINO's exceptions without source locations and failed conditions."""
    try:
        yield
    except RuntimeError as exc:
        lines = [line for line in str(exc).splitlines() if line and not line.startswith(("Exception from", "Check '"))]
        raise RuntimeError(" ".join(lines)) from exc


def _at(address: int, dtype: Any, shape: Sequence[int]) -> NDArray[Any]:
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * size_bytes).from_address(address)
    array: NDArray[Any] = np.frombuffer(memory, dtype=dtype).reshape(tuple(shape))
    return array


def _port(node: Any) -> Port:
    kind = node.get_element_type().get_type_name()
    sides = (None if side.is_dynamic else side.get_length() for side in node.get_partial_shape())
    return Port(node.get_any_name(), _ORT_TYPES.get(kind, kind), tuple(sides))

"""Kernels compiled with numba, and called without importing it once they are compiled.

Importing numba takes 0.2 s and 65 MB, and loading its first stored kernel 0.1 s more: a third of the time to the first
frame of a file. So the object code of a kernel is stored with a C function in front of it, which llvmlite (numba's
binding of LLVM) links and ctypes calls. This is done on Linux on x86-64; elsewhere numba's own dispatcher is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.lib.stride_tricks import as_strided

from streamdepth.core.host import cache_root, digest, has_home, processor, prune, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A C function in front of a kernel reads the fields of numpy's array struct (PyArrayObject_fields in numpy's C API):
# after the object's head of two words come data, number of dimensions, dimensions and strides.
_DATA, _DIMENSIONS, _STRIDES = 2, 4, 5
_LOADABLE = sys.platform == "linux" and platform.machine() == "x86_64" and object.__basicsize__ == 16
_FORMAT = 1
"""Counted up when what is stored, or how it is called, changes."""
_CACHE_BYTES = 64 << 20
_UNKNOWN = object()
_LINKING = threading.Lock()
_DTYPES = {np.dtype(code): code for code in ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")}
_FLAGS = 0x501
"""C-contiguous, aligned and writeable in numpy's C API."""
_FORMS = {0x501: "", 0x101: "read-only", 0x500: "strided", 0x100: "strided read-only"}
_SCALARS = {int: "int64", float: "float64", np.float64: "float64", bool: "bool"}
"""Numba's names of what numbers become."""
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_MACHINE_TYPES: Mapping[str | None, Any] = {"int64": ctypes.c_int64, "float64": ctypes.c_double, "bool": ctypes.c_bool}
_RETURNED = {**_MACHINE_TYPES, "none": None}
# What object code refers to in numba, to raise exceptions and to free arrays. Kernels do neither; one that allocates
# refers to more and is not linked.
_NEVER_CALLED = (
    *("numba_gil_ensure", "numba_gil_release", "numba_unpickle", "numba_do_raise"),
    *("numba_runtime_build_excinfo_struct", "NRT_Free", "NRT_MemInfo_call_dtor"),
)


def kernel(function: Callable[..., Any], *, fastmath: bool = False, inline: bool = False) -> Callable[..., Any]:
    """Compile with numba on the first call for its argument types; releases the interpreter lock, cached on disk.

    Arguments are arrays, int, float, bool, and tuples of these. The cache is in ``__pycache__`` of the package, or in
    streamdepth's cache folder if that is not writable; ``NUMBA_CACHE_DIR`` overrides both. If no folder is writable,
    the kernel is compiled in every process.

    ``inline`` inlines the function into its callers. An array takes seven machine arguments, so a call per row costs
    0.3 us of the 1 us for a row of 640.
    """
    return Kernel(function, nogil=True, error_model="numpy", fastmath=fastmath, forceinline=inline)


def stage(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a part of a kernel, inlined into the loop over rows."""
    return kernel(function, inline=True)


class Kernel:
    """A function that runs as machine code; call it like the function. Thread-safe.

    Args:
        options: of numba's ``njit``.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        functools.update_wrapper(self, function)
        self._function = cast("FunctionType", function)
        self._options = options
        self._entries: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        flat: list[Any] = []
        kinds = tuple([_kind(one, flat) for one in args])
        entry = self._entries.get(kinds, _UNKNOWN)
        if entry is _UNKNOWN:
            entry = self._add(kinds)
        return self.dispatcher()(*args) if entry is None else entry(*flat)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the function, the constants in it, and all kernels that it calls."""
        known = self._function.__globals__
        code = self._function.__code__
        # Names of attributes are among them: in a kernel named "mean", values.mean() is not a call of itself.
        named = [(name, _fingerprint(known[name])) for name in code.co_names if known.get(name, self) is not self]
        constants = code.co_consts, self._function.__defaults__
        return digest(repr((code.co_code, constants, code.co_names, code.co_varnames, named, self._options)))

    def dispatcher(self) -> Callable[..., Any]:
        """The function as numba compiles it."""
        with self._lock:
            return self._dispatcher

    @functools.cached_property
    def _dispatcher(self) -> Callable[..., Any]:
        function = self._function
        code, known = function.__code__, function.__globals__
        others = {name: one for name in code.co_names if isinstance(one := known.get(name), Kernel) and one is not self}
        called = {name: one.dispatcher() for name, one in others.items()}
        same = FunctionType(code, known | called, function.__name__, function.__defaults__)
        return _decorated(functools.update_wrapper(same, function), self._options)

    def _add(self, kinds: tuple[Any, ...]) -> Callable[..., Any] | None:
        """The C function for arguments of these kinds, from the cache or compiled; None = numba has to be called."""
        with self._lock:
            if kinds not in self._entries:
                self._entries[kinds] = self._found(kinds)
            found: Callable[..., Any] | None = self._entries[kinds]
            return found

    def _found(self, kinds: tuple[Any, ...]) -> Callable[..., Any] | None:
        if not _LOADABLE or None in _leaves(kinds) or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
            return None
        linker = _linker()
        name = f"{self._function.__name__}-{digest(repr((self.fingerprint, kinds, linker.target)))}.kernel"
        for folder in _folders():
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
                return linker.link(Stored.parse((folder / name).read_bytes()), kinds)
        stored = _compiled(self._dispatcher, kinds)
        if stored is None:
            return None
        try:
            entry = linker.link(stored, kinds)
        except RuntimeError:  # it needs something of numba that is not loaded
            return None
        for folder in _folders():
            with contextlib.suppress(OSError):
                write_whole(folder / name, stored.content())
                prune(folder, _CACHE_BYTES)
                break
        return entry


def _decorated(function: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with numba's decorator; numba's own cache is used where object code is not stored here."""
    from numba import config, njit

    if _LOADABLE:
        return cast("Callable[..., Any]", njit(**options)(function))
    settings: Any = config  # its attributes are made at run time
    own = str(cache_root() / "numba")
    if not has_home():  # numba would create a folder named "~" in the current one
        settings.CACHE_DIR = settings.CACHE_DIR or own
    for folder in (settings.CACHE_DIR, settings.CACHE_DIR or own):
        settings.CACHE_DIR = folder
        with contextlib.suppress(RuntimeError):  # the folder cannot be written
            return cast("Callable[..., Any]", njit(cache=True, **options)(function))
    return cast("Callable[..., Any]", njit(**options)(function))


def _folders() -> tuple[Path, ...]:
    """Where compiled kernels may be stored, in order."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return (Path(chosen) / "streamdepth",)
    return Path(__file__).parent / "__pycache__" / "kernels", cache_root() / "kernels"


def _fingerprint(value: Any) -> str:
    if isinstance(value, np.ndarray):  # its repr leaves elements out
        return digest(repr((value.dtype, value.shape, value.tobytes())))
    return value.fingerprint if isinstance(value, Kernel) else repr(value)


def _kind(value: Any, flat: list[Any]) -> Any:
    """What code depends on in an argument, None if it cannot be passed to C; adds its machine arguments to ``flat``."""
    if isinstance(value, np.ndarray):
        address = id(value)
        flat += (address, address)
        code = _DTYPES.get(value.dtype)
        form = _FORMS.get(value.flags.num & _FLAGS)
        return None if code is None or form is None else f"{code}[{value.ndim}]{form}"
    if type(value) is tuple:
        return tuple([_kind(one, flat) for one in value])
    flat.append(value)
    kind = _SCALARS.get(type(value))
    return None if kind == "int64" and not _LEAST <= value <= _MOST else kind  # ctypes would cut it


def _leaves(kinds: Any) -> Iterator[str | None]:
    """The kinds of all arrays and numbers, in order."""
    for one in kinds:
        if isinstance(one, tuple):
            yield from _leaves(one)
        else:
            yield one


def _compiled(function: Callable[..., Any], kinds: tuple[Any, ...]) -> Stored | None:
    """Compile a kernel behind a C function; None where its result cannot be returned from C."""
    numba: Any = importlib.import_module("numba")
    types = numba.types
    scalars = {str(one): one for one in (types.int64, types.float64, types.boolean)}
    pointer = types.CPointer
    names: list[str] = []
    machine_types: list[Any] = []

    def argument(kind: Any) -> str:
        """An expression of the parameters, which are added to the lists."""
        if isinstance(kind, tuple):
            return "(" + "".join(f"{argument(one)}, " for one in kind) + ")"
        at = len(names)
        if kind in scalars:
            names.append(f"a{at}")
            machine_types.append(scalars[kind])
            return names[at]
        code, _, rest = kind.partition("[")
        dimensions, _, form = rest.partition("]")
        names.extend((f"a{at}", f"d{at}"))
        machine_types.extend((pointer(pointer(numba.from_dtype(np.dtype(code)))), pointer(pointer(types.int64))))
        shape, strides = (
            "".join(f"d{at}[{word}][{each}], " for each in range(int(dimensions))) for word in (_DIMENSIONS, _STRIDES)
        )
        array = f"carray(a{at}[{_DATA}], ({shape}))"
        if form.startswith("strided"):
            array = f"as_strided({array}, ({shape}), ({strides}))"
        return f"read_only({array})" if form.endswith("read-only") else array

    arguments = ", ".join(argument(kind) for kind in kinds)
    own: dict[str, Any] = {"function": function, "carray": numba.carray, "as_strided": as_strided}
    own["read_only"] = _read_only(importlib.import_module("numba.extending"))
    exec(f"def entry({', '.join(names)}):\n    return function({arguments})", own)  # noqa: S102 - made of kinds only
    found = numba.njit(error_model="numpy")(own["entry"])
    found.compile(tuple(machine_types))
    returns = found.nopython_signatures[0].return_type
    if str(returns) not in _RETURNED:
        return None
    made = numba.cfunc(returns(*machine_types), error_model="numpy")(own["entry"])
    try:
        _, _, (code, _) = made._library.serialize_using_object_code()
    except (AttributeError, ValueError):  # another version of numba
        return None
    return Stored(str(made.native_name), str(returns), bytes(code))


def _read_only(extending: Any) -> Any:
    """An array in compiled code as one that cannot be written: a kernel that does so is refused, as by numba."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        context.nrt.incref(builder, signature.return_type, arguments[0])
        return arguments[0]

    @extending.intrinsic
    def read_only(typingctx, array):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return array.copy(readonly=True)(array), generate

    return read_only


@dataclass(frozen=True, slots=True)
class Stored:
    """A compiled kernel.

    Attributes:
        symbol: name of the C function in the object code.
        returns: numba's name of the type that it returns.
        code: a relocatable object file.
    """

    symbol: str
    returns: str
    code: bytes

    def content(self) -> bytes:
        head = {"symbol": self.symbol, "returns": self.returns, "sha256": hashlib.sha256(self.code).hexdigest()}
        return json.dumps(head).encode() + b"\n" + self.code

    @classmethod
    def parse(cls, content: bytes) -> Stored:
        """Raises ``ValueError``, ``KeyError`` or ``TypeError``: the content is damaged."""
        line, _, code = content.partition(b"\n")
        head = json.loads(line)
        if head["sha256"] != hashlib.sha256(code).hexdigest():
            raise ValueError("damaged")
        return cls(head["symbol"], head["returns"], code)


@dataclass(frozen=True, slots=True)
class _Linker:
    """Links object code into this process. Thread-safe.

    Attributes:
        target: the processor and the versions that object code depends on.
        abort: address of C's ``abort``.
    """

    target: tuple[str, ...]
    binding: Any
    jit: Any
    abort: int
    linked: list[Any] = field(default_factory=list)
    """Libraries, which are unloaded when they are collected."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def link(self, stored: Stored, kinds: tuple[Any, ...]) -> Callable[..., Any]:
        """The function in stored code, for arguments flattened by ``_kind``.

        Raises:
            RuntimeError: it cannot be linked. KeyError: its type of result is unknown.
        """
        returns = _RETURNED[stored.returns]
        machine_types: list[Any] = []
        for kind in _leaves(kinds):
            machine_types += [_MACHINE_TYPES[kind]] if kind in _MACHINE_TYPES else [ctypes.c_void_p] * 2
        with self.lock:
            builder = self.binding.JITLibraryBuilder().add_object_img(stored.code).add_current_process()
            for name in _NEVER_CALLED:
                builder.import_symbol(name, self.abort)
            library = builder.export_symbol(stored.symbol).link(self.jit, f"kernel {next(self.numbers)}")
            self.linked.append(library)
        return ctypes.CFUNCTYPE(returns, *machine_types)(library[stored.symbol])


def _linker() -> _Linker:
    with _LINKING:
        return _only_linker()


@functools.cache
def _only_linker() -> _Linker:
    llvmlite: Any = importlib.import_module("llvmlite")
    binding: Any = importlib.import_module("llvmlite.binding")
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    name, features = processor()
    chosen = {key: value for key, value in os.environ.items() if key.startswith("NUMBA_") and key != "NUMBA_CACHE_DIR"}
    settings = [f"{key}={value}" for key, value in sorted(chosen.items())]
    numba = ""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # of a frozen program
        numba = importlib.metadata.version("numba")
    target = (str(_FORMAT), numba, llvmlite.__version__, np.__version__, name, *sorted(features), *settings)
    abort = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value or 0
    return _Linker(target, binding, binding.create_lljit_compiler(suppress_errors=True), abort)

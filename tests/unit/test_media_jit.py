"""Kernels give the results of the functions they are made of, also in a process that does not import numba."""

from __future__ import annotations

import importlib
import subprocess
import sys
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from streamdepth.media import jit
from streamdepth.media.jit import Kernel, Stored, kernel, stage

if TYPE_CHECKING:
    from pathlib import Path

loadable = pytest.mark.skipif(not jit._LOADABLE, reason="object code is stored on Linux on x86-64 only")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "streamdepth"


def again(made: Any, function: Any = None) -> Kernel:
    """A kernel of the same function that knows nothing yet, as in a new process."""
    return Kernel(function or made.__wrapped__, **made._options)


def refuse(*_: Any) -> None:
    raise AssertionError("compiled")


@stage
def _scaled(value, factor):  # type: ignore[no-untyped-def]
    return value * factor


@kernel
def everything(pair, flags, table, number, factor, use):  # type: ignore[no-untyped-def]
    """Uses every kind of argument; returns a number that depends on all of them."""
    (source, target), (offset, _) = pair, number
    seen = 0
    for y in range(source.shape[0]):
        for x in range(source.shape[1]):
            if use and flags[y, x]:
                target[y, x] = _scaled(np.float32(source[y, x]), np.float32(factor)) + table[x] + offset
                seen += 1
    return seen


@kernel
def is_positive(values):  # type: ignore[no-untyped-def]
    return values[0] > 0


@kernel
def mean(values):  # type: ignore[no-untyped-def]
    total = 0.0
    for x in range(values.shape[0]):
        total += values[x]
    return total / values.shape[0]


@kernel
def allocates(values):  # type: ignore[no-untyped-def]
    held = np.full(values.shape[0], 2.0)
    for x in range(values.shape[0]):
        values[x] = held[x]


@kernel
def plus(value, added=1):  # type: ignore[no-untyped-def]
    return value + added


@kernel
def tripled(values):  # type: ignore[no-untyped-def]
    for x in range(values.shape[0]):
        values[x] *= 3


@kernel
def size(values):  # type: ignore[no-untyped-def]
    """Has the name of an attribute that it reads."""
    return values.size


@kernel
def shares(values):  # type: ignore[no-untyped-def]
    return values[0], values[1]


def arguments(source: np.ndarray, target: np.ndarray, *, use: bool = True) -> tuple[Any, ...]:
    flags = np.eye(*source.shape) > 0
    table = np.arange(source.shape[1], dtype=np.uint16)
    return (source, target), flags, table, (3, 0.5), 1.5, use


def expected(source: np.ndarray) -> np.ndarray:
    table = np.arange(source.shape[1])
    return np.where(np.eye(*source.shape) > 0, source.astype(np.float32) * 1.5 + table + 3, 0)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_every_kind_of_argument_compiled_and_loaded(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.arange(12, dtype=dtype).reshape(3, 4)
    for made in (again(everything), again(everything)):
        target = np.zeros((3, 4), np.float32)
        assert made(*arguments(source, target)) == 3
        assert np.array_equal(target, expected(source))
        assert made(*arguments(source, np.zeros_like(target), use=False)) == 0
        if jit._LOADABLE:
            monkeypatch.setattr(jit, "_compiled", refuse)


@loadable
def test_results_of_every_type_compiled_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert again(is_positive)(np.array([2.0])) is True
        assert again(is_positive)(np.array([-2.0])) is False
        assert again(mean)(np.array([1.0, 2.0])) == 1.5
        monkeypatch.setattr(jit, "_compiled", refuse)


def test_arrays_with_gaps_and_turned_ones() -> None:
    source = np.arange(96, dtype=np.int32).reshape(8, 12)[::2, ::3].T
    assert not source.flags.c_contiguous
    whole = np.zeros((8, 9), np.float32)
    again(everything)(*arguments(source, whole[::2, ::-2][:, :4]))
    assert np.array_equal(whole[::2, ::-2][:, :4], expected(source))
    assert not whole[1::2].any(), "only the elements of the view are written"


@loadable
def test_damaged_object_code_is_compiled_again(folder: Path) -> None:
    again(mean)(np.array([1.0, 2.0]))
    (stored,) = folder.iterdir()
    content = stored.read_bytes()
    turned = content[:300] + bytes([content[300] ^ 1]) + content[301:]
    for damaged in (b"", content[:-1], turned, b"{}\n", b"\xff\n", b"1\n", b"[]\n"):
        stored.write_bytes(damaged)
        assert again(mean)(np.array([1.0, 2.0])) == 1.5
        assert Stored.parse(stored.read_bytes()).returns == "float64", "and stored again"


@loadable
@pytest.mark.parametrize("content", [b"\x7fELF", b""])
def test_object_code_that_cannot_be_linked_is_compiled_again(folder: Path, content: bytes) -> None:
    again(mean)(np.array([1.0]))
    (stored,) = folder.iterdir()
    stored.write_bytes(Stored("mean", "float64", content).content())
    assert again(mean)(np.array([1.0, 2.0])) == 1.5


def test_a_change_of_a_called_kernel_or_a_constant_is_another_kernel() -> None:
    def changed(**new: Any) -> Kernel:
        function = everything.__wrapped__  # type: ignore[attr-defined]
        return again(everything, FunctionType(function.__code__, function.__globals__ | new, function.__name__))

    @stage
    def _scaled(value, factor):  # type: ignore[no-untyped-def]
        return value / factor

    assert changed().fingerprint == again(everything).fingerprint
    assert changed(_scaled=_scaled).fingerprint != again(everything).fingerprint
    source, target = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)
    changed(_scaled=_scaled)(*arguments(source, target))
    assert target[0, 0] == pytest.approx(1 / 1.5 + 3)
    one = partial(Kernel, mean.__wrapped__, nogil=True)  # type: ignore[attr-defined]
    assert one(fastmath=True).fingerprint != one(fastmath=False).fingerprint
    function = plus.__wrapped__  # type: ignore[attr-defined]
    other = FunctionType(function.__code__, function.__globals__, function.__name__, (2,))
    assert again(plus, other).fingerprint != again(plus).fingerprint
    assert (again(plus)(3), again(plus, other)(3)) == (4, 5)


MODULES = (
    *("colorize.kernels", "colorize.nearness", "colorize.resize", "depth.motion", "depth.temporal_filter"),
    *("geometry", "inference.plane_scaling", "media.planes"),
)


@pytest.mark.parametrize("name", MODULES)
def test_fingerprints_are_complete_and_the_same_in_every_process(name: str) -> None:
    """The repr of an array is not all of it, and that of a function or of nested code has an address in it."""
    module = importlib.import_module(f"streamdepth.{name}")
    kernels = [one for one in vars(module).values() if isinstance(one, Kernel)]
    assert kernels
    for one in kernels:
        code, known = one._function.__code__, one._function.__globals__
        assert not any(isinstance(constant, CodeType | frozenset) for constant in code.co_consts), one
        for used in code.co_names:
            assert isinstance(known.get(used, 0), Kernel | ModuleType | type | int | float), (one, used)


def test_a_kernel_with_the_name_of_an_attribute_that_it_reads() -> None:
    assert size(np.zeros((3, 4))) == 12


@pytest.mark.parametrize("step", [1, 2])
def test_an_array_that_cannot_be_written_is_read_but_not_written(step: int) -> None:
    from numba import TypingError

    values = np.arange(1.0, 7.0)[::step]
    values.flags.writeable = False
    for _ in range(2):
        assert again(mean)(values) == values.mean()
        with pytest.raises(TypingError):
            again(tripled)(values)
    assert values[0] == 1


def test_numbers_beyond_64_bits_are_refused_not_cut() -> None:
    from numba import TypingError

    assert [again(plus)(one) for one in ((1 << 63) - 2, -(1 << 63))] == [(1 << 63) - 1, 1 - (1 << 63)]
    for one in (1 << 64, -(1 << 63) - 1):
        with pytest.raises((OverflowError, TypingError)):
            again(plus)(one)


@loadable
def test_a_float64_of_numpy_is_a_float(monkeypatch: pytest.MonkeyPatch) -> None:
    assert again(plus)(1.5) == 2.5
    monkeypatch.setattr(jit, "_compiled", refuse)
    monkeypatch.setattr(Kernel, "dispatcher", refuse)
    assert again(plus)(np.float64(1.5)) == 2.5


def test_what_c_cannot_take_or_return_is_called_by_numba() -> None:
    assert again(shares)(np.array([1.0, 2.0])) == (1.0, 2.0)
    assert again(mean)(np.frombuffer(b"\0" + np.ones(3).tobytes(), np.float64, offset=1)) == 1.0, "not aligned"


@loadable
def test_a_kernel_that_allocates_is_called_by_numba(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = np.zeros(3)
    again(allocates)(values)
    assert values.tolist() == [2, 2, 2]
    assert not folder.exists(), "nothing is stored that cannot be linked"
    assert capfd.readouterr().err == "", "LLVM prints nothing"


def test_without_a_loader_numba_stores_and_calls(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from numba import config

    monkeypatch.setattr(jit, "_LOADABLE", False)
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    target = np.zeros((3, 4), np.float32)
    source = np.ones((3, 4), np.uint8)
    assert again(everything)(*arguments(source, target)) == 3
    assert np.array_equal(target, expected(source))
    assert list(tmp_path.rglob("*.nbi"))
    assert not folder.exists()


PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from streamdepth.colorize.resize import resize_bilinear
values = np.arange(6, dtype=np.float32).reshape(2, 3)
with ThreadPoolExecutor(8) as executor:
    results = list(executor.map(lambda _: resize_bilinear(values, 5, 3).tobytes(), range(64)))
print(len(set(results)), "numba" in sys.modules)
"""


@loadable
def test_threads_share_one_kernel_and_a_second_process_imports_no_numba() -> None:
    outputs = [
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90, check=True)
        for _ in range(2)
    ]
    assert [one.stdout.split() for one in outputs] == [["1", "True"], ["1", "False"]]
    assert [one.stderr for one in outputs] == ["", ""]

"""Prepared tensors: ``{data, type, dims}`` as transformers.js has them."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import DataFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from streamdepth.models.spec import ModelSpec

_NAMES = "float32 float16 float64 uint8 int8 uint16 int16 uint32 int32 uint64 int64 bool"
_TYPES = {name: np.dtype(name) for name in _NAMES.split()}
_PIECE_VALUES = 65_536


@dataclass(frozen=True, slots=True)
class Tensor:
    """A prepared network input, used unchanged."""

    values: NDArray[Any]

    @property
    def name(self) -> str:
        return f"the tensor {self.values.dtype} [{', '.join(map(str, self.values.shape))}]"


def tensor_of(value: Mapping[Any, Any]) -> Tensor:
    """Read ``{data, type, dims}``.

    Args:
        value: ``data`` is a flat or nested list of numbers, an ndarray or typed array, raw little-endian bytes, a
            base64 string of such bytes, or the object JSON makes of a typed array (``{"0": 0.1, "1": ...}``). ``type``
            is the element type (``float32`` if left out). ``dims`` or ``dim`` is the shape. Further keys, such as
            transformers.js' ``size`` and ``location``, are ignored.
    Raises:
        DataFormatError: a key is missing, the type unknown, or data and shape do not fit.
    """
    if "data" not in value or ("dims" not in value and "dim" not in value):
        raise DataFormatError(
            f"a tensor is a mapping with data, type and dims, not one with {', '.join(map(str, value)) or 'nothing'}"
        )
    dims = _dims(value.get("dims", value.get("dim")))
    kind = value.get("type", "float32")
    dtype = _TYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise DataFormatError(f"tensor type {kind!r} is unknown; known are {', '.join(_TYPES)}")
    flat = flat_values(value["data"], dtype)
    if flat.size != math.prod(dims):
        raise DataFormatError(
            f"tensor data has {flat.size} values, dims {list(dims)} need {math.prod(dims)}; correct one of them"
        )
    return Tensor(flat.reshape(dims))


def rows_of(tensor: Tensor, spec: ModelSpec) -> list[NDArray[Any]]:
    """One [3, H, W] array for each image of a tensor, checked against the model's input.

    Raises:
        DataFormatError: the model's input has another shape.
    """
    layout, values = spec.image_layout, tensor.values
    inner = {"chw": 3, "hwc": 3, "nchw": 4}[layout]
    if values.ndim == inner:
        values = values[None]
    # an NCHW tensor for a network of rank 5: one view of each image
    if layout == "nchw" and values.ndim == 4 and values.shape[1] == 3:
        values = values[:, None]
    expected = ["batch", "height", "width", "3"] if layout == "hwc" else ["batch", "3", "height", "width"]
    if layout == "nchw":
        expected.insert(1, "1")
    channels = -1 if layout == "hwc" else -3
    fits = values.ndim == len(expected) and values.shape[channels] == 3 and (layout != "nchw" or values.shape[1] == 1)
    if not fits:
        raise DataFormatError(f"{tensor.name} does not fit {spec.name}; its input is [{', '.join(expected)}]")
    if layout == "nchw":
        values = values[:, 0]
    return [row.transpose(2, 0, 1) if layout == "hwc" else row for row in values]


def _dims(raw: Any) -> tuple[int, ...]:
    try:
        dims = tuple(raw)
    except TypeError:
        dims = ()
    whole = all(isinstance(d, int | np.integer) and not isinstance(d, bool) and d > 0 for d in dims)
    if not dims or not whole:
        raise DataFormatError(f"tensor dims are a list of whole numbers above 0, not {raw!r}")
    return tuple(int(d) for d in dims)


def flat_values(data: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a tensor's ``data`` as a flat array; forms and errors as in :func:`tensor_of`."""
    if isinstance(data, dict):
        data = _typed_array(data)
    if isinstance(data, memoryview):
        data = np.asarray(data) if data.format != "B" or dtype == np.uint8 else data.tobytes()
    if isinstance(data, str):
        try:
            data = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as exc:
            raise DataFormatError(f"tensor data is a string but not base64 ({exc}); give a list of numbers") from exc
    if isinstance(data, bytes | bytearray):
        if len(data) % dtype.itemsize:
            raise DataFormatError(
                f"tensor data has {len(data)} bytes, not a multiple of the {dtype.itemsize} of a {dtype}; "
                "check its type"
            )
        return np.frombuffer(data, dtype=dtype.newbyteorder("<")).astype(dtype)
    try:
        array = as_array(data)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"holds {array.dtype.name}")
        if dtype == np.float16 and array.dtype == np.uint16:
            return array.reshape(-1).view(np.float16)  # JavaScript has no float16: the values are its bits
        if dtype.kind in "iu" and array.size:
            limits = np.iinfo(dtype)
            low, high = array.min(), array.max()
            if low < limits.min or high > limits.max or (array.dtype.kind == "f" and np.any(array != np.rint(array))):
                raise ValueError(f"{low} to {high} is outside {dtype} or not whole")
        return array.astype(dtype).reshape(-1)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise DataFormatError(f"tensor data is not a list of numbers ({exc}); give {dtype} values") from exc


def _typed_array(data: Mapping[Any, Any]) -> list[Any]:
    """The values of the object that JSON makes of a typed array, by their index whatever the order of the keys.

    Raises:
        DataFormatError: the keys are not 0 to the number of values.
    """
    try:
        values = {int(key): value for key, value in data.items()}
    except ValueError:
        values = {}
    if not values or sorted(values) != list(range(len(data))):
        raise DataFormatError("tensor data is an object without the keys 0, 1, 2 ...; give a list of numbers")
    return [values[index] for index in range(len(values))]


def as_array(data: Any) -> NDArray[Any]:
    """An array of a list, a tensor of another library (``__array__`` or DLPack), or anything NumPy takes.

    Long lists are converted in pieces: NumPy holds the GIL while it reads a list, 0.1 s for a million values.
    """
    if hasattr(data, "__dlpack__") and not isinstance(data, np.ndarray) and not hasattr(data, "__array__"):
        return np.from_dlpack(data)
    if isinstance(data, list) and data and isinstance(data[0], list):
        return np.stack([as_array(one) for one in data])
    if isinstance(data, list) and len(data) > _PIECE_VALUES:
        starts = range(0, len(data), _PIECE_VALUES)
        return np.concatenate([np.asarray(data[start : start + _PIECE_VALUES]) for start in starts])
    return np.asarray(data.detach().cpu() if hasattr(data, "detach") else data)

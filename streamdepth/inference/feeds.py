"""Values for inputs besides the image, for the few whose meaning is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.models.spec import ModelSpec, TensorSpec

_MASKS = ("pixel_mask", "bool_masked_pos")
_FOCAL = ("focal_length", "focallength_px", "focal_length_px", "f_px", "focal", "fx")
_INTRINSICS = ("intrinsics", "k", "camera_intrinsics")
_ASSUMED_VIEW_DEGREES = 60.0


def focal_note(spec: ModelSpec) -> str:
    """One line where a camera had to be assumed, else empty."""
    names = [t.name for t in spec.other_inputs if t.name.lower() in (*_FOCAL, *_INTRINSICS)]
    if not names:
        return ""
    return f"{spec.name}: its input {names[0]} is fed for a camera that sees {_ASSUMED_VIEW_DEGREES:g} degrees across"


def feed(tensor: TensorSpec, spec: ModelSpec, rows: int, size: tuple[int, int]) -> NDArray[Any]:
    """The value of one further input, for ``rows`` images at network size (width, height).

    ``pixel_mask`` is all ones; focal length and intrinsics (pixels of the network's input) are those of a camera that
    sees 60 degrees across.

    Raises:
        ModelError: nobody here knows what to feed.
    """
    width, height = size
    name = tensor.name.lower()
    focal = width / 2 / math.tan(math.radians(_ASSUMED_VIEW_DEGREES) / 2)
    dtype = np.dtype(tensor.dtype)
    if name in _MASKS:
        tail = (height, width)
        shape = _shape(tensor, rows, tail)
        return np.full(shape, name == "pixel_mask", dtype=dtype)
    if name in _FOCAL:
        return np.full(_shape(tensor, rows, ()), focal, dtype=dtype)
    if name in _INTRINSICS:
        matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=dtype)
        return np.ascontiguousarray(np.broadcast_to(matrix, _shape(tensor, rows, (3, 3))))
    shape_text = "[" + ", ".join(str(d) or "?" for d in tensor.shape) + "]"
    raise ModelError(
        f"{spec.name}: wants a further input {tensor.name} ({tensor.dtype} {shape_text}) that cannot be fed from a "
        "image; export the model with that input as a constant"
    )


def _shape(tensor: TensorSpec, rows: int, tail: tuple[int, ...]) -> tuple[int, ...]:
    """Fill dynamic dimensions: the trailing ones from ``tail``, the first with the batch, others with 1."""
    rank = len(tensor.shape)
    dims: list[int] = []
    for axis, dimension in enumerate(tensor.shape):
        from_end = axis - (rank - len(tail))
        if isinstance(dimension, int):
            dims.append(dimension)
        elif from_end >= 0:
            dims.append(tail[from_end])
        else:
            dims.append(rows if axis == 0 else 1)
    return tuple(dims)

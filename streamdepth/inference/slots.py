"""Inputs of a run: the memory of a batch, lent as slots, and values for the graph's further inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.errors import ModelError, UsageError
from streamdepth.geometry import Intrinsics
from streamdepth.inference.geometry import plan
from streamdepth.inference.memory import BufferPool, ModelState

if TYPE_CHECKING:
    from collections.abc import Callable

    import av
    from numpy.typing import NDArray

    from streamdepth.inference.geometry import Geometry
    from streamdepth.inference.memory import PageLock
    from streamdepth.inference.preprocess import FastWriter
    from streamdepth.models.spec import ModelSpec, TensorSpec

_TOKENS, _TOKEN_COUNTS, _PATCH_PX = "num_tokens", (1200, 3600), 14
_PROMPTS = ("prompt_depth", "sparse_depth", "lidar_depth", "depth_prompt")
_MASKS = ("pixel_mask", "bool_masked_pos")
_FOCAL = ("focal_length", "focallength_px", "focal_length_px", "f_px", "focal", "fx")
_INTRINSICS = ("intrinsics", "k", "camera_intrinsics")
_ASSUMED_VIEW_DEGREES = 60.0
_WARM_UP_PX = 320, 180


def focal_note(spec: ModelSpec) -> str:
    """One line if a camera is assumed, else empty."""
    names = [t.name for t in spec.other_inputs if t.name.lower() in (*_FOCAL, *_INTRINSICS)]
    if not names:
        return ""
    return f"{spec.name}: input {names[0]} assumes a horizontal field of view of {_ASSUMED_VIEW_DEGREES:g} degrees"


def feed(
    tensor: TensorSpec,
    spec: ModelSpec,
    rows: int,
    size: tuple[int, int],
    camera: Callable[[int, int], Intrinsics] | None = None,
) -> NDArray[Any]:
    """The value of one further input, for ``rows`` images at network size (width, height).

    ``pixel_mask`` is all ones, ``num_tokens`` the number of 14x14 patches, 1200 to 3600. Focal length and intrinsics,
    in pixels of the network's input, are the camera's, else those of a horizontal field of view of 60 degrees.

    Raises:
        ModelError: the meaning of the input is unknown.
        UsageError: the camera's intrinsics do not follow the size, so they cannot be those of the network's input.
    """
    width, height = size
    name = tensor.name.lower()
    known = Intrinsics.from_fov(_ASSUMED_VIEW_DEGREES, width, height) if camera is None else camera(width, height)
    dtype = np.dtype(tensor.dtype)
    if name == _TOKENS:
        count = min(max(round(width * height / _PATCH_PX**2), _TOKEN_COUNTS[0]), _TOKEN_COUNTS[1])
        return np.full(_shape(tensor, rows, ()), count, dtype=dtype)
    if name in _PROMPTS:
        raise ModelError(
            f"{spec.name}: needs depth of a sensor as input {tensor.name}, which is not supported; choose a model that "
            "needs images only"
        )
    if name in _MASKS:
        tail = (height, width)
        shape = _shape(tensor, rows, tail)
        return np.full(shape, name == "pixel_mask", dtype=dtype)
    if camera is not None and name in (*_FOCAL, *_INTRINSICS) and camera(2 * width, 2 * height).fx == known.fx:
        raise UsageError(
            f"{spec.name}: takes {tensor.name} for its own input size, and the given intrinsics state no size; "
            "give a calibration file or --fov"
        )
    if name in _FOCAL:
        return np.full(_shape(tensor, rows, ()), known.focal_px, dtype=dtype)
    if name in _INTRINSICS:
        matrix = known.matrix
        matrix[:2, 2] += 0.5  # these networks count pixels from the edge of the image
        matrix = matrix.astype(dtype)
        return np.ascontiguousarray(np.broadcast_to(matrix, _shape(tensor, rows, (3, 3))))
    raise ModelError(
        f"{spec.name}: has a further input {tensor.name} ({tensor.dtype} {_text(tensor)}) that cannot be computed from "
        "an image; export the model with this input as a constant"
    )


def state_shapes(spec: ModelSpec, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """The shapes of the states for one image at network size (width, height).

    Raises:
        ModelError: a dimension is neither fixed nor one of the image input.
    """
    layout = ("height", "width", 3) if spec.image_layout == "hwc" else (3, "height", "width")
    known: dict[int | str, int] = {}
    for dimension, side in zip(spec.image_input.shape[-3:], layout, strict=True):
        known[dimension] = size[0] if side == "width" else size[1] if side == "height" else 3
    for dimension in spec.image_input.shape[:-3]:
        known[dimension] = 1
    shapes = []
    for state in spec.states:
        shape = tuple(
            side if isinstance(side, int) else known.get(side, 0) if side else 0 for side in state.input.shape
        )
        if 0 in shape:
            raise ModelError(
                f"{spec.name}: the size of its state {state.input.name} {_text(state.input)} is not known from the "
                "image; export the model with fixed sizes"
            )
        shapes.append(shape)
    return shapes


def _text(tensor: TensorSpec) -> str:
    return "[" + ", ".join(str(d) or "?" for d in tensor.shape) + "]"


def _shape(tensor: TensorSpec, rows: int, tail: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with dynamic dimensions set: the trailing ones from ``tail``, the first to ``rows``, others to 1."""
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


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What an engine and its slots share.

    Attributes:
        exact: preprocess as ``transformers`` does.
        batch: rows of a slot.
        rows_per_run: rows of one run of the graph.
        geometry: how an image of (width, height) goes through the network.
        page_lock: locks the memory for a GPU; None = ordinary memory.
        camera: intrinsics of an image of (width, height); None = unknown.
    """

    spec: ModelSpec
    exact: bool
    batch: int
    rows_per_run: int
    geometry: Callable[[int, int], Geometry]
    page_lock: PageLock | None
    camera: Callable[[int, int], Intrinsics] | None = None


class Buffers:
    """What a slot reuses: input memory, its views, and the bindings to it."""

    def __init__(self, plan: SlotPlan, size: tuple[int, int]) -> None:
        spec = plan.spec
        width, height = size
        shape: tuple[int, ...] = (height, width, 3) if spec.image_layout == "hwc" else (3, height, width)
        if spec.image_layout == "nchw":
            shape = (1, *shape)
        dtype = np.dtype(spec.image_input.dtype)
        rows = plan.batch
        pool = BufferPool(rows * int(np.prod(shape)) * dtype.itemsize, plan.page_lock)
        self.input = pool.lend().view(dtype).reshape(rows, *shape)
        self.input[...] = 0
        self.rows_chw: list[NDArray[Any]] = [self._chw(self.input[row], spec.image_layout) for row in range(rows)]
        self.writer: FastWriter | None = None
        per_run = plan.rows_per_run
        run_shape = (per_run, *shape) if len(spec.image_input.shape) == len(shape) + 1 else shape
        if spec.window:
            run_shape = (1, per_run, *shape)
        self._fed = [(t.name, feed(t, spec, per_run, size, plan.camera)) for t in spec.other_inputs]
        self._name, self._per_run, self._run_shape = spec.image_input.name, per_run, run_shape
        self._bindings: list[Any] = [None] * len(range(0, rows, per_run))

    def bound(self, session: Any, run: int, *, afresh: bool) -> Any:
        """ONNX Runtime's binding of one run, its inputs bound to this memory.

        Args:
            afresh: bind the inputs again. A provider with its own memory copies inputs when they are bound, and does
                not see later writes.
        """
        binding = self._bindings[run]
        if binding is None:
            binding = self._bindings[run] = session.io_binding()
            afresh = True
        if afresh:
            self._bind(binding, self._name, self.input[run * self._per_run], self._run_shape)
            for name, value in self._fed:
                self._bind(binding, name, value, value.shape)
        return binding

    def host_input(self, run: int) -> NDArray[Any]:
        """The images of one run, in the layout of the graph."""
        first = run * self._per_run
        return self.input[first : first + self._per_run].reshape(self._run_shape)

    @property
    def fed(self) -> dict[str, NDArray[Any]]:
        """The further inputs."""
        return dict(self._fed)

    @staticmethod
    def _bind(binding: Any, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
        binding.bind_input(name, "cpu", 0, array.dtype.type, list(shape), array.ctypes.data)

    @staticmethod
    def _chw(row: NDArray[Any], layout: str) -> NDArray[Any]:
        if layout == "hwc":
            return row.transpose(2, 0, 1)
        return row[0] if layout == "nchw" else row


class Slot:
    """The input of one batch, lent by :meth:`Engine.acquire`. One thread at a time.

    Its buffers return to the engine when the slot has no references left, run or not.
    """

    def __init__(self, plan: SlotPlan, size: tuple[int, int], buffers: Buffers) -> None:
        self._plan = plan
        self._buffers = buffers
        self.size = size
        self.geometries: list[Geometry | None] = [None] * plan.batch
        self.source: int | None = None
        """Of a model with a state: whose state the run continues; None = a run without history."""
        self.restart = False
        """The frame has no history: the state is set to zero first."""

    @property
    def exact(self) -> bool:
        """Whether images are preprocessed as ``transformers`` does."""
        return self._plan.exact

    def host_input(self, run: int) -> NDArray[Any]:
        """The images of one run, in the layout of the graph. Memory of the slot."""
        return self._buffers.host_input(run)

    @property
    def fed(self) -> dict[str, NDArray[Any]]:
        """The graph's further inputs."""
        return self._buffers.fed

    def copy_to(self, other: Slot) -> None:
        """Copy the input to a slot of another engine with the same model and the same batch."""
        other._buffers.input[...] = self._buffers.input
        for name, value in self.fed.items():
            other.fed[name][...] = value
        other.geometries[:] = self.geometries
        other.source, other.restart = self.source, self.restart

    def write(self, row: int, image: av.VideoFrame) -> None:
        """Preprocess an image into row ``row``.

        Args:
            image: any pixel format the scaler takes; its matrix and range are honoured. Not changed.
        Raises:
            ValueError: its network size differs from the slot's.
            DataFormatError: it cannot be converted.
        """
        geometry = self._plan.geometry(image.width, image.height)
        self._check(geometry.net_size)
        if self._plan.exact:
            from streamdepth.inference.preprocess import to_rgb_array

            self.write_rgb(row, to_rgb_array(image))
            return
        if self._buffers.writer is None:
            from streamdepth.inference.preprocess import FastWriter

            self._buffers.writer = FastWriter(self._plan.spec)
        self._buffers.writer.write(self._buffers.rows_chw[row], image, geometry)
        self.geometries[row] = geometry

    def write_rgb(self, row: int, rgb: NDArray[np.uint8]) -> None:
        """Preprocess a uint8 [H, W, 3] RGB image into row ``row`` the exact way."""
        from streamdepth.inference.preprocess import exact_input, exact_rules

        spec = self._plan.spec
        geometry = self._plan.geometry(rgb.shape[1], rgb.shape[0])
        self._check(geometry.net_size)
        target = self._buffers.rows_chw[row]
        target[...] = exact_input(rgb, exact_rules(spec), geometry)
        self.geometries[row] = geometry

    def write_tensor(self, row: int, chw: NDArray[Any]) -> None:
        """Copy a prepared [3, net height, net width] array, converted to the input's dtype only."""
        self._check((chw.shape[2], chw.shape[1]))
        self._buffers.rows_chw[row][...] = chw
        self.geometries[row] = None

    def repeat_last(self, count: int) -> None:
        """Fill the rows after the first ``count`` with the last of these."""
        for row in range(count, len(self.geometries)):
            self._buffers.rows_chw[row][...] = self._buffers.rows_chw[count - 1]

    def bound(self, session: Any, run: int, *, afresh: bool = False) -> Any:
        """ONNX Runtime's binding of one of the runs of a batch, see :meth:`Buffers.bound`."""
        return self._buffers.bound(session, run, afresh=afresh)

    def input_chw(self, row: int) -> NDArray[Any]:
        """Row ``row`` as [3, net height, net width] in the input's dtype. A view, valid until rewritten."""
        return self._buffers.rows_chw[row]

    def _check(self, size: tuple[int, int]) -> None:
        if size != self.size:
            raise ValueError(f"this slot has network size {self.size[0]}x{self.size[1]}, not {size[0]}x{size[1]}")


class StateStore:
    """The states of a model, one for each source. One thread at a time.

    Args:
        device: see :class:`ModelState`.
    """

    def __init__(self, spec: ModelSpec, device: str) -> None:
        self._spec, self._device = spec, device
        self._states: dict[int, tuple[tuple[int, int], ModelState]] = {}

    def of(self, slot: Slot) -> ModelState:
        """The state that the run of a slot continues: zero at a restart, for another size, and without a source."""
        size, state = self._states.get(-1 if slot.source is None else slot.source, (slot.size, None))
        if state is None or size != slot.size:
            shapes = zip(self._spec.states, state_shapes(self._spec, slot.size), strict=True)
            tensors = [(one.input.name, one.output, shape, np.dtype(one.input.dtype)) for one, shape in shapes]
            state = ModelState(tensors, self._device)
            if slot.source is not None:
                self._states[slot.source] = slot.size, state
        elif slot.restart:
            state.restart()
        return state


def warm_up(spec: ModelSpec) -> None:
    """Load what writes the images of a camera or file, and RGB images, into slots: compiled kernels."""
    import av

    from streamdepth.inference.preprocess import FastWriter

    geometry = plan(spec, *_WARM_UP_PX)
    row = np.empty((3, *reversed(geometry.net_size)), np.dtype(spec.image_input.dtype))
    for pix_fmt in ("yuv420p", "rgb24"):
        FastWriter(spec).write(row, av.VideoFrame(*_WARM_UP_PX, pix_fmt), geometry)

"""The input side of a batch: memory and bindings made once, lent out as slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.inference import feeds
from streamdepth.inference.buffers import BufferPool

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray

    from streamdepth.inference.engine import Engine
    from streamdepth.inference.geometry import Geometry
    from streamdepth.inference.preprocess import FastWriter


class Buffers:
    """Everything of one slot that is made once: input memory, its views, and the bindings to it."""

    def __init__(self, engine: Engine, size: tuple[int, int]) -> None:
        spec = engine.spec
        width, height = size
        shape: tuple[int, ...] = (height, width, 3) if spec.image_layout == "hwc" else (3, height, width)
        if spec.image_layout == "nchw":
            shape = (1, *shape)
        dtype = np.dtype(spec.image_input.dtype)
        rows = engine.batch
        pool = BufferPool(rows * int(np.prod(shape)) * dtype.itemsize, engine.page_lock)
        self.input = pool.lend().view(dtype).reshape(rows, *shape)
        self.input[...] = 0
        self.rows_chw: list[NDArray[Any]] = [self._chw(self.input[row], spec.image_layout) for row in range(rows)]
        self.writer: FastWriter | None = None
        per_run = engine.rows_per_run
        run_shape = (per_run, *shape) if len(spec.image_input.shape) == len(shape) + 1 else shape
        self._fed = [(t.name, feeds.feed(t, spec, per_run, size)) for t in spec.other_inputs]
        self._name, self._per_run, self._run_shape = spec.image_input.name, per_run, run_shape
        self._bindings: list[Any] = [None] * len(range(0, rows, per_run))

    def bound(self, session: Any, run: int, *, afresh: bool) -> Any:
        """ONNX Runtime's binding of one run, its inputs bound to this memory.

        Args:
            afresh: bind the inputs again. A provider with memory of its own copies them when they are bound, and sees
                nothing of what is written later.
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
        """The images of one run, as the graph takes them."""
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

    It goes back to the ring when nobody refers to it any more, run or not.
    """

    def __init__(self, engine: Engine, size: tuple[int, int], buffers: Buffers) -> None:
        self._engine = engine
        self._buffers = buffers
        self.size = size
        self.geometries: list[Geometry | None] = [None] * engine.batch

    @property
    def engine(self) -> Engine:
        """The one that lent it, and that runs it."""
        return self._engine

    @property
    def exact(self) -> bool:
        """Whether the engine preprocesses as ``transformers`` does."""
        return self._engine.exact

    def host_input(self, run: int) -> NDArray[Any]:
        """The images of one run, as the graph takes them: memory of the slot."""
        return self._buffers.host_input(run)

    @property
    def fed(self) -> dict[str, NDArray[Any]]:
        """The graph's further inputs."""
        return self._buffers.fed

    def write(self, row: int, image: av.VideoFrame) -> None:
        """Preprocess an image into row ``row``.

        Args:
            image: any pixel format the scaler takes; its matrix and range are honoured. Only read.
        Raises:
            ValueError: its network size is not the slot's.
            DataFormatError: it cannot be converted.
        """
        geometry = self._engine.geometry(image.width, image.height)
        self._check(geometry.net_size)
        if self._engine.exact:
            from streamdepth.inference.preprocess import to_rgb_array

            self.write_rgb(row, to_rgb_array(image))
            return
        if self._buffers.writer is None:
            from streamdepth.inference.preprocess import FastWriter

            self._buffers.writer = FastWriter(self._engine.spec)
        self._buffers.writer.write(self._buffers.rows_chw[row], image, geometry)
        self.geometries[row] = geometry

    def write_rgb(self, row: int, rgb: NDArray[np.uint8]) -> None:
        """Preprocess a uint8 [H, W, 3] RGB image into row ``row`` the exact way."""
        from streamdepth.inference import exact

        spec = self._engine.spec
        geometry = self._engine.geometry(rgb.shape[1], rgb.shape[0])
        self._check(geometry.net_size)
        target = self._buffers.rows_chw[row]
        target[...] = exact.prepare(rgb, exact.rules(spec), geometry)
        self.geometries[row] = geometry

    def write_tensor(self, row: int, chw: NDArray[Any]) -> None:
        """Take a prepared [3, net height, net width] array as it is, converted to the input's dtype only."""
        self._check((chw.shape[2], chw.shape[1]))
        self._buffers.rows_chw[row][...] = chw
        self.geometries[row] = None

    def bound(self, session: Any, run: int, *, afresh: bool = False) -> Any:
        """ONNX Runtime's binding of one of the runs a batch takes, see :meth:`Buffers.bound`."""
        return self._buffers.bound(session, run, afresh=afresh)

    def input_chw(self, row: int) -> NDArray[Any]:
        """What row ``row`` holds, as [3, net height, net width] in the input's dtype. A view: valid until rewritten."""
        return self._buffers.rows_chw[row]

    def _check(self, size: tuple[int, int]) -> None:
        if size != self.size:
            raise ValueError(f"this slot takes network size {self.size[0]}x{self.size[1]}, not {size[0]}x{size[1]}")

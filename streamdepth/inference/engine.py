"""The running model: input and output buffers in rotation, bound once to an ONNX Runtime session."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from streamdepth.core import limits
from streamdepth.core.errors import InferenceError, ModelError, UsageError
from streamdepth.core.frame import DepthMap, Sense
from streamdepth.core.host import cores, plan_threads
from streamdepth.inference import fused, geometry
from streamdepth.inference.agreement import check_depth
from streamdepth.inference.geometry import Geometry, fixed_sides, plan
from streamdepth.inference.heads import HeadReader, RawDepth, RowExtra
from streamdepth.inference.memory import GRAPH_ID, NO_GRAPH, BufferPool, DeviceBinding, DeviceRing, ModelState, PageLock
from streamdepth.inference.ort import run_error
from streamdepth.inference.providers import ON_DEVICE, likely, runs_on_cores
from streamdepth.inference.sessions import open_session
from streamdepth.inference.slots import Buffers, Slot, SlotPlan, StateStore, focal_note, warm_up
from streamdepth.media.scene import HEIGHT_PX, WIDTH_PX, pattern
from streamdepth.models.selection import AUTO, CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from streamdepth.geometry import Intrinsics
    from streamdepth.models.spec import ModelSpec

T = TypeVar("T")

# buffers are kept for this number of network sizes: a folder of images may have many
_SIZES_KEPT = 8
_GEOMETRIES_KEPT = 256
_RUNS_ON_DEVICE = 2
"""One computes while the other uploads images and downloads depth."""


@dataclass(slots=True)
class _Ring:
    """Free input buffers and the pool of outputs of one network size."""

    free: deque[Buffers] = field(default_factory=lambda: deque(maxlen=_SIZES_KEPT))
    run_shape: tuple[int, ...] | None = None
    map_shape: tuple[int, int] = (0, 0)
    outputs: BufferPool | None = None
    converted: NDArray[Any] | None = None
    device: DeviceRing | None = None


class Engine:
    """Runs one model on images.

    ``acquire`` and writing slots may happen on one thread while ``run`` works on another; ``run`` itself may be called
    by ``workers`` threads at once. ``interrupt`` and ``close`` may be called from any.

    Args:
        provider: a name of :func:`streamdepth.inference.providers.provider_names`.
        batch: images of a run; a graph of fixed batch above 1 overrides it, one of batch 1 runs them one by one.
        exact: preprocess as ``transformers`` does instead of the fast way.
        threads: cores the model may use, None = planned from all cores.
        workers: threads that would call ``run`` at once. On the CPU they share the cores: two runs of one thread each
            take 11 % less CPU time than one run of two threads (128 and 143 ms, Depth Anything V2 small, 252x252),
            because threads do not wait for each other within an operator. On a GPU runs are sequential, but copies of
            one overlap the computation of another. Otherwise, and where an output is converted on the CPU, there is
            one. The attribute ``workers`` has the result.
        bytes_in: take images as bytes and preprocess in the graph (see :mod:`streamdepth.inference.fused`), which
            excludes ``exact``; None = on an NVIDIA GPU, if the graph allows it.
        camera: intrinsics of an image of (width, height), for models that use them; None = unknown.
        check_image: called with the (width, height) of each image; raises where the camera is of another shape.
        cuda_graph: record the run as a CUDA graph and replay it, where possible.
    Raises:
        UsageError: ``batch`` or ``threads`` below 1, or ``bytes_in`` with ``exact``.
        ModelError, ProviderError: as :func:`streamdepth.inference.sessions.open_session`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        provider: str = AUTO,
        batch: int = 1,
        exact: bool = False,
        threads: int | None = None,
        workers: int = 1,
        bytes_in: bool | None = None,
        camera: Callable[[int, int], Intrinsics] | None = None,
        check_image: Callable[[int, int], object] | None = None,
        cuda_graph: bool = True,
    ) -> None:
        limits.BATCH.check("batch", batch)
        if threads is not None:
            limits.SESSION_THREADS.check("threads", threads)
        if exact and bytes_in:
            raise UsageError("bytes_in and exact exclude each other; choose one")
        if bytes_in is None:
            bytes_in = not exact and likely(provider) in ON_DEVICE and not fused.fusing_obstacle(spec)
        if bytes_in:
            spec = fused.fused(spec)
        self.spec = spec
        self.exact, self.check_image = exact, check_image
        fixed = spec.fixed_batch
        if fixed is not None and fixed < 1:
            raise ModelError(f"{spec.name}: its input has a batch of {fixed}; export it with a batch of 1 or dynamic")
        self.batch = 1 if spec.states else fixed if fixed is not None and fixed > 1 else batch
        self.rows_per_run = self.batch if fixed is None else fixed
        expected, planned = likely(provider), threads or plan_threads(cores()).session
        on_cores = runs_on_cores(expected)
        if spec.video_only:
            workers = 1  # runs depend on each other
            cuda_graph = cuda_graph and not spec.states  # the buffers of a state change places
        workers = min(workers, planned if on_cores else _RUNS_ON_DEVICE if expected in ON_DEVICE else 1)
        each = -(-planned // workers) if on_cores else threads
        with ThreadPoolExecutor(1, "streamdepth-warm-up") as executor:
            if not exact and not bytes_in:
                # loading a model releases the interpreter lock; an error occurs again in ``check``
                executor.submit(warm_up, spec)
            opened = open_session(spec, provider, each, batch=self.batch, graph=cuda_graph)
        self.session: Any = opened.session
        self.provider = opened.provider
        notes = [opened.note, "" if camera else focal_note(spec)]
        if self.batch != batch:
            why = f"{spec.video_only}: a" if spec.video_only else f"{spec.name}: its graph has a fixed"
            notes.append(f"{why} batch of {self.batch}, not {batch}")
        self.note = "; ".join(note for note in notes if note)
        outputs = {output.name: output for output in self.session.get_outputs()}
        self._output = spec.depth_output.name
        if self._output not in outputs:
            raise ModelError(f"{spec.name}: has no output {self._output!r}; its outputs are {', '.join(outputs)}")
        self._output_dtype = geometry.output_dtype(outputs[self._output].type, spec)
        several = opened.device or self._output_dtype == np.float32
        as_expected = opened.provider == expected or (on_cores and opened.provider == CPU.name)
        self.workers = workers if as_expected and several else 1
        """Threads that may call ``run`` at once."""
        self.cuda_graph = opened.graph
        """Whether runs are recorded as CUDA graphs."""
        self._reader = HeadReader(spec, camera)
        self._scale = np.float32(spec.metres_per_unit if spec.sense is Sense.METRIC_M else 1.0)
        self._rings_lock = threading.Lock()
        self._interrupted = False
        self._every_option: list[Any] = []
        self._options = self._run_options()
        # the run that learns the output's shape uses ONNX Runtime's memory, which must not be in a CUDA graph
        self._first_options = self._run_options(NO_GRAPH[1])
        self._device = opened.device
        self._alone = threading.Lock()
        self._graph_ids = itertools.count(1)  # 0 is ONNX Runtime's default
        self.page_lock = PageLock() if opened.device else None
        """Locks host memory that is copied to and from the device; None without a device."""
        # other providers may have their own memory, and copy inputs when they are bound
        self._binds_afresh = opened.provider != CPU.name
        self._slot_plan = SlotPlan(spec, exact, self.batch, self.rows_per_run, self.geometry, self.page_lock, camera)
        self._rings: OrderedDict[tuple[int, int], _Ring] = OrderedDict()
        self._states = StateStore(spec, opened.device) if spec.states else None
        self._geometries: dict[tuple[int, int], Geometry] = {}
        self._inputs_made = 0
        self._closed = False

    @property
    def buffers_made(self) -> int:
        """Input and output buffers allocated so far: constant in a steady state."""
        with self._rings_lock:
            outputs = sum(ring.outputs.made for ring in self._rings.values() if ring.outputs is not None)
            return self._inputs_made + outputs

    def geometry(self, width_px: int, height_px: int) -> Geometry:
        """How an image of this size goes through the network. Thread-safe."""
        known = self._geometries.get((width_px, height_px))
        if known is None:
            known = plan(self.spec, width_px, height_px)
            if len(self._geometries) >= _GEOMETRIES_KEPT:
                self._geometries.clear()
            self._geometries[width_px, height_px] = known
        return known

    def network_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """(width, height) of the network's input for an image, after ``check_image``. Thread-safe."""
        if self.check_image is not None:
            self.check_image(width_px, height_px)
        return self.geometry(width_px, height_px).net_size

    def acquire(self, size: tuple[int, int]) -> Slot:
        """A free slot for network size (width, height), new only if all others are in use. Thread-safe.

        Raises:
            ModelError: the graph has another size, or an input that cannot be computed.
            InferenceError: the engine is closed.
        """
        if self._closed:
            raise InferenceError(f"{self.spec.name}: the engine is closed; make a new one")
        for side, given, fixed in zip(("wide", "high"), size, fixed_sides(self.spec), strict=True):
            if fixed is not None and fixed != given:
                raise ModelError(f"{self.spec.name}: its input is {fixed} {side}, not {given}")
        ring = self._ring(size)
        try:
            buffers = ring.free.pop()
        except IndexError:
            buffers = Buffers(self._slot_plan, size)
            self._inputs_made += 1
        slot = Slot(self._slot_plan, size, buffers)
        weakref.finalize(slot, ring.free.append, buffers).atexit = False
        return slot

    def run(self, slot: Slot, count: int) -> list[DepthMap]:
        """Depth of the first ``count`` rows of a slot, in the model's sense; metric output in metres.

        Each map covers its whole image edge to edge. Its memory is reused when it has no references left (maps of
        ZoeDepth, DepthPro and zero-padded models are new arrays).

        Raises:
            InferenceError: the run failed or was interrupted.
            ModelError: the output is not one depth map an image.
        """
        return [self._finish(raw) for raw in self.run_raw(slot, count)]

    def run_raw(self, slot: Slot, count: int) -> list[RawDepth]:
        """As ``run``, before padding is cut off and units are converted."""
        if not 1 <= count <= self.batch:
            raise ValueError(f"count is 1..{self.batch}, not {count}")
        self._check_usable()
        ring = self._ring(slot.size)
        state = self._states.of(slot) if self._states is not None else None
        if self.spec.window:
            slot.repeat_last(count)
        extras: list[RowExtra] = []
        runs = -(-count // self.rows_per_run)
        learnt: Sequence[Any] = ()
        if ring.outputs is None:
            with self._alone:
                if ring.outputs is None:
                    learnt = self._learn(ring, slot, state)
        assert ring.outputs is not None  # noqa: S101 - _learn sets it or raises
        height, width = ring.map_shape
        maps = ring.outputs.lend().view(np.float32).reshape(self.batch, height, width)
        for number in range(runs):
            first = number * self.rows_per_run
            part = maps[first : first + self.rows_per_run]
            if ring.device is not None:
                extras += self._run_on_device(ring.device, slot, number, part)
                continue
            geometries = slot.geometries[first : first + self.rows_per_run]
            if number == 0 and learnt:
                extras += self._reader.read([one.numpy() for one in learnt], part, geometries)
                continue
            target = part if ring.converted is None else ring.converted
            binding = slot.bound(self.session, number, afresh=self._binds_afresh)
            binding.bind_output(
                self._output, "cpu", 0, target.dtype.type, list(ring.run_shape or ()), target.ctypes.data
            )
            for name in self._reader.outputs[1:]:
                binding.bind_output(name, "cpu")
            self._run(binding, slot.size, state=state)
            several = len(self._reader.outputs)
            beside = [one.numpy() for one in binding.get_outputs()[1:several]] if several > 1 else []
            extras += self._reader.read([target, *beside], part, geometries)
        if self._scale != 1:
            maps *= self._scale
        return [RawDepth(maps[row], slot.geometries[row], extras[row]) for row in range(count)]

    def check(self, width_px: int = WIDTH_PX, height_px: int = HEIGHT_PX) -> None:
        """Run the built-in image at this size, which also warms everything up for the size.

        Raises:
            ModelError: depth is not finite or has no contrast.
            InferenceError: the run failed.
        """
        from streamdepth.inference.preprocess import image_of

        slot = self.acquire(self.geometry(width_px, height_px).net_size)
        slot.write(0, image_of(pattern(width_px, height_px)))
        check_depth(self.run(slot, 1)[0].values, self.spec, self.provider)

    def interrupt(self) -> None:
        """End the run in progress and refuse all later ones. Thread-safe, idempotent."""
        self._interrupted = True
        with self._rings_lock:
            for options in self._every_option:
                options.terminate = True

    def close(self) -> None:
        """Release the session when no run is in progress. Idempotent; maps and slots in use stay valid."""
        self._closed = True
        with self._rings_lock:
            self._rings.clear()
        self.session = None

    # Internal -------------------------------------------------------------------------------------------------------

    def _ring(self, size: tuple[int, int]) -> _Ring:
        with self._rings_lock:
            ring = self._rings.get(size)
            if ring is None:
                ring = self._rings[size] = _Ring()
                while len(self._rings) > _SIZES_KEPT:
                    self._rings.popitem(last=False)
            else:
                self._rings.move_to_end(size)
            return ring

    def _learn(self, ring: _Ring, slot: Slot, state: ModelState | None) -> Sequence[Any]:
        """Learn the output's shape at this size from a first run into ONNX Runtime's memory; returns its outputs."""
        binding = slot.bound(self.session, 0, afresh=self._binds_afresh)
        for name in self._reader.outputs:
            binding.bind_output(name, "cpu")
        self._run(binding, slot.size, self._first_options, state=state)
        outputs: Sequence[Any] = binding.get_outputs()[: len(self._reader.outputs)]
        shape = tuple(outputs[0].shape())
        found = self._reader.map_shape(shape, self.rows_per_run, slot.size)
        ring.run_shape, ring.map_shape = shape, found
        if self._output_dtype != np.float32 or not self._reader.direct:
            ring.converted = np.empty(shape, dtype=self._output_dtype)
        if self._device and state is None:
            shapes = {self._output: (shape, self._output_dtype)}
            for name, output in zip(self._reader.outputs[1:], outputs[1:], strict=True):
                shapes[name] = tuple(output.shape()), output.numpy().dtype
            like, fed = slot.host_input(0), slot.fed
            ring.device = DeviceRing(lambda: self._device_binding(like, fed, shapes))
        ring.outputs = BufferPool(self.batch * found[0] * found[1] * 4)
        return outputs

    def _device_binding(
        self,
        like: NDArray[Any],
        fed: dict[str, NDArray[Any]],
        shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]],
    ) -> DeviceBinding:
        options = self._run_options(str(next(self._graph_ids)) if self.cuda_graph else None)
        name = self.spec.image_input.name
        return DeviceBinding(self.session, name, like, fed, shapes, self._device, options=options, lock=self.page_lock)

    def _run_options(self, graph_id: str | None = None) -> Any:
        import onnxruntime as ort

        options = ort.RunOptions()
        options.log_severity_level = 4
        if graph_id is not None:
            options.add_run_config_entry(GRAPH_ID, graph_id)
        with self._rings_lock:
            options.terminate = self._interrupted
            self._every_option.append(options)
        return options

    def _run_on_device(self, ring: DeviceRing, slot: Slot, number: int, part: NDArray[np.float32]) -> list[RowExtra]:
        first = number * self.rows_per_run
        geometries = slot.geometries[first : first + self.rows_per_run]

        def run() -> list[RowExtra]:
            with ring.lend() as device:
                device.upload(slot.host_input(number))
                with self._alone:  # neither CUDA graphs nor TensorRT take two runs of a session at once
                    device.run()
                return self._reader.read(device.download(), part, geometries)

        return self._guarded(run, slot.size)

    def _run(
        self, binding: Any, size: tuple[int, int], options: Any = None, *, state: ModelState | None = None
    ) -> None:
        if state is not None:
            state.bind(binding)
        self._guarded(lambda: self.session.run_with_iobinding(binding, options or self._options), size)
        if state is not None:
            state.advance()

    def _guarded(self, run: Callable[[], T], size: tuple[int, int]) -> T:
        self._check_usable()
        try:
            return run()
        except Exception as exc:
            if self._interrupted:
                raise InferenceError(f"{self.spec.name}: inference was interrupted") from exc
            raise run_error(exc, self.spec, size, self.rows_per_run) from exc

    def _check_usable(self) -> None:
        if self.session is None:
            raise InferenceError(f"{self.spec.name}: the engine is closed; make a new one")
        if self._interrupted:
            raise InferenceError(f"{self.spec.name}: inference was interrupted")

    def _finish(self, raw: RawDepth) -> DepthMap:
        values, valid, view = raw.values, raw.extra.valid, raw.extra.field_of_view_degrees
        if view is not None:
            values = geometry.depth_pro_metres(values, view)
        placed = raw.geometry
        if placed is not None and placed.reflected:
            values = geometry.zoe_at_model_size(values, placed)
        elif placed is not None and (not self.exact or self.spec.preprocessing.letterbox):
            values = geometry.cropped(values, placed)
            valid = None if valid is None else geometry.cropped(valid, placed)
        return DepthMap(values, self.spec.sense, valid)

"""Named cameras that share one model: one process, one session, one batch. Cameras come and go while it runs."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self, Unpack

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import StreamDepthError, UsageError, nearest, one_line
from streamdepth.core.look import Look
from streamdepth.core.queues import Policy
from streamdepth.depth.range import RangeSpec, RangeSwitch
from streamdepth.depth.shots import FRAME_CACHE_BYTES
from streamdepth.pipeline.arguments import StageOptions, check_run, to_policy, to_range, to_sinks, to_source
from streamdepth.pipeline.camera import Camera, CameraOptions, CameraStats, check_name
from streamdepth.pipeline.model_worker import ModelWorker, staleness_ns
from streamdepth.pipeline.report import opening_notes, snapshot
from streamdepth.pipeline.source_worker import SourceWorker
from streamdepth.pipeline.stabilization import StabilizeSwitch
from streamdepth.pipeline.stats import RunStats
from streamdepth.pipeline.threads import ThreadGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.inference.model import EngineSource, Runner
    from streamdepth.pipeline.arguments import SinkMaker, SourceMaker
    from streamdepth.pipeline.stats import Snapshot


class CameraGroup:
    """Cameras by name. Each has its own range, filters, statistics and reconnects; all share one session and its batch.

    A camera that fails, or whose output blocks, delays no other. Frames of several cameras share a model run if they
    arrive within ``max_staleness_seconds``.

    Args:
        model: a DepthModel or DepthEstimator; None uses the built-in one.
        batch: most frames per model run.
        max_staleness_seconds: age of a frame at which its batch waits for no other camera; None = one frame interval of
            the fastest camera.
        deadline_seconds: how long the end of a camera may take before its blocking threads are abandoned.
        on_status: called with a line of text when a camera ends with an error. Any thread.
        clock: monotonic time.

    Use it in a ``with`` block. All methods and properties: any thread.
    """

    def __init__(
        self,
        model: EngineSource | None = None,
        *,
        batch: int = 1,
        max_staleness_seconds: float | None = None,
        deadline_seconds: float = 10.0,
        on_status: Callable[[str], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        check_run(model=model, batch=batch, deadline_seconds=deadline_seconds, on_status=on_status, clock=clock)
        self._engines = model
        self._batch = batch
        self._deadline_seconds = deadline_seconds
        self._on_status = on_status or (lambda _: None)
        self._clock = clock or SystemClock()
        self._model = ModelWorker(
            (), batch=batch, clock=self._clock, max_staleness_ns=staleness_ns(max_staleness_seconds)
        )
        self._model_threads = ThreadGroup(on_error=self._on_model_error, on_stop=self.close, on_done=lambda: None)
        self._engine: Runner | None = None
        self._lock = threading.Lock()
        self._cameras: dict[str, Camera] = {}
        self._changing: set[str] = set()
        self._added = 0
        self._closed = False

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Load the model and start its threads. Idempotent.

        Raises:
            StreamDepthError: the model cannot be used.
        """
        with self._lock:
            if self._engine is not None or self._closed:
                return
            if self._engines is None:
                from streamdepth.inference.model import DepthModel

                self._engines = DepthModel()
            spec = self._engines.spec
            if spec.window:
                raise UsageError(f"{spec.video_only}, and live cameras cannot wait for them; choose another model")
            self._engine = engine = self._engines.live_engine(self._batch)
            self._model.add_threads(self._model_threads, engine)
            self._model_threads.start()

    # Cameras ----------------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        source: Source | str | SourceMaker,
        sinks: Sequence[Sink] | SinkMaker = (),
        **options: Unpack[CameraOptions],
    ) -> None:
        """Start a camera; it connects in the background.

        Args:
            name: unique, at most 64 printable characters without ``/``.
            source: text as on the command line, an unopened source, or a function that makes one.
            sinks: outputs, or a function that returns the sinks for a source. Windows are not possible.
            options: see :class:`CameraOptions`.

        Raises:
            UsageError: a wrong value, the name is in use, or the group is closed.
            StreamDepthError: the text names no source.
        """
        check_name(name)
        with self._reserved(name, present=False):
            self._start(self._made(name, source, sinks, options))

    def remove(self, name: str) -> RunStats:
        """Stop a camera: captured frames are written, its outputs are closed. Returns its statistics.

        Raises:
            UsageError: there is no such camera.
            StreamDepthError: an output could not be completed.
        """
        with self._reserved(name, present=True):
            camera = self._cameras[name]
            camera.worker.stop()
            try:
                return self._ended(camera)
            finally:
                with self._lock:
                    del self._cameras[name]

    def update(
        self,
        name: str,
        *,
        look: Mapping[str, Any] | None = None,
        source: Source | str | SourceMaker | None = None,
        sinks: Sequence[Sink] | SinkMaker | None = None,
        **options: Unpack[CameraOptions],
    ) -> None:
        """Change a camera. Look and range change with the next frame, and so does ``stabilize`` if a
        :class:`~streamdepth.pipeline.stabilization.StabilizeSwitch` was given; anything else restarts the camera.

        Args:
            look: fields of :class:`~streamdepth.core.look.Look` to replace, in all its outputs.

        Raises:
            UsageError: there is no such camera, a wrong value, or a restart of a camera whose source or sinks are
                objects, which can be used once only: pass new ones, or pass functions that make them.
        """
        for key in set(look or ()) - {field.name for field in fields(Look)}:
            raise UsageError(f"a look has no {key!r}; its fields are {', '.join(field.name for field in fields(Look))}")
        with self._reserved(name, present=True):
            camera = self._cameras[name]
            worker, changes = camera.worker, dict(options)
            switch = worker.range_spec
            if isinstance(changes.get("range"), str) and isinstance(switch, RangeSwitch):
                switch.set(RangeSpec.parse(str(changes.pop("range"))))
            given, on = camera.options.get("stabilize"), changes.get("stabilize")
            if isinstance(given, StabilizeSwitch) and isinstance(on, bool):
                given.set(bool(changes.pop("stabilize")))
            if look:
                for control in {one.sink.control for one in worker.sink_workers if one.sink.control is not None}:
                    control.update(**look)
            if source is None and sinks is None and not changes:
                return
            new_source = camera.given[0] if source is None else source
            new_sinks = camera.given[1] if sinks is None else sinks
            if not (isinstance(new_source, str) or callable(new_source) or source is not None):
                raise UsageError(f"{name}: its source can be used once only; pass a new one")
            if new_sinks and not callable(new_sinks) and sinks is None:
                raise UsageError(f"{name}: its sinks can be used once only; pass new ones")
            kept: CameraOptions = {**camera.options, **changes}  # type: ignore[typeddict-item]
            made = self._made(name, new_source, new_sinks, kept)
            worker.stop()
            try:
                self._ended(camera)
            finally:
                self._start(made)

    def stats(self) -> dict[str, CameraStats]:
        """The state of every camera, by name."""
        return {name: camera.stats() for name, camera in self._snapshot()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self._snapshot())

    # Ending -----------------------------------------------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """True while a camera runs."""
        return any(camera.final is None for _, camera in self._snapshot())

    def check(self) -> None:
        """Raises ``StreamDepthError``: the model has failed, which ends all cameras."""
        if self._model_threads.error is not None:
            raise self._model_threads.error

    def run_stats(self) -> dict[str, RunStats]:
        """The statistics of every camera that has ended and was not removed, by name."""
        return {name: camera.final for name, camera in self._snapshot() if camera.final is not None}

    def close(self) -> None:
        """Stop all cameras, write what they captured, and release the model. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            cameras = list(self._cameras.values())
        for camera in cameras:
            camera.worker.stop()
        for camera in cameras:
            try:
                self._ended(camera)
            except StreamDepthError as error:
                self._on_status(f"{camera.name}: {one_line(str(error))}")
        self._model.frame_queue.close()
        if self._engine is not None:
            self._model_threads.join(self._deadline_seconds, self._clock)
            if not self._model_threads.done:
                self._model.abort()
                self._engine.interrupt()
                self._model_threads.join(self._deadline_seconds, self._clock)
            self._engine.close()

    # For pages: as of a pipeline --------------------------------------------------------------------------------------

    def snapshot(self, source_id: str | None = None) -> Snapshot:
        """The current state of all cameras, or of the camera of this name."""
        cameras = [camera for name, camera in self._snapshot() if source_id in (None, name)]
        now_ns = self._clock.monotonic_ns()
        started_ns = min((camera.started_ns for camera in cameras), default=now_ns)
        return snapshot(
            [camera.worker for camera in cameras],
            self._model.queued(),
            seconds=(now_ns - started_ns) / 1e9,
            stopping=self._closed,
        )

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """All sinks of all cameras."""
        return tuple(one.sink for _, camera in self._snapshot() for one in camera.worker.sink_workers)

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages about the model."""
        return opening_notes((), self._engine) if self._engine is not None else ()

    # Internal ---------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> list[tuple[str, Camera]]:
        with self._lock:
            return list(self._cameras.items())

    @contextmanager
    def _reserved(self, name: str, *, present: bool) -> Iterator[None]:
        """Keeps other threads from changing a camera in the block."""
        with self._lock:
            if self._closed:
                raise UsageError("the group of cameras is closed; create a new one")
            if name in self._changing:
                raise UsageError(f"{name}: is being changed; try again")
            if present and name not in self._cameras:
                raise UsageError(f"there is no camera {name}{nearest(name, self._cameras)}")
            if not present and name in self._cameras:
                raise UsageError(f"{name}: a camera has this name; choose another, or change that camera")
            self._changing.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._changing.discard(name)

    def _made(
        self,
        name: str,
        source: Source | str | SourceMaker,
        sinks: Sequence[Sink] | SinkMaker,
        options: CameraOptions,
    ) -> Camera:
        """A camera that is not started."""
        self.open()
        for key in options.keys() - CameraOptions.__optional_keys__:
            raise UsageError(f"a camera has no option {key!r}{nearest(key, CameraOptions.__optional_keys__)}")
        stage_options = StageOptions(
            options.get("model_every", 1),
            options.get("anchors", ()),
            options.get("stabilize", False),
            options.get("color_threads", 1),
        )
        made = to_source(source() if callable(source) and not isinstance(source, type) else source)
        own_sinks = to_sinks(sinks, made)
        spec = to_range(options.get("range")) or RangeSpec.parse("ema")
        if any(sink.on_caller_thread for sink in own_sinks):
            raise UsageError(f"{name}: a group of cameras has no window; serve a page instead")
        if not isinstance(spec, RangeSwitch) and any(sink.control is not None for sink in own_sinks):
            spec = RangeSwitch(spec)
        with self._lock:
            self._added += 1
            number = self._added
        assert self._engines is not None  # noqa: S101 - set in open()
        worker = SourceWorker(
            number,
            made,
            own_sinks,
            policy=to_policy(options.get("policy"), Policy.LATEST),
            range_spec=spec,
            batch=self._batch,
            options=stage_options,
            frame_cache_bytes=FRAME_CACHE_BYTES,
            model_remembers=bool(self._engines.spec.video_only),
            on_status=lambda text: self._on_status(f"{name}: {text}"),
            clock=self._clock,
        )
        worker.expect_late_open()
        return Camera(
            name,
            worker,
            (source, sinks),
            options,
            on_done=self._on_camera_done,
            on_status=self._on_status,
            clock=self._clock,
        )

    def _start(self, camera: Camera) -> None:
        with self._lock:
            if self._closed:
                raise UsageError("the group of cameras is closed; create a new one")
            self._cameras[camera.name] = camera
            self._model.add(camera.worker)
            camera.worker.add_threads(camera.threads, self._model.frame_queue, camera.name)
            camera.threads.start()

    def _on_camera_done(self, camera: Camera) -> None:
        """All threads of a camera have ended; on the last of them."""
        self._model.remove(camera.worker.number)
        camera.threads.guard(camera.worker.close, "close", camera.name)
        if self._engine is not None:
            camera.finalize(self._model.timers, self._engine)

    def _ended(self, camera: Camera) -> RunStats:
        """The statistics of a camera that was stopped; waits until it has ended, at most for the deadline."""
        camera.threads.join(self._deadline_seconds, self._clock)
        if not camera.threads.done:
            camera.worker.abort()
            self._model.remove(camera.worker.number)
            camera.threads.join(1.0, self._clock)
            camera.threads.guard(camera.worker.close, "close", camera.name)
            if self._engine is not None:
                camera.finalize(self._model.timers, self._engine)
        if camera.threads.error is not None:
            raise camera.threads.error
        return camera.final or RunStats()

    def _on_model_error(self) -> None:
        self._model.abort()
        for _, camera in self._snapshot():
            camera.worker.abort()

"""The stages of one source: capture, depth, range, colour, sinks. Loops only; the pipeline owns the threads."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import MissingDependencyError, SourceError, UsageError
from streamdepth.core.frame import Result
from streamdepth.core.queues import BoundedQueue, Ended, Policy
from streamdepth.depth.range import RangeMode, RangeSpec, RangeSwitch, measure, range_control
from streamdepth.depth.shots import ShotSpool
from streamdepth.pipeline.keyframes import Estimated, KeyframePropagation
from streamdepth.pipeline.second_pass import SecondPass
from streamdepth.pipeline.stabilization import Stabilization, StabilizeSwitch
from streamdepth.pipeline.stats import SinkStats, SourceCounters, Timer
from streamdepth.pipeline.threads import SinkWorker, close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import av

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.frame import DepthMap, DepthRange, Frame, StreamInfo
    from streamdepth.core.look import Look
    from streamdepth.depth.alignment import Anchoring
    from streamdepth.depth.motion import CutDetector
    from streamdepth.depth.odometry import MotionScale
    from streamdepth.depth.range import Measurement
    from streamdepth.geometry.readers import IntrinsicsFor
    from streamdepth.pipeline.arguments import StageOptions
    from streamdepth.pipeline.batching import MultiSourceQueue
    from streamdepth.pipeline.threads import ThreadGroup


class SourceWorker:
    """Counters, queues and loops of one source. Each loop runs on one thread of the pipeline."""

    def __init__(
        self,
        number: int,
        source: Source,
        sinks: list[Sink],
        *,
        policy: Policy,
        range_spec: RangeSpec | RangeSwitch,
        batch: int,
        options: StageOptions,
        frame_cache_bytes: int,
        model_remembers: bool,
        on_status: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self.number = number
        self.source = source
        self.policy = policy
        self.range_spec = range_spec
        self.counters = SourceCounters()
        self.latency = Timer()
        self.timers = {"capture": Timer(), "range": Timer(), "colorize": Timer()}
        self.sink_workers = [SinkWorker(sink, clock, self.latency) for sink in sinks]
        self.depths: BoundedQueue[Estimated] = BoundedQueue(max(2, 2 * batch))
        self.propagation: KeyframePropagation | None = None
        if options.model_every > 1:
            self.propagation = KeyframePropagation(
                options.model_every,
                policy=policy,
                batch=batch,
                known=self.depths,
                dropped=self.counters.dropped,
                clock=clock,
            )
        self.stabilization: Stabilization | None = None
        if options.stabilize:
            switch = options.stabilize if isinstance(options.stabilize, StabilizeSwitch) else StabilizeSwitch(True)
            self.stabilization = Stabilization(switch, policy, self._take_depth, clock)
        self.info: StreamInfo | None = None
        self.shot_spool: ShotSpool | None = None
        self._second_pass: SecondPass | None = None
        self._colorizer: Colorizer | None = None
        self._cuts: CutDetector | None = None
        self._color_threads = options.color_threads
        self._frame_cache_bytes = frame_cache_bytes
        self._anchors = options.anchors
        self._model_remembers = model_remembers
        self.anchoring: Anchoring | MotionScale | None = None
        self._clock = clock
        self._last_frame: Frame | None = None
        self._missing = ""
        self._independent = False
        self._on_status = on_status
        self.failure: SourceError | None = None
        self._stopping = threading.Event()

    @property
    def _needs_cuts(self) -> bool:
        if isinstance(self.range_spec, RangeSwitch):
            return True
        if self.propagation is not None or self.stabilization is not None or self._anchors:
            return True
        if self._model_remembers:
            return True
        return self.range_spec.mode in (RangeMode.SHOT, RangeMode.EMA)

    def expect_late_open(self) -> None:
        """The source opens on the capture thread, so that it delays no other source; its end ends no other source."""
        self._independent = True
        for sink_worker in self.sink_workers:
            sink_worker.expect_late_open()

    def open(self) -> StreamInfo:
        """Open the source, then the sinks with the size and format of their images.

        Raises:
            StreamDepthError: one of them cannot be opened; ``close`` closes the others.
        """
        self.info = info = self.source.open()
        if self.range_spec.mode is RangeMode.SHOT:
            self._second_pass = SecondPass(self.source)
            self.shot_spool = ShotSpool(frame_cache_bytes=self._frame_cache_bytes, clock=self._clock)
        if self._needs_cuts:
            from streamdepth.depth.motion import CutDetector

            try:
                self._cuts = CutDetector(continues=info.continues)
            except MissingDependencyError as error:
                self._missing = error.message
        if self.propagation is not None:
            self.propagation.open(self._cuts)
        if self._anchors:
            from streamdepth.depth.alignment import Anchoring
            from streamdepth.depth.odometry import KnownMotion, MotionScale
            from streamdepth.geometry.readers import camera_for

            if isinstance(self._anchors, KnownMotion):
                if info.live:
                    raise UsageError(f"odometry: {self.source.id} is live, without media time; give a video file")
                camera = camera_for("odometry", info, cast("IntrinsicsFor", self._anchors.camera))
                motion = replace(self._anchors, camera=camera.for_size)
                motion.check(float(info.origin_seconds), info.duration_seconds)
                self.anchoring = MotionScale(motion)
            else:
                self.anchoring = Anchoring(self._anchors, (info.width_px, info.height_px), live=info.live)
        if self.stabilization is not None:
            self.stabilization.open(info, self._cuts)
        if any(sink_worker.sink.control is not None for sink_worker in self.sink_workers):
            from streamdepth.colorize.colorizer import Colorizer
            from streamdepth.colorize.palettes import checked_style

            self._colorizer = Colorizer(info, threads=self._color_threads)
        for sink_worker in self.sink_workers:
            control = sink_worker.sink.control
            image_info = None
            if control is not None and self._colorizer is not None:
                control.validate_with(lambda look: checked_style(look.style))
                image_info = self._colorizer.image_info(control.look)
            sink_worker.open(info, image_info)
        return info

    def add_threads(self, thread_group: ThreadGroup, frame_queue: MultiSourceQueue, name: str) -> None:
        """Add the threads of this source; ``name`` tells them from those of other sources."""
        thread_group.add(partial(self.capture, frame_queue), stage="capture", source=name)
        if self.propagation is not None:
            thread_group.add(self.propagation.run, stage="propagate", source=name)
        if self.stabilization is not None:
            thread_group.add(self.stabilization.run, stage="stabilize", source=name)
        if self.range_spec.mode is RangeMode.SHOT:
            thread_group.add(self.spool, stage="range", source=name)
            thread_group.add(self.color_shots, stage="colorize", source=name)
        else:
            thread_group.add(self.color, stage="colorize", source=name)
        for sink_worker in self.sink_workers:
            if not sink_worker.sink.on_caller_thread:
                thread_group.add(sink_worker.run, stage="sink", source=sink_worker.sink.name)

    # Loops, one thread each -------------------------------------------------------------------------------------

    def capture(self, frame_queue: MultiSourceQueue) -> None:
        try:
            if self._independent:
                self.open()
            self._capture(frame_queue)
        except SourceError as error:
            if not self._independent:
                raise
            if not self._stopping.is_set():
                self.failure = error
                self._on_status(f"{error}; the other sources go on")
        finally:
            frame_queue.end(self.number)
            if self.propagation is not None:
                self.propagation.end()
            for cause, count in self.source.dropped.items():
                self.counters.captured(count)
                self.counters.dropped(cause, count)

    def _capture(self, frame_queue: MultiSourceQueue) -> None:
        clock = self._clock
        paced = self.policy is Policy.LATEST and not self.source.live
        started_ns = clock.monotonic_ns()
        first_seconds: float | None = None
        for frame in self._timed(self.source.frames()):
            self.counters.captured()
            if paced:
                first_seconds = frame.seconds if first_seconds is None else first_seconds
                due_ns = started_ns + int((frame.seconds - first_seconds) * 1e9)
                if self._stopping.wait(max(0.0, (due_ns - clock.monotonic_ns()) / 1e9)):
                    self.counters.dropped("stopped")
                    break
            if self.propagation is not None:
                self.propagation.submit(frame, partial(frame_queue.put, self.number))
            elif frame_queue.put(self.number, frame) is not None:
                self.counters.dropped("policy")

    def _timed(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        timer, clock = self.timers["capture"], self._clock
        while True:
            before_ns = clock.monotonic_ns()
            frame = next(frames, None)
            if frame is None:
                return
            timer.add(clock.monotonic_ns() - before_ns)
            yield frame

    def color(self) -> None:
        """Range and colour in one pass."""
        control = range_control(self.range_spec)
        try:
            while True:
                estimated = self._next()
                frame = estimated.frame
                started_ns = self._clock.monotonic_ns()
                depth, measurement, cut = self._measure(estimated)
                depth_range = control.update(measurement, frame.seconds, cut=cut)
                self.timers["range"].add(self._clock.monotonic_ns() - started_ns)
                self._deliver(frame, depth, depth_range, self._looks())
        except Ended:
            self._end_sink_workers()

    def spool(self) -> None:
        """First pass of ``shot``: store depth until the shot has ended."""
        assert self.shot_spool is not None  # noqa: S101 - created in open()
        try:
            while True:
                estimated = self._next()
                started_ns = self._clock.monotonic_ns()
                depth, measurement, cut = self._measure(estimated)
                pixels = self._reads_pixels(self._looks())
                self.shot_spool.append(estimated.frame, depth, measurement, cut=cut, pixels=pixels)
                self.timers["range"].add(self._clock.monotonic_ns() - started_ns)
        except Ended:
            self.shot_spool.end()

    def color_shots(self) -> None:
        """Second pass of ``shot``: the same frames, cached or read again, with the range of their shot."""
        assert self.shot_spool is not None  # noqa: S101 - created in open()
        assert self._second_pass is not None  # noqa: S101 - created in open()
        try:
            while True:
                spooled = self.shot_spool.take()
                looks = self._looks()
                frame = spooled.frame
                if frame is None:
                    pixels = self._reads_pixels(looks)
                    frame = self._second_pass.find(spooled.stamp) if pixels else spooled.outline.frame()
                self._deliver(frame, spooled.depth, spooled.range, looks)
                del spooled, frame  # Frees a cached image before waiting for the next.
        except Ended:
            self._end_sink_workers()

    def _measure(self, estimated: Estimated) -> tuple[DepthMap, Measurement, bool]:
        """The depth of a frame, in metres where there are anchors, its measurement, and whether it starts a shot."""
        cut = estimated.cut
        if cut is None:
            cut = self._cuts is not None and self._cuts.is_cut(estimated.frame.image)
        depth = estimated.depth
        if self.anchoring is not None:
            depth = self.anchoring.update(depth, estimated.frame.seconds, cut=cut, image=estimated.frame.image)
        measurement = measure(depth)
        self.counters.depth(flat=measurement.flat, non_finite=measurement.non_finite)
        return depth, measurement, cut

    def _next(self) -> Estimated:
        return self._take_depth() if self.stabilization is None else self.stabilization.ready.take()

    def _take_depth(self) -> Estimated:
        """The next frame with depth from the model, or propagated."""
        if self.propagation is not None:
            return self.propagation.ready.take()
        return self.depths.take()

    def is_in_model(self, frame: Frame) -> None:
        """The model runs on ``frame``: do what needs no depth. One thread calls this, in order."""
        if self.stabilization is not None and self.propagation is None:
            self.stabilization.compute_flow(frame)

    def is_restart(self, frame: Frame) -> bool:
        """True if the state of a stateful model must be reset: ``frame`` starts a shot, or a live source has connected
        again. Called by one thread, once for each frame that goes to the model.
        """
        last, self._last_frame = self._last_frame, frame
        if self.propagation is not None:  # knows the frames between those that go to the model
            cut = self.propagation.is_new_shot(frame)
        else:
            cut = self._cuts is not None and self._cuts.is_cut(frame.image)
        return cut or last is None or last.connection != frame.connection

    def _looks(self) -> list[Look | None]:
        """The current look of each sink; None for a sink without images."""
        controls = [sink_worker.sink.control for sink_worker in self.sink_workers]
        return [None if control is None else control.look for control in controls]

    def _reads_pixels(self, looks: Sequence[Look | None]) -> bool:
        """True if a sink, or an image with one of ``looks``, uses the pixels of the frame."""
        sinks = [sink_worker.sink for sink_worker in self.sink_workers]
        return any(look is not None and look.reads_pixels for look in looks) or any(
            not isinstance(sink, BaseSink) or sink.reads_pixels for sink in sinks
        )

    def _deliver(self, frame: Frame, depth: DepthMap, depth_range: DepthRange, looks: Sequence[Look | None]) -> None:
        images: dict[Look, av.VideoFrame] = {}
        taken = False
        try:
            for sink_worker, look in zip(self.sink_workers, looks, strict=True):
                if look is not None and self._colorizer is not None and look not in images:
                    started_ns = self._clock.monotonic_ns()
                    images[look] = self._colorizer.render(frame.image, depth, depth_range, look)
                    self.timers["colorize"].add(self._clock.monotonic_ns() - started_ns)
                sink_worker.offer(Result(frame, depth, depth_range, None if look is None else images.get(look)))
                taken = True
        finally:  # an abort may come when one sink has the frame and the next has no room for it
            if taken or not self.sink_workers:
                self.counters.processed()

    def _end_sink_workers(self) -> None:
        for sink_worker in self.sink_workers:
            sink_worker.queue.end()

    # Ending -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Capture no more frames; captured frames are processed."""
        self._stopping.set()
        self.source.interrupt()

    def abort(self) -> None:
        """Abort every wait of every loop."""
        self.stop()
        self.depths.abort()
        if self.propagation is not None:
            self.propagation.abort()
        if self.stabilization is not None:
            self.stabilization.abort()
        if self.shot_spool is not None:
            self.shot_spool.abort()
        if self._second_pass is not None:
            self._second_pass.interrupt()
        for sink_worker in self.sink_workers:
            sink_worker.queue.abort()
            sink_worker.sink.interrupt()

    def close(self) -> None:
        """Close all stages, then raise the first error. Idempotent."""
        closers = [sink_worker.sink.close for sink_worker in self.sink_workers]
        stages = (self.source, self._second_pass, self.shot_spool, self._colorizer)
        closers += [stage.close for stage in stages if stage is not None]
        error = close_all(closers)
        if error is not None:
            raise error

    def finalize(self, cause: str) -> list[SinkStats]:
        """The statistics of the sinks after the run. Frames still in the pipeline count as dropped by ``cause``."""
        counts = self.counters.read()
        self.counters.dropped(cause, counts.captured - counts.processed - sum(counts.dropped.values()))
        return [sink_worker.finalize(cause) for sink_worker in self.sink_workers]

    @property
    def opening_notes(self) -> tuple[str, ...]:
        """Notes of the source, on colour conversion, and on missing dependencies."""
        own = (
            self.info.note if self.info is not None else "",
            self._colorizer.note if self._colorizer is not None else "",
        )
        return (*(f"{self.source.id}: {note}" for note in own if note), self._missing)

    @property
    def reread(self) -> int:
        """Frames read in the second pass so far, including skipped ones."""
        return self._second_pass.count if self._second_pass is not None else 0

    @property
    def lasting(self) -> bool:
        """True if the output of any sink remains after the run."""
        return any(sink_worker.sink.lasting for sink_worker in self.sink_workers)

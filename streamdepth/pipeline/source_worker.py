"""One source's way through a run: capture, depth, range, colour, sinks. Loops only; the pipeline owns the threads."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from streamdepth.core.errors import MissingDependencyError
from streamdepth.core.frame import Result
from streamdepth.core.queues import BoundedQueue, Ended, Policy
from streamdepth.depth.range import RangeMode, RangeSwitch, measure, range_control
from streamdepth.depth.shots import ShotLedger
from streamdepth.pipeline.keyframes import Carrying, Estimated
from streamdepth.pipeline.second_pass import Rereading
from streamdepth.pipeline.sink_worker import Outlet
from streamdepth.pipeline.stats import SinkStats, Tally, Timer

if TYPE_CHECKING:
    import av

    from streamdepth.colorize.colorizer import Colorizer
    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Sink, Source
    from streamdepth.core.frame import DepthMap, DepthRange, Frame, StreamInfo
    from streamdepth.core.look import Look
    from streamdepth.depth.cuts import CutDetector
    from streamdepth.depth.range import Measurement, RangeSpec
    from streamdepth.pipeline.batching import Inbox


class Lane:
    """Books, queues and loops of one source. Each loop runs on one thread of the pipeline's."""

    def __init__(
        self,
        number: int,
        source: Source,
        sinks: list[Sink],
        *,
        policy: Policy,
        range_spec: RangeSpec | RangeSwitch,
        batch: int,
        model_every: int,
        color_threads: int,
        kept_bytes: int,
        clock: Clock,
    ) -> None:
        self.number = number
        self.source = source
        self.policy = policy
        self.range_spec = range_spec
        self.tally = Tally()
        self.latency = Timer()
        self.timers = {"capture": Timer(), "range": Timer(), "colorize": Timer()}
        self.outlets = [Outlet(sink, clock, self.latency) for sink in sinks]
        self.depths: BoundedQueue[tuple[Frame, DepthMap]] = BoundedQueue(max(2, 2 * batch))
        self.carrying: Carrying | None = None
        if model_every > 1:
            self.carrying = Carrying(
                model_every, policy=policy, batch=batch, known=self.depths, dropped=self.tally.dropped, clock=clock
            )
        self.info: StreamInfo | None = None
        self.ledger: ShotLedger | None = None
        self._rereading: Rereading | None = None
        self._colorizer: Colorizer | None = None
        self._cuts: CutDetector | None = None
        self._color_threads = color_threads
        self._kept_bytes = kept_bytes
        self._clock = clock
        self._lacking = ""
        self._stopping = threading.Event()

    def load_ahead(self) -> None:
        """Begin to load what ``open`` will need, for whoever has something else to do meanwhile."""
        if self._finds_cuts:
            from streamdepth.depth.cuts import load_ahead

            load_ahead()

    @property
    def _finds_cuts(self) -> bool:
        if self.carrying is not None or isinstance(self.range_spec, RangeSwitch):
            return True
        return self.range_spec.mode in (RangeMode.SHOT, RangeMode.EMA)

    def open(self) -> StreamInfo:
        """Open the source, then the sinks in the size and format their pictures will have.

        Raises:
            StreamDepthError: one of them cannot be opened; the rest is left to ``close``.
        """
        self.info = info = self.source.open()
        if self.range_spec.mode is RangeMode.SHOT:
            self._rereading = Rereading(self.source)
            self.ledger = ShotLedger(kept_bytes=self._kept_bytes)
        if self._finds_cuts:
            from streamdepth.depth.cuts import CutDetector

            try:
                self._cuts = CutDetector(info.rate)
            except MissingDependencyError as error:
                self._lacking = error.message
        if self.carrying is not None:
            self.carrying.open(self._cuts)
        if any(outlet.sink.control is not None for outlet in self.outlets):
            from streamdepth.colorize.colorizer import Colorizer

            self._colorizer = Colorizer(info, threads=self._color_threads)
        for outlet in self.outlets:
            control = outlet.sink.control
            wanted = None if control is None or self._colorizer is None else self._colorizer.picture_info(control.look)
            outlet.sink.open(info, wanted)
        return info

    # Loops, one thread each -------------------------------------------------------------------------------------

    def capture(self, inbox: Inbox) -> None:
        timer, clock = self.timers["capture"], self._clock
        paced = self.policy is Policy.LATEST and not self.source.live
        started_ns = clock.monotonic_ns()
        first_seconds: float | None = None
        frames = iter(self.source.frames())
        try:
            while True:
                before_ns = clock.monotonic_ns()
                frame = next(frames, None)
                if frame is None:
                    break
                timer.add(clock.monotonic_ns() - before_ns)
                self.tally.captured()
                if paced:
                    first_seconds = frame.seconds if first_seconds is None else first_seconds
                    due_ns = started_ns + int((frame.seconds - first_seconds) * 1e9)
                    if self._stopping.wait(max(0.0, (due_ns - clock.monotonic_ns()) / 1e9)):
                        self.tally.dropped("stopped")
                        break
                if self.carrying is not None:
                    self.carrying.admit(frame, partial(inbox.put, self.number))
                elif inbox.put(self.number, frame) is not None:
                    self.tally.dropped("policy")
        finally:
            inbox.end(self.number)
            if self.carrying is not None:
                self.carrying.end()
            for cause, count in self.source.dropped.items():
                self.tally.captured(count)
                self.tally.dropped(cause, count)

    def color(self) -> None:
        """Range and colour in one pass, as depth comes."""
        control = range_control(self.range_spec)
        try:
            while True:
                estimated = self._next()
                frame, depth = estimated.frame, estimated.depth
                started_ns = self._clock.monotonic_ns()
                measurement, cut = self._look_at(estimated)
                depth_range = control.update(measurement, frame.seconds, cut=cut)
                self.timers["range"].add(self._clock.monotonic_ns() - started_ns)
                self._deliver(frame, depth, depth_range)
        except Ended:
            self._end_outlets()

    def spool(self) -> None:
        """First pass of ``shot``: keep depth until its shot has ended."""
        assert self.ledger is not None  # noqa: S101 - made in open()
        try:
            while True:
                estimated = self._next()
                started_ns = self._clock.monotonic_ns()
                measurement, cut = self._look_at(estimated)
                self.ledger.append(estimated.frame, estimated.depth, measurement, cut=cut)
                self.timers["range"].add(self._clock.monotonic_ns() - started_ns)
        except Ended:
            self.ledger.end()

    def color_shots(self) -> None:
        """Second pass of ``shot``: the same frames, kept or read again, now with their shot's range."""
        assert self.ledger is not None  # noqa: S101 - made in open()
        assert self._rereading is not None  # noqa: S101 - made in open()
        try:
            while True:
                spooled = self.ledger.take()
                frame = spooled.frame or self._rereading.find(spooled.stamp)
                self._deliver(frame, spooled.depth, spooled.range)
                del spooled, frame  # a picture that was kept goes before the next is waited for
        except Ended:
            self._end_outlets()

    def _look_at(self, estimated: Estimated) -> tuple[Measurement, bool]:
        """Measure a frame's depth, book what is odd about it, and say whether a new shot starts with it."""
        measurement = measure(estimated.depth)
        self.tally.odd_depth(flat=measurement.flat, non_finite=measurement.non_finite)
        if estimated.cut is not None:
            return measurement, estimated.cut
        return measurement, self._cuts is not None and self._cuts.is_cut(estimated.frame.picture)

    def _next(self) -> Estimated:
        if self.carrying is not None:
            return self.carrying.ready.take()
        return Estimated(*self.depths.take())

    def _deliver(self, frame: Frame, depth: DepthMap, depth_range: DepthRange) -> None:
        pictures: dict[Look, av.VideoFrame] = {}
        for outlet in self.outlets:
            control = outlet.sink.control
            picture = None
            if control is not None and self._colorizer is not None:
                look = control.look
                if look not in pictures:
                    started_ns = self._clock.monotonic_ns()
                    pictures[look] = self._colorizer.render(frame.picture, depth, depth_range, look)
                    self.timers["colorize"].add(self._clock.monotonic_ns() - started_ns)
                picture = pictures[look]
            outlet.offer(Result(frame, depth, depth_range, picture))
        self.tally.processed()

    def _end_outlets(self) -> None:
        for outlet in self.outlets:
            outlet.queue.end()

    # Ending -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Take no more frames; what was taken goes its way to the end."""
        self._stopping.set()
        self.source.interrupt()

    def abort(self) -> None:
        """End every wait of every loop, now."""
        self.stop()
        self.depths.abort()
        if self.carrying is not None:
            self.carrying.abort()
        if self.ledger is not None:
            self.ledger.abort()
        if self._rereading is not None:
            self._rereading.interrupt()
        for outlet in self.outlets:
            outlet.queue.abort()
            outlet.sink.interrupt()

    def close(self) -> None:
        """Close whatever is open; the first error is raised once everything was tried. Idempotent."""
        closers = [outlet.sink.close for outlet in self.outlets]
        stages = (self.source, self._rereading, self.ledger, self._colorizer)
        closers += [stage.close for stage in stages if stage is not None]
        first: Exception | None = None
        for close in closers:
            try:
                close()
            except Exception as error:  # the rest must be closed too
                first = first or error
        if first is not None:
            raise first

    def settle(self, cause: str) -> list[SinkStats]:
        """Close the books: frames on their way when the run was cut short are lost to ``cause``."""
        captured, processed, dropped, _, _ = self.tally.read()
        self.tally.dropped(cause, captured - processed - sum(dropped.values()))
        return [outlet.settle(cause) for outlet in self.outlets]

    @property
    def opening_notes(self) -> tuple[str, ...]:
        """What the source negotiated, what colours are converted, and what is missing here."""
        return (
            self.info.note if self.info is not None else "",
            self._colorizer.note if self._colorizer is not None else "",
            self._lacking,
        )

    @property
    def reread(self) -> int:
        """Frames read a second time so far, those passed over included."""
        return self._rereading.count if self._rereading is not None else 0

    @property
    def lasting(self) -> bool:
        """Something stays of this lane when the run has ended."""
        return any(outlet.sink.lasting for outlet in self.outlets)

"""Runs tasks: the depth pass and the colour pass of a segment. One worker has one session."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.clock import SystemClock
from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SourceError
from streamdepth.core.frame import DepthRange, Result
from streamdepth.core.host import cores, plan_threads
from streamdepth.depth.motion import Candidate, CutCandidates, OpticalFlow
from streamdepth.depth.range import measure
from streamdepth.jobs import DepthTask, TaskResult, WorkFile, part_names
from streamdepth.jobs.journal import download, folder_at
from streamdepth.jobs.segment import FrameStatistics, SegmentSource, SegmentStatistics, StoredMeasurement, stored_depth
from streamdepth.net.url import is_object_url
from streamdepth.pipeline.pipeline import Pipeline
from streamdepth.sinks.depth.sink import DepthVideoSink, known_values
from streamdepth.sinks.files import write_failed
from streamdepth.sinks.select import sink_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from streamdepth.core.contracts import Sink
    from streamdepth.core.frame import StreamInfo
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.model import DepthModel, Runner
    from streamdepth.jobs import ClipSettings, ColorTask, ModelSettings, Task
    from streamdepth.jobs.journal import WorkFolder
    from streamdepth.models.spec import ModelSpec
    from streamdepth.pipeline.stats import RunStats


class Worker:
    """Runs tasks one after another. Not thread-safe, except ``interrupt``.

    Args:
        name: for progress; None = host and process.
        threads: CPU threads of the session; None = all cores.
        on_frames: called with the number of frames of the running task that are done; may be called on another thread.
    """

    def __init__(
        self, name: str | None = None, *, threads: int | None = None, on_frames: Callable[[int], None] | None = None
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self._threads = threads or cores()
        self._on_frames = on_frames or (lambda _: None)
        self._session: _Session | None = None
        self._copies: dict[str, tuple[tempfile.TemporaryDirectory[str], str]] = {}  # by URL

    def run(self, task: Task) -> TaskResult:
        """Run one task and store its results.

        Raises:
            StreamDepthError: of the source, the model or a sink; nothing is stored then.
        """
        clock = SystemClock()
        started_ns, started_cpu_ns = clock.monotonic_ns(), time.process_time_ns()
        stats: RunStats | None = None
        if isinstance(task, DepthTask):
            stats = self._depth(task)
            frames, notes = stats.processed, stats.notes
        else:
            frames, notes = self._color(task)
        return TaskResult(
            worker=self.name,
            stage="depth" if isinstance(task, DepthTask) else "color",
            segment=task.segment.number,
            frames=frames,
            seconds=(clock.monotonic_ns() - started_ns) / 1e9,
            cpu_seconds=(time.process_time_ns() - started_cpu_ns) / 1e9,
            stats=stats,
            notes=notes,
        )

    def close(self) -> None:
        """Idempotent."""
        if self._session is not None:
            self._session.close()
        for folder, _ in self._copies.values():
            folder.cleanup()
        self._copies.clear()

    def _readable(self, task: Task) -> ClipSettings:
        """The settings with a local source. The driver's copy is used on its machine; others download one for all
        their segments.
        """
        settings = task.settings
        if not is_object_url(settings.source):
            return settings
        path = task.copy
        if not Path(path).is_file():
            if settings.source not in self._copies:
                folder = tempfile.TemporaryDirectory(prefix="streamdepth-", ignore_cleanup_errors=True)
                self._copies[settings.source] = (folder, str(download(settings.source, folder.name)))
            path = self._copies[settings.source][1]
        return settings.model_copy(update={"source": path})

    def _depth(self, task: DepthTask) -> RunStats:
        settings, segment = self._readable(task), task.segment
        folder = folder_at(task.folder)
        session = self._session_for(settings.model)
        source = SegmentSource(settings, segment, threads=plan_threads(self._threads).decoder)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_written(folder, WorkFile.DEPTH.of(segment)))
            smalls = stack.enter_context(_written(folder, WorkFile.SMALL.of(segment))) if settings.stabilize else None
            sink = _StatisticsSink(file, smalls, source, self._on_frames)
            with Pipeline(
                [source], session, [sink], policy="every", batch=settings.batch, model_every=settings.model_every
            ) as pipeline:
                stats = pipeline.run()
            if not sink.frames:
                raise SourceError(
                    f"{settings.source_id}: no frame of segment {segment.number + 1} can be decoded; check the file"
                )
            content = sink.statistics(replace(stats, sinks=())).to_bytes()
        folder.write(WorkFile.STATISTICS.of(segment), content)
        return stats

    def _color(self, task: ColorTask) -> tuple[int, tuple[str, ...]]:
        settings, segment = self._readable(task), task.segment
        folder = folder_at(task.folder)
        depth, known = WorkFile.DEPTH, WorkFile.STATISTICS
        if settings.stabilize:
            depth, known = WorkFile.STABILIZED, WorkFile.FILTERED
        if settings.anchors:
            known = WorkFile.ANCHORED
        statistics = SegmentStatistics.from_bytes(folder.read(known.of(segment)))
        threads = plan_threads(self._threads)
        source = SegmentSource(settings, segment, threads=threads.decoder)
        with contextlib.ExitStack() as stack:
            depth_path = stack.enter_context(folder.reading(depth.of(segment)))
            paths = [stack.enter_context(folder.writing(name)) for name in part_names(settings, segment)]
            sinks = _part_sinks(settings, task, paths)
            stack.callback(source.close)
            notes = _write_parts(source, sinks, statistics, task, depth_path, threads.kernels, self._on_frames)
        return len(statistics.frames), notes

    def _session_for(self, settings: ModelSettings) -> _Session:
        if self._session is None or self._session.settings != settings:
            self.close()
            self._session = _Session(settings, self._threads)
        return self._session


@contextlib.contextmanager
def _written(folder: WorkFolder, name: str) -> Iterator[BinaryIO]:
    with folder.writing(name) as path, path.open("wb") as file:
        yield file


def _part_sinks(settings: ClipSettings, task: ColorTask, paths: list[Path]) -> list[Sink]:
    look = settings.look.look
    sinks: list[Sink] = [
        sink_for(
            str(path),
            look=look,
            overwrite=True,
            codec=output.codec,
            crf=output.crf,
            preset=output.preset,
            bitrate=output.bitrate,
            threads=settings.encoder_threads,
        )
        for output, path in zip(settings.videos, paths, strict=False)
    ]
    sinks += [
        DepthVideoSink(
            path,
            overwrite=True,
            size=output.size,
            model=settings.model_name,
            model_revision=settings.model_revision,
            intrinsics=settings.model.camera,
            continues=task.coding,
        )
        for output, path in zip(settings.depths, paths[len(settings.videos) :], strict=False)
    ]
    if (events := settings.events) is not None:
        from streamdepth.sinks.robotics.zones import ZoneEventsSink

        due = task.events_due_seconds
        sinks.append(ZoneEventsSink(paths[-1], zones=events.zones, rate=events.rate, overwrite=True, due_seconds=due))
    return sinks


def _write_parts(
    source: SegmentSource,
    sinks: list[Sink],
    statistics: SegmentStatistics,
    task: ColorTask,
    depth_path: Path,
    threads: int,
    on_frames: Callable[[int], None],
) -> tuple[str, ...]:
    """Colour and write the frames of a segment; returns notes as those of a run without segments."""
    from streamdepth.colorize.colorizer import Colorizer

    info = source.open()
    # The source is read only as far as its segment goes, which is not an early end. Sound is copied once, when the
    # parts are joined.
    silent = replace(info, media_path=None, media_clock=None)
    look = task.settings.look.look
    with contextlib.ExitStack() as stack:
        colorizer = None
        if task.settings.videos:
            colorizer = stack.enter_context(Colorizer(info, threads=threads))
        for sink in sinks:
            stack.callback(sink.close)
            sink.open(silent, None if colorizer is None or sink.control is None else colorizer.image_info(look))
        depths = stored_depth(depth_path, statistics)
        frames = source.frames()
        for number, (known, (lo, hi)) in enumerate(zip(statistics.frames, task.ranges, strict=True), start=1):
            frame = next(frames, None)
            if frame is None or frame.pts != known.pts:
                found = "its end" if frame is None else f"pts {frame.pts}"
                raise SourceError(
                    f"{source.id} gave {found} instead of pts {known.pts} in the second pass (was it modified?); "
                    "run again"
                )
            depth, depth_range = next(depths), DepthRange(float(lo), float(hi))
            image = None if colorizer is None else colorizer.render(frame.image, depth, depth_range, look)
            for sink in sinks:
                sink.process(Result(frame, depth, depth_range, image))
            on_frames(number)
        for sink in sinks:
            sink.flush()
    settings = task.settings
    paths = [*(one.path for one in settings.videos), *(one.path for one in settings.depths)]
    notes = [(source.id, "" if colorizer is None else colorizer.note)]
    notes += [(path, sink.note) for path, sink in zip(paths, sinks, strict=False)]
    return tuple(dict.fromkeys(f"{name}: {note}" for name, note in notes if note))


class _StatisticsSink(BaseSink):
    """Stores depth as float32 and measures it. Stores the images for optical flow if there is a file for them."""

    def __init__(
        self, file: BinaryIO, smalls: BinaryIO | None, source: SegmentSource, on_frames: Callable[[int], None]
    ) -> None:
        super().__init__("statistics")
        self.frames: list[FrameStatistics] = []
        self._file, self._smalls = file, smalls
        self._flow: OpticalFlow | None = None
        self._source = source
        self._on_frames = on_frames
        self._cuts: CutCandidates | None = None
        self._following: Candidate | None = None
        self._propagated: list[bool] = []
        self._last: Any = None

    def open(self, stream: StreamInfo, image: object) -> None:  # noqa: ARG002 - takes no images
        self._cuts = CutCandidates()
        if self._smalls is not None:
            self._flow = OpticalFlow()

    def process(self, result: Result) -> None:
        assert self._cuts is not None  # noqa: S101 - created in open()
        depth = result.depth
        try:
            self._file.write(np.ascontiguousarray(known_values(depth)).data)
            if self._smalls is not None and self._flow is not None:
                small = io.BytesIO()  # np.save to the file raises errors without errno
                np.save(small, self._flow.small(result.frame.image))
                self._smalls.write(small.getbuffer())
        except OSError as error:
            raise write_failed(Path(self._file.name).parent, error) from error
        candidate = self._cuts.examine(result.frame.image)
        self.frames.append(
            FrameStatistics(result.frame.pts, StoredMeasurement.of(measure(depth)), candidate if self.frames else None)
        )
        self._propagated.append(depth.propagated)
        self._last = depth
        self._on_frames(len(self.frames))

    def flush(self) -> None:
        following = self._source.following
        if following is not None and self._cuts is not None:
            self._following = self._cuts.examine(following)

    def statistics(self, run: RunStats) -> SegmentStatistics:
        return SegmentStatistics(
            tuple(self.frames),
            self._last.sense,
            self._last.values.shape,
            tuple(self._propagated),
            self._following,
            run,
        )


class _Session:
    """A model whose engine is kept for several pipelines."""

    def __init__(self, settings: ModelSettings, threads: int) -> None:
        from streamdepth.inference.model import DepthModel

        self.settings = settings
        self._model: DepthModel = DepthModel(**dict(settings), threads=threads)
        self._engine: Engine | None = None
        self._form: tuple[int, int] | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._model.spec

    def engine(self, batch: int = 1, *, exact: bool | None = None, workers: int = 1) -> Engine:
        if self._engine is None or self._form != (batch, workers):
            self.close()
            self._engine = self._model.engine(batch, exact=exact, workers=workers)
            self._form = (batch, workers)
        return _Kept(self._engine)  # type: ignore[return-value]

    def live_engine(self, batch: int = 1) -> Runner:
        return self.engine(batch)

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class _Kept:
    """An engine that stays open when its pipeline closes it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        pass

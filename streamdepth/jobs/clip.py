"""Runs one clip: plan, depth of all segments, ranges, colour of all segments, join."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

import numpy as np

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import OutputExistsError, SinkError, UsageError
from streamdepth.jobs import ColorTask, DepthTask, WorkFile, part_name, part_names
from streamdepth.jobs.journal import (
    JOURNAL,
    Journal,
    Key,
    download,
    fingerprint,
    folder_at,
    publish,
    upload,
)
from streamdepth.jobs.passes import Passes
from streamdepth.jobs.segment import SegmentStatistics, clip_source, plan_clip
from streamdepth.net.url import ObjectStore, explained, is_object_url
from streamdepth.pipeline.stats import RunStats, SinkStats
from streamdepth.sinks.files import is_same_file
from streamdepth.sinks.join import join_depth, join_video

if TYPE_CHECKING:
    from streamdepth.core.clock import Clock
    from streamdepth.core.frame import StreamInfo
    from streamdepth.jobs import (
        ClipPlan,
        ClipSettings,
        DepthOutput,
        EventsOutput,
        Segment,
        Task,
        TaskResult,
        VideoOutput,
    )
    from streamdepth.jobs.engines import Engine


class Progress(Protocol):
    """Receives the progress of a clip."""

    def note(self, message: str) -> None:
        """One line about what is resumed, started over or skipped."""
        ...

    def planned(self, frames: int, done: int) -> None:
        """Number of frames that the depth pass and the colour pass process in total, and of those done earlier."""
        ...

    def finished(self, result: TaskResult) -> None:
        """A task has finished."""
        ...


@dataclass(slots=True)
class _State:
    """Progress of the passes over the segments, known to the driver."""

    depth: deque[Segment] = field(default_factory=deque)
    color: deque[ColorTask] = field(default_factory=deque)
    measured: dict[int, SegmentStatistics] = field(default_factory=dict)
    colored: set[int] = field(default_factory=set)
    running: int = 0


class ClipRun:
    """One clip with its journal and work folder beside the first output. Used by one thread.

    Args:
        settings: of the clip.
        model_identity: name, revision, numeric type and provider of the model, for the journal.
        model_file: path of the model if it is a file, else None.
        resume: continue an interrupted run, and skip a finished one.
        overwrite: replace existing outputs.
        events: where events without a file are written, once all outputs are complete.
    """

    def __init__(
        self,
        settings: ClipSettings,
        *,
        model_identity: str = "",
        model_file: str | None = None,
        resume: bool = False,
        overwrite: bool = False,
        events: IO[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._model_identity = model_identity
        self._model_file = model_file
        self._resume = resume
        self._overwrite = overwrite
        self._events = events
        self._clock = clock or SystemClock()
        self._outputs: list[VideoOutput | DepthOutput | EventsOutput] = [*settings.videos, *settings.depths]
        if not self._outputs:
            raise UsageError(f"{settings.source_id}: a run in segments needs a video file or depth data to write")
        if settings.events is not None and settings.events.path:
            self._outputs.append(settings.events)
        parent, name = _split(self._outputs[0].path)
        self._journal = folder_at(parent)
        self._journal_name = f".{name}.{JOURNAL}"
        self._location = f"{parent}/.{name}.segments"
        self._folder = folder_at(self._location)
        self._local = settings
        self._copy = ""

    def run(self, engine: Engine, progress: Progress) -> RunStats:
        """Write all outputs. After an interruption or an error the finished segments are kept for ``resume``.

        Raises:
            OutputExistsError: an output exists and was not written by an equal run, or another run is writing it.
            StreamDepthError: of the source, the model or the outputs; a worker ended.
        """
        with contextlib.ExitStack() as stack:
            return self._run(engine, progress, stack)

    def _run(self, engine: Engine, progress: Progress, stack: contextlib.ExitStack) -> RunStats:
        started_ns = self._clock.monotonic_ns()
        settings = self._settings
        for output in self._outputs:
            if output.path == settings.source or (
                not is_object_url(output.path) and is_same_file(Path(output.path), settings.source)
            ):
                raise UsageError(f"{output.path}: is the input; choose another name for the output")
        camera = settings.model.intrinsics
        key = Key(
            input=fingerprint(settings.source),
            model_file=None if self._model_file is None else fingerprint(self._model_file),
            model_identity=self._model_identity,
            intrinsics_file=fingerprint(camera) if camera is not None and Path(camera).is_file() else None,
            settings=settings,
        )
        if not stack.enter_context(self._journal.locked(f"{self._journal_name.removesuffix(JOURNAL)}lock")):
            raise OutputExistsError(f"{self._outputs[0].path}: another process is writing it; choose another output")
        journal = self._earlier(key, progress)
        if journal is not None and journal.finished:
            progress.note(f"{settings.source_id}: already finished, skipped")
            return RunStats()
        if journal is None:
            self._check_outputs()
        if is_object_url(settings.source):
            copies = tempfile.TemporaryDirectory(prefix="streamdepth-", ignore_cleanup_errors=True)
            self._copy = str(download(settings.source, stack.enter_context(copies)))
            self._local = settings.model_copy(update={"source": self._copy})
        if journal is None:
            self._folder.clear()
            journal = Journal(key=key, plan=plan_clip(self._local))
            self._journal.write(self._journal_name, journal.to_bytes())
        if journal.plan.note:
            progress.note(journal.plan.note)
        info = self._info()
        self._check_size(info)
        passes, notes = self._passes(journal.plan, info, engine, progress)
        stats = self._join(journal.plan, info, passes, notes)
        self._journal.write(
            self._journal_name,
            journal.model_copy(update={"finished": True, "frames": stats.processed}).to_bytes(),
        )
        self._folder.clear()
        seconds = (self._clock.monotonic_ns() - started_ns) / 1e9
        return replace(stats, seconds=seconds, fps=stats.processed / seconds if seconds > 0 else 0.0)

    def sweep(self) -> None:
        """Remove the unfinished files of cancelled tasks; the engine must be closed."""
        self._folder.sweep()

    # Journal ------------------------------------------------------------------------------------------------------

    def _earlier(self, key: Key, progress: Progress) -> Journal | None:
        """The journal to continue with, None to start from the beginning."""
        name = self._settings.source_id
        if self._journal_name not in self._journal.names():
            return None
        journal = Journal.from_bytes(self._journal.read(self._journal_name))
        if journal is None:
            progress.note(f"{name}: its journal is damaged or of another version; starting over")
            return None
        changes = key.changes(journal.key)
        complete = journal.finished and all(_exists(output.path) for output in self._outputs)
        if not self._resume:
            if not journal.finished:
                progress.note(f"{name}: starting over; --resume continues an interrupted run")
            return None
        if changes:
            if complete and not self._overwrite:
                raise OutputExistsError(
                    f"{self._outputs[0].path}: was finished with other settings ({', '.join(changes)}); "
                    "--overwrite replaces it"
                )
            progress.note(f"{name}: starting over, because these changed: {', '.join(changes)}")
            return None
        if journal.finished and not complete:
            progress.note(f"{name}: an output was removed; starting over")
            return None
        return journal

    def _check_outputs(self) -> None:
        for output in self._outputs:
            if not is_object_url(output.path) and Path(output.path).is_dir():
                raise SinkError(f"{output.path}: is a folder; name a file")
            if _exists(output.path) and not self._overwrite:
                raise OutputExistsError(f"{output.path}: already exists; --overwrite replaces it")

    def _check_size(self, info: StreamInfo) -> None:
        """Raises ``UsageError``: the intrinsics or the zones do not fit the frames."""
        events = self._settings.events
        camera = self._settings.model.camera
        try:
            if camera is not None:
                camera(info.width_px, info.height_px)
            for zone in events.zones if events is not None else ():
                zone.box(info.width_px, info.height_px)
        except ValueError as error:
            raise UsageError(f"{self._settings.source_id}: {error}") from error

    def _info(self) -> StreamInfo:
        source = clip_source(self._local)
        try:
            return source.open()
        finally:
            source.close()

    # Passes -------------------------------------------------------------------------------------------------------

    def _passes(self, plan: ClipPlan, info: StreamInfo, engine: Engine, progress: Progress) -> tuple[Passes, list[str]]:
        """Run the depth and the colour pass of every segment that is not done, and the passes between them."""
        settings, segments = self._settings, plan.segments
        self._folder.sweep()
        names = self._folder.names()
        state = _State()
        for segment in segments:
            complete = {*part_names(settings, segment), *([WorkFile.ANCHORED.of(segment)] if settings.anchors else [])}
            if complete <= names:
                state.colored.add(segment.number)
        passes = Passes(settings, segments, info, self._folder, state.colored, self._clock)
        for segment in segments:
            if names.issuperset(passes.inputs(segment)):
                state.measured[segment.number] = self._statistics(segment)
            else:
                state.depth.append(segment)
        done = sum(segment.frames for segment in segments if segment.number in state.measured)
        colored = sum(segments[number].frames for number in state.colored)
        progress.planned(2 * plan.frames, done + colored)
        if done:
            progress.note(
                f"{settings.source_id}: resumed; depth of {len(state.measured)} and colours of {len(state.colored)} of "
                f"{len(segments)} segments are done"
            )
        notes: list[str] = []
        with contextlib.closing(passes):
            while len(state.colored) < len(segments) or passes.added < len(segments):
                while state.running < engine.workers and (task := self._next(state)) is not None:
                    engine.submit(task)
                    state.running += 1
                if passes.added in state.measured:  # while the workers run
                    state.color += self._color_tasks(passes, state.measured.pop(passes.added), segments, state.colored)
                    continue
                result = engine.take()
                state.running -= 1
                progress.finished(result)
                notes += result.notes
                segment = segments[result.segment]
                if result.stage == "depth":
                    state.measured[result.segment] = self._statistics(segment)
                else:
                    state.colored.add(result.segment)
                    self._folder.remove(passes.depth.of(segment))
        return passes, list(dict.fromkeys(notes))

    def _next(self, state: _State) -> Task | None:
        """Colour first, so that little depth is stored."""
        if state.color:
            return state.color.popleft()
        return DepthTask(self._settings, self._location, state.depth.popleft(), self._copy) if state.depth else None

    def _color_tasks(
        self, passes: Passes, statistics: SegmentStatistics, segments: tuple[Segment, ...], colored: set[int]
    ) -> list[ColorTask]:
        """The tasks that became possible with the next segment's statistics."""
        tasks = []
        for known in passes.add(statistics):
            if known.segment not in colored:
                ends = np.array([(one.lo, one.hi) for one in known.ranges], np.float64)
                segment, due = segments[known.segment], known.events_due_seconds
                tasks.append(ColorTask(self._settings, self._location, segment, ends, known.coding, self._copy, due))
        return tasks

    def _statistics(self, segment: Segment) -> SegmentStatistics:
        return SegmentStatistics.from_bytes(self._folder.read(WorkFile.STATISTICS.of(segment)))

    # Join ---------------------------------------------------------------------------------------------------------

    def _join(self, plan: ClipPlan, info: StreamInfo, passes: Passes, notes: list[str]) -> RunStats:
        settings = self._settings
        # Of every frame in the outputs, in seconds.
        times = [frame.pts * info.time_base - info.origin_seconds for one in passes.complete for frame in one.frames]
        for number, output in enumerate(self._outputs):
            remote = is_object_url(output.path)
            with contextlib.ExitStack() as stack:
                path = Path(output.path)
                if remote:
                    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="streamdepth-"))
                    path = Path(folder) / path.name
                partial = path.with_name(f".{path.stem}.{os.getpid()}.joining{path.suffix}")
                stack.callback(partial.unlink, missing_ok=True)
                parts = [
                    stack.enter_context(self._folder.reading(part_name(settings, segment, number)))
                    for segment in plan.segments
                ]
                if number < len(settings.videos):
                    whole = plan.segments[-1].end_pts is None
                    audio = settings.videos[number].audio
                    joined = join_video(parts, partial, info, times, whole=whole, audio=audio)
                    notes += [f"{output.path}: {note}" for note in joined]
                elif number < len(settings.videos) + len(settings.depths):
                    join_depth(parts, partial, info, times)
                else:
                    with partial.open("wb") as file:
                        file.writelines(part.read_bytes() for part in parts)
                if remote:
                    upload(partial, output.path)
                else:
                    publish(partial, path)
        if settings.events is not None and not settings.events.path and self._events is not None:
            number = len(self._outputs)
            with contextlib.suppress(BrokenPipeError):  # its reader has ended
                for segment in plan.segments:
                    self._events.write(self._folder.read(part_name(settings, segment, number)).decode())
                self._events.flush()
        stats = passes.stats()
        return replace(
            stats,
            written=len(times),
            range=settings.range,
            sinks=tuple(SinkStats(output.path, len(times), {}) for output in self._outputs),
            notes=tuple(dict.fromkeys([*stats.notes, *notes])),
        )


def _split(path: str) -> tuple[str, str]:
    """Folder and name of an output, which may be a URL of object storage."""
    if is_object_url(path):
        parent, _, name = path.rpartition("/")
        return parent, name
    return str(Path(path).parent), Path(path).name


def _exists(path: str) -> bool:
    if not is_object_url(path):
        return Path(path).exists()
    with explained(path, SinkError, "cannot be written"):
        return ObjectStore(path).exists()

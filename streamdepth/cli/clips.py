"""Runs clips in segments: settings of each clip, workers, progress."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import StreamDepthError, UsageError, one_line
from streamdepth.net.url import is_object_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from streamdepth.cli.jobs import Job
    from streamdepth.config import RunConfig
    from streamdepth.core.contracts import Source
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.jobs import ClipSettings, EventsOutput, TaskResult
    from streamdepth.jobs.engines import Engine
    from streamdepth.pipeline import RunStats

_OPTIONS = "--resume, --workers and --engine ray"


def run_clips(
    config: RunConfig, jobs: Sequence[Job], estimator: DepthEstimator, done: list[tuple[str, RunStats, str]]
) -> None:
    """Run the clips one after another, each in segments; adds title, statistics and error of each to ``done``."""
    from streamdepth.cli.jobs import is_skipped
    from streamdepth.cli.process import progress_shown, resume_collections, say
    from streamdepth.jobs.clip import ClipRun
    from streamdepth.pipeline import RunStats

    clips = [_settings(config, job, estimator) for job in jobs]
    spec = estimator.spec
    for note in spec.notes:
        say(note, quiet=config.quiet)
    said = {note.removeprefix(config.model) for note in spec.notes}  # workers take the absolute path of the model
    resume_collections()
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(_progress(quiet=config.quiet))
        engine = stack.enter_context(contextlib.closing(_engine(config, shown)))
        for job, settings in zip(jobs, clips, strict=True):
            run = ClipRun(
                settings,
                model_identity=f"{spec.name} {spec.revision} {spec.dtype} {estimator.provider}",
                model_file=str(spec.path),
                resume=config.resume,
                overwrite=config.overwrite,
                events=sys.stdout,
            )
            trouble, stats = "", RunStats()
            try:
                stats = run.run(engine, shown)
            except StreamDepthError as error:
                trouble = one_line(str(error))
                if not is_skipped(error, jobs):
                    raise
                say(trouble)
                continue
            except KeyboardInterrupt:
                engine.close()  # cancelled tasks may be writing
                run.sweep()
                say("the finished segments are kept; --resume continues", quiet=config.quiet)
                raise
            finally:
                done.append((job.title, stats, trouble))
            for note in stats.notes:
                if note.removeprefix(settings.model.model) not in said:
                    say(note, quiet=config.quiet)
            if stats.processed and progress_shown(config.quiet):
                say(f"{job.title}: {stats.processed} frames, {stats.fps:.1f} fps")


def _engine(config: RunConfig, shown: _Shown) -> Engine:
    from streamdepth.jobs.engines import InlineEngine, LocalEngine

    if config.engine == "ray":
        from streamdepth.jobs.engines import RayEngine

        return RayEngine(config.workers, address=config.ray_address or "")
    if config.workers > 1:
        return LocalEngine(config.workers, threads=config.threads, on_frames=shown.frames)
    return InlineEngine(threads=config.threads, on_frames=shown.frames)


def _settings(config: RunConfig, job: Job, estimator: DepthEstimator) -> ClipSettings:
    """Raises ``UsageError``: an option or a kind of source or output that cannot be processed in segments."""
    from dataclasses import asdict

    from streamdepth.jobs import ClipSettings, DepthOutput, LookSettings, ModelSettings, VideoOutput

    source, location = _clip(job)
    _check(config)
    if estimator.spec.video_only:
        raise UsageError(f"{estimator.spec.video_only}: not possible with {_OPTIONS}; omit these")
    outputs = job.outputs
    look = config.look
    options: dict[str, Any] = {**config.model_options()}
    if config.intrinsics is not None and Path(config.intrinsics).is_file():
        options["intrinsics"] = str(Path(config.intrinsics).absolute())  # for workers in other folders
    return ClipSettings(
        source=location,
        source_id=source.id,
        start_seconds=config.start,
        duration_seconds=config.duration,
        max_frames=config.max_frames,
        model=ModelSettings(
            model=str(Path(config.model).absolute()) if Path(config.model).exists() else config.model,
            **{name: value for name, value in options.items() if name in ModelSettings.model_fields},
        ),
        batch=int(config.batch),
        model_every=config.model_every,
        stabilize=config.stabilize == "on",
        anchors=config.anchor,
        range=config.range or ("shot" if outputs else "frame"),
        look=LookSettings(**asdict(look)),
        videos=tuple(
            VideoOutput(
                path=_absolute(output),
                codec=_codec(config, output, transparent=look.transparent),
                crf=config.crf,
                preset=config.preset,
                bitrate=config.bitrate,
                audio=config.audio,
            )
            for output in outputs
        ),
        depths=tuple(DepthOutput(path=_absolute(output), size=config.data_size) for output in job.depths),
        events=_events(config, job),
        segment_seconds=config.segment,
        encoder_threads=config.encoder_threads or 0,
        model_name=estimator.spec.name,
        model_revision=estimator.spec.revision,
    )


def _events(config: RunConfig, job: Job) -> EventsOutput | None:
    from streamdepth.jobs import EventsOutput

    if not (config.events or config.zone):
        return None
    path = "".join(map(_absolute, job.event_files))
    return EventsOutput(path=path, zones=config.zone, rate=config.events_rate)


def _clip(job: Job) -> tuple[Source, str]:
    """The source of a clip, and its path or URL."""
    from streamdepth.sources.file import FileSource, is_url
    from streamdepth.sources.find import ObjectSource

    source = job.sources[0]
    if len(job.sources) == 1 and isinstance(source, ObjectSource):
        return source, source.url
    if len(job.sources) > 1 or not isinstance(source, FileSource) or is_url(source.location):
        raise UsageError(f"{source.id}: {_OPTIONS} take video files; omit them for other sources")
    if not Path(source.location).is_file():
        raise UsageError(f"{source.id}: {_OPTIONS} take files that can be read repeatedly; omit them for a pipe")
    return source, source.location


def _absolute(output: str) -> str:
    return output if is_object_url(output) else str(Path(output).absolute())


def _check(config: RunConfig) -> None:
    from streamdepth.sinks.encoding import CONTAINERS

    refused: dict[str, Any] = {
        "--show": config.show,
        "--serve": config.serve,
        "--policy latest": config.policy == "latest",
        "--odometry": config.odometry,
        "--batch auto": config.batch == "auto",
        "--hwaccel": config.hwaccel != "none",
        "decoder-threads": config.decoder_threads,
        "color-threads": config.color_threads,
    }
    for name, given in refused.items():
        if given:
            raise UsageError(f"{name}: not possible with {_OPTIONS}; omit one of them")
    for output in config.output:
        if (":" in output and not is_object_url(output)) or Path(output).suffix.lower() not in CONTAINERS:
            raise UsageError(f"{output}: {_OPTIONS} write video files; use a name such as out.mkv, or omit them")
    for output in config.data:
        if (":" in output and not is_object_url(output)) or Path(output).suffix.lower() != ".mkv":
            raise UsageError(f"{output}: {_OPTIONS} write depth data as .mkv; use e.g. depth.mkv, or omit them")


def _codec(config: RunConfig, output: str, *, transparent: bool) -> str:
    from streamdepth.sinks.encoding import container_of

    container = container_of(Path(output).suffix)
    if transparent and container.alpha_codec is None:
        raise UsageError(f"{output}: {Path(output).suffix} cannot carry transparency; use .webm or .mov")
    return config.codec or (container.alpha_codec if transparent else None) or container.codec


@contextlib.contextmanager
def _progress(*, quiet: bool) -> Iterator[_Shown]:
    from streamdepth.cli.process import progress_console, progress_shown

    if not progress_shown(quiet):
        yield _Shown(quiet, None)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console()) as bars:
        yield _Shown(quiet, bars)


class _Shown:
    """Progress of a clip and of each worker; implements :class:`streamdepth.jobs.clip.Progress`. Thread-safe."""

    def __init__(self, quiet: bool, bars: Bars | None) -> None:
        self._quiet = quiet
        self._bars = bars
        self._lock = threading.Lock()
        self._rows: dict[str, TaskID] = {}
        self._total = self._done = 0
        self._running: dict[str, int] = {}

    def note(self, message: str) -> None:
        from streamdepth.cli.process import say

        say(message, quiet=self._quiet)

    def planned(self, frames: int, done: int) -> None:
        with self._lock:
            self._total, self._done = frames, done
            self._running.clear()
            self._show("all workers", self._done, self._total, f"{self._done}/{self._total} frames, two passes")

    def frames(self, worker: str, frames: int) -> None:
        """``frames`` of the running task of a worker are done."""
        with self._lock:
            self._running[worker] = frames
            done = self._done + sum(self._running.values())
            self._show("all workers", done, self._total, f"{done}/{self._total} frames, two passes")
            self._show(worker, None, None, f"frame {frames} of its segment")

    def finished(self, result: TaskResult) -> None:
        with self._lock:
            self._running.pop(result.worker, None)
            self._done += result.frames
            rate = result.frames / result.seconds if result.seconds > 0 else 0.0
            self._show("all workers", self._done, self._total, f"{self._done}/{self._total} frames, two passes")
            stage = "depth" if result.stage == "depth" else "colours"
            self._show(result.worker, None, None, f"{stage} of segment {result.segment + 1}: {rate:.1f} fps")

    def _show(self, row: str, done: int | None, total: int | None, state: str) -> None:
        if self._bars is None:
            return
        if row not in self._rows:
            self._rows[row] = self._bars.add_task(row, total=total, state=state)
        self._bars.update(self._rows[row], completed=done, total=total, state=state)

"""``streamdepth run`` and ``restyle``."""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from streamdepth.core.errors import OutputExistsError, SinkError, SourceError, StreamDepthError, UsageError, one_line
from streamdepth.core.frame import Sense

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from streamdepth.cli.jobs import Job
    from streamdepth.config import RunConfig
    from streamdepth.config.settings import RestyleConfig
    from streamdepth.core.frame import DepthMap
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline, RunStats


class RunInterruptedError(StreamDepthError):
    """Ctrl-C, SIGTERM or SIGHUP ended a run whose input was not read to its end; names the unfinished files."""

    exit_code = 130


def run(config: RunConfig) -> None:
    """Convert sources to depth: video files, images, a window, a stream, or depth as data.

    If several clips are given, those that are missing or unreadable, or whose output exists, are reported and skipped;
    the exit code is then 1.

    Example without a camera: [bold]streamdepth run test: -o depth.mp4[/bold]
    """
    from streamdepth.cli.clips import run_clips
    from streamdepth.cli.jobs import plan, without_existing
    from streamdepth.cli.process import find_temporary_folder, load_estimator, say
    from streamdepth.pipeline.stats import combined
    from streamdepth.sources.select import missing

    if config.cameras is not None:
        _run_cameras(config)
        return
    on_status = partial(say, quiet=config.quiet)
    absent = missing(config.sources)
    if len(absent) == len(config.sources):
        absent = {}  # plan() raises for the first one
    for trouble in absent.values():
        say(trouble)
    present = [text for text in config.sources if text not in absent]
    jobs = plan(config.model_copy(update={"sources": present}), on_status)
    find_temporary_folder(file for job in jobs for file in job.files)
    if config.stats is not None:
        _check_stats_place(config.stats, sources=config.sources, outputs=[one for job in jobs for one in job.files])
    notes = _folder_notes(config)
    if config.skip_existing:
        jobs, skipped = without_existing(jobs)
        notes += skipped
    for note in notes:
        say(note, quiet=config.quiet)
    if not jobs:
        say(f"shard {config.shard}: no clips" if config.shard else "all outputs exist", quiet=config.quiet)
    estimator = load_estimator(config)
    for note in _camera_notes(config, estimator.spec.sense):
        say(note, quiet=config.quiet)
    done = [(text, combined([]), one_line(trouble)) for text, trouble in absent.items()]
    try:
        runner = run_clips if config.in_segments else _run_pipelines
        runner(config, jobs, estimator, done)
    finally:
        estimator.close()
        if config.stats is not None:
            _write_stats(config.stats, done)
    failed = [title for title, _, trouble in done if trouble]
    if failed:
        raise SourceError(f"{len(failed)} of {len(jobs) + len(absent)} clips failed: {', '.join(failed)}")


def _camera_notes(config: RunConfig, sense: Sense | None) -> list[str]:
    """A note if intrinsics are given, but neither the model nor an output uses them."""
    given = "--fov" if config.fov is not None else "--intrinsics" if config.intrinsics is not None else ""
    recorded = (
        config.data
        or config.show == "rerun"
        or any(PurePath(one).suffix.lower() in (".mcap", ".rrd") or one.startswith("rerun+") for one in config.output)
    )
    if not given or recorded or config.odometry is not None or sense is Sense.METRIC_M:
        return []
    return [f"{given} has no effect: the model gives no metres, and no output records the camera (--data, .mcap, .rrd)"]


def _folder_notes(config: RunConfig) -> list[str]:
    """A note for each output without a suffix, which becomes a folder."""
    names = [output for output in (*config.output, *config.data) if ":" not in output and not output.endswith("/")]
    return [
        f"{name} has no suffix; images are written to a folder of this name"
        for name in names
        if not Path(name).suffix and not Path(name).exists()
    ]


def restyle(config: RestyleConfig) -> None:
    """Colour stored depth again, without a model."""
    from streamdepth.cli.process import find_temporary_folder, frames_bar, progress_shown, say
    from streamdepth.core.look import View
    from streamdepth.pipeline import Pipeline
    from streamdepth.pipeline.second_pass import StoredDepthModel, StoredDepthSource
    from streamdepth.sinks.depth.reader import read_depth
    from streamdepth.sinks.files import is_same_file
    from streamdepth.sinks.select import sink_for
    from streamdepth.sources.file import FileSource

    look = config.look
    if not config.output:
        raise UsageError("no output for the depth; add -o OUT")
    find_temporary_folder(config.output)
    if config.clip is None and look.view is not View.DEPTH:
        raise UsageError(f"--view {look.view.value} shows frames, too; name the clip after the depth file")
    for output in config.output:
        if any(is_same_file(Path(output), str(one)) for one in (config.depth, config.clip) if one is not None):
            raise UsageError(f"{output}: is the input; choose another name for the output")
    with read_depth(config.depth) as reader:
        name = reader.metadata.model
    maps: deque[DepthMap] = deque()
    source = StoredDepthSource(config.depth, FileSource(config.clip) if config.clip is not None else None, maps=maps)
    sinks = [sink_for(output, look=look, overwrite=config.overwrite) for output in config.output]
    with (
        Pipeline([source], StoredDepthModel(maps, name), sinks, policy="every", range=config.range) as pipeline,
        frames_bar(source.id, pipeline.snapshot, quiet=config.quiet),
    ):
        pipeline.run()
    without = pipeline.stats.dropped.get("no_depth", 0)
    if without:
        say(f"{without} frames of {source.id} have no depth and are left out", quiet=config.quiet)
    if progress_shown(config.quiet):
        say(summary(pipeline.stats, source.id))


def _run_cameras(config: RunConfig) -> None:
    """``streamdepth run --cameras FILE``: until all cameras have ended, or Ctrl-C."""
    from streamdepth.cli.cameras import NamedCameras, check_options, read_cameras, start, wait_while
    from streamdepth.cli.process import load_estimator, progress_shown, resume_collections, say
    from streamdepth.core.host import cores, plan_threads
    from streamdepth.pipeline.cameras import CameraGroup

    if config.sources or config.cameras is None:
        raise UsageError("--cameras names the sources; omit the others")
    if config.batch == "auto":
        raise UsageError("batch auto: not possible with --cameras; give a number")
    check_options(config)
    configs = read_cameras(config.cameras, config)
    for name, one in configs.items():
        if not (one.output or one.data or one.serve or one.events or one.zone):
            raise UsageError(f"{name}: no output for the depth; add output, data, zone or serve to the camera")
    if config.stats is not None:
        outputs = [output for one in configs.values() for output in (*one.output, *one.data)]
        _check_stats_place(config.stats, sources=[one.sources[0] for one in configs.values()], outputs=outputs)
    report = partial(say, quiet=config.quiet)
    estimator = load_estimator(config)
    threads = plan_threads(config.threads or cores(), decoders=len(configs))
    group = CameraGroup(estimator, batch=int(config.batch), max_staleness_seconds=config.max_staleness, on_status=say)
    with estimator, group:
        cameras = NamedCameras(group, estimator, threads, on_status=report)
        for note in group.notes:
            report(note)
        start(cameras, configs)
        resume_collections()
        try:
            wait_while(group, lambda: group.active)
        finally:
            group.close()
            done = [(name, stats, group.stats()[name].error) for name, stats in group.run_stats().items()]
            if config.stats is not None:
                _write_stats(config.stats, done)
            if progress_shown(config.quiet):
                for name, stats, _ in done:
                    say(summary(stats, name))
    failed = [name for name, _, error in done if error]
    if failed:
        raise SourceError(f"{len(failed)} of {len(done)} cameras failed: {', '.join(failed)}")


def _run_pipelines(
    config: RunConfig, jobs: Sequence[Job], estimator: DepthEstimator, done: list[tuple[str, RunStats, str]]
) -> None:
    """Run the pipelines one after another; adds title, statistics and error of each to ``done``."""
    from streamdepth.cli.jobs import is_skipped, metric_from, page_switches
    from streamdepth.cli.process import frames_bar, progress_shown, resume_collections, say
    from streamdepth.pipeline import Pipeline

    for job in jobs:
        switches = page_switches(config)
        pipeline = Pipeline(
            job.sources,
            estimator,
            partial(job.sinks, estimator=estimator, switches=switches),
            policy=job.policy,
            range=config.range if switches is None else switches.range,
            batch=_chosen_batch(config, estimator, job),
            max_staleness_seconds=config.max_staleness,
            model_every=config.model_every,
            anchors=metric_from(config),
            stabilize=config.stabilize == "on" if switches is None else switches.stabilize,
            color_threads=job.threads.kernels,
            on_status=partial(say, quiet=config.quiet),
        )
        trouble = ""
        earlier = job.partials()
        try:
            with pipeline:
                for note in pipeline.notes:
                    say(note, quiet=config.quiet)
                resume_collections()
                served = _served(pipeline, quiet=config.quiet) if config.serve else nullcontext()
                with served, frames_bar(job.title, pipeline.snapshot, quiet=config.quiet):
                    pipeline.run()
        except StreamDepthError as error:
            trouble = one_line(str(error))
            if not is_skipped(error, jobs):
                raise
            say(trouble)
            continue
        except KeyboardInterrupt:
            if progress_shown(config.quiet):
                say(summary(pipeline.stats, job.title))
            unfinished = [path for path, changed in job.partials().items() if earlier.get(path) != changed]
            if unfinished:
                raise RunInterruptedError(f"interrupted; unfinished output: {', '.join(unfinished)}") from None
            raise
        finally:
            done.append((job.title, pipeline.stats, trouble))
        for note in pipeline.stats.notes[len(pipeline.notes) :]:
            say(note, quiet=config.quiet)
        if progress_shown(config.quiet):
            say(summary(pipeline.stats, job.title))


@contextmanager
def _served(pipeline: Pipeline, *, quiet: bool) -> Iterator[None]:
    """Start the pages of a run, print what is served where, and show the statistics on the pages."""
    from streamdepth.cli.process import say
    from streamdepth.cli.serve import print_address
    from streamdepth.serve.site import WebSink
    from streamdepth.sinks.rtsp.server import RtspServerSink

    for sink in pipeline.sinks:
        if isinstance(sink, RtspServerSink):
            say(f"serving {sink.name}", quiet=quiet)
    pages = [sink for sink in pipeline.sinks if isinstance(sink, WebSink)]
    for sink in pages:
        sink.watch(pipeline)
    with ExitStack() as started:
        for site in dict.fromkeys(sink.site for sink in pages):
            site.hold()  # cameras that come later are shown on a page that runs
            started.callback(site.release)
            print_address(site, quiet=quiet)
        yield


def _chosen_batch(config: RunConfig, estimator: DepthEstimator, job: Job) -> int:
    if config.batch != "auto":
        return int(config.batch)
    from streamdepth.pipeline.batching import best_batch

    live = config.policy == "latest" or (config.policy is None and any(source.live for source in job.sources))
    return best_batch(estimator.model, live_sources=len(job.sources) if live else 0).batch


def summary(stats: RunStats, title: str) -> str:
    """One line about a run: frames, rate, model, and what each output counted."""
    lost = sum(stats.dropped.values())
    dropped = f", {lost} dropped ({_listed(stats.dropped)})" if lost else ""
    outputs = [
        f"{sink.name} ({events})" if (events := _listed({**sink.dropped, **sink.counts})) else sink.name
        for sink in stats.sinks
    ]
    model = f"{stats.model} {stats.dtype} on {stats.provider}"
    if stats.propagated:
        model += f" for {stats.processed - stats.propagated} of them"
    return f"{title} to {', '.join(outputs)}: {stats.processed} frames, {stats.fps:.1f} fps, {model}{dropped}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {cause.replace('_', ' ')}" for cause, count in counts.items() if count)


def _check_stats_place(path: Path, *, sources: Iterable[str], outputs: Iterable[str]) -> None:
    """Check before a run that its statistics can be written. Only an earlier file of statistics is replaced.

    Raises:
        UsageError: it is a source or an output of the run.
        OutputExistsError: another kind of file exists there.
        SinkError: it cannot be written.
    """
    from streamdepth.sinks.files import is_same_file

    if any(is_same_file(path, source) for source in sources):
        raise UsageError(f"statistics {path} is the input; choose another name for --stats")
    place = path.resolve()
    if any(Path(output).resolve() == place for output in outputs):
        raise UsageError(f"statistics {path} is an output too; choose another name for --stats")
    if path.is_dir():
        raise SinkError(f"statistics {path} is a folder; give --stats a file that can be written")
    if not path.exists():
        if not place.parent.is_dir():
            raise SinkError(f"statistics {path}: there is no folder {place.parent}; make it, or name another file")
        place = place.parent
    elif path.is_file() and not _is_statistics(path):
        raise OutputExistsError(f"statistics {path}: already exists and is not a statistics file; choose another name")
    if not os.access(place, os.W_OK):
        raise SinkError(f"statistics {path} cannot be written; give --stats a file that can be written")


def _write_stats(path: Path, done: Sequence[tuple[str, RunStats, str]]) -> None:
    """Write the statistics of a run, or the sums of several with each under ``runs``. ``error`` is the first, or null.

    Args:
        done: title, statistics and error (one line without secrets, or empty) of each run.

    Raises:
        SinkError: it cannot be written.
    """
    from streamdepth.pipeline.stats import combined

    first_error = next((error for _, _, error in done if error), None)
    content = {**combined([stats for _, stats, _ in done]).to_dict(), "error": first_error}
    if len(done) > 1:
        content["runs"] = [{"source": title, **stats.to_dict(), "error": error or None} for title, stats, error in done]
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(f"statistics {path}: {error.strerror}; give --stats a file that can be written") from None


def _is_statistics(path: Path) -> bool:
    """True for a file of ``_write_stats``, and for an empty one."""
    try:
        text = path.read_bytes()
        content = json.loads(text) if text.startswith(b"{") else {} if text else {"captured": 0}
    except (OSError, ValueError):
        return False
    return "captured" in content

"""``streamdepth run``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from streamdepth.core.redact import one_line

if TYPE_CHECKING:
    from streamdepth.cli.jobs import Job
    from streamdepth.config import RunConfig
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline, RunStats


def run(config: RunConfig) -> None:
    """Convert sources to depth: video files, images, a window, a stream, or depth as data.

    Of several clips, those that cannot be read or whose output exists are reported and skipped.

    Example without a camera: [bold]streamdepth run test: -o depth.mp4[/bold]
    """
    from streamdepth.cli.jobs import folder_notes, plan, range_switch
    from streamdepth.cli.process import resume_collections
    from streamdepth.cli.stats_file import write
    from streamdepth.cli.terminal import bytes_bar, frames_bar, progress_shown, say
    from streamdepth.core.errors import OutputExistsError, SourceError, StreamDepthError
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline

    jobs = plan(config)
    for note in folder_notes(config):
        say(note, quiet=config.quiet)
    with bytes_bar(quiet=config.quiet) as downloading:
        estimator = DepthEstimator(
            config.model, **config.model_options(progress=downloading, on_status=partial(say, quiet=config.quiet))
        )
    done: list[tuple[str, RunStats, str]] = []
    try:
        for job in jobs:
            switch = range_switch(config)
            pipeline = Pipeline(
                job.sources,
                estimator,
                partial(job.sinks, estimator=estimator, switch=switch),
                policy=config.policy,
                range=switch or config.range,
                batch=_chosen_batch(config, estimator, job),
                model_every=config.model_every,
                color_threads=job.threads.kernels,
            )
            trouble = ""
            try:
                with pipeline:
                    for note in pipeline.notes:
                        say(note, quiet=config.quiet)
                    resume_collections()
                    if switch is not None:
                        _open_pages(pipeline, quiet=config.quiet)
                    with frames_bar(job.title, pipeline.snapshot, quiet=config.quiet):
                        pipeline.run()
            except StreamDepthError as error:
                trouble = one_line(str(error))
                if len(jobs) == 1 or not isinstance(error, SourceError | OutputExistsError):
                    raise
                say(trouble)
                continue
            finally:
                done.append((job.title, pipeline.stats, trouble))
            for note in pipeline.stats.notes[len(pipeline.notes) :]:
                say(note, quiet=config.quiet)
            if progress_shown(config.quiet):
                say(_summary(pipeline.stats, job.title, [sink.name for sink in pipeline.sinks]))
    finally:
        estimator.close()
        if config.stats is not None:
            write(config.stats, done)
    failed = [title for title, _, trouble in done if trouble]
    if failed:
        raise SourceError(f"{len(failed)} of {len(jobs)} clips failed: {', '.join(failed)}")


def _open_pages(pipeline: Pipeline, *, quiet: bool) -> None:
    """Show the statistics of the run on its pages, and print their addresses."""
    from streamdepth.cli.serve import print_address
    from streamdepth.serve.sink import WebSink

    for sink in pipeline.sinks:
        if isinstance(sink, WebSink):
            sink.watch(pipeline)
            print_address(sink.site, quiet=quiet)


def _chosen_batch(config: RunConfig, estimator: DepthEstimator, job: Job) -> int:
    if config.batch != "auto":
        return int(config.batch)
    from streamdepth.inference.auto_batch import best_batch

    live = config.policy == "latest" or (config.policy is None and any(source.live for source in job.sources))
    return best_batch(estimator.model, live_sources=len(job.sources) if live else 0).batch


def _summary(stats: RunStats, title: str, outputs: list[str]) -> str:
    lost = sum(stats.dropped.values())
    dropped = f", {lost} dropped ({', '.join(f'{n} {c}' for c, n in stats.dropped.items())})" if lost else ""
    model = f"{stats.model} {stats.dtype} on {stats.provider}"
    if stats.propagated:
        model += f" for {stats.processed - stats.propagated} of them"
    return f"{title} to {', '.join(outputs)}: {stats.processed} frames, {stats.fps:.1f} fps, {model}{dropped}"

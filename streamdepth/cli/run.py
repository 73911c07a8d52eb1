"""``streamdepth run``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamdepth.cli import options
from streamdepth.core.redact import one_line

if TYPE_CHECKING:
    from streamdepth.cli.jobs import Job
    from streamdepth.config import RunConfig
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline, RunStats

_OUT, _COLOR, _IN, _ENC = "Output", "Depth and colour", "Input", "Encoding"


def run(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...",
            help="A file, a folder or glob, a camera (0, /dev/video0 or its name), rtsp://, http(s)://, or test:",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="Video file, folder/ of images, rtsp://... to publish to, or null:; repeatable. "
            "Several sources: {name} stands for each one's name.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Depth itself: .mkv (16-bit FFV1), or a folder/.", rich_help_panel=_OUT),
    ] = None,
    serve: Annotated[
        list[str] | None,
        typer.Option(
            "--serve",
            help="Serve viewers: rtsp://127.0.0.1:8554/depth, or a page: http://127.0.0.1:8080.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    show: Annotated[
        bool | None, typer.Option("--show", help="Open a window; h lists its keys.", rich_help_panel=_OUT)
    ] = None,
    overwrite: options.Overwrite = None,
    config: options.Config = None,
    model: options.Model = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    size: options.Size = None,
    sense: options.Sense = None,
    normalize: options.Normalize = None,
    input_name: Annotated[
        str | None, typer.Option("--input-name", help="The graph's image input.", rich_help_panel="Model")
    ] = None,
    output_name: Annotated[
        str | None, typer.Option("--output-name", help="The graph's depth output.", rich_help_panel="Model")
    ] = None,
    metres_per_unit: Annotated[
        float | None,
        typer.Option("--metres-per-unit", help="What a metric model's numbers are worth.", rich_help_panel="Model"),
    ] = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", help="Frames per model run: N, or auto to measure.", rich_help_panel="Model"),
    ] = None,
    model_every: options.ModelEvery = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact", help="Preprocess exactly as transformers does; slower.", rich_help_panel="Model"),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="every frame (files) or the latest (live).", rich_help_panel=_IN),
    ] = None,
    range_: Annotated[
        str | None,
        typer.Option(
            "--range", help="shot, ema, frame or fixed:LO,HI. Files: shot; live: ema.", rich_help_panel=_COLOR
        ),
    ] = None,
    style: options.Style = None,
    alpha: options.Alpha = None,
    reverse: options.Reverse = None,
    view: Annotated[
        str | None, typer.Option("--view", help="depth, overlay, side or stack.", rich_help_panel=_COLOR)
    ] = None,
    transparent: Annotated[
        bool | None,
        typer.Option("--transparent", help="Keep alpha as a channel (.webm, .mov, .png).", rich_help_panel=_COLOR),
    ] = None,
    edges: Annotated[
        str | None, typer.Option("--edges", help="bilinear, or guided by the frame's own.", rich_help_panel=_COLOR)
    ] = None,
    contours: Annotated[
        int | None, typer.Option("--contours", help="Outline so many levels of depth.", rich_help_panel=_COLOR)
    ] = None,
    bar: Annotated[bool | None, typer.Option("--bar", help="Paint a colour bar.", rich_help_panel=_COLOR)] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="Begin at this time: seconds or [HH:]MM:SS.", rich_help_panel=_IN)
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", help="Work on so much of it.", rich_help_panel=_IN)
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames",
            help="Stop after so many frames read; live, those that are dropped count too.",
            rich_help_panel=_IN,
        ),
    ] = None,
    camera_mode: options.CameraMode = None,
    image_rate: Annotated[
        float | None,
        typer.Option("--image-rate", help="Frames per second a folder of images stands for. [25]", rich_help_panel=_IN),
    ] = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    transport: options.Transport = None,
    tls_ca: options.TlsCa = None,
    latency: options.Latency = None,
    hwaccel: options.HwAccel = None,
    codec: Annotated[
        str | None, typer.Option("--codec", help="FFmpeg's name of the video encoder.", rich_help_panel=_ENC)
    ] = None,
    crf: Annotated[float | None, typer.Option("--crf", help="Quality, lower is better.", rich_help_panel=_ENC)] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="The encoder's speed preset.", rich_help_panel=_ENC)
    ] = None,
    bitrate: Annotated[
        int | None,
        typer.Option("--bitrate", help="kbit/s of streams served or published.", rich_help_panel=_ENC),
    ] = None,
    stream_rate: Annotated[
        float | None, typer.Option("--stream-rate", help="fps of streams; default: the source's.", rich_help_panel=_ENC)
    ] = None,
    gop: Annotated[
        float | None, typer.Option("--gop", help="Seconds between a stream's key frames.", rich_help_panel=_ENC)
    ] = None,
    max_clients: Annotated[
        int | None, typer.Option("--max-clients", help="Viewers served at once. [64]", rich_help_panel=_ENC)
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", help="File whose first line is USER:PASSWORD, for RTSP.", rich_help_panel=_IN),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File with the token a served page asks for.", rich_help_panel=_OUT),
    ] = None,
    data_size: Annotated[
        str | None, typer.Option("--data-size", help="Depth data at source or model size.", rich_help_panel=_OUT)
    ] = None,
    stats: Annotated[Path | None, typer.Option("--stats", help="Write what happened as JSON.")] = None,
    quiet: options.Quiet = None,
) -> None:
    """Turn sources into depth: video files, images, a window, a stream, or depth as data.

    Try it with nothing at hand: [bold]streamdepth run test: -o depth.mp4[/bold]
    """
    given = {name.rstrip("_"): value for name, value in locals().items() if name != "config"}
    from streamdepth.config import load_config

    execute(load_config(config, {**given, "batch": _batch(batch)}))


def _batch(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def execute(config: RunConfig) -> None:
    """Run all jobs of a configuration, then write the statistics, also where a job failed.

    A clip of several that cannot be read, or whose output is there already, is told and passed over.

    Raises:
        SourceError: clips were passed over; names them.
        StreamDepthError: what would end every other clip too.
    """
    from streamdepth.cli.garbage_collector import release
    from streamdepth.cli.jobs import folder_notes, plan, range_switch
    from streamdepth.cli.progress import bytes_bar, frames_bar, say, wanted
    from streamdepth.cli.statistics import write
    from streamdepth.core.errors import OutputExistsError, SourceError, StreamDepthError
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.pipeline import Pipeline

    jobs = plan(config)
    for note in folder_notes(config):
        say(note, quiet=config.quiet)
    with bytes_bar(quiet=config.quiet) as downloading:
        estimator = DepthEstimator(
            config.model,
            dtype=config.dtype,
            revision=config.revision,
            size=config.size,
            sense=config.sense,
            preprocessing=config.rules,
            input_name=config.input_name,
            output_name=config.output_name,
            metres_per_unit=config.metres_per_unit,
            provider=config.provider,
            threads=config.threads,
            exact=config.exact or None,
            progress=downloading,
            on_status=partial(say, quiet=config.quiet),
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
                    release()
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
            if wanted(config.quiet):
                say(_summary(pipeline.stats, job.title, [sink.name for sink in pipeline.sinks]))
    finally:
        estimator.close()
        if config.stats is not None:
            write(config.stats, done)
    failed = [title for title, _, trouble in done if trouble]
    if failed:
        raise SourceError(f"{len(failed)} of {len(jobs)} clips failed: {', '.join(failed)}")


def _open_pages(pipeline: Pipeline, *, quiet: bool) -> None:
    """Let the pages show the run's books, and say where they are."""
    from streamdepth.cli.serve import tell_address
    from streamdepth.serve.sink import WebSink

    for sink in pipeline.sinks:
        if isinstance(sink, WebSink):
            sink.watch(pipeline)
            tell_address(sink.site, quiet=quiet)


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

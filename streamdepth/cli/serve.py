"""``streamdepth serve``: the page and the stills API."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamdepth.cli import options

if TYPE_CHECKING:
    from streamdepth.core.contracts import Source
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.serve.site import WebSite

_IN, _SERVER = "Input", "Server"


def serve(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="What to show live: a camera (0), rtsp://, a file (played over and over), or test:. "
            "None: stills and dropped files only.",
            show_default=False,
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="Address of the page; beyond loopback it needs a token.")
    ] = "http://127.0.0.1:8080",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File whose first line is the token; or set STREAMDEPTH_WEB_TOKEN. None: one is made where needed.",
        ),
    ] = None,
    max_upload: Annotated[
        int, typer.Option("--max-upload", help="MiB a dropped video may have.", min=1, rich_help_panel=_SERVER)
    ] = 512,
    model: options.Model = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    size: options.Size = None,
    sense: options.Sense = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    model_every: options.ModelEvery = None,
    style: options.Style = None,
    alpha: options.Alpha = None,
    reverse: options.Reverse = None,
    view: Annotated[
        str | None, typer.Option("--view", help="side, stack, overlay or depth.", rich_help_panel="Depth and colour")
    ] = None,
    range_: Annotated[
        str, typer.Option("--range", help="ema, frame or fixed:LO,HI.", rich_help_panel="Depth and colour")
    ] = "ema",
    camera_mode: options.CameraMode = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    transport: options.Transport = None,
    tls_ca: options.TlsCa = None,
    latency: options.Latency = None,
    hwaccel: options.HwAccel = None,
    quiet: options.Quiet = None,
) -> None:
    """Show depth on a page for the browser, and answer images over HTTP at /v1/depth.

    Try it with nothing at hand: [bold]streamdepth serve test:[/bold]
    """
    from streamdepth.cli.jobs import camera_mode as camera_mode_of
    from streamdepth.cli.jobs import thread_plan
    from streamdepth.cli.options import style_value
    from streamdepth.cli.progress import bytes_bar, say
    from streamdepth.config import load_config
    from streamdepth.core.look import LookControl, View
    from streamdepth.depth.range import RangeSpec, RangeSwitch
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.serve.options import WebSettings
    from streamdepth.serve.site import WebSite
    from streamdepth.sources.select import source_for

    given = {
        "model": model, "dtype": dtype, "revision": revision, "size": size, "sense": sense, "provider": provider,
        "threads": threads, "model_every": model_every, "style": style, "alpha": alpha, "reverse": reverse,
        "view": view, "range": range_, "camera_mode": camera_mode, "timeout": timeout, "retries": retries,
        "transport": transport, "tls_ca": tls_ca, "latency": latency, "hwaccel": hwaccel, "quiet": quiet,
    }  # fmt: skip
    config = load_config(None, given)
    look = replace(config.look, style=style_value(config.style))
    if view is None and alpha is None:
        look = replace(look, view=View.SIDE)
    switch = RangeSwitch(RangeSpec.parse(config.range or "ema"))
    planned = thread_plan(config, 1)
    camera_size, camera_rate = camera_mode_of(config.camera_mode)
    shown: Source | None = None
    if source is not None:
        shown = source_for(
            "test:?frames=0" if source == "test:" else source,
            camera_size=camera_size,
            camera_rate=camera_rate,
            threads=planned.decoder,
            hwaccel=config.hwaccel,
            timeout_seconds=config.timeout,
            retries=config.retries,
            transport=config.transport,
            tls_ca=config.tls_ca,
            low_latency=config.latency == "low",
        )
    with bytes_bar(quiet=config.quiet) as downloading:
        estimator = DepthEstimator(
            config.model,
            dtype=config.dtype,
            revision=config.revision,
            size=config.size,
            sense=config.sense,
            provider=config.provider,
            threads=config.threads,
            progress=downloading,
            on_status=partial(say, quiet=config.quiet),
        )
    with estimator:
        site = WebSite(
            listen,
            control=LookControl(look),
            range_switch=switch,
            estimator=estimator,
            token_file=token_file,
            settings=WebSettings(max_upload_bytes=max_upload << 20, model_every=config.model_every),
        )
        site.start()
        try:
            tell_address(site, quiet=config.quiet)
            if shown is None:
                threading.Event().wait()
            else:
                _show(shown, estimator, site, color_threads=planned.kernels, model_every=config.model_every)
        finally:
            site.stop()


def tell_address(site: WebSite, *, quiet: bool) -> None:
    """Where the page is. A token made here must reach its owner somehow: this one line, on the terminal only."""
    if site.token_is_ours:
        typer.echo(f"streamdepth: open {site.entry_url}")
    elif not quiet:
        typer.echo(f"streamdepth: open {site.address}/")


def _show(source: Source, estimator: DepthEstimator, site: WebSite, *, color_threads: int, model_every: int) -> None:
    """Run a source until it is interrupted; one that ends and can be read again begins again."""
    from streamdepth.core.queues import Policy
    from streamdepth.pipeline import Pipeline
    from streamdepth.serve.sink import WebSink

    current: Source | None = source
    while current is not None:
        following = current.again()
        sink = WebSink(site=site, source=current)
        pipeline = Pipeline(
            [current],
            estimator,
            [sink],
            policy=Policy.LATEST,
            range=site.range_switch,
            model_every=model_every,
            color_threads=color_threads,
        )
        sink.watch(pipeline)
        with pipeline:
            stats = pipeline.run()
        if following is None or not stats.captured:
            break
        current = following
    threading.Event().wait()

"""``streamdepth serve``: the page and the HTTP API."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer

from streamdepth.cli.process import wait_for_interrupt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamdepth.config import RunConfig
    from streamdepth.config.settings import ServeConfig
    from streamdepth.core.contracts import Source
    from streamdepth.image.estimator import DepthEstimator
    from streamdepth.serve.site import WebSite


def serve(config: ServeConfig) -> None:
    """Show depth on a page in the browser, and answer images over HTTP at /v1/depth.

    Example without a camera: [bold]streamdepth serve test:[/bold]
    """
    from streamdepth.cli.cameras import read_cameras
    from streamdepth.cli.process import load_estimator, say
    from streamdepth.config.commands import check_used
    from streamdepth.core.errors import UsageError
    from streamdepth.core.host import cores, plan_threads
    from streamdepth.core.look import LookControl, View
    from streamdepth.depth.range import RangeSpec, RangeSwitch
    from streamdepth.pipeline.stabilization import StabilizeSwitch
    from streamdepth.serve.options import WebSettings
    from streamdepth.serve.site import WebSite
    from streamdepth.sources.select import source_for

    look = config.look
    if config.view is None and config.alpha is None:
        look = replace(look, view=View.SIDE)
    switch = RangeSwitch(RangeSpec.parse(config.range or "ema"))
    planned = plan_threads(config.threads or cores())
    stabilize = config.stabilize == "on"
    shown: Source | None = None
    configs = None if config.cameras is None else read_cameras(config.cameras, config)
    if configs is not None and config.source is not None:
        raise UsageError("--cameras names the sources; omit the source")
    if config.add_cameras and configs is None:
        raise UsageError("add-cameras: there is no group of cameras; add --cameras FILE, or omit --add-cameras")
    check_used(config)
    if config.source is not None:
        name = "test:?frames=0" if config.source == "test:" else config.source
        on_status = partial(say, quiet=config.quiet)
        shown = source_for(name, **config.source_options(planned.decoder, on_status))
    with load_estimator(config) as estimator:
        site = WebSite(
            config.listen,
            control=LookControl(look),
            range_switch=switch,
            stabilize_switch=StabilizeSwitch(stabilize),
            estimator=estimator,
            token_file=config.token_file,
            add_cameras=config.add_cameras,
            settings=WebSettings(
                max_upload_bytes=config.max_upload << 20, model_every=config.model_every, stabilize=stabilize
            ),
        )
        if configs is not None:
            _serve_cameras(config, configs, estimator, site)
            return
        site.start()
        try:
            print_address(site, quiet=config.quiet)
            if shown is not None:
                _show(shown, estimator, site, color_threads=planned.kernels, model_every=config.model_every)
            wait_for_interrupt()
        finally:
            site.stop()


def _serve_cameras(
    config: ServeConfig, configs: Mapping[str, RunConfig], estimator: DepthEstimator, site: WebSite
) -> None:
    """Show cameras on the page until Ctrl-C, or until the model fails."""
    from streamdepth.cli.cameras import NamedCameras, start, wait_while
    from streamdepth.cli.process import say
    from streamdepth.core.host import cores, plan_threads
    from streamdepth.pipeline.cameras import CameraGroup

    threads = plan_threads(config.threads or cores(), decoders=len(configs))
    group = CameraGroup(estimator, batch=config.batch, max_staleness_seconds=config.max_staleness, on_status=say)
    with group:
        site.cameras = cameras = NamedCameras(
            group, estimator, threads, site=site, on_status=partial(say, quiet=config.quiet)
        )
        site.start()
        try:
            print_address(site, quiet=config.quiet)
            start(cameras, configs)
            wait_while(group, lambda: True)
        finally:
            site.stop()


def print_address(site: WebSite, *, quiet: bool) -> None:
    """Print where the page is. A generated token is printed even if ``quiet``: there is no other way to get it."""
    if site.token_generated:
        typer.echo(f"streamdepth: open {site.entry_url}")
    elif not quiet:
        typer.echo(f"streamdepth: open {site.address}/")


def _show(source: Source, estimator: DepthEstimator, site: WebSite, *, color_threads: int, model_every: int) -> None:
    """Run a source until it ends; repeat it if it can be read again."""
    from streamdepth.core.queues import Policy
    from streamdepth.pipeline import Pipeline
    from streamdepth.serve.site import WebSink

    current: Source | None = source
    while current is not None:
        following = current.again()
        sink = WebSink(site=site, source=current)
        pipeline = Pipeline(
            [current],
            estimator,
            [sink],
            policy=Policy.LATEST,
            range=site.view.range_switch,
            model_every=model_every,
            stabilize=site.view.stabilize_switch or False,
            color_threads=color_threads,
        )
        sink.watch(pipeline)
        with pipeline:
            stats = pipeline.run()
        current = following if stats.captured else None

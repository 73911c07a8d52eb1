"""``streamdepth serve`` and ``image``: depth on a page and over HTTP, and depth of single images."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from streamdepth.cli.process import wait_for_interrupt
from streamdepth.core.errors import DataFormatError, OutputExistsError, SourceError, UsageError, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from streamdepth.config import RunConfig
    from streamdepth.config.settings import ImageConfig, ServeConfig
    from streamdepth.core.contracts import Source
    from streamdepth.image.estimator import DepthEstimator, Estimate
    from streamdepth.serve.site import WebSite


def serve(config: ServeConfig) -> None:
    """Show depth on a page in the browser, and answer images over HTTP at /v1/depth.

    Example without a camera: [bold]streamdepth serve test:[/bold]
    """
    from streamdepth.cli.cameras import read_cameras
    from streamdepth.cli.process import load_estimator, say
    from streamdepth.config.commands import check_used
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


_IMAGES = (".png", ".webp", ".jpg")
_SUFFIXES = (*_IMAGES, ".npy", ".json")


def image(config: ImageConfig) -> None:
    """Convert images to depth: as an image, as float32 data, or as JSON.

    If several inputs are given, unreadable ones are reported and skipped.
    """
    if not config.output and not config.print_json:
        raise UsageError("no output for the depth; add -o OUT.png, -o OUT.npy, -o FOLDER/ or --json")
    found = _inputs(config.inputs)
    targets = [[Path(_target(one, name, len(found) > 1)) for one in config.output] for name, _ in found]
    opaque = config.alpha in (None, (1.0, 1.0))
    _check_targets([path for paths in targets for path in paths], overwrite=config.overwrite, opaque=opaque)
    _check_inputs_kept([path for paths in targets for path in paths], [value for _, value in found])
    from streamdepth.cli.process import load_estimator, say

    estimator = load_estimator(config, exact=not config.fast)
    suffixes = {path.suffix for paths in targets for path in paths}
    painted = config.print_json or bool(suffixes & set(_IMAGES))
    look = config.look
    failed: list[str] = []
    position = 0
    told = set(estimator.spec.notes)
    for note in estimator.spec.notes:
        say(note, quiet=config.quiet)
    with estimator:
        while position < len(found):
            estimates = estimator.each(
                (value for _, value in found[position:]),
                style=look.style if painted else None,
                alpha=1.0 if look.alpha is None else look.alpha,
                reverse=look.reverse,
                png=config.print_json or bool(suffixes & {".png", ".json"}),
            )
            with contextlib.closing(estimates):
                try:
                    for result in estimates:
                        name, paths = found[position][0], targets[position]
                        for path in paths:
                            _write(path, result)
                        if config.print_json:
                            sys.stdout.write(json.dumps(result.to_node()) + "\n")
                        for note in result.notes:
                            if note not in told:
                                say(f"{name}: {note}", quiet=config.quiet)
                        position += 1
                except (SourceError, DataFormatError) as error:
                    if len(found) == 1:
                        raise
                    say(one_line(str(error)))
                    failed.append(found[position][0])
                    position += 1
    if failed:
        raise SourceError(f"{len(failed)} of {len(found)} images failed: {', '.join(failed)}")


def _inputs(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """Unique name and value of each image."""
    from streamdepth.image.inputs import refuse_url
    from streamdepth.sinks.names import UniqueNames
    from streamdepth.sources.images import images_at

    unique = UniqueNames()
    found: list[tuple[str, Any]] = []
    for text in texts:
        if text == "-":
            if sys.stdin is None:
                raise UsageError("-: standard input is closed; pipe an image into it, or name a file")
            file = io.BytesIO(sys.stdin.buffer.read())
            file.name = "standard input"
            found.append((unique("stdin"), file))
        else:
            refuse_url(text)
            found += [(unique(path.stem), path) for path in images_at(text)]
    return found


def _target(output: str, name: str, several: bool) -> str:
    from streamdepth.sinks.names import NAME

    if output.endswith("/") or Path(output).is_dir():
        return str(Path(output) / f"{name}.png")
    if several and NAME not in output:
        raise UsageError(f"{output}: several images need an output each; give a folder/ or write {NAME} in it")
    return output.replace(NAME, name)


def _check_targets(paths: list[Path], *, overwrite: bool, opaque: bool) -> None:
    """Check before any work that the outputs can be written."""
    seen: set[Path] = set()
    for path in paths:
        if path.suffix not in _SUFFIXES:
            raise UsageError(f"{path}: an image is written as {', '.join(_SUFFIXES)}, or into a folder/")
        if path.suffix == ".jpg" and not opaque:
            raise UsageError(f"{path}: .jpg has no transparency; use .png or .webp, or omit --alpha")
        if path in seen:
            raise UsageError(f"{path}: two outputs have this name; give them different names")
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path}: already exists; --overwrite replaces it")
        seen.add(path)


def _check_inputs_kept(paths: list[Path], values: list[Any]) -> None:
    """Raises ``UsageError``: an output is an input, also by a hard or symbolic link."""
    inputs = {_identity(value) for value in values if isinstance(value, Path)} - {None}
    for path in paths:
        if _identity(path) in inputs:
            raise UsageError(f"{path}: is the input; choose another name for the output")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _write(path: Path, result: Estimate) -> None:
    import numpy as np

    from streamdepth.sinks.files import make_folder, write_whole

    if path.suffix == ".png":
        content = result.image or b""
    elif path.suffix in _IMAGES:
        content = _as_image(result.pixels, path.suffix)
    elif path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, result.data)
        content = buffer.getvalue()
    else:
        content = json.dumps(result.to_node()).encode()
    make_folder(path.parent)
    write_whole(path, content)


def _as_image(pixels: NDArray[np.uint8] | None, suffix: str) -> bytes:
    from PIL import Image

    assert pixels is not None  # noqa: S101 - an image output gives a style
    source, out = Image.fromarray(pixels), io.BytesIO()
    if suffix == ".jpg":
        source.convert("RGB").save(out, "JPEG", quality=95)
    else:
        source.save(out, "WEBP", lossless=True)
    return out.getvalue()

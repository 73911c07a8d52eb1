"""``streamdepth build``."""

from __future__ import annotations

import re
from functools import partial
from typing import Annotated

import typer

from streamdepth.cli import options, tables


def build(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="built-in, a path, or a Hub name.")] = "built-in",
    provider: Annotated[str, typer.Option("--provider", help="tensorrt or cuda.")] = "tensorrt",
    image: Annotated[
        list[str] | None,
        typer.Option("--image-size", help="WxH of images to come, repeatable; default: 1920x1080."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="The most images a run will take.")] = 1,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    size: options.Size = None,
    quiet: options.Quiet = None,
) -> None:
    """Make ahead what the first run on a GPU would spend minutes on: TensorRT engines, graphs."""
    from streamdepth.cli.progress import bytes_bar, say
    from streamdepth.core.clock import SystemClock
    from streamdepth.inference.build import build as make
    from streamdepth.inference.build_process import BuildRequest, build_first
    from streamdepth.inference.model import DepthModel

    images = tuple(_size(text) for text in image or ["1920x1080"])
    tell = partial(say, quiet=bool(quiet))
    with bytes_bar(quiet=bool(quiet)) as downloading:
        spec = DepthModel(
            model, dtype=dtype or "auto", revision=revision, size=size, provider=provider, progress=downloading
        ).spec
    if provider == "tensorrt":
        build_first(BuildRequest(spec, images=images, batch=batch), SystemClock(), tell)
    made = make(spec, provider, images=images, batch=batch, progress=tell)
    tables.show(("", "where"), [(one.name, str(one.path)) for one in made])


def _size(text: str) -> tuple[int, int]:
    from streamdepth.core.errors import UsageError

    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if found is None:
        raise UsageError(f"image {text!r} is no WxH, e.g. 1920x1080")
    return int(found[1]), int(found[2])

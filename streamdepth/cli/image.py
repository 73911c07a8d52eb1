"""``streamdepth image``."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamdepth.cli import options
from streamdepth.core.errors import DataFormatError, OutputExistsError, SourceError, UsageError
from streamdepth.core.redact import one_line

if TYPE_CHECKING:
    from streamdepth.image.estimator import Estimate

_IMAGES = (".png", ".webp", ".jpg")
_SUFFIXES = (*_IMAGES, ".npy", ".json")
_NAME = "{name}"


def image(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Images, folders of them, globs, or - for one image on standard input."
        ),
    ],
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            help="By suffix: .png, .webp or .jpg image, .npy float32 depth, .json the node's form; folder/ for "
            "several. Repeatable; {name} stands for the input's name.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print {data, image, width, height} on standard output, a line an input.")
    ] = False,
    model: options.Model = None,
    dtype: options.Dtype = None,
    revision: options.Revision = None,
    size: options.Size = None,
    sense: options.Sense = None,
    normalize: options.Normalize = None,
    provider: options.Provider = None,
    threads: options.Threads = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Preprocess the fast way, as for video.", rich_help_panel="Model")
    ] = False,
    style: options.Style = None,
    alpha: options.Alpha = None,
    reverse: options.Reverse = None,
    overwrite: options.Overwrite = None,
    quiet: options.Quiet = None,
) -> None:
    """Depth of single images: the exact path, as an image with alpha, as float32, or in the node's form."""
    if not output and not as_json:
        raise UsageError("nothing to do with the depth; add -o OUT.png, -o OUT.npy, -o FOLDER/ or --json")
    found = _inputs(inputs)
    targets = [[Path(_target(one, name, len(found) > 1)) for one in output or ()] for name, _ in found]
    _check_targets([path for paths in targets for path in paths], overwrite=bool(overwrite), opaque=_is_opaque(alpha))
    from streamdepth.cli.progress import bytes_bar, say
    from streamdepth.image.estimator import DepthEstimator

    with bytes_bar(quiet=bool(quiet)) as downloading:
        estimator = DepthEstimator(
            model or "built-in",
            dtype=dtype or "auto",
            revision=revision,
            size=size,
            sense=sense,
            preprocessing=options.preprocessing_value(normalize),
            provider=provider or "auto",
            threads=threads,
            exact=not fast,
            progress=downloading,
        )
    image_wanted = as_json or any(path.suffix in _IMAGES for paths in targets for path in paths)
    look: dict[str, Any] = {
        "style": options.style_value(style or "inferno") if image_wanted else None,
        "alpha": 1.0 if alpha is None else alpha,
        "reverse": bool(reverse),
    }
    failed: list[str] = []
    position = 0
    with estimator:
        while position < len(found):
            with contextlib.closing(estimator.each((value for _, value in found[position:]), **look)) as estimates:
                try:
                    for result in estimates:
                        name, paths = found[position][0], targets[position]
                        for path in paths:
                            _write(path, result)
                        if as_json:
                            sys.stdout.write(json.dumps(result.to_node()) + "\n")
                        for note in result.notes:
                            say(f"{name}: {note}", quiet=bool(quiet))
                        position += 1
                except (SourceError, DataFormatError) as error:
                    if len(found) == 1:
                        raise
                    say(one_line(str(error)))
                    failed.append(found[position][0])
                    position += 1
    if failed:
        raise SourceError(f"{len(failed)} of {len(found)} images failed: {', '.join(failed)}")


def _inputs(texts: list[str]) -> list[tuple[str, Any]]:
    """A name of its own and the value of each image."""
    from streamdepth.image.inputs import refuse_url
    from streamdepth.sinks.names import UniqueNames
    from streamdepth.sources.images import images_at

    unique = UniqueNames()
    found: list[tuple[str, Any]] = []
    for text in texts:
        if text == "-":
            found.append((unique("stdin"), sys.stdin.buffer.read()))
        else:
            refuse_url(text)
            found += [(unique(path.stem), path) for path in images_at(text)]
    return found


def _target(output: str, name: str, several: bool) -> str:
    if output.endswith("/") or Path(output).is_dir():
        return str(Path(output) / f"{name}.png")
    if several and _NAME not in output:
        raise UsageError(f"{output}: several images need an output each; give a folder/ or write {_NAME} in it")
    return output.replace(_NAME, name)


def _is_opaque(alpha: str | None) -> bool:
    from streamdepth.core.look import parse_alpha

    try:
        return parse_alpha(alpha) in (None, (1.0, 1.0))
    except ValueError:
        return True  # refused, with the reason, where it is used


def _check_targets(paths: list[Path], *, overwrite: bool, opaque: bool) -> None:
    """Refuse before any work what could not be written after it."""
    seen: set[Path] = set()
    for path in paths:
        if path.suffix not in _SUFFIXES:
            raise UsageError(f"{path}: a still is written as {', '.join(_SUFFIXES)}, or into a folder/")
        if path.suffix == ".jpg" and not opaque:
            raise UsageError(f"{path}: .jpg has no transparency; use .png or .webp, or leave --alpha out")
        if path in seen:
            raise UsageError(f"{path}: two outputs would be this file; give them different names")
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path} is there already; --overwrite replaces it")
        seen.add(path)


def _write(path: Path, result: Estimate) -> None:
    import io

    import numpy as np

    from streamdepth.sinks.files import make_folder, write_whole

    if path.suffix == ".png":
        content = result.image or b""
    elif path.suffix in _IMAGES:
        content = _as_image(result.image or b"", path.suffix)
    elif path.suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, result.data)
        content = buffer.getvalue()
    else:
        content = json.dumps(result.to_node()).encode()
    make_folder(path.parent)
    write_whole(path, content)


def _as_image(png: bytes, suffix: str) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png)) as source:
        if suffix == ".jpg":
            source.convert("RGB").save(out, "JPEG", quality=95)
        else:
            source.save(out, "WEBP", lossless=True)
    return out.getvalue()

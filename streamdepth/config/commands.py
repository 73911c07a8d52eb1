"""Options of the commands beside ``run``, the table of all commands, and what options of a run need."""

from __future__ import annotations

from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from streamdepth.config import shared
from streamdepth.config.options import Declared, Option, Texts
from streamdepth.config.run import RunConfig
from streamdepth.config.shared import (
    BENCH,
    BUILD,
    DOCTOR,
    IMAGE,
    INPUT,
    MODEL,
    OUTPUT,
    PANELS,
    PULL,
    RESTYLE,
    RUN,
    SERVE,
    SERVER,
    SHOW,
    STYLES,
    VERIFY,
    Settings,
)
from streamdepth.core import limits
from streamdepth.core.errors import UsageError
from streamdepth.sinks.encoding import CONTAINERS
from streamdepth.sources.select import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class ServeConfig(Settings):
    """Options of ``streamdepth serve``."""

    source: Annotated[str | None, Option(metavar="[SOURCE]", argument=True)] = None
    """Live source of the page: a camera (0), rtsp://, a file (repeated), or test:. Without a source, the page accepts
    only images and uploaded files."""
    listen: Annotated[str, Option(panel=SERVER, metavar="URL")] = "http://127.0.0.1:8080"
    """Address of the page. An access token is required beyond localhost."""
    batch: Annotated[int, limits.BATCH, Option(panel=MODEL)] = 1
    """Frames of different cameras per model run."""
    add_cameras: Annotated[Texts, Option(panel=SERVER, metavar="HOST", default="none")] = ()
    """Host or address range (192.168.1.0/24) of cameras that may be added over HTTP, or test:. Repeatable."""
    max_upload: Annotated[int, limits.UPLOAD_MIB, Option(panel=SERVER)] = 512
    """Maximum size of an uploaded video."""


class ImageConfig(Settings):
    """Options of ``streamdepth image``."""

    inputs: Annotated[Texts, Option(metavar="INPUT...", argument=True)]
    """Images, folders of images, globs, or - for one image on standard input."""
    output: Annotated[Texts, Option(panel=OUTPUT, short="-o", metavar="OUT")] = ()
    """Output, by suffix: .png, .webp or .jpg for an image, .npy for float32 depth, .json for data and image. folder/
    for several inputs. Repeatable; {name} is replaced by the name of each input."""
    print_json: Annotated[bool, Option(panel=OUTPUT, flag="--json")] = False
    """Print one line of JSON per input: {data, image, width, height}."""
    fast: Annotated[bool, Option(panel=MODEL)] = False
    """Preprocess as for video: faster, but not exactly as transformers does."""


class BenchConfig(Settings):
    """Options of ``streamdepth bench``."""

    source: Annotated[str | None, Option(metavar="[SOURCE]", argument=True, default="a synthetic one of 1280x720")] = (
        None
    )
    """Clip to measure with."""
    providers: Annotated[
        Texts,
        Option(panel=MODEL, flag="--provider", metavar="NAME", default="all that run here", suggest=shared.providers),
    ] = ()
    """Execution provider to measure. Repeatable."""
    dtypes: Annotated[Texts, Option(panel=MODEL, flag="--dtype", choices=shared.DTYPES)] = ("auto",)
    """Numeric type of the model file to measure. Repeatable."""
    sizes: Annotated[Texts, Option(panel=MODEL, flag="--size", metavar="N|WxH", default="the model's")] = ()
    """Input size of the network to measure. Repeatable."""
    batches: Annotated[tuple[int, ...], limits.BATCH, Option(panel=MODEL, flag="--batch")] = (1, 2, 4)
    """Frames per model run to measure. Repeatable."""
    max_frames: Annotated[int, limits.MAX_FRAMES, Option(panel=INPUT)] = 150
    """Read N frames of the clip."""
    seconds: Annotated[float, limits.BENCH_SECONDS, Option(panel=INPUT)] = 1.0
    """Time to measure each setting for."""
    compare: Annotated[Path | None, Option(panel=OUTPUT, metavar="FILE")] = None
    """Compare with a report written with --json."""


class VerifyConfig(Settings):
    """Options of ``streamdepth verify``."""

    checked: Annotated[str, Option(metavar="MODEL", argument=True)]
    """Model to check: built-in, path or Hub name."""
    images: Annotated[Texts, Option(metavar="[IMAGE]...", argument=True, default="built-in ones")] = ()
    """Images to compare on."""
    reference: Annotated[
        str | None, Option(panel=MODEL, metavar="MODEL", default="the exact path of the same model")
    ] = None
    """Model to compare with."""
    reference_dtype: Annotated[str | None, Option(panel=MODEL, choices=shared.DTYPES, default="auto")] = None
    """Numeric type of the reference."""


class BuildConfig(Settings):
    """Options of ``streamdepth build``."""

    built: Annotated[str, Option(metavar="[MODEL]", argument=True)] = "built-in"
    """Model to build for: built-in, path or Hub name."""
    target: Annotated[Literal["tensorrt", "cuda"], Option(panel=MODEL, flag="--provider")] = "tensorrt"
    """Execution provider to build for."""
    image_size: Annotated[Texts, Option(panel=INPUT, metavar="WxH")] = ("1920x1080",)
    """Size of the frames to expect. Repeatable."""
    batch: Annotated[int, limits.BATCH, Option(panel=MODEL)] = 1
    """Maximum number of frames per model run."""


class ModelConfig(Settings):
    """Options of ``streamdepth models show`` and ``pull``."""

    name: Annotated[str, Option(metavar="NAME", argument=True)]
    """Model: built-in, path or Hub name."""


class PullConfig(ModelConfig):
    """Options of ``streamdepth models pull``."""

    force: Annotated[bool, Option()] = False
    """Download files again even if they are intact."""


class StylesConfig(Settings):
    """Options of ``streamdepth styles``."""

    everything: Annotated[bool, Option(flag="--all")] = False
    """List the palettes of the cmap catalogue too."""
    preview: Annotated[Path | None, Option(metavar="FILE")] = None
    """Write a PNG that shows every palette on a depth image."""


class RestyleConfig(Settings):
    """Options of ``streamdepth restyle``."""

    depth: Annotated[Path, Option(metavar="DEPTH", argument=True)]
    """Depth written by run --data: .mkv or a folder."""
    clip: Annotated[Path | None, Option(metavar="[CLIP]", argument=True)] = None
    """Clip that the depth was computed from; needed for views that show its frames, and for its sound."""
    output: Annotated[Texts, Option(panel=OUTPUT, short="-o", metavar="OUT")] = ()
    """Video file, or folder/ of images. Repeatable."""


COMMANDS: Mapping[str, type[Settings]] = {
    RUN: RunConfig,
    SERVE: ServeConfig,
    IMAGE: ImageConfig,
    BENCH: BenchConfig,
    VERIFY: VerifyConfig,
    BUILD: BuildConfig,
    SHOW: ModelConfig,
    PULL: PullConfig,
    STYLES: StylesConfig,
    RESTYLE: RestyleConfig,
    DOCTOR: Settings,
}
"""Command -> its configuration."""

BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"
"""Lines around the reference in ``configs/README.md``."""


def reference() -> str:
    """Every option as Markdown tables, one per panel."""
    rows: dict[str, dict[tuple[str, ...], list[str]]] = {panel: {} for panel in PANELS}
    for command, kind in COMMANDS.items():
        for one in kind.declared(command):
            rows[one.option.panel].setdefault(_row(one), []).append(command)
    lines: list[str] = []
    for panel, options in rows.items():
        lines += [
            f"### {panel or 'General'}",
            "",
            "| option | value | default | commands | effect |",
            "|---|---|---|---|---|",
        ]
        for (name, value, default, effect), commands in options.items():
            lines.append("| " + " | ".join([name, value, default, ", ".join(commands), effect]) + " |")
        lines.append("")
    return "\n".join(lines)


def _row(one: Declared) -> tuple[str, str, str, str]:
    flag = f"`{one.option.metavar}`" if one.option.argument else f"`{one.flag}`"
    name = f"`{one.key.replace('_', '-')}:` (file only)" if not one.option.cli else flag
    short = f", `{one.option.short}`" if one.option.short else ""
    value = str(one.bounds or "") or ("" if one.switch or one.option.argument else f"`{one.metavar}`")
    return name + short, value.replace("|", "\\|"), one.default, one.option.help.replace("|", "\\|")


def _writes_video(config: RunConfig) -> bool:
    return any(PurePath(output).suffix.lower() in CONTAINERS for output in config.output)


def _streams(config: RunConfig) -> bool:
    return _has_rtsp((*config.output, *config.serve))


def _has_rtsp(urls: Iterable[str]) -> bool:
    return any(url.lower().startswith(("rtsp://", "rtsps://")) for url in urls)


def _sources(config: RunConfig | ServeConfig) -> tuple[str, ...]:
    if isinstance(config, RunConfig):
        return config.sources
    return () if config.source is None else (config.source,)


def _has_network(config: RunConfig | ServeConfig) -> bool:
    if config.cameras is not None or (isinstance(config, RunConfig) and _streams(config)):
        return True
    return not kinds(_sources(config)).isdisjoint(("live", "web"))


NEEDS: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "network": (_has_network, "no source or output is a network stream"),
        "rtsp": (
            lambda config: config.cameras is not None or _has_rtsp(_sources(config)),
            "no source is an RTSP stream",
        ),
        "images": (lambda run: "images" in kinds(run.sources), "no source is an image or a folder of images"),
        "data": (lambda run: bool(run.data), "no depth data is written; add --data OUT"),
        "mcap": (lambda run: _writes(run, ".mcap"), "no .mcap is written; add -o OUT.mcap"),
        "exr": (lambda run: _writes(run, ".exr"), "no .exr is written; add --data FOLDER/%06d.exr"),
        "lerobot": (lambda run: _writes(run, ".json"), "no data set is written; add --data FOLDER/meta/info.json"),
        "events": (lambda run: bool(run.events or run.zone), "no events are written; add --zone or --events FILE"),
        "video": (_writes_video, "no video file is written; add -o OUT.mkv"),
        "bit rate": (
            lambda run: _streams(run) or (_writes_video(run) and run.crf is None),
            "no stream, and no video file without --crf is written; omit --crf",
        ),
        "stream": (_streams, "nothing is streamed; add -o rtsp:// or --serve rtsp://"),
        "server": (lambda run: bool(run.serve), "nothing is served; add --serve rtsp://"),
        "ray": (lambda run: run.engine == "ray", "Ray is not used; add --engine ray"),
        "segments": (lambda run: run.in_segments, "the clip is not divided; add --resume or --workers N"),
    }
)
"""What an option may need (``Option.needs``): the condition, and what is wrong and what to do without it."""


def _writes(config: RunConfig, suffix: str) -> bool:
    return any(PurePath(output).suffix.lower() == suffix for output in (*config.output, *config.data))


def check_used(config: RunConfig | ServeConfig) -> None:
    """
    Raises:
        UsageError: an option is given that has no effect in this run.
        SourceNotFoundError: an option that depends on the kind of a source, which does not exist.
    """
    for one in config.declared(RUN if isinstance(config, RunConfig) else SERVE):
        value = getattr(config, one.key)
        if one.option.needs and value != one.field.default:
            has, hint = NEEDS[one.option.needs]
            if not has(config):
                given = f"{value:g}" if isinstance(value, float) else str(value)
                way_out = f", or omit {one.flag}" if ";" in hint else f"; omit {one.flag}"
                raise UsageError(f"{one.flag.removeprefix('--')} {given}: {hint}{way_out}")

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

    source: Annotated[
        str | None,
        Option(
            "Live source of the page: a camera (0), rtsp://, a file (repeated), or test:. Without a source, the page "
            "accepts only images and uploaded files.",
            metavar="[SOURCE]",
            argument=True,
        ),
    ] = None
    listen: Annotated[
        str, Option("Address of the page. An access token is required beyond localhost.", SERVER, metavar="URL")
    ] = "http://127.0.0.1:8080"
    batch: Annotated[int, limits.BATCH, Option("Frames of different cameras per model run.", MODEL)] = 1
    add_cameras: Annotated[
        Texts,
        Option(
            "Host or address range (192.168.1.0/24) of cameras that may be added over HTTP, or test:. Repeatable.",
            SERVER,
            metavar="HOST",
            default="none",
        ),
    ] = ()
    max_upload: Annotated[int, limits.UPLOAD_MIB, Option("Maximum size of an uploaded video.", SERVER)] = 512


class ImageConfig(Settings):
    """Options of ``streamdepth image``."""

    inputs: Annotated[
        Texts,
        Option(
            "Images, folders of images, globs, or - for one image on standard input.", metavar="INPUT...", argument=True
        ),
    ]
    output: Annotated[
        Texts,
        Option(
            "Output, by suffix: .png, .webp or .jpg for an image, .npy for float32 depth, .json for data and image. "
            "folder/ for several inputs. Repeatable; {name} is replaced by the name of each input.",
            OUTPUT,
            short="-o",
            metavar="OUT",
        ),
    ] = ()
    print_json: Annotated[
        bool, Option("Print one line of JSON per input: {data, image, width, height}.", OUTPUT, flag="--json")
    ] = False
    fast: Annotated[bool, Option("Preprocess as for video: faster, but not exactly as transformers does.", MODEL)] = (
        False
    )


class BenchConfig(Settings):
    """Options of ``streamdepth bench``."""

    source: Annotated[
        str | None,
        Option("Clip to measure with.", metavar="[SOURCE]", argument=True, default="a synthetic one of 1280x720"),
    ] = None
    providers: Annotated[
        Texts,
        Option(
            "Execution provider to measure. Repeatable.",
            MODEL,
            flag="--provider",
            metavar="NAME",
            default="all that run here",
            suggest=shared.providers,
        ),
    ] = ()
    dtypes: Annotated[
        Texts,
        Option("Numeric type of the model file to measure. Repeatable.", MODEL, flag="--dtype", choices=shared.DTYPES),
    ] = ("auto",)
    sizes: Annotated[
        Texts,
        Option(
            "Input size of the network to measure. Repeatable.",
            MODEL,
            flag="--size",
            metavar="N|WxH",
            default="the model's",
        ),
    ] = ()
    batches: Annotated[
        tuple[int, ...], limits.BATCH, Option("Frames per model run to measure. Repeatable.", MODEL, flag="--batch")
    ] = (1, 2, 4)
    max_frames: Annotated[int, limits.MAX_FRAMES, Option("Read N frames of the clip.", INPUT)] = 150
    seconds: Annotated[float, limits.BENCH_SECONDS, Option("Time to measure each setting for.", INPUT)] = 1.0
    compare: Annotated[Path | None, Option("Compare with a report written with --json.", OUTPUT, metavar="FILE")] = None


class VerifyConfig(Settings):
    """Options of ``streamdepth verify``."""

    checked: Annotated[str, Option("Model to check: built-in, path or Hub name.", metavar="MODEL", argument=True)]
    images: Annotated[
        Texts, Option("Images to compare on.", metavar="[IMAGE]...", argument=True, default="built-in ones")
    ] = ()
    reference: Annotated[
        str | None, Option("Model to compare with.", MODEL, metavar="MODEL", default="the exact path of the same model")
    ] = None
    reference_dtype: Annotated[
        str | None, Option("Numeric type of the reference.", MODEL, choices=shared.DTYPES, default="auto")
    ] = None


class BuildConfig(Settings):
    """Options of ``streamdepth build``."""

    built: Annotated[
        str, Option("Model to build for: built-in, path or Hub name.", metavar="[MODEL]", argument=True)
    ] = "built-in"
    target: Annotated[
        Literal["tensorrt", "cuda"], Option("Execution provider to build for.", MODEL, flag="--provider")
    ] = "tensorrt"
    image_size: Annotated[Texts, Option("Size of the frames to expect. Repeatable.", INPUT, metavar="WxH")] = (
        "1920x1080",
    )
    batch: Annotated[int, limits.BATCH, Option("Maximum number of frames per model run.", MODEL)] = 1


class ModelConfig(Settings):
    """Options of ``streamdepth models show`` and ``pull``."""

    name: Annotated[str, Option("Model: built-in, path or Hub name.", metavar="NAME", argument=True)]


class PullConfig(ModelConfig):
    """Options of ``streamdepth models pull``."""

    force: Annotated[bool, Option("Download files again even if they are intact.")] = False


class StylesConfig(Settings):
    """Options of ``streamdepth styles``."""

    everything: Annotated[bool, Option("List the palettes of the cmap catalogue too.", flag="--all")] = False
    preview: Annotated[
        Path | None, Option("Write a PNG that shows every palette on a depth image.", metavar="FILE")
    ] = None


class RestyleConfig(Settings):
    """Options of ``streamdepth restyle``."""

    depth: Annotated[Path, Option("Depth written by run --data: .mkv or a folder.", metavar="DEPTH", argument=True)]
    clip: Annotated[
        Path | None,
        Option(
            "Clip that the depth was computed from; needed for views that show its frames, and for its sound.",
            metavar="[CLIP]",
            argument=True,
        ),
    ] = None
    output: Annotated[
        Texts, Option("Video file, or folder/ of images. Repeatable.", OUTPUT, short="-o", metavar="OUT")
    ] = ()


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

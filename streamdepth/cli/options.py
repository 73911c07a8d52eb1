"""Options that several commands share, spelled once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from streamdepth.core.look import Style as StyleValue

_STOPS_SUFFIXES = (".json", ".yaml", ".yml")
_MODEL, _COLOR, _INPUT = "Model", "Depth and colour", "Input"

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="built-in, a path of an .onnx file, or a Hub name.", rich_help_panel=_MODEL),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="auto, fp32, fp16, int8, uint8, q8, q4, q4f16 or bnb4: which of a repository's files.",
        rich_help_panel=_MODEL,
    ),
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub model.", rich_help_panel=_MODEL)
]
Size = Annotated[
    str | None,
    typer.Option("--size", help="Network size: N (aspect kept as the model does) or WxH.", rich_help_panel=_MODEL),
]
Sense = Annotated[
    str | None,
    typer.Option(
        "--sense",
        help="What the model's numbers mean: relative_inverse, relative_depth or metric_m.",
        rich_help_panel=_MODEL,
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        "--normalize",
        help="Input of a bare .onnx after 0..1: imagenet (assumed), half (mean = std = 0.5) or none.",
        rich_help_panel=_MODEL,
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider",
        help="auto, cpu, openvino, cuda, tensorrt, ...; a plugin's name may go on with :cpu, :gpu or :npu.",
        rich_help_panel=_MODEL,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="CPU threads of the model, from which others are planned; default: the cores.",
        rich_help_panel=_MODEL,
    ),
]
ModelEvery = Annotated[
    int | None,
    typer.Option(
        "--model-every",
        metavar="N",
        help="Run the model on every Nth frame; depth of the others is propagated along their motion. \\[1]",
        rich_help_panel=_MODEL,
    ),
]
HwAccel = Annotated[
    str | None,
    typer.Option(
        "--hwaccel",
        help="Decode, and encode files, on hardware: auto, cuda, vaapi or none (default).",
        rich_help_panel="Encoding",
    ),
]
Style = Annotated[
    str | None,
    typer.Option(
        "--style",
        "-s",
        help="Palette (streamdepth styles lists them) or a file of stops; default: inferno.",
        rich_help_panel=_COLOR,
    ),
]
Alpha = Annotated[
    str | None,
    typer.Option("--alpha", "-a", help="Opacity A, or NEAR,FAR, each in 0..1.", rich_help_panel=_COLOR),
]
Reverse = Annotated[
    bool | None, typer.Option("--reverse", help="Far takes the bright end of the palette.", rich_help_panel=_COLOR)
]
CameraMode = Annotated[
    str | None, typer.Option("--camera-mode", help="WxH or WxH@FPS to ask a camera for.", rich_help_panel=_INPUT)
]
Timeout = Annotated[
    float | None, typer.Option("--timeout", help="Seconds of silence a network may have. [3]", rich_help_panel=_INPUT)
]
Retries = Annotated[
    int | None, typer.Option("--retries", help="Attempts to reconnect; default for ever.", rich_help_panel=_INPUT)
]
Transport = Annotated[
    str | None, typer.Option("--transport", help="RTSP over tcp, udp or auto.", rich_help_panel=_INPUT)
]
TlsCa = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        help="PEM file to trust behind rtsps, rtmps and https, not what the system trusts; none: check nothing.",
        rich_help_panel=_INPUT,
    ),
]
Latency = Annotated[
    str | None,
    typer.Option(
        "--latency",
        help="Of streams in and out: low; normal: up to half a second more, and better images. \\[low]",
        rich_help_panel=_INPUT,
    ),
]
Quiet = Annotated[bool | None, typer.Option("--quiet", "-q", help="No progress, no notes.")]
Overwrite = Annotated[
    bool | None,
    typer.Option("--overwrite", "-y", help="Replace outputs that are there; in a folder those of the same names."),
]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file with these options; the command line goes before it.")
]


def style_value(text: str) -> StyleValue:
    """A palette's name as it is, or the stops of a file.

    Raises:
        UsageError: a file that cannot be read or holds no stops.
    """
    if not text.lower().endswith(_STOPS_SUFFIXES):
        return text
    from streamdepth.colorize.palettes import load_stops

    return load_stops(text)


def preprocessing_value(normalize: str | None) -> dict[str, object] | None:
    """What ``--normalize`` changes in the model's rules.

    Raises:
        UsageError: none of its words.
    """
    if normalize is None:
        return None
    from streamdepth.config import NORMALIZATIONS

    if normalize not in NORMALIZATIONS:
        raise UsageError(f"normalize {normalize!r} is none of {', '.join(NORMALIZATIONS)}")
    return NORMALIZATIONS[normalize]

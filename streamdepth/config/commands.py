"""Options of ``streamdepth run``, the table of all commands, and what options of a run need."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

from pydantic import BeforeValidator

from streamdepth.config.options import Batch, Declared, ExistingFile, Option, Seconds, Shard, Texts
from streamdepth.config.settings import (
    BENCH,
    BUILD,
    COLOR,
    DOCTOR,
    ENCODING,
    IMAGE,
    INPUT,
    LONG,
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
    BenchConfig,
    BuildConfig,
    ImageConfig,
    ModelConfig,
    PullConfig,
    RestyleConfig,
    ServeConfig,
    Settings,
    StylesConfig,
    VerifyConfig,
)
from streamdepth.core import limits
from streamdepth.core.errors import UsageError
from streamdepth.core.look import Look, Nearness, Upsampling
from streamdepth.core.queues import Policy
from streamdepth.depth.alignment import Anchor
from streamdepth.sinks.encoding import CONTAINERS
from streamdepth.sinks.robotics.zones import Zone
from streamdepth.sinks.tracks import AudioMode
from streamdepth.sources.select import kinds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from streamdepth.inference.model import ModelOptions
    from streamdepth.sources.select import SourceOptions


class RunConfig(Settings):
    """Options of ``streamdepth run``. Keys of a configuration file are these names, with ``-`` or ``_``."""

    sources: Annotated[Texts, Option(metavar="SOURCE...", argument=True)] = ()
    """File, folder, glob, camera (0, /dev/video0 or its name), rtsp:// or http(s):// URL, or test: for a synthetic
    scene."""
    config: Annotated[Path | None, Option(short="-c", metavar="FILE", file=False)] = None
    """Read options from a YAML file; command-line options take precedence."""
    output: Annotated[Texts, Option(panel=OUTPUT, short="-o", metavar="OUT")] = ()
    """Video file, folder/ of images (or folder/%06d.jpg, folder/{image}.webp), rtsp:// URL to publish to, run.mcap (ROS
    2 messages), folder/iw3_export.yml (iw3), run.rrd or rerun+http:// (Rerun), virtualcam:, or null:. Repeatable. With
    several sources, {name} is replaced by the name of each."""
    data: Annotated[Texts, Option(panel=OUTPUT, metavar="OUT")] = ()
    """Depth as data: .mkv (16-bit FFV1), folder/ of 16-bit PNG, folder/%06d.npy, .exr or .ply (points), .mcap, .rrd, or
    folder/meta/info.json (LeRobot). Repeatable."""
    data_size: Annotated[Literal["source", "model"], Option(panel=OUTPUT, needs="data")] = "source"
    """Resolution of the depth data: the frame's or the model's."""
    purpose: Annotated[Literal["vace"] | None, Option(panel=OUTPUT, flag="--for", default="viewing", needs="video")] = (
        None
    )
    """Write video files for this purpose. vace: control video for diffusion (near white, 16 fps, 4k + 1 frames, sides
    in multiples of 16 within 832x480, one range for the clip)."""
    mcap_depth: Annotated[Literal["32FC1", "16UC1"], Option(panel=OUTPUT, needs="mcap")] = "32FC1"
    """Depth images in .mcap: float metres, or 16-bit millimetres."""
    mcap_points: Annotated[bool, Option(panel=OUTPUT, needs="mcap")] = False
    """Also write point clouds (PointCloud2) to .mcap."""
    exr_unit: Annotated[
        Literal["m", "cm", "mm"] | None, Option(panel=OUTPUT, default="m, or none without metres", needs="exr")
    ] = None
    """Unit of .exr; needs depth in metres."""
    lerobot_max: Annotated[float, limits.METRES, Option(panel=OUTPUT, needs="lerobot")] = 10.0
    """Largest depth in a LeRobot data set, in metres."""
    serve: Annotated[Texts, Option(panel=SERVER, metavar="URL")] = ()
    """Serve the output at this URL: rtsp://127.0.0.1:8554/depth for players, http://127.0.0.1:8080 for browsers.
    Repeatable."""
    zone: Annotated[
        tuple[Zone, ...], BeforeValidator(Zone.parse_all), Option(panel=OUTPUT, metavar="NAME=X,Y,W,H")
    ] = ()
    """Report the nearest depth in a box of the frame, in pixels, or in fractions if all are at most 1. Repeatable."""
    events: Annotated[str | None, Option(panel=OUTPUT, metavar="FILE|-", default="- with --zone")] = None
    """Write the nearest depth of each zone (or of the whole frame) as JSON lines to this file, or to standard output
    (-)."""
    events_rate: Annotated[float, limits.EVENTS_RATE, Option(panel=OUTPUT, metavar="FPS", needs="events")] = 10.0
    """Maximum number of events per zone and second of media time."""
    skip_existing: Annotated[bool, Option(panel=OUTPUT)] = False
    """Skip files whose outputs exist. Files that a run left incomplete are processed again."""
    show: Annotated[Literal["window", "rerun"] | None, Option(panel=OUTPUT, alone="window")] = None
    """Show the output in a window (h lists its keys), or frames and metric depth in the Rerun viewer."""
    stats: Annotated[Path | None, Option(panel=OUTPUT, metavar="FILE")] = None
    """Write the statistics of the run as JSON. Replaces only an earlier statistics file."""

    preprocessing: Annotated[dict[str, Any] | None, Option(panel=MODEL, metavar="MAPPING", cli=False)] = None
    """Fields of the model's preprocessing to replace."""
    metres_per_unit: Annotated[float | None, limits.SCALE, Option(panel=MODEL)] = None
    """Scale factor from model output to metres."""
    anchor: Annotated[
        tuple[Anchor, ...], BeforeValidator(Anchor.parse_all), Option(panel=MODEL, metavar="X,Y=METRES")
    ] = ()
    """A point of known distance: makes a relative model metric. X,Y in pixels, or in fractions of the frame if both are
    at most 1 (0.5,0.9=2.0). Give two or more."""
    odometry: Annotated[ExistingFile | None, Option(panel=MODEL, metavar="FILE")] = None
    """Motion of the camera as CSV of time,x,y,z or time,speed (seconds of media time, metres): makes a relative model
    metric. Needs --intrinsics or --fov, and a video file."""
    batch: Annotated[Batch, Option(panel=MODEL, metavar="N|auto")] = 1
    """Frames per model run; auto measures which is fastest."""
    exact: Annotated[bool, Option(panel=MODEL)] = False
    """Preprocess exactly as transformers does; slower."""
    decoder_threads: Annotated[int | None, limits.FFMPEG_THREADS, Option(panel=INPUT, default="planned", cli=False)] = (
        None
    )
    """Threads of each decoder."""
    encoder_threads: Annotated[
        int | None, limits.FFMPEG_THREADS, Option(panel=ENCODING, default="by frame size", cli=False)
    ] = None
    """Threads of each encoder."""
    color_threads: Annotated[int | None, limits.FFMPEG_THREADS, Option(panel=COLOR, default="planned", cli=False)] = (
        None
    )
    """Threads that colour one frame."""

    transparent: Annotated[bool, Option(panel=COLOR)] = False
    """Keep alpha as a channel (.webm, .mov, .png) instead of compositing."""
    edges: Annotated[Upsampling, Option(panel=COLOR)] = Upsampling.BILINEAR
    """Upsampling of depth to the frame: bilinear, or guided by the frame's edges."""
    nearness: Annotated[Nearness, Option(panel=COLOR)] = Nearness.AUTO
    """Colour by inverse depth, or linear in the values of models whose values grow with distance."""
    contours: Annotated[int, limits.CONTOURS, Option(panel=COLOR)] = 0
    """Number of depth contours to draw."""
    bar: Annotated[bool, Option(panel=COLOR)] = False
    """Draw a colour bar."""

    policy: Annotated[Policy | None, Option(panel=INPUT, default="every for files, latest for live sources")] = None
    """Process every frame, or only the latest one and count the dropped frames."""
    start: Annotated[Seconds, Option(panel=INPUT, metavar="TIME", default="0")] = 0.0
    """Start at this time, in seconds or [HH:]MM:SS."""
    duration: Annotated[Seconds | None, Option(panel=INPUT, metavar="TIME")] = None
    """Stop after this duration, in seconds or [HH:]MM:SS."""
    max_frames: Annotated[int | None, limits.MAX_FRAMES, Option(panel=INPUT)] = None
    """Stop after N captured frames (live: dropped frames count)."""
    image_rate: Annotated[float, limits.SOURCE_RATE, Option(panel=INPUT, metavar="FPS", needs="images")] = 25.0
    """Frame rate of a folder of images."""
    credentials: Annotated[ExistingFile | None, Option(panel=INPUT, metavar="FILE", default="environment or URL")] = (
        None
    )
    """File whose first line is USER:PASSWORD for RTSP."""

    deinterlace: Annotated[Literal["auto", "off"], Option(panel=INPUT)] = "auto"
    """Deinterlace frames that are flagged as interlaced (bwdif); adds one frame of latency to live sources."""

    audio: Annotated[AudioMode, Option(panel=ENCODING, needs="video")] = "auto"
    """Audio of video files: copied, or encoded if the container cannot hold it; copied only; or none."""
    codec: Annotated[str | None, Option(panel=ENCODING, default="by container and view", needs="video")] = None
    """Video encoder, by its FFmpeg name."""
    crf: Annotated[float | None, limits.CRF, Option(panel=ENCODING, default="by encoder and view", needs="video")] = (
        None
    )
    """Constant quality of video files; lower is better and larger."""
    preset: Annotated[str, Option(panel=ENCODING, metavar="auto|NAME")] = "auto"
    """Speed preset of the encoder, or auto: the fastest settings measured for the view at a given size and quality."""
    bitrate: Annotated[
        int | None, limits.BITRATE_KBITS, Option(panel=ENCODING, default="constant quality", needs="bit rate")
    ] = None
    """Bit rate of streams, and of video files without --crf."""
    stream_rate: Annotated[
        float | None, limits.STREAM_RATE, Option(panel=ENCODING, metavar="FPS", default="the source's", needs="stream")
    ] = None
    """Frame rate of published and served streams."""
    gop: Annotated[
        float | None, limits.GOP_SECONDS, Option(panel=ENCODING, default="2 served, 1 published", needs="stream")
    ] = None
    """Time between key frames of streams."""
    max_clients: Annotated[int, limits.MAX_CLIENTS, Option(panel=SERVER, needs="server")] = 64
    """Maximum number of RTSP viewers at the same time."""

    resume: Annotated[bool, Option(panel=LONG)] = False
    """Continue an interrupted run of the same settings; skip clips that are finished."""
    workers: Annotated[int, limits.WORKERS, Option(panel=LONG)] = 1
    """Number of processes for the segments of a clip, each with its own session."""
    engine: Annotated[Literal["local", "ray"], Option(panel=LONG)] = "local"
    """Where workers run: processes of this machine, or actors of a Ray cluster."""
    ray_address: Annotated[
        str | None,
        Option(panel=LONG, metavar="ADDRESS", default="RAY_ADDRESS, else a cluster of this machine", needs="ray"),
    ] = None
    """Ray cluster for --engine ray: auto or HOST:PORT on one of its machines, or ray://HOST:10001 with the package
    ray[client]."""
    segment: Annotated[Seconds, limits.SEGMENT_SECONDS, Option(panel=LONG, metavar="TIME", needs="segments")] = 10.0
    """Shortest segment with --resume, --workers or --engine ray; segments begin at key frames."""
    shard: Annotated[Shard | None, Option(panel=LONG, metavar="I/N")] = None
    """Process every Nth clip of the sources, beginning with clip I (0 to N - 1), for jobs on several machines."""

    @property
    def in_segments(self) -> bool:
        """True if clips are processed in segments."""
        return self.resume or self.workers > 1 or self.engine == "ray"

    @property
    def shard_of(self) -> slice:
        """The clips of this shard."""
        number, _, count = (self.shard or "0/1").partition("/")
        return slice(int(number), None, int(count))

    @property
    def rules(self) -> dict[str, Any] | None:
        return {**(super().rules or {}), **(self.preprocessing or {})} or None

    @property
    def look(self) -> Look:
        return replace(
            super().look,
            transparent=self.transparent,
            upsampling=self.edges,
            nearness=self.nearness,
            contours=self.contours,
            bar=self.bar,
        )

    def model_options(self, **more: Unpack[ModelOptions]) -> ModelOptions:
        return {
            **super().model_options(),
            "metres_per_unit": self.metres_per_unit,
            "exact": self.exact or None,
            **more,
        }

    def source_options(self, threads: int, on_status: Callable[[str], None]) -> SourceOptions:
        return {
            **super().source_options(threads, on_status),
            "start_seconds": self.start,
            "duration_seconds": self.duration,
            "max_frames": self.max_frames,
            "deinterlace": self.deinterlace == "auto",
            "image_rate": Fraction(self.image_rate).limit_denominator(1001),
            "credentials_file": self.credentials,
        }


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

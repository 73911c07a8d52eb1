"""Options of ``streamdepth run``."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

from pydantic import BeforeValidator

from streamdepth.config.options import Batch, ExistingFile, Option, Seconds, Shard, Texts
from streamdepth.config.shared import COLOR, ENCODING, INPUT, LONG, MODEL, OUTPUT, SERVER, Settings
from streamdepth.core import limits
from streamdepth.core.look import Look, Nearness, Upsampling
from streamdepth.core.queues import Policy
from streamdepth.depth.alignment import Anchor
from streamdepth.sinks.robotics.zones import Zone
from streamdepth.sinks.tracks import AudioMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.inference.model import ModelOptions
    from streamdepth.sources.select import SourceOptions


class RunConfig(Settings):
    """Options of ``streamdepth run``. Keys of a configuration file are these names, with ``-`` or ``_``."""

    sources: Annotated[
        Texts,
        Option(
            "File, folder, glob, camera (0, /dev/video0 or its name), rtsp:// or http(s):// URL, or test: for a "
            "synthetic scene.",
            metavar="SOURCE...",
            argument=True,
        ),
    ] = ()
    config: Annotated[
        Path | None,
        Option(
            "Read options from a YAML file; command-line options take precedence.",
            short="-c",
            metavar="FILE",
            file=False,
        ),
    ] = None
    output: Annotated[
        Texts,
        Option(
            "Video file, folder/ of images (or folder/%06d.jpg, folder/{image}.webp), rtsp:// URL to publish to, "
            "run.mcap (ROS 2 messages), "
            "folder/iw3_export.yml (iw3), run.rrd or rerun+http:// (Rerun), virtualcam:, or null:. Repeatable. "
            "With several sources, {name} is replaced by the name of each.",
            OUTPUT,
            short="-o",
            metavar="OUT",
        ),
    ] = ()
    data: Annotated[
        Texts,
        Option(
            "Depth as data: .mkv (16-bit FFV1), folder/ of 16-bit PNG, folder/%06d.npy, .exr or .ply (points), "
            ".mcap, .rrd, or folder/meta/info.json (LeRobot). Repeatable.",
            OUTPUT,
            metavar="OUT",
        ),
    ] = ()
    data_size: Annotated[
        Literal["source", "model"],
        Option("Resolution of the depth data: the frame's or the model's.", OUTPUT, needs="data"),
    ] = "source"
    purpose: Annotated[
        Literal["vace"] | None,
        Option(
            "Write video files for this purpose. vace: control video for diffusion (near white, 16 fps, 4k + 1 frames, "
            "sides in multiples of 16 within 832x480, one range for the clip).",
            OUTPUT,
            flag="--for",
            default="viewing",
            needs="video",
        ),
    ] = None
    mcap_depth: Annotated[
        Literal["32FC1", "16UC1"],
        Option("Depth images in .mcap: float metres, or 16-bit millimetres.", OUTPUT, needs="mcap"),
    ] = "32FC1"
    mcap_points: Annotated[bool, Option("Also write point clouds (PointCloud2) to .mcap.", OUTPUT, needs="mcap")] = (
        False
    )
    exr_unit: Annotated[
        Literal["m", "cm", "mm"] | None,
        Option("Unit of .exr; needs depth in metres.", OUTPUT, default="m, or none without metres", needs="exr"),
    ] = None
    lerobot_max: Annotated[
        float, limits.METRES, Option("Largest depth in a LeRobot data set, in metres.", OUTPUT, needs="lerobot")
    ] = 10.0
    serve: Annotated[
        Texts,
        Option(
            "Serve the output at this URL: rtsp://127.0.0.1:8554/depth for players, http://127.0.0.1:8080 for "
            "browsers. Repeatable.",
            SERVER,
            metavar="URL",
        ),
    ] = ()
    zone: Annotated[
        tuple[Zone, ...],
        BeforeValidator(Zone.parse_all),
        Option(
            "Report the nearest depth in a box of the frame, in pixels, or in fractions if all are at most 1. "
            "Repeatable.",
            OUTPUT,
            metavar="NAME=X,Y,W,H",
        ),
    ] = ()
    events: Annotated[
        str | None,
        Option(
            "Write the nearest depth of each zone (or of the whole frame) as JSON lines to this file, or to standard "
            "output (-).",
            OUTPUT,
            metavar="FILE|-",
            default="- with --zone",
        ),
    ] = None
    events_rate: Annotated[
        float,
        limits.EVENTS_RATE,
        Option("Maximum number of events per zone and second of media time.", OUTPUT, metavar="FPS", needs="events"),
    ] = 10.0
    skip_existing: Annotated[
        bool, Option("Skip files whose outputs exist. Files that a run left incomplete are processed again.", OUTPUT)
    ] = False
    show: Annotated[
        Literal["window", "rerun"] | None,
        Option(
            "Show the output in a window (h lists its keys), or frames and metric depth in the Rerun viewer.",
            OUTPUT,
            alone="window",
        ),
    ] = None
    stats: Annotated[
        Path | None,
        Option(
            "Write the statistics of the run as JSON. Replaces only an earlier statistics file.",
            OUTPUT,
            metavar="FILE",
        ),
    ] = None

    preprocessing: Annotated[
        dict[str, Any] | None,
        Option("Fields of the model's preprocessing to replace.", MODEL, metavar="MAPPING", cli=False),
    ] = None
    metres_per_unit: Annotated[
        float | None, limits.SCALE, Option("Scale factor from model output to metres.", MODEL)
    ] = None
    anchor: Annotated[
        tuple[Anchor, ...],
        BeforeValidator(Anchor.parse_all),
        Option(
            "A point of known distance: makes a relative model metric. X,Y in pixels, or in fractions of the frame "
            "if both are at most 1 (0.5,0.9=2.0). Give two or more.",
            MODEL,
            metavar="X,Y=METRES",
        ),
    ] = ()
    odometry: Annotated[
        ExistingFile | None,
        Option(
            "Motion of the camera as CSV of time,x,y,z or time,speed (seconds of media time, metres): makes a relative "
            "model metric. Needs --intrinsics or --fov, and a video file.",
            MODEL,
            metavar="FILE",
        ),
    ] = None
    batch: Annotated[
        Batch,
        Option("Frames per model run; auto measures which is fastest.", MODEL, metavar="N|auto"),
    ] = 1
    exact: Annotated[bool, Option("Preprocess exactly as transformers does; slower.", MODEL)] = False
    decoder_threads: Annotated[
        int | None, limits.FFMPEG_THREADS, Option("Threads of each decoder.", INPUT, default="planned", cli=False)
    ] = None
    encoder_threads: Annotated[
        int | None,
        limits.FFMPEG_THREADS,
        Option("Threads of each encoder.", ENCODING, default="by frame size", cli=False),
    ] = None
    color_threads: Annotated[
        int | None, limits.FFMPEG_THREADS, Option("Threads that colour one frame.", COLOR, default="planned", cli=False)
    ] = None

    transparent: Annotated[
        bool, Option("Keep alpha as a channel (.webm, .mov, .png) instead of compositing.", COLOR)
    ] = False
    edges: Annotated[
        Upsampling, Option("Upsampling of depth to the frame: bilinear, or guided by the frame's edges.", COLOR)
    ] = Upsampling.BILINEAR
    nearness: Annotated[
        Nearness,
        Option("Colour by inverse depth, or linear in the values of models whose values grow with distance.", COLOR),
    ] = Nearness.AUTO
    contours: Annotated[int, limits.CONTOURS, Option("Number of depth contours to draw.", COLOR)] = 0
    bar: Annotated[bool, Option("Draw a colour bar.", COLOR)] = False

    policy: Annotated[
        Policy | None,
        Option(
            "Process every frame, or only the latest one and count the dropped frames.",
            INPUT,
            default="every for files, latest for live sources",
        ),
    ] = None
    start: Annotated[
        Seconds, Option("Start at this time, in seconds or [HH:]MM:SS.", INPUT, metavar="TIME", default="0")
    ] = 0.0
    duration: Annotated[
        Seconds | None, Option("Stop after this duration, in seconds or [HH:]MM:SS.", INPUT, metavar="TIME")
    ] = None
    max_frames: Annotated[
        int | None, limits.MAX_FRAMES, Option("Stop after N captured frames (live: dropped frames count).", INPUT)
    ] = None
    image_rate: Annotated[
        float, limits.SOURCE_RATE, Option("Frame rate of a folder of images.", INPUT, metavar="FPS", needs="images")
    ] = 25.0
    credentials: Annotated[
        ExistingFile | None,
        Option("File whose first line is USER:PASSWORD for RTSP.", INPUT, metavar="FILE", default="environment or URL"),
    ] = None

    deinterlace: Annotated[
        Literal["auto", "off"],
        Option(
            "Deinterlace frames that are flagged as interlaced (bwdif); adds one frame of latency to live sources.",
            INPUT,
        ),
    ] = "auto"

    audio: Annotated[
        AudioMode,
        Option(
            "Audio of video files: copied, or encoded if the container cannot hold it; copied only; or none.",
            ENCODING,
            needs="video",
        ),
    ] = "auto"
    codec: Annotated[
        str | None,
        Option("Video encoder, by its FFmpeg name.", ENCODING, default="by container and view", needs="video"),
    ] = None
    crf: Annotated[
        float | None,
        limits.CRF,
        Option(
            "Constant quality of video files; lower is better and larger.",
            ENCODING,
            default="by encoder and view",
            needs="video",
        ),
    ] = None
    preset: Annotated[
        str,
        Option(
            "Speed preset of the encoder, or auto: the fastest settings measured for the view at a given size and "
            "quality.",
            ENCODING,
            metavar="auto|NAME",
        ),
    ] = "auto"
    bitrate: Annotated[
        int | None,
        limits.BITRATE_KBITS,
        Option(
            "Bit rate of streams, and of video files without --crf.",
            ENCODING,
            default="constant quality",
            needs="bit rate",
        ),
    ] = None
    stream_rate: Annotated[
        float | None,
        limits.STREAM_RATE,
        Option(
            "Frame rate of published and served streams.",
            ENCODING,
            metavar="FPS",
            default="the source's",
            needs="stream",
        ),
    ] = None
    gop: Annotated[
        float | None,
        limits.GOP_SECONDS,
        Option("Time between key frames of streams.", ENCODING, default="2 served, 1 published", needs="stream"),
    ] = None
    max_clients: Annotated[
        int, limits.MAX_CLIENTS, Option("Maximum number of RTSP viewers at the same time.", SERVER, needs="server")
    ] = 64

    resume: Annotated[
        bool,
        Option("Continue an interrupted run of the same settings; skip clips that are finished.", LONG),
    ] = False
    workers: Annotated[
        int,
        limits.WORKERS,
        Option("Number of processes for the segments of a clip, each with its own session.", LONG),
    ] = 1
    engine: Annotated[
        Literal["local", "ray"],
        Option("Where workers run: processes of this machine, or actors of a Ray cluster.", LONG),
    ] = "local"
    ray_address: Annotated[
        str | None,
        Option(
            "Ray cluster for --engine ray: auto or HOST:PORT on one of its machines, or ray://HOST:10001 with the "
            "package ray[client].",
            LONG,
            metavar="ADDRESS",
            default="RAY_ADDRESS, else a cluster of this machine",
            needs="ray",
        ),
    ] = None
    segment: Annotated[
        Seconds,
        limits.SEGMENT_SECONDS,
        Option(
            "Shortest segment with --resume, --workers or --engine ray; segments begin at key frames.",
            LONG,
            metavar="TIME",
            needs="segments",
        ),
    ] = 10.0
    shard: Annotated[
        Shard | None,
        Option(
            "Process every Nth clip of the sources, beginning with clip I (0 to N - 1), for jobs on several machines.",
            LONG,
            metavar="I/N",
        ),
    ] = None

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

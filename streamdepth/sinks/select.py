"""The sink that an output name stands for, and the tables of all kinds of sinks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, cast

from streamdepth.core.errors import UsageError, nearest, redact
from streamdepth.core.look import Look, LookControl
from streamdepth.net.url import OBJECT_SCHEMES
from streamdepth.sinks.depth.sink import DepthSinkOptions
from streamdepth.sinks.encoding import AUTO, CONTAINERS
from streamdepth.sinks.files import scheme_of
from streamdepth.sinks.names import Output, output_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from streamdepth.core.contracts import Sink
    from streamdepth.geometry.readers import IntrinsicsFor
    from streamdepth.media.hwaccel import HwAccel
    from streamdepth.sinks.robotics.mcap import DepthEncoding
    from streamdepth.sinks.robotics.per_frame import ExrUnit
    from streamdepth.sinks.rtsp.server import RtspServers
    from streamdepth.sinks.tracks import AudioMode

_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
_ARRAYS = (".png", ".npy")
_KBIT = 1000


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a network stream is sent.

    Attributes:
        rate: frames per second, None = the source's.
        gop_seconds: seconds between key frames, the longest wait of a new viewer; None = the sink's default.
        credentials_file: first line ``USER:PASSWORD``, for the server that is published to or that serves.
        timeout_seconds, retries: of publishing; retries None = unlimited.
        tls_ca: CA certificates for ``rtsps``, see :func:`~streamdepth.net.url.find_tls_config`.
        max_clients: of serving.
        servers: servers that several sinks share; None = each sink has its own.
        low_latency: False = subpixel motion search in the encoder, and a buffer of one second with a bit rate.
    """

    rate: float | None = None
    gop_seconds: float | None = None
    credentials_file: Path | None = None
    timeout_seconds: float = 3.0
    retries: int | None = None
    tls_ca: str | None = None
    max_clients: int = 64
    low_latency: bool = True
    servers: RtspServers | None = None


class SinkOptions(TypedDict, total=False):
    """Keyword arguments of :func:`sink_for`. Each kind of sink uses those that apply to it."""

    name: str
    """Replaces ``{name}`` in the output."""
    look: Look | None
    """How frames look; None = the default look."""
    control: LookControl | None
    """A look that may change during the run, instead of ``look``."""
    overwrite: bool
    codec: str | None
    """Of video files, like ``crf``, ``preset``, ``threads``, ``hwaccel`` and ``options``."""
    crf: float | None
    preset: str | None
    bitrate: int | None
    """kbit/s, of streams, and of video files without ``crf``; None = constant quality."""
    threads: int
    hwaccel: HwAccel | str
    options: Mapping[str, str] | None
    audio: AudioMode
    """Audio of video files: ``auto`` (copy or encode), ``copy`` or ``none``."""
    quality: int | None
    """Of JPEG and WebP, 1..100; None = 92."""
    stream: StreamOptions | None
    """Of published and served streams."""
    serve: bool
    """Serve ``rtsp://`` instead of publishing to it."""
    intrinsics: IntrinsicsFor | None
    """Of ``.mcap`` and ``.rrd``: gives the camera of an image of (width, height)."""
    model: str
    """Recorded in ``.mcap``."""
    purpose: Literal["vace"] | None
    """What a video file is for: ``vace`` = control of video diffusion, see ``VaceSink``; None = to look at."""
    mcap_depth: DepthEncoding
    """Depth images in ``.mcap``: 32FC1 or 16UC1."""
    mcap_points: bool
    """Point clouds in ``.mcap``, too."""


class DataSinkOptions(DepthSinkOptions, total=False):
    """Keyword arguments of :func:`data_sink_for`. Each kind of sink uses those that apply to it."""

    name: str
    """As in :class:`SinkOptions`."""
    mcap_depth: DepthEncoding
    """As in :class:`SinkOptions`, like ``mcap_points``."""
    mcap_points: bool
    exr_unit: ExrUnit | None
    """Of ``.exr``: m, cm or mm; None = metres of metric models, else no unit."""
    lerobot_max: float
    """Of LeRobot data sets: largest depth in metres."""


_Make: TypeAlias = "Callable[[Output, Any], Sink]"


@dataclass(frozen=True, slots=True)
class Sinks:
    """The sinks that an output can name. One entry adds one. Each value builds an unopened sink from name and options.

    Attributes:
        schemes: by what stands before the colon, such as ``rtsp`` in ``rtsp://``.
        files: by the suffix of a single file.
        folders: by the suffix of the files in a folder.
        content: what is written, for messages.
        hint: what to use instead of an unknown scheme.
    """

    schemes: Mapping[str, _Make]
    files: Mapping[str, _Make]
    folders: Mapping[str, _Make]
    content: str
    hint: str


def sink_for(output: str, **options: Unpack[SinkOptions]) -> Sink:
    """The sink for coloured frames that ``output`` names. Nothing is opened.

    - ``out.mkv`` ``.mp4`` ``.mov`` ``.webm``: a video file
    - ``folder/``, or a name without suffix: a folder of PNG, named after the source's images or numbered;
      ``folder/%06d.jpg`` or ``folder/{image}.webp``: the same with other names and formats
    - ``out.mcap``: frames and metric depth as ROS 2 messages; ``out.rrd``: the same for the Rerun viewer
    - ``folder/iw3_export.yml``: the export folder that iw3 imports
    - ``rerun+http://HOST:9876/proxy``: to a Rerun viewer that runs
    - ``rtsp://``: publish to that server; with ``serve`` run a server at that address
    - ``virtualcam:`` or ``virtualcam:DEVICE``: a virtual camera
    - ``null:``: no output, for measurements

    Raises:
        UsageError: an unknown option or an invalid name, with the nearest valid one.
    """
    _check(options, SinkOptions.__optional_keys__)
    scheme = scheme_of(output)
    if options.get("serve") and scheme not in ("rtsp", "rtsps"):
        raise UsageError(f"{redact(output)}: only rtsp:// can be served; use e.g. rtsp://127.0.0.1:8554/depth")
    return _make(output, IMAGE_SINKS, options)


def data_sink_for(output: str, **options: Unpack[DataSinkOptions]) -> Sink:
    """The sink for depth data that ``output`` names. Nothing is opened.

    - ``out.mkv``: FFV1 16-bit video
    - ``folder/``, or a name without suffix: a folder of 16-bit PNG
    - ``folder/%06d.npy`` (or ``.png``): a folder of float32 arrays (or PNG) with other names
    - ``folder/%06d.exr``: a folder of OpenEXR files; ``folder/%06d.ply``: a folder of point clouds
    - ``out.mcap``: frames and metric depth as ROS 2 messages; ``out.rrd``: the same for the Rerun viewer
    - ``folder/meta/info.json``: a LeRobot data set
    - ``null:``: no output, for measurements

    Raises:
        UsageError: an unknown option or an invalid name, with the nearest valid one.
    """
    _check(options, DataSinkOptions.__optional_keys__)
    return _make(output, DATA_SINKS, options)


def _check(options: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"there is no sink option {name!r}{nearest(name, known)}; use {', '.join(sorted(known))}")


def _make(output: str, sinks: Sinks, options: Mapping[str, Any]) -> Sink:
    if not output:
        raise UsageError("an output needs a name; use a file such as out.mkv, or a folder/")
    found = output_of(output, (*sinks.files, *sinks.folders), options.get("name"))
    return _find(found, sinks)(found, options)


def _find(output: Output, sinks: Sinks) -> _Make:
    """The entry of the sink that ``output`` names."""
    if scheme := scheme_of(output.path):
        make = sinks.schemes.get(scheme)
        if make is None:
            raise UsageError(
                f"{redact(output.path)}: {sinks.content} cannot be written to {scheme}:"
                f"{nearest(scheme, sinks.schemes)}; {sinks.hint}"
            )
        return make
    path = PurePath(output.path)
    suffix = PurePath(output.pattern or path).suffix.lower()
    if output.pattern:
        # The sink itself refuses other suffixes of a pattern.
        return sinks.folders.get(suffix, next(iter(sinks.folders.values())))
    if suffix in sinks.files:
        return sinks.files[suffix]
    if suffix in sinks.folders:
        raise UsageError(
            f"{path}: one {suffix} file cannot hold several frames; "
            f"use {path.with_stem(path.stem + '-%06d')} or {', '.join(sinks.files)}"
        )
    near = nearest(suffix, (*sinks.files, *sinks.folders))
    raise UsageError(
        f"{path}: {sinks.content} cannot be written as {suffix!r}{near}; use {', '.join(sinks.files)}, "
        "or end the name with / for a folder"
    )


def _control(options: SinkOptions) -> LookControl:
    return options.get("control") or LookControl(options.get("look") or Look())


def _object(output: Output, options: SinkOptions) -> Sink:
    from streamdepth.sinks.consumers import uploaded

    return uploaded(output.path, IMAGE_SINKS.files, options)


def _depth_object(output: Output, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.consumers import uploaded

    return uploaded(output.path, DATA_SINKS.files, options)


def _null(output: Output, options: SinkOptions) -> Sink:  # noqa: ARG001
    from streamdepth.sinks.consumers import NullSink

    return NullSink(control=_control(options))


def _virtual_camera(output: Output, options: SinkOptions) -> Sink:
    from streamdepth.sinks.consumers import VirtualCameraSink

    return VirtualCameraSink(control=_control(options), device=output.path.partition(":")[2] or None)


def _rtsp(output: Output, options: SinkOptions) -> Sink:
    url = output.path
    stream = options.get("stream") or StreamOptions()
    bitrate = options.get("bitrate")
    shared: dict[str, Any] = {
        "control": _control(options),
        "bitrate": None if bitrate is None else bitrate * _KBIT,
        "rate": stream.rate,
        "preset": options.get("preset") or AUTO,
        "low_latency": stream.low_latency,
        "credentials_file": stream.credentials_file,
    }
    if stream.gop_seconds is not None:
        shared["gop_seconds"] = stream.gop_seconds
    if options.get("serve"):
        from streamdepth.sinks.rtsp.server import RtspServerSink

        if stream.servers is not None:
            shared["server"] = stream.servers.at(url, stream.credentials_file, stream.max_clients)
        return RtspServerSink(url, max_clients=stream.max_clients, **shared)
    from streamdepth.sinks.rtsp.publish import RtspPublishSink

    return RtspPublishSink(
        url, timeout_seconds=stream.timeout_seconds, retries=stream.retries, tls_ca=stream.tls_ca, **shared
    )


def _video(output: Output, options: SinkOptions) -> Sink:
    if options.get("purpose") == "vace":
        from streamdepth.sinks.robotics.exports import VaceSink

        return VaceSink(output.path, **_only(options, ("overwrite",)))
    from streamdepth.sinks.video import VideoSink

    used = ("overwrite", "codec", "crf", "preset", "threads", "hwaccel", "audio")
    extra = dict(options.get("options") or {})
    bitrate = options.get("bitrate")
    if bitrate is not None and options.get("crf") is None:
        extra["b"] = f"{bitrate}k"
    given: dict[str, Any] = {name: value for name, value in options.items() if name in used}
    return VideoSink(output.path, control=_control(options), options=extra, **given)


def _images(output: Output, options: SinkOptions) -> Sink:
    from streamdepth.sinks.images import ImagesSink

    quality = options.get("quality")
    return ImagesSink(
        output.path,
        control=_control(options),
        pattern=output.pattern,
        overwrite=options.get("overwrite", False),
        quality=92 if quality is None else quality,
    )


def _depth_null(output: Output, options: DataSinkOptions) -> Sink:  # noqa: ARG001
    from streamdepth.sinks.consumers import NullSink

    return NullSink()


def _depth_video(output: Output, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.depth.sink import DepthVideoSink

    return DepthVideoSink(output.path, **_depth_options(options))


def _depth_folder(output: Output, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.depth.sink import DepthFolderSink

    return DepthFolderSink(output.path, pattern=output.pattern, **_depth_options(options))


def _exr(output: Output, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.per_frame import ExrSink

    used = _only(options, ("overwrite", "size", "model"))
    return ExrSink(output.path, pattern=output.pattern, unit=options.get("exr_unit"), **used)


def _points(output: Output, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.per_frame import PointsSink

    intrinsics = options.get("intrinsics")
    return PointsSink(output.path, pattern=output.pattern, intrinsics=intrinsics, **_only(options, ("overwrite",)))


def _mcap(output: Output, options: SinkOptions | DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.mcap import McapSink

    used = _only(options, ("overwrite", "size", "model"))
    encoding, points = options.get("mcap_depth", "32FC1"), options.get("mcap_points", False)
    return McapSink(output.path, intrinsics=options.get("intrinsics"), depth_encoding=encoding, points=points, **used)


def _rerun(output: Output, options: SinkOptions | DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.rerun import RerunSink

    return RerunSink(output.path, intrinsics=options.get("intrinsics"), overwrite=options.get("overwrite", False))


def _depth_options(options: DataSinkOptions) -> DepthSinkOptions:
    return cast("DepthSinkOptions", _only(options, DepthSinkOptions.__optional_keys__))


def _lerobot(output: Output, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.lerobot import LeRobotSink

    return LeRobotSink(
        output.path, overwrite=options.get("overwrite", False), depth_max_m=options.get("lerobot_max", 10.0)
    )


def _iw3(output: Output, options: SinkOptions) -> Sink:
    from streamdepth.sinks.robotics.exports import Iw3Sink

    return Iw3Sink(output.path, **_only(options, ("overwrite", "model")))


def _only(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


IMAGE_SINKS = Sinks(
    schemes=MappingProxyType(
        {
            "rtsp": _rtsp,
            "rtsps": _rtsp,
            "null": _null,
            "virtualcam": _virtual_camera,
            **dict.fromkeys(("rerun+http", "rerun+https"), _rerun),
            **dict.fromkeys(OBJECT_SCHEMES, _object),
        }
    ),
    files=MappingProxyType(dict.fromkeys(CONTAINERS, _video) | {".mcap": _mcap, ".rrd": _rerun, ".yml": _iw3}),
    folders=MappingProxyType(dict.fromkeys(_IMAGES, _images)),
    content="video",
    hint="use a file, a folder/ or rtsp://",
)
DATA_SINKS = Sinks(
    schemes=MappingProxyType({"null": _depth_null, **dict.fromkeys(OBJECT_SCHEMES, _depth_object)}),
    files=MappingProxyType({".mkv": _depth_video, ".mcap": _mcap, ".rrd": _rerun, ".json": _lerobot}),
    folders=MappingProxyType(dict.fromkeys(_ARRAYS, _depth_folder) | {".exr": _exr, ".ply": _points}),
    content="depth data",
    hint="use OUT.mkv, FOLDER/ or FOLDER/%06d.npy",
)

"""The sink that an output name stands for, and the tables of all kinds of sinks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, cast

from streamdepth.core.errors import UsageError, nearest, redact
from streamdepth.core.look import Look, LookControl
from streamdepth.net.url import OBJECT_SCHEMES
from streamdepth.sinks.depth.sink import DepthSinkOptions
from streamdepth.sinks.encoding import AUTO, CONTAINERS
from streamdepth.sinks.files import scheme_of
from streamdepth.sinks.images import SOURCE_NAMES, is_pattern

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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

    mcap_depth: DepthEncoding
    """As in :class:`SinkOptions`, like ``mcap_points``."""
    mcap_points: bool
    exr_unit: ExrUnit | None
    """Of ``.exr``: m, cm or mm; None = metres of metric models, else no unit."""
    lerobot_max: float
    """Of LeRobot data sets: largest depth in metres."""


_Make: TypeAlias = "Callable[[str, Any], Sink]"


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
    return _find(output, IMAGE_SINKS)(output, options)


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
    return _find(output, DATA_SINKS)(output, options)


def _check(options: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in options:
        if name not in known:
            raise UsageError(f"there is no sink option {name!r}{nearest(name, known)}; use {', '.join(sorted(known))}")


def _find(output: str, sinks: Sinks) -> _Make:
    """The entry of the sink that ``output`` names."""
    if scheme := scheme_of(output):
        make = sinks.schemes.get(scheme)
        if make is None:
            raise UsageError(
                f"{redact(output)}: {sinks.content} cannot be written to {scheme}:{nearest(scheme, sinks.schemes)}; "
                f"{sinks.hint}"
            )
        return make
    if not output:
        raise UsageError("an output needs a name; use a file such as out.mkv, or a folder/")
    _, pattern = _folder(output, (*sinks.files, *sinks.folders))
    path = PurePath(output)
    suffix = PurePath(pattern or path).suffix.lower()
    if pattern:
        # The sink itself refuses other suffixes of a pattern.
        return sinks.folders.get(suffix, next(iter(sinks.folders.values())))
    if suffix in sinks.files:
        return sinks.files[suffix]
    if suffix in sinks.folders:
        raise UsageError(
            f"{output}: one {suffix} file cannot hold several frames; "
            f"use {path.with_stem(path.stem + '-%06d')} or {', '.join(sinks.files)}"
        )
    near = nearest(suffix, (*sinks.files, *sinks.folders))
    raise UsageError(
        f"{output}: {sinks.content} cannot be written as {suffix!r}{near}; use {', '.join(sinks.files)}, "
        "or end the name with / for a folder"
    )


def _folder(output: str, suffixes: Iterable[str]) -> tuple[str, str]:
    """(folder, name pattern); the pattern is empty if ``output`` is a file."""
    if output.endswith(("/", "\\")):
        return output, SOURCE_NAMES
    path = PurePath(output)
    if is_pattern(path.name):
        return str(path.parent), path.name
    if path.suffix.lower() in suffixes:
        return "", ""
    if Path(output).is_dir() or not path.suffix or path.suffix == path.name:
        return output, SOURCE_NAMES
    return "", ""


def _control(options: SinkOptions) -> LookControl:
    return options.get("control") or LookControl(options.get("look") or Look())


def _object(output: str, options: SinkOptions) -> Sink:
    from streamdepth.sinks.consumers import uploaded

    return uploaded(output, IMAGE_SINKS.files, options)


def _depth_object(output: str, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.consumers import uploaded

    return uploaded(output, DATA_SINKS.files, options)


def _null(output: str, options: SinkOptions) -> Sink:  # noqa: ARG001
    from streamdepth.sinks.consumers import NullSink

    return NullSink(control=_control(options))


def _virtual_camera(output: str, options: SinkOptions) -> Sink:
    from streamdepth.sinks.consumers import VirtualCameraSink

    return VirtualCameraSink(control=_control(options), device=output.partition(":")[2] or None)


def _rtsp(url: str, options: SinkOptions) -> Sink:
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


def _video(output: str, options: SinkOptions) -> Sink:
    if options.get("purpose") == "vace":
        from streamdepth.sinks.robotics.exports import VaceSink

        return VaceSink(output, **_only(options, ("overwrite",)))
    from streamdepth.sinks.video import VideoSink

    used = ("overwrite", "codec", "crf", "preset", "threads", "hwaccel", "audio")
    extra = dict(options.get("options") or {})
    bitrate = options.get("bitrate")
    if bitrate is not None and options.get("crf") is None:
        extra["b"] = f"{bitrate}k"
    given: dict[str, Any] = {name: value for name, value in options.items() if name in used}
    return VideoSink(output, control=_control(options), options=extra, **given)


def _images(output: str, options: SinkOptions) -> Sink:
    from streamdepth.sinks.images import ImagesSink

    folder, pattern = _folder(output, ())
    quality = options.get("quality")
    return ImagesSink(
        folder,
        control=_control(options),
        pattern=pattern,
        overwrite=options.get("overwrite", False),
        quality=92 if quality is None else quality,
    )


def _depth_null(output: str, options: DataSinkOptions) -> Sink:  # noqa: ARG001
    from streamdepth.sinks.consumers import NullSink

    return NullSink()


def _depth_video(output: str, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.depth.sink import DepthVideoSink

    return DepthVideoSink(output, **_depth_options(options))


def _depth_folder(output: str, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.depth.sink import DepthFolderSink

    folder, pattern = _folder(output, ())
    return DepthFolderSink(folder, pattern=pattern, **_depth_options(options))


def _exr(output: str, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.per_frame import ExrSink

    folder, pattern = _folder(output, ())
    used = _only(options, ("overwrite", "size", "model"))
    return ExrSink(folder, pattern=pattern, unit=options.get("exr_unit"), **used)


def _points(output: str, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.per_frame import PointsSink

    folder, pattern = _folder(output, ())
    intrinsics = options.get("intrinsics")
    return PointsSink(folder, pattern=pattern, intrinsics=intrinsics, **_only(options, ("overwrite",)))


def _mcap(output: str, options: SinkOptions | DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.mcap import McapSink

    used = _only(options, ("overwrite", "size", "model"))
    encoding, points = options.get("mcap_depth", "32FC1"), options.get("mcap_points", False)
    return McapSink(output, intrinsics=options.get("intrinsics"), depth_encoding=encoding, points=points, **used)


def _rerun(output: str, options: SinkOptions | DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.rerun import RerunSink

    return RerunSink(output, intrinsics=options.get("intrinsics"), overwrite=options.get("overwrite", False))


def _depth_options(options: DataSinkOptions) -> DepthSinkOptions:
    return cast("DepthSinkOptions", _only(options, DepthSinkOptions.__optional_keys__))


def _lerobot(output: str, options: DataSinkOptions) -> Sink:
    from streamdepth.sinks.robotics.lerobot import LeRobotSink

    return LeRobotSink(output, overwrite=options.get("overwrite", False), depth_max_m=options.get("lerobot_max", 10.0))


def _iw3(output: str, options: SinkOptions) -> Sink:
    from streamdepth.sinks.robotics.exports import Iw3Sink

    return Iw3Sink(output, **_only(options, ("overwrite", "model")))


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

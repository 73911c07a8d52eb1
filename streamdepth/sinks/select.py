"""Which sink an output's name means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from streamdepth.core.errors import UsageError, nearest
from streamdepth.core.look import Look, LookControl
from streamdepth.core.redact import redact
from streamdepth.media.hwaccel import HwAccel
from streamdepth.sinks.encoding import CONTAINERS
from streamdepth.sinks.names import SOURCE_NAMES, is_pattern

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamdepth.core.contracts import Sink
    from streamdepth.sinks.depth.sink import Size

_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
_ARRAYS = (".png", ".npy")
_KBIT = 1000
_LIVE_PRESETS = {True: "ultrafast", False: "veryfast"}
"""By low latency."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How a network stream is sent.

    Attributes:
        rate: frames per second, None = the source's.
        gop_seconds: between key frames: what a viewer who joins waits at most; None = the sink's own.
        credentials_file: first line ``USER:PASSWORD``, for the server that is published to or that serves.
        timeout_seconds, retries: of publishing; retries None = for ever.
        tls_ca: whom publishing trusts behind ``rtsps``, see :func:`~streamdepth.net.tls.find_tls_config`.
        max_clients: of serving.
        low_latency: False = more work on each image, and a second's buffer where there is a bit rate.
    """

    rate: float | None = None
    gop_seconds: float | None = None
    credentials_file: Path | None = None
    timeout_seconds: float = 3.0
    retries: int | None = None
    tls_ca: str | None = None
    max_clients: int = 64
    low_latency: bool = True


def sink_for(
    output: str,
    *,
    look: Look | None = None,
    control: LookControl | None = None,
    overwrite: bool = False,
    codec: str | None = None,
    crf: float | None = None,
    preset: str | None = None,
    bitrate: int | None = None,
    threads: int = 0,
    hwaccel: HwAccel | str = HwAccel.NONE,
    options: Mapping[str, str] | None = None,
    quality: int | None = None,
    stream: StreamOptions | None = None,
    serve: bool = False,
) -> Sink:
    """The sink for coloured images that ``output`` names. Nothing is opened.

    - ``out.mkv`` ``.mp4`` ``.mov`` ``.webm``: a video file
    - ``folder/``, or a name without suffix: a folder of PNG, named after the source's images or numbered;
      ``folder/%06d.jpg`` or ``folder/{image}.webp``: the same with names and format of one's own
    - ``rtsp://``: publish there; with ``serve`` a server of our own at that address
    - ``virtualcam:`` or ``virtualcam:DEVICE``: a virtual camera
    - ``null:``: nothing, for measuring

    Args:
        look: how images look; ``control`` instead shares one that may change. Neither = the default look.
        codec, crf, preset, threads, hwaccel, options: of video files.
        bitrate: kbit/s, of streams, and of video files where no crf is given; None = constant quality.
        quality: of JPEG and WebP, 1..100; None = 92.
        stream: of published and served streams; None = the defaults.

    Raises:
        UsageError: the name means nothing, with the nearest that does.
    """
    control = control or LookControl(look or Look())
    scheme = _scheme(output)
    if scheme in ("rtsp", "rtsps"):
        return _rtsp(output, control, stream or StreamOptions(), bitrate, preset, serve=serve)
    if serve:
        raise UsageError(f"{redact(output)}: only rtsp:// can be served; use e.g. rtsp://127.0.0.1:8554/depth")
    if scheme == "null":
        from streamdepth.sinks.callback import NullSink

        return NullSink(control=control)
    if scheme == "virtualcam":
        from streamdepth.sinks.virtualcam import VirtualCameraSink

        return VirtualCameraSink(control=control, device=output.partition(":")[2] or None)
    if scheme:
        raise UsageError(
            f"{redact(output)}: nothing can be written to {scheme}:"
            f"{nearest(scheme, ('rtsp', 'rtsps', 'null', 'virtualcam'))}; use a file, a folder/ or rtsp://"
        )
    folder, pattern = _folder(output, _IMAGES)
    if pattern:
        from streamdepth.sinks.images import ImagesSink

        return ImagesSink(
            folder, control=control, pattern=pattern, overwrite=overwrite, quality=92 if quality is None else quality
        )
    suffix = PurePath(output).suffix.lower()
    if suffix in _IMAGES:
        raise UsageError(f"{output}: one image cannot hold a video; use {_example(output)} or a video file")
    from streamdepth.sinks.video import VideoSink

    extra = dict(options or {})
    if bitrate is not None and crf is None:
        extra["b"] = f"{bitrate}k"
    return VideoSink(
        output, control=control, overwrite=overwrite, codec=codec, hwaccel=hwaccel, crf=crf, preset=preset,
        threads=threads, options=extra,
    )  # fmt: skip


def _rtsp(
    url: str, control: LookControl, stream: StreamOptions, bitrate: int | None, preset: str | None, *, serve: bool
) -> Sink:
    shared: dict[str, Any] = {
        "control": control,
        "bitrate": None if bitrate is None else bitrate * _KBIT,
        "rate": stream.rate,
        "preset": preset or _LIVE_PRESETS[stream.low_latency],
        "low_latency": stream.low_latency,
        "credentials_file": stream.credentials_file,
    }
    if stream.gop_seconds is not None:
        shared["gop_seconds"] = stream.gop_seconds
    if serve:
        from streamdepth.sinks.rtsp.server import RtspServerSink

        return RtspServerSink(url, max_clients=stream.max_clients, **shared)
    from streamdepth.sinks.rtsp.publish import RtspPublishSink

    return RtspPublishSink(
        url, timeout_seconds=stream.timeout_seconds, retries=stream.retries, tls_ca=stream.tls_ca, **shared
    )


def data_sink_for(
    output: str, *, overwrite: bool = False, size: Size = "source", model: str = "", model_revision: str = ""
) -> Sink:
    """The sink for depth as data that ``output`` names. Nothing is opened.

    - ``out.mkv``: FFV1 16-bit video
    - ``folder/``, or a name without suffix: a folder of 16-bit PNG
    - ``folder/%06d.npy`` (or ``.png``): a folder of float32 arrays (or PNG) with names of one's own
    - ``null:``: nothing, for measuring

    Args:
        size: ``"source"`` or ``"model"``, which of the two sizes depth is written at.
        model, model_revision: recorded with the data.

    Raises:
        UsageError: the name means nothing, with the nearest that does.
    """
    from streamdepth.sinks.depth.sink import DepthFolderSink, DepthVideoSink

    scheme = _scheme(output)
    if scheme == "null":
        from streamdepth.sinks.callback import NullSink

        return NullSink()
    if scheme:
        raise UsageError(f"{redact(output)}: depth data goes to files; use OUT.mkv, FOLDER/ or FOLDER/%06d.npy")
    folder, pattern = _folder(output, _ARRAYS)
    if pattern:
        return DepthFolderSink(
            folder, pattern=pattern, overwrite=overwrite, size=size, model=model, model_revision=model_revision
        )
    suffix = PurePath(output).suffix.lower()
    if suffix in _ARRAYS:
        raise UsageError(f"{output}: one file cannot hold a video's depth; use {_example(output)} or an .mkv")
    if suffix != ".mkv":
        raise UsageError(
            f"{output}: depth data goes into .mkv, FOLDER/ or FOLDER/%06d.npy{nearest(suffix, ('.mkv', *_ARRAYS))}"
        )
    return DepthVideoSink(output, overwrite=overwrite, size=size, model=model, model_revision=model_revision)


def check_distinct(outputs: Iterable[str]) -> None:
    """
    Raises:
        UsageError: two of several outputs are the same file or folder.
    """
    seen: dict[str, str] = {}
    for output in outputs:
        if _scheme(output) in ("null", "virtualcam"):
            continue
        key = output if _scheme(output) else str(Path(output).absolute())
        if key in seen:
            raise UsageError(f"{redact(output)} is named twice; give every output a name of its own")
        seen[key] = output


def _scheme(output: str) -> str:
    """``"rtsp"`` of ``rtsp://...``, ``"null"`` of ``null:``; empty for paths, also ``C:\\...``."""
    head, colon, rest = output.partition(":")
    if not colon or not head.replace("+", "").isalnum() or len(head) == 1:
        return ""
    known = head.lower() in ("null", "virtualcam")
    return head.lower() if rest.startswith("//") or known else ""


def _folder(output: str, suffixes: tuple[str, ...]) -> tuple[str, str]:
    """(folder, name pattern), the pattern empty where ``output`` is a file."""
    if not output:
        raise UsageError("an output needs a name; use a file such as out.mkv, or a folder/")
    if output.endswith(("/", "\\")):
        return output, SOURCE_NAMES
    path = PurePath(output)
    if is_pattern(path.name):
        return str(path.parent), path.name
    known = (*CONTAINERS, *suffixes)
    if path.suffix.lower() in known:
        return "", ""
    if Path(output).is_dir() or not path.suffix or path.suffix == path.name:
        return output, SOURCE_NAMES
    hint = nearest(path.suffix.lower(), known)
    raise UsageError(
        f"{output}: nothing is known that ends in {path.suffix!r}{hint}; "
        f"use {', '.join(CONTAINERS)}, or end the name with / for a folder"
    )


def _example(output: str) -> str:
    path = PurePath(output)
    return str(path.parent / f"{path.stem}-%06d{path.suffix}")

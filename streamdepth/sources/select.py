"""The source that a command-line argument stands for, and the table of all kinds of sources."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError, nearest, redact
from streamdepth.net.url import LIVE_SCHEMES, OBJECT_SCHEMES
from streamdepth.sources.file import FileSource
from streamdepth.sources.find import Found, find, unique_names
from streamdepth.sources.images import ImagesSource
from streamdepth.sources.medium import shown
from streamdepth.sources.pattern import PatternSource
from streamdepth.sources.times import LimitedSource, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from random import Random
    from typing import Literal

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Source
    from streamdepth.media.hwaccel import HwAccel

_WEB_TIMEOUT_SECONDS = 10.0
_LIVE_ONLY = LIVE_SCHEMES - {"http", "https"}


class SourceOptions(TypedDict, total=False):
    """Keyword arguments of :func:`source_for` and :func:`expand`. Each kind of source uses those that apply to it."""

    start_seconds: float | Fraction
    """First frame at or after this time. Not for live sources."""
    duration_seconds: float | Fraction | None
    max_frames: int | None
    image_rate: Fraction
    """Frames per second of a folder of images; default 25."""
    camera_size: tuple[int, int] | None
    """Width and height to request from a camera."""
    camera_rate: Fraction | float | None
    threads: int
    """Decoder threads; 0 = FFmpeg chooses."""
    hwaccel: HwAccel | str
    deinterlace: bool
    """Deinterlace frames that are flagged as interlaced; default True."""
    clock: Clock | None
    timeout_seconds: float
    """Of network operations; default 3 s for live streams, 10 s for files on a server."""
    retries: int | None
    """Of live streams: attempts after consecutive failures; None = unlimited."""
    retry_start: bool
    """Of live streams: keep trying at the start too. :func:`expand` sets it for several sources."""
    assume_live: bool
    """http(s) URLs are live streams; they are not opened to find out."""
    on_status: Callable[[str], None] | None
    """Of live streams: called with a line of text when the connection is lost or restored."""
    transport: Literal["tcp", "udp", "auto"]
    low_latency: bool
    username: str | None
    password: str | None
    credentials_file: str | Path | None
    tls_ca: str | Path | None
    environ: Mapping[str, str] | None
    random: Random | None


_FILE = ("clock", "threads", "hwaccel", "deinterlace")
_LIVE = (
    *("clock", "threads", "hwaccel", "timeout_seconds", "retries", "retry_start", "on_status", "transport"),
    *("low_latency", "deinterlace"),
    *("username", "password", "credentials_file", "tls_ca", "environ", "random"),
)


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source.

    Attributes:
        make: builds the unopened source from what was found, the options, the limits and a name (None = the source's
            own). It applies the limits.
        pattern: regular expression of the texts that mean this kind, case ignored; empty = recognised as a path.
        concurrent: sources of this kind run side by side; the others run one after another.
        named: the source takes a name.
    """

    make: Callable[[Found, SourceOptions, Limits, str | None], Source]
    pattern: str = ""
    concurrent: bool = False
    named: bool = True


def source_for(text: str | os.PathLike[str], **options: Unpack[SourceOptions]) -> Source:
    """The one source that ``text`` stands for. Reads the file system; reads the beginning of an http(s) URL.

    Args:
        text: a video or image file; a folder or glob of images; a camera's index (``0``), device (``/dev/video0``)
            or name; ``test:`` with options; ``rtsp://`` and other network streams; ``http(s)://``. A file whose name
            looks like a camera or a protocol is named with its folder: ``./0``.
        options: see :class:`SourceOptions`.
    Raises:
        UsageError: an unknown option, an invalid text or limit, or several videos (see :func:`expand`).
        SourceNotFoundError: no such file, camera or folder, or an empty folder.
        SourceError: an http(s) URL that cannot be read.
    """
    limits = _checked(options)
    found = _find(text)
    if len(found) > 1:
        raise UsageError(f"{shown(text)}: matches {len(found)} videos; name one of them, or use expand() for all")
    _check_camera(found, options)
    return _make(found[0], options, limits, None)


def expand(texts: Sequence[str | os.PathLike[str]], **options: Unpack[SourceOptions]) -> list[Source]:
    """As :func:`source_for` for several texts. A folder or glob of videos gives one source per video.

    Sources get unique names: files of the same name in different folders are called by folder and name.
    """
    if not texts:
        raise UsageError("no source given; name a file, a folder, a camera (0), a URL or test:")
    limits = _checked(options)
    found = [one for text in texts for one in _find(text)]
    _check_camera(found, options)
    if len(found) > 1:
        options.setdefault("retry_start", True)
    names = unique_names(found)
    return [
        _make(one, options, limits, name if SOURCES[one.kind].named else None)
        for one, name in zip(found, names, strict=True)
    ]


def missing(texts: Sequence[str | os.PathLike[str]]) -> dict[str, str]:
    """The texts that stand for no existing file or folder, each with the reason. Reads the file system."""
    absent = {}
    for text in texts:
        try:
            _find(text)
        except SourceNotFoundError as error:
            absent[os.fspath(text)] = str(error)
    return absent


def at_once(texts: Sequence[str | os.PathLike[str]]) -> int:
    """How many of the sources run side by side, 1 or more: live sources do, files run one after another.

    A URL that may be either counts as live. Reads the file system, not the network.

    Raises:
        UsageError, SourceNotFoundError: as :func:`expand`.
    """
    return max(1, sum(SOURCES[one.kind].concurrent for text in texts for one in _find(text)))


def kinds(texts: Sequence[str | os.PathLike[str]]) -> set[str]:
    """Keys of :data:`SOURCES` that the sources have. Reads the file system, not the network.

    Raises:
        UsageError, SourceNotFoundError: as :func:`expand`.
    """
    return {one.kind for text in texts for one in _find(text)}


def _find(text: str | os.PathLike[str]) -> list[Found]:
    return find(os.fspath(text), {kind: entry.pattern for kind, entry in SOURCES.items()})


def _checked(options: SourceOptions) -> Limits:
    """The limits among the options.

    Raises:
        UsageError: an unknown option, with the nearest name.
    """
    known = SourceOptions.__optional_keys__
    for name in options:
        if name not in known:
            raise UsageError(
                f"there is no source option {name!r}{nearest(name, known)}; use {', '.join(sorted(known))}"
            )
    return Limits.of(options.get("start_seconds", 0), options.get("duration_seconds"), options.get("max_frames"))


def _check_camera(found: Sequence[Found], options: SourceOptions) -> None:
    requested = options.get("camera_size") is not None or options.get("camera_rate") is not None
    if requested and all(one.kind != "camera" for one in found):
        raise UsageError("a camera mode is given, but no source is a camera; omit --camera-mode")


def _make(found: Found, options: SourceOptions, limits: Limits, name: str | None) -> Source:
    return SOURCES[found.kind].make(found, options, limits, name)


def _used(options: SourceOptions, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}


def _limited(source: Source, limits: Limits) -> Source:
    return LimitedSource(source, limits) if limits else source


def _camera(found: Found, options: SourceOptions, limits: Limits, name: str | None) -> Source:  # noqa: ARG001
    from streamdepth.sources.webcam import WebcamSource

    width, height = options.get("camera_size") or (None, None)
    camera = WebcamSource(
        found.value, width=width, height=height, rate=options.get("camera_rate"), clock=options.get("clock")
    )
    return _limited(camera, limits)


def _pattern(found: Found, options: SourceOptions, limits: Limits, name: str | None) -> Source:
    pattern = PatternSource.from_text(str(found.value), clock=options.get("clock"), source_id=name or "test:")
    return _limited(pattern, limits)


def _images(found: Found, options: SourceOptions, limits: Limits, name: str | None) -> Source:
    rate = options.get("image_rate", Fraction(25))
    paths = found.paths or str(found.value)
    return _limited(ImagesSource(paths, rate=rate, clock=options.get("clock"), source_id=name), limits)


def _file(found: Found, options: SourceOptions, limits: Limits, name: str | None, **more: Any) -> FileSource:
    return FileSource(
        str(found.value),
        start_seconds=limits.start_seconds,
        duration_seconds=limits.duration_seconds,
        max_frames=limits.max_frames,
        source_id=name,
        **_used(options, _FILE),
        **more,
    )


def _live(
    found: Found,
    options: SourceOptions,
    limits: Limits,
    name: str | None,  # noqa: ARG001 - a live source is called as its address
    *,
    just_read: bool = False,
) -> Source:
    from streamdepth.sources.live.source import LiveSource

    url = str(found.value)
    if limits.start_seconds:
        raise UsageError(f"{redact(url)}: a live source has no start time; omit --start")
    return LiveSource(
        url,
        max_frames=limits.max_frames,
        duration_seconds=None if limits.duration_seconds is None else float(limits.duration_seconds),
        just_read=just_read,
        **_used(options, _LIVE),
    )


def _web(found: Found, options: SourceOptions, limits: Limits, name: str | None) -> Source:
    """A file on a server, or a live stream: only opening the URL tells which.

    A medium without duration whose size is unknown, or an HLS or DASH playlist without an end, is live. The connection
    made to find out is closed; the source opens its own when it runs. A camera that serves one client at a time may not
    have noticed that by then.
    """
    if options.get("assume_live"):
        return _live(found, options, limits, name)
    timeout = options.get("timeout_seconds", _WEB_TIMEOUT_SECONDS)
    # A camera that stalls is gone, a file that stalls costs no more than time.
    patience = max(_WEB_TIMEOUT_SECONDS, timeout)
    file = _file(found, options, limits, name, timeout_seconds=patience, tls_ca=options.get("tls_ca"))
    probe = file.whole(timeout_seconds=timeout)
    try:
        probe.open()
        endless = probe.endless
    except SourceError:
        if not (options.get("retry_start") or options.get("retries")):
            raise
        endless = True  # a live source retries; it also ends with a recording
    finally:
        probe.close()
    return _live(found, options, limits, name, just_read=True) if endless else file


def _object(found: Found, options: SourceOptions, limits: Limits, name: str | None) -> Source:
    from streamdepth.sources.find import ObjectSource

    return ObjectSource(
        str(found.value),
        source_id=name,
        start_seconds=limits.start_seconds,
        duration_seconds=limits.duration_seconds,
        max_frames=limits.max_frames,
        **_used(options, _FILE),
    )


def _schemes(names: Iterable[str]) -> str:
    return rf"(?:{'|'.join(sorted(names))})://.*"


SOURCES: Mapping[str, SourceKind] = MappingProxyType(
    {
        "camera": SourceKind(_camera, r"[0-9]{1,3}|/dev/video[0-9]+", concurrent=True, named=False),
        "test": SourceKind(_pattern, r"test:.*"),
        "web": SourceKind(_web, _schemes(("http", "https")), concurrent=True),
        "object": SourceKind(_object, _schemes(OBJECT_SCHEMES)),
        "live": SourceKind(_live, _schemes(_LIVE_ONLY), concurrent=True, named=False),
        "images": SourceKind(_images),
        "file": SourceKind(_file),
    }
)
"""All kinds of sources, in the order in which their patterns are tried. One entry adds a source."""

"""What people type as a source, made into the source they mean."""

from __future__ import annotations

import difflib
import glob
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from streamdepth.core.errors import SourceNotFoundError, UsageError
from streamdepth.core.redact import redact
from streamdepth.media.hwaccel import HwAccel
from streamdepth.net.url import LIVE_SCHEMES
from streamdepth.sources.explain import nearest_name, shown
from streamdepth.sources.file import FileSource, check_limits, is_url, seconds_fraction
from streamdepth.sources.images import ImagesSource
from streamdepth.sources.limit import LimitedSource
from streamdepth.sources.listing import files_in, files_matching, is_image
from streamdepth.sources.pattern import PatternSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.core.contracts import Source

VIDEO_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("264", "265", "3g2", "3gp", "apng", "asf", "avi", "divx", "dv", "f4v", "flv", "gif", "h264", "h265", "hevc"),
        *("ivf", "m1v", "m2ts", "m2v", "m4v", "mjpeg", "mjpg", "mkv", "mov", "mp4", "mpe", "mpeg", "mpg", "mts", "mxf"),
        *("nut", "obu", "ogm", "ogv", "qt", "rm", "rmvb", "ts", "vob", "webm", "wmv", "y4m"),
    )
)
"""What counts as a video in a folder. A file named outright may have any name."""

_WEB_TIMEOUT_SECONDS = 10.0
_FILE_SCHEMES = ("file",)
_WEB_SCHEMES = ("http", "https")

Kind = Literal["camera", "test", "live", "web", "images", "file"]


@dataclass(frozen=True, slots=True)
class _Found:
    """One source that a text stands for. ``value``: camera, URL or path; ``paths``: its images, where several."""

    kind: Kind
    value: str | int
    paths: tuple[str, ...] = ()


def source_for(
    text: str | os.PathLike[str],
    *,
    start_seconds: float | Fraction = 0,
    duration_seconds: float | Fraction | None = None,
    max_frames: int | None = None,
    image_rate: Fraction = Fraction(25),
    camera_size: tuple[int, int] | None = None,
    camera_rate: Fraction | float | None = None,
    threads: int = 0,
    hwaccel: HwAccel | str = HwAccel.NONE,
    clock: Clock | None = None,
    **live: Any,
) -> Source:
    """The one source that ``text`` stands for. Looks what is there; of an http(s) URL it also reads the beginning.

    Args:
        text: a video or image file; a folder or glob of images; a camera's index (``0``), device (``/dev/video0``)
            or name; ``test:`` with options; ``rtsp://`` and other network streams; ``http(s)://``. A file called like
            a camera or a protocol is named with its folder: ``./0``.
        start_seconds, duration_seconds, max_frames: the part of it to give.
        image_rate: frames per second images stand for.
        camera_size, camera_rate: what to ask a camera for.
        threads, hwaccel: of decoding, see :class:`~streamdepth.sources.file.FileSource`.
        clock: stamps frames.
        live: keyword arguments of :class:`~streamdepth.sources.live.source.LiveSource`, used where the source is a
            network stream; ``timeout_seconds`` and ``tls_ca`` also where it is a file on a server.
    Raises:
        UsageError: text or limits that cannot mean anything, or several videos (see :func:`expand`).
        SourceNotFoundError: nothing there by that name, or an empty folder.
        SourceError: an http(s) URL that cannot be read.
    """
    found = _find(os.fspath(text))
    if len(found) > 1:
        raise UsageError(
            f"{shown(text)} stands for {len(found)} videos; give them one by one, or all of them to expand()"
        )
    options = _Options(
        start_seconds, duration_seconds, max_frames, image_rate, camera_size, camera_rate, threads,
        HwAccel.parse(hwaccel), clock, live,
    )  # fmt: skip
    _check_camera(found, options)
    return _make(found[0], options, None)


def expand(
    texts: Sequence[str | os.PathLike[str]],
    *,
    start_seconds: float | Fraction = 0,
    duration_seconds: float | Fraction | None = None,
    max_frames: int | None = None,
    image_rate: Fraction = Fraction(25),
    camera_size: tuple[int, int] | None = None,
    camera_rate: Fraction | float | None = None,
    threads: int = 0,
    hwaccel: HwAccel | str = HwAccel.NONE,
    clock: Clock | None = None,
    **live: Any,
) -> list[Source]:
    """As :func:`source_for` for several texts, where a folder or glob of videos gives one source per video.

    Sources get names of their own: files of the same name in different folders are called by folder and name.
    """
    if not texts:
        raise UsageError("no source given; name a file, a folder, a camera (0), a URL or test:")
    options = _Options(
        start_seconds, duration_seconds, max_frames, image_rate, camera_size, camera_rate, threads,
        HwAccel.parse(hwaccel), clock, live,
    )  # fmt: skip
    found = [one for text in texts for one in _find(os.fspath(text))]
    _check_camera(found, options)
    return [_make(one, options, name) for one, name in zip(found, _names(found), strict=True)]


def at_once(texts: Sequence[str | os.PathLike[str]]) -> int:
    """How many of the sources run side by side, 1 or more: live ones do, files follow one another.

    A URL that may be either counts as live. Looks what is there, but asks no network.

    Raises:
        UsageError, SourceNotFoundError: as :func:`expand`.
    """
    return max(1, sum(one.kind in ("camera", "live", "web") for text in texts for one in _find(os.fspath(text))))


@dataclass(frozen=True, slots=True)
class _Options:
    start_seconds: float | Fraction
    duration_seconds: float | Fraction | None
    max_frames: int | None
    image_rate: Fraction
    camera_size: tuple[int, int] | None
    camera_rate: Fraction | float | None
    threads: int
    hwaccel: HwAccel
    clock: Clock | None
    live: dict[str, Any]

    def __post_init__(self) -> None:
        seconds_fraction("start", self.start_seconds)
        seconds_fraction("duration", self.duration_seconds)
        check_limits(self.duration_seconds, self.max_frames)

    @property
    def part(self) -> dict[str, Any]:
        return {
            "start_seconds": self.start_seconds,
            "duration_seconds": self.duration_seconds,
            "max_frames": self.max_frames,
        }

    def file(self, path_or_url: str, name: str | None, **more: Any) -> FileSource:
        return FileSource(
            path_or_url,
            clock=self.clock,
            threads=self.threads,
            hwaccel=self.hwaccel,
            source_id=name,
            **self.part,
            **more,
        )

    def limited(self, source: Source) -> Source:
        if not self.start_seconds and self.duration_seconds is None and self.max_frames is None:
            return source
        return LimitedSource(source, **self.part)


def _check_camera(found: Sequence[_Found], options: _Options) -> None:
    asked = options.camera_size is not None or options.camera_rate is not None
    if asked and all(one.kind != "camera" for one in found):
        raise UsageError("a camera's size and rate are asked for, and no source is a camera; leave --camera-mode out")


def _make(found: _Found, options: _Options, name: str | None) -> Source:
    value = found.value
    if found.kind == "camera":
        from streamdepth.sources.webcam import WebcamSource

        width, height = options.camera_size or (None, None)
        return options.limited(
            WebcamSource(value, width=width, height=height, rate=options.camera_rate, clock=options.clock)
        )
    text = str(value)
    if found.kind == "test":
        return options.limited(PatternSource.from_text(text, clock=options.clock, source_id=name or "test:"))
    if found.kind == "images":
        paths: str | tuple[str, ...] = found.paths if found.paths else text
        return options.limited(ImagesSource(paths, rate=options.image_rate, clock=options.clock, source_id=name))
    if found.kind == "live":
        if options.start_seconds:
            raise UsageError(f"{redact(text)}: a live source has no start to choose; leave --start out")
        return _live(text, options)
    if found.kind == "web":
        from streamdepth.sources.web import choose_web

        timeout = options.live.get("timeout_seconds", _WEB_TIMEOUT_SECONDS)
        # A camera that stalls is gone, a file that stalls costs no more than time.
        patience = max(_WEB_TIMEOUT_SECONDS, timeout)
        return choose_web(
            options.file(text, name, timeout_seconds=patience, tls_ca=options.live.get("tls_ca")),
            timeout_seconds=timeout,
            make_live=lambda: _live(text, options),
            starts_late=bool(options.start_seconds),
        )
    return options.file(text, name)


def _live(url: str, options: _Options) -> Source:
    from streamdepth.sources.live.source import LiveSource

    return LiveSource(
        url,
        clock=options.clock,
        max_frames=options.max_frames,
        duration_seconds=None if options.duration_seconds is None else float(options.duration_seconds),
        threads=options.threads,
        hwaccel=options.hwaccel,
        **options.live,
    )


def _find(text: str) -> list[_Found]:
    if not text.strip():
        raise UsageError("an empty source; name a file, a folder, a camera (0), a URL or test:")
    if "\0" in text:
        raise UsageError("a source's name cannot hold a NUL character; check what made it")
    if re.fullmatch(r"[0-9]{1,3}", text):
        return [_Found("camera", int(text))]
    if re.fullmatch(r"/dev/video[0-9]+", text):
        return [_Found("camera", text)]
    if text.lower().startswith("test:"):
        return [_Found("test", text)]
    if is_url(text):
        return [_find_url(text)]
    path = Path(text)
    if path.is_dir():
        return _find_in_folder(path)
    if _exists(path):
        return [_Found("images" if is_image(path) else "file", text)]
    if glob.has_magic(text):
        return _find_glob(text)
    return [_find_camera(text, path)]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except PermissionError:
        # There, but not for us: opening it says so with the way out.
        return True
    except (OSError, ValueError):
        return False
    return True


def _find_url(text: str) -> _Found:
    scheme = text.partition("://")[0].lower()
    if scheme in _WEB_SCHEMES:
        return _Found("web", text)
    if scheme in LIVE_SCHEMES:
        return _Found("live", text)
    if scheme in _FILE_SCHEMES:
        from urllib.parse import unquote, urlsplit
        from urllib.request import url2pathname

        path = url2pathname(unquote(urlsplit(text).path)) if os.name == "nt" else unquote(urlsplit(text).path)
        return _find(path)[0]
    every = (*sorted(LIVE_SCHEMES), *_FILE_SCHEMES)
    near = difflib.get_close_matches(scheme, every, n=1)
    hint = f"did you mean {near[0]}://?" if near else f"there are {', '.join(f'{name}://' for name in every)}"
    raise UsageError(f"{redact(text)}: no protocol is called {scheme!r}; {hint}")


def _find_in_folder(folder: Path) -> list[_Found]:
    files = files_in(folder)
    images = [path for path in files if is_image(path)]
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not images and not videos:
        what = "holds neither videos nor images" if files else "is empty"
        raise SourceNotFoundError(
            f"{shown(folder)} {what}; name a folder with videos or images directly in it, or a file",
            source=shown(folder),
        )
    _refuse_mixture(str(folder), images, videos, shown(folder / "*.mp4"))
    return [_Found("images", str(folder))] if images else [_Found("file", str(video)) for video in videos]


def _find_glob(pattern: str) -> list[_Found]:
    files = files_matching(pattern)
    images = [path for path in files if is_image(path)]
    videos = [path for path in files if not is_image(path)]
    _refuse_mixture(pattern, images, videos, "*.mp4")
    if images:
        return [_Found("images", pattern, tuple(map(str, images)))]
    return [_Found("file", str(video)) for video in videos]


def _refuse_mixture(text: str, images: list[Path], videos: list[Path], example: str) -> None:
    if images and videos:
        raise UsageError(
            f"{shown(text)} holds {len(images)} images and {len(videos)} videos; say which with a pattern such as "
            f"{example!r}"
        )


def _find_camera(text: str, path: Path) -> _Found:
    from streamdepth.sources.cameras import find_camera, list_cameras

    is_path = bool(path.suffix) or len(path.parts) > 1
    cameras = () if is_path else list_cameras()
    camera = find_camera(text, cameras)
    if camera is not None:
        return _Found("camera", camera.index)
    hints = [
        hint
        for hint in (
            nearest_name(path) if path.parent.is_dir() else f"there is no folder {shown(path.parent)}",
            f"cameras here: {', '.join(f'{camera.index} ({camera.name})' for camera in cameras)}" if cameras else "",
        )
        if hint
    ]
    what = "no such file" if is_path else "no such file or camera"
    hint = "; ".join(hints) or "check the spelling and the folder it is in"
    raise SourceNotFoundError(f"{shown(text)}: {what}; {hint}", source=shown(text))


def _names(found: list[_Found]) -> list[str | None]:
    """Names for sources that would have the same one; None where a source's own will do."""
    files = [one.kind in ("file", "images", "web", "test") for one in found]
    own = [_own_name(one) for one in found]
    longer = [
        shown(os.path.join(*Path(str(one.value)).absolute().parts[-2:]))  # noqa: PTH118 - text, not a path to follow
        if one.kind in ("file", "images") and own.count(name) > 1
        else name
        for one, name in zip(found, own, strict=True)
    ]
    names: list[str | None] = []
    for at, (name, can_be_named) in enumerate(zip(longer, files, strict=True)):
        earlier = longer[:at].count(name)
        if not can_be_named:
            names.append(None)
        elif longer.count(name) > 1:
            names.append(f"{name}#{earlier + 1}" if earlier else name)
        else:
            names.append(name)
    return names


def _own_name(found: _Found) -> str:
    if found.kind == "test":
        return "test:"
    text = str(found.value)
    return redact(text) if found.kind in ("web", "live", "camera") else shown(Path(text).name or text)

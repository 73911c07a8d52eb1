"""Images as frames: a folder, a glob or a list of files in natural order, or the frames of an animated image."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError
from streamdepth.core.frame import ColorTags, Frame, StreamInfo
from streamdepth.media.images import (
    DAMAGED,
    HEIF_SUFFIXES,
    IMAGE_SUFFIXES,
    heif_installed,
    image_from_array,
    image_from_pil,
    open_raster,
    undecodable,
)
from streamdepth.sources.file import FileSource
from streamdepth.sources.medium import check_readable, nearest_name, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import av
    from PIL.Image import Image

    from streamdepth.core.clock import Clock

_NOTES_AT_MOST = 20
_TICKS_PER_SECOND = 1000
_SEQUENCES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
"""Formats whose further images are frames or pages. Those of other formats (MPO) are previews and depth maps."""
_REDUCED = 254, 1
"""TIFF's NewSubfileType and its flag of a smaller copy of another page."""


class ImagesSource(BaseSource):
    """One frame per image, ``1 / rate`` apart, as rgb24, each at its own size.

    A single animated file (WebP, AVIF, APNG, GIF) gives all its frames at their own times, a TIFF of several pages one
    frame per page. Among several files only their first images are read, with a note.

    Args:
        paths: a folder, a glob such as ``"shots/*.png"``, one file, or a list of files (read in the order given).
        rate: frames per second the images stand for.
        clock: stamps ``captured_ns``.
        source_id: short name; None = the folder's, pattern's or file's own.

    An image that cannot be decoded is skipped and counted in ``dropped`` (``corrupt``, ``missing``, ``unreadable``).
    Its place in time stays empty. It is an error only if no image can be decoded.
    """

    def __init__(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        rate: Fraction = Fraction(25),
        clock: Clock | None = None,
        source_id: str | None = None,
    ) -> None:
        if rate <= 0:
            raise UsageError(f"image-rate must be more than 0 frames per second, not {rate}")
        self._given = paths
        listed = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        if not listed:
            raise UsageError("a list of images must have at least one file")
        more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
        super().__init__(source_id or shown(Path(listed[0]).name or listed[0]) + more, clock=clock)
        self._rate = Fraction(rate)
        self._notes: list[str] = []
        self._files: list[Path] = []
        self._first: tuple[int, av.VideoFrame] | None = None
        self._info: StreamInfo | None = None
        self._times_ms: list[int] = []
        """Start of every frame of an animated file and the end of the last one; empty without animation."""

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each of the first twenty images that were skipped or read in part."""
        return tuple(self._notes)

    def open(self) -> StreamInfo:
        if self._info is not None:
            return self._info
        self._files = self._find()
        for index, path in enumerate(self._files):
            image = self._decode(path)
            if image is not None:
                self._first = index, image
                break
        else:
            more = f" (nor any of {len(self._files) - 1} more)" if len(self._files) > 1 else ""
            hint = "" if "; " in self._notes[0] else "; give an image that opens in a viewer"
            raise SourceError(f"{self._notes[0]}{more}{hint}", source=self._id)
        count = len(self._files)
        if count == 1:
            self._times_ms = self._find_times(self._files[0])
            count = max(1, len(self._times_ms) - 1)
        steps = {end - begin for begin, end in pairwise(self._times_ms)}
        self._info = StreamInfo(
            source_id=self._id,
            width_px=image.width,
            height_px=image.height,
            pix_fmt=image.format.name,
            time_base=Fraction(1, _TICKS_PER_SECOND) if self._times_ms else 1 / self._rate,
            rate=(Fraction(_TICKS_PER_SECOND, steps.pop()) if len(steps) == 1 else None) if steps else self._rate,
            frame_count=count,
            duration_seconds=self._times_ms[-1] / _TICKS_PER_SECOND if self._times_ms else float(count / self._rate),
            color=ColorTags.of(image),
        )
        return self._info

    def frames(self) -> Iterator[Frame]:
        if self._first is None:
            raise SourceError(f"{self._id}: call open() before frames(), and frames() once", source=self._id)
        (start, ready), self._first = self._first, None
        if self._times_ms:
            yield from self._animate(self._files[0])
            return
        for index in range(start, len(self._files)):
            if self._stop.is_set():
                return
            image = ready if index == start else self._decode(self._files[index])
            if image is None:
                continue
            image.pts, image.time_base = index, 1 / self._rate
            yield Frame(
                self._id,
                index,
                index,
                1 / self._rate,
                self._clock.monotonic_ns(),
                image,
                key=True,
                path=self._files[index],
            )

    def again(self) -> ImagesSource:
        return ImagesSource(self._given, rate=self._rate, clock=self._clock, source_id=self._id)

    def close(self) -> None:
        super().close()
        self._first = None

    def _find(self) -> list[Path]:
        if not isinstance(self._given, str | os.PathLike):
            return [Path(path) for path in self._given]
        found = images_at(self._given)
        if len(found) == 1:
            check_readable(found[0])
        return found

    def _decode(self, path: Path) -> av.VideoFrame | None:
        """The image; None, with the cause counted, if it cannot be decoded."""
        from PIL import Image

        if path.suffix.lower() in HEIF_SUFFIXES and not heif_installed():
            return self._decode_heif(path)
        try:
            with open_raster(path) as image:
                count = len(_sequence(image))
                if count > 1 and len(self._files) > 1:
                    self._note(path, f"only the first of {count} frames is read; name the file alone to read all")
                image.seek(_sequence(image)[0])
                return image_from_pil(image)
        except FileNotFoundError:
            self._skip("missing", path, "no such file")
        except PermissionError:
            self._skip("unreadable", path, "permission denied")
        except IsADirectoryError:
            self._skip("unreadable", path, "is a folder, not an image")
        except Image.DecompressionBombError:
            self._skip("corrupt", path, f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels")
        except (*DAMAGED, MemoryError) as error:
            # Pillow's decoders raise any of these on damaged files.
            empty = path.is_file() and path.stat().st_size == 0
            reason = " ".join(str(error).split("\n")[:1])
            what = "is empty (0 bytes)" if empty else "is not an image Pillow can read, or it is damaged"
            self._skip("corrupt", path, what if empty or "cannot identify" in reason else f"{what} ({reason})")
        return None

    def _decode_heif(self, path: Path) -> av.VideoFrame | None:
        """Without pi-heif FFmpeg decodes images that have no tiles."""
        source = FileSource(path)
        try:
            source.open()
            return image_from_array(next(iter(source.frames())).to_rgb(), "hwc_rgb")
        except SourceError as error:
            self._skip("unreadable", path, error.message.removeprefix(f"{source.id}: "))
            return None
        finally:
            source.close()

    def _find_times(self, path: Path) -> list[int]:
        if path.suffix.lower() in HEIF_SUFFIXES:
            return []
        with open_raster(path) as image:
            sequence = _sequence(image)
            if len(sequence) < 2:
                return []
            times = [0]
            for number in sequence:
                duration = float(_TICKS_PER_SECOND / self._rate)
                with contextlib.suppress(*undecodable()):
                    image.seek(number)
                    image.load()  # the duration of a WebP frame is known only then
                    duration = float(image.info.get("duration") or duration)
                times.append(times[-1] + max(1, round(duration)))
        return times

    def _animate(self, path: Path) -> Iterator[Frame]:
        time_base = Fraction(1, _TICKS_PER_SECOND)
        with open_raster(path) as image:
            for index, number in enumerate(_sequence(image)):
                if self._stop.is_set():
                    return
                try:
                    image.seek(number)
                    frame = image_from_pil(image)
                except undecodable():
                    self._dropped["corrupt"] += 1
                    continue
                frame.pts, frame.time_base = self._times_ms[index], time_base
                frame.duration = self._times_ms[index + 1] - self._times_ms[index]
                yield Frame(self._id, index, frame.pts, time_base, self._clock.monotonic_ns(), frame, key=True)

    def _skip(self, cause: str, path: Path, reason: str) -> None:
        self._dropped[cause] += 1
        self._note(path, reason)

    def _note(self, path: Path, reason: str) -> None:
        if len(self._notes) < _NOTES_AT_MOST:
            self._notes.append(f"{shown(path)}: {reason}")


def _sequence(image: Image) -> range | list[int]:
    """Numbers of the images of a file that are frames or pages: at least one."""
    count = int(getattr(image, "n_frames", 1))
    if image.format not in _SEQUENCES or count == 1:
        return [0]
    if image.format == "TIFF":
        tag, flag = _REDUCED
        pages = []
        for number in range(count):
            image.seek(number)
            tags: Any = image
            if not int(tags.tag_v2.get(tag, 0)) & flag:
                pages.append(number)
        image.seek(0)
        return pages or [0]
    # The default image of an APNG may be meant for programs that do not support animation.
    return range(1 if image.info.get("default_image") else 0, count)


def natural_key(path: str | os.PathLike[str]) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts ``img2`` before ``img10``, whatever the case of letters."""
    parts = re.split(r"(\d+)", os.fspath(path))
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts if part)


def is_image(path: str | os.PathLike[str]) -> bool:
    """True if the file name has the suffix of an image."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def files_in(folder: Path) -> list[Path]:
    """Files directly in a folder, without hidden ones, in natural order.

    Raises:
        SourceError: the folder cannot be listed.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file()]
    except OSError as error:
        raise SourceError(f"{shown(folder)}: permission denied; check its permissions", source=shown(folder)) from error
    return sorted(found, key=natural_key)


def files_matching(pattern: str) -> list[Path]:
    """Files that match a glob, in natural order.

    Raises:
        SourceNotFoundError: none does.
    """
    found = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]  # noqa: PTH207 - "/a/*"
    if not found:
        path = Path(pattern)
        hint = nearest_name(path) if path.parent.is_dir() else f"there is no folder {shown(path.parent)}"
        raise SourceNotFoundError(
            f"{shown(pattern)}: matches no file; {hint or 'check the pattern, and quote it in the shell'}",
            source=shown(pattern),
        )
    return sorted(found, key=natural_key)


def images_at(text: str | os.PathLike[str]) -> list[Path]:
    """The images that a folder, a glob or a file name stands for. A file is not opened.

    Raises:
        SourceNotFoundError: a folder without images, or a glob that matches nothing.
        SourceError: a folder that cannot be listed.
    """
    path = Path(text)
    if path.is_dir():
        found = [file for file in files_in(path) if is_image(file)]
        if not found:
            raise SourceNotFoundError(
                f"{shown(path)}: contains no images; name a folder with PNG, JPEG, TIFF or WebP files",
                source=shown(path),
            )
        return found
    return [path] if path.exists() or not glob.has_magic(os.fspath(text)) else files_matching(os.fspath(text))

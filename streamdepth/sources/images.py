"""Images as frames: a folder, a glob or a list of files, in natural order."""

from __future__ import annotations

import glob
import os
import re
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, SourceNotFoundError, UsageError
from streamdepth.core.frame import ColorTags, Frame, StreamInfo
from streamdepth.media.pillow import DAMAGED, IMAGE_SUFFIXES, image_from_pil, open_raster
from streamdepth.sources.explain import check_readable, nearest_name, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import av

    from streamdepth.core.clock import Clock

_NOTES_AT_MOST = 20


class ImagesSource(BaseSource):
    """One frame per image, ``1 / rate`` apart, as rgb24, each at its own size.

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

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each of the first twenty images that were skipped."""
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
            raise SourceError(f"{self._notes[0]}{more}; give an image that opens in a viewer", source=self._id)
        self._info = StreamInfo(
            source_id=self._id,
            width_px=image.width,
            height_px=image.height,
            pix_fmt=image.format.name,
            time_base=1 / self._rate,
            rate=self._rate,
            frame_count=len(self._files),
            duration_seconds=float(len(self._files) / self._rate),
            color=ColorTags.of(image),
        )
        return self._info

    def frames(self) -> Iterator[Frame]:
        if self._first is None:
            raise SourceError(f"{self._id}: call open() before frames(), and frames() once", source=self._id)
        (start, ready), self._first = self._first, None
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

        try:
            with open_raster(path) as image:
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

    def _skip(self, cause: str, path: Path, reason: str) -> None:
        self._dropped[cause] += 1
        if len(self._notes) < _NOTES_AT_MOST:
            self._notes.append(f"{shown(path)}: {reason}")


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

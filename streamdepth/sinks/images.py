"""A folder of images, one per frame, and their file names."""

from __future__ import annotations

import io
import re
import string
from itertools import chain, count
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError, nearest
from streamdepth.core.frame import converted
from streamdepth.media.filters import has_alpha
from streamdepth.media.images import encode_png
from streamdepth.sinks.encoding import CONTAINERS
from streamdepth.sinks.files import claim_folder, is_same_file, write_whole

if TYPE_CHECKING:
    import av
    from PIL.Image import Image

    from streamdepth.core.frame import Frame, ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl

SOURCE_NAMES = "{image}.png"
"""Images keep the names of their source images; frames of a video are numbered."""

_RESERVED_CHARACTERS = re.compile(r'[<>:"/\\|?*\x00-\x1f]+')
_ENDS = '<>:"/\\|?* '
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_FIELDS = ("image", "index", "pts")
_PRINTF = re.compile(r"%(0\d+)?d")


def is_pattern(name: str) -> bool:
    """True if a file name stands for many: it contains ``%d``, ``%06d`` or a ``{field}``."""
    return bool(_PRINTF.search(name)) or ("{" in name and "}" in name)


def safe_name(text: str) -> str:
    """``text`` as the name of a file on every system: without characters and names that Windows reserves."""
    name = _RESERVED_CHARACTERS.sub("_", text.strip(_ENDS)).rstrip(". ") or "_"
    return f"{name}_" if PurePath(name).stem.upper() in _DEVICES else name


class UniqueNames:
    """Makes names unique: the second ``a`` becomes ``a-2``. Case is ignored, as on some file systems."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        candidates = chain([name], (f"{name}-{number}" for number in count(2)))
        free = next(one for one in candidates if one.casefold() not in self._taken)
        self._taken.add(free.casefold())
        return free


class FrameNames:
    """Paths in ``folder`` for frames. Call it once per frame.

    ``{image}`` is the name of the frame's image file (``a-2`` for the second ``a``), or the index in six digits if
    there is none; ``{index}`` and ``{pts}`` take format specs, ``%06d`` means ``{index:06d}``.

    Raises:
        UsageError: all frames would get one name, an unknown field, a path, or a suffix not in ``suffixes``; from a
            call: the frame's file is in ``folder``, where ``a.jpg`` could be replaced by depth before it is read.
    """

    def __init__(self, folder: Path, pattern: str, *, suffixes: tuple[str, ...]) -> None:
        self._folder = folder
        self._pattern = _PRINTF.sub(lambda found: f"{{index:{found[1] or ''}d}}", pattern)
        self._unique_names = UniqueNames()
        self._elsewhere: set[Path] = set()
        self.suffix = PurePath(pattern).suffix.lower()
        unfillable = f"{pattern!r}: cannot be filled in; use fields such as {{index:06d}} or {{pts}}"
        try:
            fields = {field for _, field, _, _ in string.Formatter().parse(self._pattern) if field is not None}
        except ValueError as exc:
            raise UsageError(unfillable) from exc
        unknown = sorted(fields.difference(_FIELDS))
        if unknown:
            raise UsageError(
                f"{pattern!r}: unknown field {{{unknown[0]}}}; use {{image}}, {{index}}, {{pts}} or %06d, "
                "and {name} for the name of the source"
            )
        if self.suffix not in suffixes:
            ends = " or ".join(suffixes)
            if self.suffix in CONTAINERS:
                raise UsageError(f"{pattern!r}: a video is one file; omit the number, or use the suffix {ends}")
            raise UsageError(
                f"{pattern!r}: unknown image suffix {self.suffix!r}{nearest(self.suffix, suffixes)}; use {ends}"
            )
        if pattern != PurePath(pattern).name:
            raise UsageError(
                f"{pattern!r}: a name pattern cannot contain folders; put them into the path of the output"
            )
        try:
            example = self._fill("0", 0, 0)
        except (ValueError, KeyError, IndexError) as exc:
            raise UsageError(unfillable) from exc
        if not fields or example == self._fill("1", 1, 1):
            raise UsageError(f"{pattern!r}: gives every frame the same name; add {{index:06d}}")

    def __call__(self, frame: Frame) -> Path:
        own = frame.path
        if own is not None and own.parent not in self._elsewhere:
            if is_same_file(self._folder, str(own.parent)):
                raise UsageError(
                    f"{self._folder}: contains the images that are read; choose another folder for the output"
                )
            self._elsewhere.add(own.parent)
        image = f"{frame.index:06d}" if own is None else self._unique_names(own.stem)
        return self._folder / self._fill(image, frame.index, frame.pts)

    def _fill(self, image: str, index: int, pts: int) -> str:
        return self._pattern.format(image=image, index=index, pts=pts)


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_JPEG_LIMIT_PX = 65535
_WEBP_LIMIT_PX = 16383


class ImagesSink(BaseSink):
    """Writes each frame as an image file, at its own size. A file is complete or absent.

    PNG and WebP keep alpha, JPEG cannot (a transparent look is refused). Gray images stay one channel.

    Args:
        folder: created if missing; must be empty without ``overwrite``, which replaces files of the same names and
            keeps all others, with a note.
        control: the look of the images.
        pattern: file names; ``{image}``, ``{index}`` (``{index:06d}``, or ``%06d``) and ``{pts}`` are filled in, see
            :class:`~streamdepth.sinks.images.FrameNames`; the suffix chooses the format.
        quality: of JPEG and WebP, 1..100.

    Raises:
        UsageError: a pattern that gives all frames one name, a quality out of range, alpha in JPEG; from ``process``:
            the folder is the one that is read.
    """

    reads_pixels = False

    def __init__(
        self,
        folder: str | Path,
        *,
        control: LookControl,
        pattern: str = SOURCE_NAMES,
        overwrite: bool = False,
        quality: int = 92,
    ) -> None:
        super().__init__(str(folder), control)
        self._folder = Path(folder)
        self._names = FrameNames(self._folder, pattern, suffixes=SUFFIXES)
        if not 1 <= quality <= 100:
            raise UsageError(f"quality must be 1 to 100, not {quality}")
        self._quality = quality
        self._overwrite = overwrite
        self._opened = False
        self._before: set[str] = set()
        if control.look.transparent and not self._keeps_alpha:
            raise UsageError(f"{folder}: {self._names.suffix} cannot carry transparency; use .png or .webp")

    @property
    def _keeps_alpha(self) -> bool:
        return self._names.suffix in (".png", ".webp")

    @property
    def note(self) -> str:
        return f"existing files kept: {len(self._before)}" if self._before else ""

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - sizes may vary
        """
        Raises:
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        claim_folder(self._folder, overwrite=self._overwrite)
        self._before = {path.name for path in self._folder.iterdir()}
        self._opened = True

    def process(self, result: Result) -> None:
        if not self._opened or result.image is None:
            raise SinkError(f"{self.name}: not open, or no image to write")
        image = to_image(result.image, alpha=self._keeps_alpha)
        path = self._names(result.frame)
        limit = {".jpg": _JPEG_LIMIT_PX, ".jpeg": _JPEG_LIMIT_PX, ".webp": _WEBP_LIMIT_PX}.get(self._names.suffix)
        if limit is not None and max(image.size) > limit:
            raise SinkError(f"{path}: {self._names.suffix} allows {limit} pixels per side; use .png")
        write_whole(path, self._encoded(image))
        self._before.discard(path.name)

    def _encoded(self, image: Image) -> bytes | memoryview:
        if self._names.suffix == ".png":
            return encode_png(np.asarray(image))
        content = io.BytesIO()
        if self._names.suffix == ".webp":
            image.save(content, "WEBP", quality=self._quality, method=2)
        else:
            image.save(content, "JPEG", quality=self._quality)
        return content.getbuffer()


def to_image(image: av.VideoFrame, *, alpha: bool) -> Image:
    """A frame of any format as a Pillow image: L, RGB, or RGBA if it has alpha and ``alpha`` is set."""
    from PIL.Image import fromarray

    name = image.format.name
    if name in ("gray", "gray8"):
        return fromarray(image.to_ndarray())
    if alpha and has_alpha(name):
        return fromarray(converted(image, format="rgba").to_ndarray())
    return fromarray(converted(image, format="rgb24").to_ndarray())

"""A folder of images, one per frame."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.frame import converted
from streamdepth.media.filters import has_alpha
from streamdepth.media.images import encode_png
from streamdepth.sinks.files import claim_folder, write_whole
from streamdepth.sinks.names import SOURCE_NAMES, FrameNames

if TYPE_CHECKING:
    import av
    from PIL.Image import Image

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo
    from streamdepth.core.look import LookControl

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_JPEG_LIMIT_PX = 65535
_WEBP_LIMIT_PX = 16383


class ImagesSink(BaseSink):
    """Writes each frame as an image file, at its own size. A file is complete or absent.

    PNG and WebP keep alpha, JPEG cannot (a transparent look is refused). Gray images stay one channel.

    Args:
        folder: created if missing; without ``overwrite`` it must have no files with names of ``pattern``, and be empty
            for the default pattern. ``overwrite`` replaces files of the same names and keeps all others, with a note.
        control: the look of the images.
        pattern: file names; ``{image}``, ``{index}`` (``{index:06d}``, or ``%06d``) and ``{pts}`` are filled in, see
            :class:`~streamdepth.sinks.names.FrameNames`; the suffix chooses the format.
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
        claim_folder(self._folder, overwrite=self._overwrite, taken=self._names.taken)
        self._before = {path.name for path in self._folder.iterdir()} if self._overwrite else set()
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

"""Any image Pillow can open, as the one pixel format the rest of the pipeline expects of stills: RGB, 8 bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.frame import image_from_array

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray
    from PIL import Image

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *("avif", "bmp", "dib", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pcx", "pgm", "png", "pnm", "ppm"),
        *("qoi", "sgi", "tga", "tif", "tiff", "webp"),
    )
)
"""What counts as an image in a folder. Animated formats (.gif, .apng) are videos."""


def image_from_pil(image: Image.Image) -> av.VideoFrame:
    """A decoded image as an rgb24 ``av.VideoFrame``, full range, the right way up.

    The EXIF orientation is applied. Palettes are looked up, CMYK, YCbCr, LAB and HSV are converted. Alpha is left out
    and the colour under it kept, as ``transformers`` does. Grey of more than 8 bits, which Pillow itself would clip to
    white, is scaled: 16-bit by 1/257, 32-bit integers beyond 16 bits and floats outside 0..1 by their own smallest and
    largest finite value.

    Raises:
        OSError: the file is damaged (Pillow decodes lazily).
    """
    return image_from_array(rgb_from_pil(image), "hwc_rgb")


def rgb_from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """As :func:`image_from_pil`, as a uint8 [H, W, 3] array."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        gray = _gray_8bit(np.asarray(image))
        return np.repeat(gray[..., None], 3, axis=2)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB warns about, and misreads, some transparent palettes
    return np.array(image if image.mode == "RGB" else image.convert("RGB"), np.uint8)


def _gray_8bit(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    numbers = values.astype(np.float64)
    finite = np.isfinite(numbers)
    low = float(numbers[finite].min()) if finite.any() else 0.0
    high = float(numbers[finite].max()) if finite.any() else 0.0
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = (np.where(finite, numbers, low) - low) * (255 / (high - low if high > low else 1))
    return np.clip(np.round(scaled), 0, 255).astype(np.uint8)

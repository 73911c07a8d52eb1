"""Images: opened by Pillow as 8-bit RGB, made from arrays, and encoded as PNG."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import struct
import threading
import warnings
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import av
    from numpy.typing import NDArray
    from PIL import Image

Layout = Literal["hwc_rgb", "hwc_bgr", "hwc_rgba", "hw_gray"]

_AV_FORMAT: dict[Layout, str] = {"hwc_rgb": "rgb24", "hwc_bgr": "bgr24", "hwc_rgba": "rgba", "hw_gray": "gray"}

IMAGE_SUFFIXES = frozenset(
    f".{kind}"
    for kind in (
        *(
            "avif",
            "bmp",
            "dib",
            "heic",
            "heif",
            "hif",
            "j2k",
            "jfif",
            "jp2",
            "jpe",
            "jpeg",
            "jpg",
            "pbm",
            "pcx",
            "pgm",
            "png",
            "pnm",
            "ppm",
        ),
        *("qoi", "sgi", "tga", "tif", "tiff", "webp"),
    )
)
"""Suffixes of image files in a folder. Animated formats (.gif, .apng) are videos."""


_STRIP_PIXELS = 1 << 18
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx"})

RASTER_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)
"""Formats that are opened, by Pillow's names. Others are refused: Pillow runs Ghostscript on EPS, for example."""

DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, OverflowError, TypeError, IndexError, KeyError, AttributeError),
    *(ZeroDivisionError, RuntimeError, struct.error),
)
"""What Pillow's decoders raise for damaged files."""


def undecodable() -> tuple[type[Exception], ...]:
    """:data:`DAMAGED`, and what Pillow raises for an image that is too large."""
    from PIL import Image

    return (*DAMAGED, MemoryError, Image.DecompressionBombError)


# Warning filters belong to the process: two threads that change and restore them at once leave them changed.
_OPENING = threading.Lock()


def open_raster(file: str | Path | IO[bytes]) -> Image.Image:
    """``PIL.Image.open`` for :data:`RASTER_FORMATS` only, without its warning about large images.

    Raises:
        PIL.UnidentifiedImageError: another format, or no image.
        PIL.Image.DecompressionBombError: more pixels than Pillow decodes.
        OSError: the file cannot be read.
    """
    from PIL import Image

    if _is_heif(file):
        heif_installed()
    _silence_libtiff()
    Image.init()
    formats = [name for name in RASTER_FORMATS if name in Image.OPEN]
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(file, formats=formats)


@cache
def _silence_libtiff() -> None:
    """Stop libtiff from printing to standard error what Pillow raises anyway; Pillow stops its warnings only.

    The function is found in the library that Pillow loads. Where Pillow is linked statically, nothing changes.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError):
        pillow: Any = importlib.import_module("PIL._imaging")
        set_handler = ctypes.CDLL(pillow.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


@cache
def heif_installed() -> bool:
    """True if pi-heif is there; Pillow then opens HEIC and HEIF."""
    try:
        heif: Any = importlib.import_module("pi_heif")
    except ImportError:
        return False
    heif.register_heif_opener()
    return True


def _is_heif(file: str | Path | IO[bytes]) -> bool:
    if isinstance(file, (str, os.PathLike)):
        try:
            with open(file, "rb") as opened:  # noqa: PTH123 - a str or a path
                head = opened.read(12)
        except (OSError, ValueError):
            return False
    else:
        at = file.tell()
        head = file.read(12)
        file.seek(at)
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def image_from_array(array: NDArray[np.uint8], layout: Layout) -> av.VideoFrame:
    """Wrap a uint8 array as an image; copies only if the array is not C-contiguous.

    Args:
        array: [H, W, 3], [H, W, 4] or [H, W], as ``layout`` says.
    Raises:
        ValueError: shape or dtype do not match the layout.
    """
    import av
    import numpy as np

    channels = {"hwc_rgb": 3, "hwc_bgr": 3, "hwc_rgba": 4, "hw_gray": None}[layout]
    expected = array.ndim == 2 if channels is None else array.ndim == 3 and array.shape[2] == channels
    if not expected or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(f"a {layout} image is uint8 with at least one pixel, not {array.dtype} {list(array.shape)}")
    image = av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(array), format=_AV_FORMAT[layout])
    image.color_range = 2
    return image


def image_from_pil(image: Image.Image) -> av.VideoFrame:
    """A Pillow image as an rgb24 ``av.VideoFrame``, full range, with the EXIF orientation applied.

    Palette, CMYK, YCbCr, LAB and HSV images are converted. Alpha is dropped without compositing, as in
    ``transformers``. Gray with more than 8 bits, which Pillow would clip, is scaled: 16-bit by 1/257; 32-bit integers
    above 16 bits and floats outside 0..1 from their smallest and largest finite value.

    Raises:
        OSError: the file is damaged (Pillow decodes lazily).
    """
    return image_from_array(rgb_from_pil(image), "hwc_rgb")


def rgb_from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """As :func:`image_from_pil`, as a uint8 [H, W, 3] array."""
    from PIL import ExifTags, ImageOps

    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # exif_transpose() copies upright images too
        image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.repeat(_gray_8bit(image)[..., None], 3, axis=2)
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for rows, strip in _strips(image):
        # direct conversion of a palette to RGB misreads some transparent palettes
        full = strip.convert("RGBA") if strip.mode in ("P", "PA") else strip
        rgb[rows] = np.asarray(full if full.mode == "RGB" else full.convert("RGB"))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Strips of rows: Pillow holds the GIL while it copies pixels, and copies them twice for NumPy."""
    rows = max(_STRIP_PIXELS // max(image.width, 1), 1)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _gray_8bit(image: Image.Image) -> NDArray[np.uint8]:
    lows, highs = [], []
    for _, strip in _strips(image):
        values = np.asarray(strip)
        finite = values[np.isfinite(values)]
        if finite.size:
            lows.append(float(finite.min()))
            highs.append(float(finite.max()))
    low, high, integer = min(lows, default=0.0), max(highs, default=0.0), image.mode != "F"
    if integer and low >= 0 and high <= 65535:
        # 8-bit values in 32 bits are taken as they are, as Pillow converts them
        low, high = 0.0, 255.0 if image.mode == "I" and high <= 255 else 65535.0
    elif not integer and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    gray = np.empty((image.height, image.width), np.uint8)
    for rows, strip in _strips(image):
        numbers = np.asarray(strip).astype(np.float64)
        scaled = (np.where(np.isfinite(numbers), numbers, low) - low) * (255 / (high - low if high > low else 1))
        gray[rows] = np.clip(np.round(scaled), 0, 255)
    return gray


_RLE = 3
"""Z_RLE of zlib: run lengths only. Filtered depth and photographs contain few longer matches: at 720p, a third of the
time of level 3, and files a fifth smaller."""


def encode_png(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """Encode an image as PNG, not interlaced. Thread-safe.

    Uses OpenCV with the Paeth filter only; Pillow tries all five filters on every row. At 720p this takes 16 instead of
    27 ms for depth as RGBA, 32 instead of 50 ms for a photograph, with file sizes within 3 %.

    Args:
        pixels: uint8 or uint16 [H, W] gray, or uint8 [H, W, C] with gray and alpha (2), RGB (3) or RGBA (4).
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 2:
        return _gray_with_alpha(pixels)
    import cv2

    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, _RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # OpenCV 4.12 or newer; older versions try several filters
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH]
    if channels > 1:
        order = cv2.COLOR_RGB2BGR if channels == 3 else cv2.COLOR_RGBA2BGRA
        pixels = np.asarray(cv2.cvtColor(pixels, order), np.uint8)
    done, content = cv2.imencode(".png", pixels, options)
    if not done:
        raise ValueError(f"cannot encode pixels of shape {list(pixels.shape)} as PNG")
    return bytes(content.data)


def _gray_with_alpha(pixels: NDArray[Any]) -> bytes:
    """Two channels, which OpenCV cannot write."""
    from PIL import Image

    content = io.BytesIO()
    options: dict[str, Any] = {"compress_level": 1, "compress_type": _RLE}
    Image.fromarray(pixels).save(content, "PNG", **options)
    return content.getvalue()

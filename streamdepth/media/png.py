"""PNG encoding."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

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

"""Inputs of the image API: every form that holds one image -> uint8 RGB, or a prepared tensor."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from streamdepth.core.errors import DataFormatError, SourceError, SourceNotFoundError, UsageError, redact
from streamdepth.core.frame import Frame
from streamdepth.image.tensors import Tensor, as_array, flat_values, tensor_of
from streamdepth.media.images import DAMAGED, open_raster, rgb_from_pil

if TYPE_CHECKING:
    import av
    from numpy.typing import NDArray
    from PIL import Image

    ImageLike = str | Path | bytes | bytearray | memoryview | NDArray[Any] | Image.Image | av.VideoFrame | Frame

MAX_PIXELS = 178_956_970
"""Larger images are refused: Pillow's limit for decompression bombs."""

_SHOWN = 60
_DATA_URL = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# a base64 string of 24 characters has 18 bytes; no image file is shorter
_SHORTEST_BASE64 = 24
_LONGEST_PATH = 4096
_PIECE_CHARS = 1 << 18
_FORMS = "a path, encoded bytes, a base64 string, a PIL image, an array, a video frame, or a tensor {data, type, dims}"


@dataclass(frozen=True, slots=True)
class InputImage:
    """One image ready for preprocessing.

    Attributes:
        rgb: uint8 [H, W, 3], upright.
        name: its name in messages.
        notes: one line for each thing left out or converted.
    """

    rgb: NDArray[np.uint8]
    name: str
    notes: tuple[str, ...] = ()


def read(value: Any, *, max_pixels: int = MAX_PIXELS) -> InputImage | Tensor:
    """Read one input.

    Args:
        value: one of

            - ``Path`` or text with the name of a file, or a base64 string with or without a ``data:`` prefix (a file of
              that name takes precedence);
            - any ``os.PathLike``, a ``file://`` URL, or a binary file object, which is read to its end;
            - encoded image as bytes, bytearray or memoryview, or Node.js' ``{"type": "Buffer", "data": [...]}``; a
              memoryview of several axes is an ndarray;
            - Jimp's ``{bitmap: {data, width, height}}`` with RGBA bytes;
            - PIL image; array of another library (``__array__``, DLPack), as an ndarray;
            - ndarray [H, W] or [H, W, 1] grey, [H, W, 2] grey and alpha, [H, W, 3] RGB or [H, W, 4] RGBA, as uint8,
              uint16 (0..65535), bool, or floating in 0..1;
            - ``av.VideoFrame`` (its rotation is applied) or :class:`streamdepth.Frame`;
            - mapping ``{data, type, dims}`` (``dim`` too): see :func:`streamdepth.image.tensors.tensor_of`.

            EXIF orientation is applied. Palettes and grey become RGB, 16 bits become 8, alpha is dropped, as in
            ``transformers`` (except 16 bits, which it clips). The first image of an animation is used, with a note.
        max_pixels: larger images are refused before they are decoded.
    Raises:
        SourceNotFoundError, SourceError: no such file, or it cannot be read.
        DataFormatError: not an image, without pixels, or with too many.
        UsageError: a value of another form.
    """
    if isinstance(value, Mapping):
        if "bitmap" in value:
            return _from_bitmap(value["bitmap"], max_pixels)
        return _from_bytes(_buffer(value), "the Buffer", max_pixels) if _is_buffer(value) else tensor_of(value)
    if isinstance(value, str):
        return _from_text(value, max_pixels)
    if isinstance(value, os.PathLike):
        return _from_path(Path(os.fspath(value)), max_pixels)
    if isinstance(value, memoryview) and value.ndim > 1:
        return _from_array(np.asarray(value), max_pixels)
    if isinstance(value, bytes | bytearray | memoryview):
        return _from_bytes(bytes(value), f"{len(value)} bytes", max_pixels)
    if isinstance(value, np.ndarray):
        return _from_array(value, max_pixels)
    if isinstance(value, Frame):
        return _from_image(value.image, max_pixels, upright=True)
    kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__}
    if "PIL.Image.Image" in kinds:
        return _from_pil(value, "the PIL image", max_pixels)
    if "av.video.frame.VideoFrame" in kinds:
        return _from_image(value, max_pixels, upright=False)
    if hasattr(value, "read"):
        return _from_file(value, max_pixels)
    if hasattr(value, "bitmap"):
        return _from_bitmap(value.bitmap, max_pixels)
    if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        return _from_array(as_array(value), max_pixels)
    raise UsageError(f"an object of type {type(value).__name__} is not an image; give {_FORMS}")


def _from_file(file: Any, max_pixels: int) -> InputImage:
    data = file.read()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise UsageError(f"a file of {type(data).__name__} is not an image; open it in binary mode")
    return _from_bytes(bytes(data), str(getattr(file, "name", "the file")), max_pixels)


def _from_bitmap(bitmap: Any, max_pixels: int) -> InputImage:
    """A bitmap as Jimp has it: ``{data, width, height}``, RGBA."""
    found = bitmap if isinstance(bitmap, Mapping) else getattr(bitmap, "__dict__", {})
    width, height, data = (found.get(key) for key in ("width", "height", "data"))
    if not (isinstance(width, int) and isinstance(height, int)) or data is None:
        raise DataFormatError("a bitmap is {data, width, height} with whole numbers of pixels and RGBA bytes")
    _check_size("the bitmap", width, height, max_pixels)
    values = flat_values(_buffer(data) if isinstance(data, Mapping) and _is_buffer(data) else data, np.dtype(np.uint8))
    if values.size != width * height * 4:
        raise DataFormatError(
            f"the bitmap has {values.size} bytes, {width}x{height} RGBA needs {width * height * 4}; correct one of them"
        )
    return InputImage(np.ascontiguousarray(values.reshape(height, width, 4)[:, :, :3]), "the bitmap")


def _is_buffer(value: Mapping[Any, Any]) -> bool:
    return value.get("type") == "Buffer" and not {"dims", "dim"} & set(value)


def _buffer(value: Mapping[Any, Any]) -> bytes:
    """The bytes of Node.js' ``{"type": "Buffer", "data": [...]}``.

    Raises:
        UsageError: other values than bytes.
    """
    try:
        return bytes(value["data"])
    except (KeyError, TypeError, ValueError):
        raise UsageError("the Buffer's data must be bytes 0..255; send the image's bytes") from None


def refuse_url(text: str) -> None:
    """Refuse a URL, which would have to be downloaded.

    Raises:
        UsageError: the text is a URL.
    """
    if _URL.match(text):
        raise UsageError(f"{redact(_shortened(text))}: images are not downloaded from URLs; download the image first")


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _from_text(text: str, max_pixels: int) -> InputImage:
    if not text.strip():
        raise UsageError(f"an empty string is not an image; give {_FORMS}")
    prefix = _DATA_URL.match(text)
    shown = _shortened(text)
    if prefix:
        if not prefix[0].lower().rstrip(",").endswith(";base64"):
            raise DataFormatError(f"{shown!r}: a data: URL must be base64; encode it with ;base64")
        return _from_base64(text[prefix.end() :], shown, max_pixels)
    if text.startswith("file://"):
        return _from_path(Path(url2pathname(urlsplit(text).path)), max_pixels)
    refuse_url(text)
    if len(text) < _LONGEST_PATH and "\0" not in text:
        try:
            there = Path(text).exists()
        except OSError:  # too long for a file name on this system
            there = False
        if there:
            return _from_path(Path(text), max_pixels)
    if len(text) >= _SHORTEST_BASE64 and _BASE64.fullmatch(text) and not Path(text[-12:]).suffix:
        try:
            return _from_base64(text, shown, max_pixels)
        except DataFormatError as exc:
            if len(text) >= _LONGEST_PATH:
                raise
            raise SourceNotFoundError(f"{shown!r}: no such file, and not an image in base64; check the path") from exc
    if len(text) >= _LONGEST_PATH:
        raise DataFormatError(f"{shown!r}: neither a path nor base64; give {_FORMS}")
    raise SourceNotFoundError(f"{shown}: no such file; check the path")


def from_json(value: Any) -> bytes | Mapping[str, Any]:
    """The encoded image or the tensor that a JSON value holds. Files are never opened.

    Args:
        value: a base64 string with or without a ``data:`` prefix, Node.js' ``{"type": "Buffer", "data": [...]}``, or a
            tensor ``{data, type, dims}`` (``dim`` too).
    Raises:
        UsageError: anything else.
    """
    if isinstance(value, str):
        prefix = _DATA_URL.match(value)
        try:
            return _base64_bytes(value[prefix.end() :] if prefix else value)
        except ValueError as exc:
            raise UsageError(f"the text is not base64 ({exc}); encode the image's bytes") from None
    if not isinstance(value, Mapping):
        raise UsageError(f"{_shortened(json.dumps(value))} is not an image; give base64, a list of them, or a tensor")
    if "bitmap" in value or ("data" in value and {"dims", "dim"} & set(value)):
        return value
    if not _is_buffer(value) or not isinstance(value.get("data"), list):
        found = _shortened(", ".join(map(str, value))) or "nothing"
        raise UsageError(f"an object with {found} is neither an image nor a tensor {{data, type, dims}}")
    return _buffer(value)


def pixel_count(data: bytes) -> float | None:
    """Pixels of an encoded image, read from its header; inf where Pillow refuses it as too large, None if no image."""
    from PIL import Image

    try:
        with open_raster(io.BytesIO(data)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return math.inf
    except DAMAGED:
        return None


def _base64_bytes(text: str) -> bytes:
    """Decode in pieces: each of these calls holds the GIL."""
    data, rest, ended = bytearray(), "", False
    for start in range(0, len(text), _PIECE_CHARS):
        piece = rest + "".join(text[start : start + _PIECE_CHARS].split()).replace("-", "+").replace("_", "/")
        end = len(piece) if start + _PIECE_CHARS >= len(text) else len(piece) // 4 * 4
        whole, rest = piece[:end], piece[end:]
        if whole and ended:
            raise ValueError("text after the padding")
        data += base64.b64decode(whole + "=" * (-len(whole) % 4), validate=True)
        ended = ended or whole.endswith("=")
    return bytes(data)


def _from_base64(text: str, shown: str, max_pixels: int) -> InputImage:
    try:
        data = _base64_bytes(text)
    except ValueError as exc:
        raise DataFormatError(f"{shown!r}: not base64 ({exc}); encode the image's bytes again") from exc
    return _from_bytes(data, "the base64 string", max_pixels)


def _from_path(path: Path, max_pixels: int) -> InputImage:
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise SourceNotFoundError(f"{path}: no such file; check the path") from exc
    except OSError as exc:
        raise SourceError(f"{path}: cannot be read ({exc.strerror}); give an image file") from exc
    return _from_bytes(data, str(path), max_pixels)


def _from_bytes(data: bytes, name: str, max_pixels: int) -> InputImage:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise DataFormatError(f"{name}: empty; give an encoded image")
    try:
        image = open_raster(io.BytesIO(data))
    except UnidentifiedImageError as exc:
        raise DataFormatError(f"{name}: not an image in a supported format; give PNG, JPEG, WebP or TIFF") from exc
    except Image.DecompressionBombError as exc:
        raise DataFormatError(
            f"{name}: too many pixels to be decoded safely ({exc}); scale it down, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS and max_pixels if it is trusted"
        ) from exc
    except DAMAGED as exc:
        raise DataFormatError(f"{name}: damaged image ({exc}); save or download it again") from exc
    with image:
        return _from_pil(image, name, max_pixels)


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> InputImage:
    width, height = image.size
    _check_size(name, width, height, max_pixels)
    notes: list[str] = []
    try:
        frames = int(getattr(image, "n_frames", 1))
        # further images of an MPO are previews or the second view of a stereo photograph
        if frames > 1 and image.format != "MPO":
            notes.append(f"{name}: only the first of {frames} images is used")
        if frames > 1:
            image.seek(0)
        image.load()
        rgb = rgb_from_pil(image)
    except DAMAGED as exc:
        raise DataFormatError(f"{name}: damaged image ({exc}); save or download it again") from exc
    return InputImage(rgb, name, tuple(notes))


def _from_array(array: NDArray[Any], max_pixels: int) -> InputImage:
    name = f"the array {array.dtype} [{', '.join(map(str, array.shape))}]"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        hint = "; move its channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise DataFormatError(
            f"{name} is not an image{hint or '; give [H, W], [H, W, 3] or [H, W, 4]'} (a prepared network input is "
            "{data, type, dims})"
        )
    _check_size(name, array.shape[1], array.shape[0], max_pixels)
    if array.dtype == np.uint8:
        values = array
    elif array.dtype == np.bool_:
        values = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        values = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise DataFormatError(
                f"{name} holds values from {low:.4g} to {high:.4g}; floating images lie in 0..1, scale it or convert "
                "it to uint8"
            )
        values = np.clip(np.floor(array.astype(np.float64) * 255 + 0.5), 0, 255).astype(np.uint8)
    else:
        raise DataFormatError(f"{name} has an unsupported dtype; convert it to uint8, uint16 or float32 in 0..1")
    if values.ndim == 2:
        return InputImage(_grey(values), name)
    if values.shape[2] < 3:
        return InputImage(_grey(values[:, :, 0]), name)
    return InputImage(np.ascontiguousarray(values[:, :, :3]), name)


def _from_image(image: av.VideoFrame, max_pixels: int, *, upright: bool) -> InputImage:
    from streamdepth.inference.preprocess import to_rgb_array

    name = f"the {image.width}x{image.height} {image.format.name} frame"
    _check_size(name, image.width, image.height, max_pixels)
    rgb = to_rgb_array(image)
    turns = 0 if upright else round(image.rotation / 90) % 4
    return InputImage(np.ascontiguousarray(np.rot90(rgb, turns)), name)


def _grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(values[:, :, None], 3, axis=2)


def _check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise DataFormatError(f"{name}: {width}x{height} has no pixels; give an image of at least 1x1")
    if width * height > max_pixels:
        raise DataFormatError(
            f"{name}: {width}x{height} is {width * height:,} pixels, the limit is {max_pixels:,}; scale it down, or "
            "raise max_pixels if it is trusted"
        )

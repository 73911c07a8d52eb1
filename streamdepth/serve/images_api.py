"""``POST /v1/depth``: depth of a still, for flows and scripts."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from streamdepth.core.errors import StreamDepthError
from streamdepth.core.look import parse_alpha
from streamdepth.serve.api import ApiError, body, plain_style, status_of
from streamdepth.serve.feed import npy

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from streamdepth.core.look import Style
    from streamdepth.image.estimator import DepthEstimator, Estimate
    from streamdepth.serve.options import WebSettings

_BINARY = ("application/octet-stream", "multipart/form-data", "application/json")
_CURL = "application/x-www-form-urlencoded"  # what curl calls every --data it is not told the type of
_OPTIONS = ("style", "alpha", "reverse")
_WRAPPERS = ("image", "input", "inputs", "payload")
_PNG, _NPY, _JSON = "image/png", "application/x-npy", "application/json"
_DEFAULT_STYLE = "inferno"
_CHUNK_VALUES = 16_384


class ImagesApi:
    """Takes an image in every form flows have them, one model run at a time, few waiting."""

    def __init__(self, estimator: DepthEstimator, settings: WebSettings, executor: Executor) -> None:
        self._estimator = estimator
        self._settings = settings
        self._executor = executor
        self._pending = 0
        self.counts: dict[int, int] = {}

    @property
    def pending(self) -> int:
        """Requests in work or waiting."""
        return self._pending

    async def depth(self, request: web.Request) -> web.StreamResponse:
        """The body is an image; a JSON string (base64, ``data:`` URL), list of such, tensor, or object around one.

        Query: ``style``, ``alpha``, ``reverse``. Answers ``{data, image, width, height}``, a list of such for a list;
        ``Accept: image/png`` gives the image, ``application/x-npy`` float32 [H, W].
        """
        try:
            if self._pending >= self._settings.stills_waiting:
                raise ApiError(503, "busy with other stills; try again in a second", retry_after_seconds=1)
            self._pending += 1
            try:
                form = _answer_form(request.headers.get("Accept", "*/*"))
                value, options = await self._input(request)
                options |= dict(request.query)
                loop = asyncio.get_running_loop()
                content = await loop.run_in_executor(self._executor, self._work, value, options, form)
            finally:
                self._pending -= 1
        except ApiError as error:
            self._count(error.status)
            raise
        except StreamDepthError as error:
            self._count(status_of(error))
            raise
        self._count(200)
        return web.Response(body=content, content_type=form)

    def _count(self, status: int) -> None:
        self.counts[status] = self.counts.get(status, 0) + 1

    async def _input(self, request: web.Request) -> tuple[Any, dict[str, Any]]:
        kind = request.content_type
        if not kind.startswith("image/") and kind not in (*_BINARY, _CURL):
            raise ApiError(415, f"{kind} is not taken; send an image (image/*, application/octet-stream) or JSON")
        if kind == "multipart/form-data":
            return await self._form_file(request), {}
        data = await body(request, self._settings.max_body_bytes)
        if not data:
            raise ApiError(400, "the body is empty; send an image")
        if kind == _CURL and _pixels(data) is None:
            raise ApiError(415, "the form holds no image; send one whole (curl --data-binary @photo.jpg), or JSON as "
                                "such (-H 'Content-Type: application/json')")  # fmt: skip
        if kind != _JSON:
            return data, {}
        try:
            return _unwrapped(json.loads(data))
        except (ValueError, RecursionError) as exc:
            raise ApiError(400, f"the body is not JSON ({exc})") from None

    async def _form_file(self, request: web.Request) -> bytes:
        reader = await request.multipart()
        taken = bytearray()
        part = await reader.next()
        while part is not None and getattr(part, "filename", None) is None:
            part = await reader.next()
        if part is None or not hasattr(part, "read_chunk"):
            raise ApiError(400, "the form holds no file; send the image as one")
        while chunk := await part.read_chunk(1 << 18):
            taken += chunk
            if len(taken) > self._settings.max_body_bytes:
                raise ApiError(413, f"the image has more than {self._settings.max_body_bytes:,} bytes")
        return bytes(taken)

    def _work(self, value: Any, options: dict[str, Any], form: str) -> bytes:
        style, alpha, reverse = _checked(options)
        if form == _PNG and style is None:
            style = _DEFAULT_STYLE
        many = isinstance(value, list)
        if many and not value:
            raise ApiError(400, "the list is empty; send one image or more")
        inputs = [self._image(one) for one in value] if many else self._image(value)
        found = self._estimator(inputs, style=style, alpha=1.0 if alpha is None else alpha, reverse=reverse)
        estimates = found if isinstance(found, list) else [found]
        if form == _JSON:
            return self._as_json(estimates, many=isinstance(found, list))
        if len(estimates) != 1:
            raise ApiError(406, f"{len(estimates)} images cannot be one {form}; ask for application/json")
        one = estimates[0]
        return (one.image or b"") if form == _PNG else npy(one.data)

    def _image(self, value: Any) -> Any:
        """Bytes, or a tensor; text is never taken for a file's name here."""
        if isinstance(value, str):
            value = _decoded(value)
        if isinstance(value, dict):
            if (
                value.get("type") == "Buffer"
                and isinstance(value.get("data"), list)
                and not {"dims", "dim"} & set(value)
            ):
                value = _buffer(value["data"])
            elif "data" in value and {"dims", "dim"} & set(value):
                return value
            else:
                raise ApiError(400, f"an object with {', '.join(map(str, value)) or 'nothing'} is neither an image "
                                    "nor a tensor {data, type, dim}")  # fmt: skip
        if not isinstance(value, bytes):
            raise ApiError(400, f"a {type(value).__name__} is no image; send base64, a list of them, or a tensor")
        self._check_size(value)
        return value

    def _check_size(self, data: bytes) -> None:
        if (_pixels(data) or 0) > self._settings.max_pixels:
            raise ApiError(413, f"the image has more than {self._settings.max_pixels:,} pixels; scale it down")

    def _as_json(self, estimates: list[Estimate], *, many: bool) -> bytes:
        pixels = sum(one.data.size for one in estimates)
        if pixels > self._settings.max_json_pixels:
            raise ApiError(413, f"{pixels:,} pixels are too many for JSON; ask for application/x-npy or image/png")
        parts = [_node_json(one) for one in estimates]
        return b"[" + b",".join(parts) + b"]" if many else parts[0]


def _pixels(data: bytes) -> float | None:
    """How many an image has, inf where Pillow holds it for a bomb; None: no image, the estimator says why."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height
    except Image.DecompressionBombError:
        return math.inf
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return None


def _node_json(one: Estimate) -> bytes:
    """``Estimate.to_node()`` as JSON, in pieces that let other threads run between them: the encoder holds the GIL."""
    flat = one.data.reshape(-1)
    finite = bool(np.isfinite(flat).all())
    pieces = []
    for first in range(0, flat.size, _CHUNK_VALUES):
        values: list[float | None] = flat[first : first + _CHUNK_VALUES].tolist()
        if not finite:
            values = [value if value is not None and np.isfinite(value) else None for value in values]
        pieces.append(json.dumps(values, separators=(",", ":"))[1:-1])
    image = None if one.image is None else "data:image/png;base64," + base64.b64encode(one.image).decode("ascii")
    tail = json.dumps({"image": image, "width": one.width, "height": one.height}, separators=(",", ":"))[1:]
    return ('{"data":[' + ",".join(pieces) + "]," + tail).encode("ascii")


def _answer_form(accept: str) -> str:
    """The best of what the client takes."""
    best, found = 0.0, ""
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        form = {
            "*/*": _JSON,
            "application/*": _JSON,
            _JSON: _JSON,
            "image/*": _PNG,
            _PNG: _PNG,
            _NPY: _NPY,
            "application/octet-stream": _NPY,
        }.get(kind, "")
        if form and weight > best:
            best, found = weight, form
    if not found:
        raise ApiError(406, f"answers are {_JSON}, {_PNG} or {_NPY}, not {accept}")
    return found


def _unwrapped(value: Any) -> tuple[Any, dict[str, Any]]:
    """The image out of an object around it, and the options beside it."""
    if not isinstance(value, dict) or "data" in value:
        return value, {}
    keys = [key for key in _WRAPPERS if key in value]
    others = set(value) - {*_WRAPPERS, *_OPTIONS}
    if len(keys) != 1 or others:
        found = ", ".join(map(str, value)) or "nothing"
        raise ApiError(400, f"an object has one of {', '.join(_WRAPPERS)}, and {', '.join(_OPTIONS)}, not {found}")
    return value[keys[0]], {key: value[key] for key in _OPTIONS if key in value}


def _decoded(text: str) -> bytes:
    head, comma, _ = text[:200].partition(",")
    if comma and head.lower().startswith("data:"):
        text = text[len(head) + 1 :]
    compact = "".join(text.split()).replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "the text is not base64; encode the image's bytes") from None


def _buffer(values: list[Any]) -> bytes:
    try:
        return bytes(values)
    except (TypeError, ValueError):
        raise ApiError(400, "the Buffer holds something else than bytes 0..255") from None


def _checked(options: dict[str, Any]) -> tuple[Style | None, tuple[float, float] | None, bool]:
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        raise ApiError(400, f"unknown option {', '.join(sorted(unknown))}; there are {', '.join(_OPTIONS)}")
    try:
        alpha = parse_alpha(options.get("alpha"))
    except ValueError as exc:
        raise ApiError(400, str(exc)) from None
    style = options.get("style")
    return None if style in (None, "") else plain_style(style), alpha, truth("reverse", options.get("reverse", False))


def truth(name: str, value: Any) -> bool:
    """A yes or no, as JSON or as a query has it."""
    found = {"1": True, "true": True, "yes": True, "": True, "0": False, "false": False, "no": False}.get(
        str(value).lower()
    )
    if found is None:
        raise ApiError(400, f"{name} is true or false, not {value!r}")
    return found

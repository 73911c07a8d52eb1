"""``POST /v1/depth``: depth of images, for flows and scripts."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from aiohttp import web

from streamdepth.core.errors import StreamDepthError
from streamdepth.core.host import lower_priority
from streamdepth.core.look import parse_alpha
from streamdepth.image.inputs import from_json, pixel_count
from streamdepth.media.images import encode_png
from streamdepth.serve.api import ApiError, flag, plain_style, status_of
from streamdepth.serve.bodies import drop, form_file, parse_json
from streamdepth.serve.feed import npy, npy_pieces
from streamdepth.sinks.depth import encoded_16bit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Executor

    from streamdepth.core.look import Style
    from streamdepth.image.estimator import DepthEstimator, Estimate
    from streamdepth.serve.bodies import BodyReader
    from streamdepth.serve.options import WebSettings

_PNG, _NPY, _JSON = "image/png", "application/x-npy", "application/json"
_FORM = "multipart/form-data"
_CURL = "application/x-www-form-urlencoded"  # the default of curl --data
_TEXT_FORM = re.compile(rb"\s*[\[{]|[\w.%-]+=[ -~]*$")
"""JSON, or ``name=value`` of one line: what ``curl -d`` sends when it is used in place of ``--data-binary @FILE``."""
_BINARY = ("application/octet-stream", _CURL)
_OPTIONS = ("style", "alpha", "reverse", "data", "digits")
_WRAPPERS = ("image", "input", "inputs", "payload")
_DATA_FORMS = ("list", "none", "png16", "npy_base64")
_MOST_DIGITS = 17
_DEFAULT_STYLE = "inferno"
_CHUNK_VALUES = 16_384
_PIECE_BYTES = 1 << 18
_ANSWER_THREADS = 2
_CLIENT_LEFT = 499
_MOST_NOTES = 2000
"""Characters of the notes header."""


@dataclass(frozen=True, slots=True)
class _Options:
    """How an image is painted, and how its depth is written: ``data`` as JSON, with ``digits`` significant digits."""

    style: Style | None = None
    alpha: tuple[float, float] | None = None
    reverse: bool = False
    data: str = "list"
    digits: int | None = None


class ImagesApi:
    """Estimates depth of images; one request runs at a time, few wait. Belongs to one event loop.

    Attributes:
        counts: number of answers by HTTP status; 499 where the client left.
    """

    def __init__(self, estimator: DepthEstimator, settings: WebSettings, bodies: BodyReader, worker: Executor) -> None:
        self._estimator = estimator
        self._settings = settings
        self._bodies = bodies
        self._worker = worker
        self._answers = ThreadPoolExecutor(_ANSWER_THREADS, "web-answers", lower_priority)
        self._pending = 0
        self.counts: Counter[int] = Counter()

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/v1/depth", self.depth)
        app.on_cleanup.append(self._close)

    async def _close(self, _: web.Application) -> None:
        self._answers.shutdown(wait=False, cancel_futures=True)

    async def depth(self, request: web.Request) -> web.StreamResponse:
        """The body is an image, or JSON: base64, a ``data:`` URL, a Buffer, a tensor, a list of them, or an object.

        Query: ``style``, ``alpha``, ``reverse``, ``data`` (``list``, ``none``, ``png16``, ``npy_base64``), ``digits``.
        Answers ``{data, image, width, height}``, for a list a list of them; with ``Accept: image/png`` the image, with
        ``application/x-npy`` float32 [H, W].
        """
        status = _CLIENT_LEFT
        try:
            answer = await self._answer(request)
            status = answer.status
        except ApiError as error:
            status = error.status
            raise
        except StreamDepthError as error:
            status = status_of(error)
            raise
        except Exception:
            status = 500
            raise
        finally:
            self.counts[status] += 1
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._check_busy()
        media_type = _media_type(request.headers.get("Accept", "*/*"))
        body = await self._body(request)
        self._check_busy()  # a place is taken only once the body is there
        cancelled = threading.Event()
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            content_type = request.headers.get("Content-Type", "")
            work = partial(self._estimate, body, content_type, dict(request.query), media_type, cancelled)
            del body
            pieces = await loop.run_in_executor(self._worker, work)
            return await self._stream(request, pieces, media_type)
        finally:
            cancelled.set()
            self._pending -= 1

    def _check_busy(self) -> None:
        if self._pending >= self._settings.images_waiting:
            raise ApiError(503, "busy with other images; try again in a second", retry_after_seconds=1)

    async def _body(self, request: web.Request) -> bytearray:
        kind = request.content_type
        if not kind.startswith("image/") and kind not in (*_BINARY, _FORM, _JSON):
            raise ApiError(415, f"{kind} is not accepted; send an image (image/*, application/octet-stream) or JSON")
        with self._bodies.buffer(self._settings.max_body_bytes) as buffer:
            await self._bodies.read(request, buffer)
            return buffer.data

    def _headers(self) -> dict[str, str]:
        """What is assumed of the model and why it does not run as expected, in one header."""
        notes = " ".join("; ".join(self._estimator.notes).encode("ascii", "replace").decode().split())
        return {"X-Streamdepth-Notes": notes[:_MOST_NOTES]} if notes else {}

    async def _stream(self, request: web.Request, pieces: Iterator[bytes], media_type: str) -> web.StreamResponse:
        """Send an answer in pieces: the depth of 50 megapixels has 200 MB, as JSON 1 GB."""
        answer = web.StreamResponse(headers=self._headers())
        answer.content_type = media_type
        if media_type == _JSON:
            answer.charset = "utf-8"
            if "gzip" in request.headers.get("Accept-Encoding", "").lower():
                answer.enable_compression(web.ContentCoding.gzip)
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0
        try:
            await answer.prepare(request)
            while piece := await loop.run_in_executor(self._answers, next, pieces, b""):
                sent += len(piece)
                seconds = self._settings.stall_seconds + sent / self._settings.least_bytes_per_second
                async with asyncio.timeout_at(started + seconds):
                    await answer.write(piece)
            async with asyncio.timeout(self._settings.stall_seconds):
                await answer.write_eof()
        except TimeoutError:
            drop(request)
        return answer

    # On the worker's thread -------------------------------------------------------------------------------------

    def _estimate(
        self, received: bytearray, content_type: str, query: dict[str, Any], media_type: str, cancelled: threading.Event
    ) -> Iterator[bytes]:
        """Depth of a whole request, encoded in pieces."""
        kind = content_type.partition(";")[0].strip().lower()
        body = form_file(bytes(received), content_type) if kind == _FORM else bytes(received)
        if not body:
            raise ApiError(400, "the body is empty; send an image")
        value, beside = _unwrapped(parse_json(body)) if kind == _JSON else (body, {})
        if kind == _CURL and _TEXT_FORM.match(body):
            raise ApiError(415, "the form holds no image; send one as the whole body (curl --data-binary @photo.jpg), "
                                "or JSON with -H 'Content-Type: application/json'")  # fmt: skip
        options = _checked({**beside, **query}, media_type)
        many = isinstance(value, list)
        values: list[Any] = value if isinstance(value, list) else [value]
        if not values:
            raise ApiError(400, "the list is empty; send at least one image")
        inputs = self._inputs(values)
        estimates: list[Estimate] = []
        alpha = 1.0 if options.alpha is None else options.alpha
        for estimate in self._estimator.each(inputs, style=options.style, alpha=alpha, reverse=options.reverse):
            estimates.append(estimate)
            if cancelled.is_set():
                return iter(())
        if media_type == _JSON:
            return self._json(estimates, options, many=many or len(estimates) > 1)
        if len(estimates) != 1:
            raise ApiError(406, f"{len(estimates)} images do not fit into one answer of {media_type}; accept {_JSON}")
        return _in_pieces(estimates[0].image or b"") if media_type == _PNG else npy_pieces(estimates[0].data)

    def _inputs(self, values: list[Any]) -> list[Any]:
        """Encoded images and tensors, counted and measured before any of them is decoded."""
        inputs, images, pixels, tensor_pixels = [], 0, 0.0, 0
        for value in values:
            item = value if isinstance(value, bytes) else from_json(value)
            if isinstance(item, bytes):
                images, pixels = images + 1, pixels + (pixel_count(item) or 0)
            else:
                dims = [d for d in item.get("dims", item.get("dim")) or () if isinstance(d, int)]
                images += dims[0] if len(dims) > 3 else 1
                tensor_pixels += math.prod(dims) // 3
            if images > self._settings.max_images:
                raise ApiError(413, f"a request has at most {self._settings.max_images} images; send several requests")
            if pixels > self._settings.max_pixels:
                raise ApiError(413, f"the images have more than {self._settings.max_pixels:,} pixels; scale them down")
            if tensor_pixels > (most := self._settings.max_tensor_pixels):
                raise ApiError(413, f"the tensors have more than {most:,} pixels; send smaller ones, or images")
            inputs.append(item)
        return inputs

    def _json(self, estimates: list[Estimate], options: _Options, *, many: bool) -> Iterator[bytes]:
        pixels = sum(one.data.size for one in estimates)
        if options.data == "list" and pixels > self._settings.max_json_pixels:
            raise ApiError(
                413, f"{pixels:,} pixels are too many for a JSON list; use ?data=png16, or accept application/x-npy"
            )
        return _joined(estimates, options) if many else estimate_json(estimates[0], options.data, options.digits)


def _in_pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES))


def _joined(estimates: list[Estimate], options: _Options) -> Iterator[bytes]:
    for number, one in enumerate(estimates):
        yield b"," if number else b"["
        yield from estimate_json(one, options.data, options.digits)
    yield b"]"


def estimate_json(one: Estimate, data: str = "list", digits: int | None = None) -> Iterator[bytes]:
    """``Estimate.to_node()`` as JSON in pieces: the encoder holds the GIL, and other threads run between the pieces.

    Args:
        data: ``list``, ``none`` (null), ``png16`` (a 16-bit PNG as a ``data:`` URL; ``scale`` and ``offset`` beside it
            decode it: ``value = offset + scale * code``, code 0 = no depth) or ``npy_base64``.
        digits: significant digits of a list; None = all.
    """
    more: dict[str, Any] = {}
    yield b'{"data":'
    if data == "list":
        yield from _list_json(one.data.reshape(-1), digits)
    elif data == "png16":
        codes, coding = encoded_16bit(one.data, one.sense)
        yield _json_text("data:image/png;base64,", encode_png(codes))
        more = {"scale": coding.scale, "offset": coding.offset}
    elif data == "npy_base64":
        yield _json_text("", npy(one.data))
    else:
        yield b"null"
    yield b',"image":' + (b"null" if one.image is None else _json_text("data:image/png;base64,", one.image)) + b","
    yield json.dumps({"width": one.width, "height": one.height, **more}, separators=(",", ":"))[1:].encode()


def _list_json(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], digits: int | None) -> Iterator[bytes]:
    finite = bool(np.isfinite(values).all())
    yield b"["
    for first in range(0, values.size, _CHUNK_VALUES):
        chunk: list[float | None] = values[first : first + _CHUNK_VALUES].tolist()
        if not finite:
            chunk = [value if value is not None and np.isfinite(value) else None for value in chunk]
        if digits is None:
            text = json.dumps(chunk, separators=(",", ":"))[1:-1]
        else:
            text = ",".join("null" if value is None else f"{value:.{digits}g}" for value in chunk)
        yield ("," * (first > 0) + text).encode("ascii")
    yield b"]"


def _json_text(prefix: str, content: bytes) -> bytes:
    return b'"' + prefix.encode() + base64.b64encode(content) + b'"'


def _media_type(accept: str) -> str:
    """The answer's media type: the one that the client prefers."""
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
        answer = {
            "*/*": _JSON,
            "application/*": _JSON,
            _JSON: _JSON,
            "image/*": _PNG,
            _PNG: _PNG,
            _NPY: _NPY,
            "application/octet-stream": _NPY,
        }.get(kind, "")
        if answer and weight > best:
            best, found = weight, answer
    if not found:
        raise ApiError(406, f"answers are {_JSON}, {_PNG} or {_NPY}, not {accept[:200]}")
    return found


def _unwrapped(value: Any) -> tuple[Any, dict[str, Any]]:
    """The image in an object, and the options beside it."""
    if not isinstance(value, dict) or ("data" in value and not set(value) & set(_WRAPPERS)):
        return value, {}
    keys = [key for key in _WRAPPERS if key in value]
    others = set(value) - {*_WRAPPERS, *_OPTIONS}
    if len(keys) != 1 or others:
        found = ", ".join(map(str, value))[:200] or "nothing"
        raise ApiError(400, f"an object has one of {', '.join(_WRAPPERS)}, and {', '.join(_OPTIONS)}, not {found}")
    return value[keys[0]], {key: value[key] for key in _OPTIONS if key in value}


def _checked(options: Mapping[str, Any], media_type: str) -> _Options:
    unknown = set(options) - set(_OPTIONS)
    if unknown:
        raise ApiError(400, f"unknown option {', '.join(sorted(unknown))[:200]}; there are {', '.join(_OPTIONS)}")
    try:
        alpha = parse_alpha(options.get("alpha"))
    except ValueError as exc:
        raise ApiError(400, str(exc)) from None
    style = options.get("style")
    if style in (None, ""):
        style = _DEFAULT_STYLE if media_type == _PNG else None
    data, digits = options.get("data", "list"), options.get("digits")
    if data not in _DATA_FORMS:
        raise ApiError(400, f"data is one of {', '.join(_DATA_FORMS)}, not {str(data)[:60]!r}")
    if digits is not None and str(digits) not in map(str, range(1, _MOST_DIGITS + 1)):
        raise ApiError(400, f"digits is 1..{_MOST_DIGITS}, not {str(digits)[:60]!r}")
    if media_type != _JSON and (data != "list" or digits is not None):
        raise ApiError(400, f"data and digits apply to answers of {_JSON} only, not to {media_type}")
    if digits is not None and data != "list":
        raise ApiError(400, f"digits applies to data=list only, not to data={data}")
    return _Options(
        style=None if style is None else plain_style(style),
        alpha=alpha,
        reverse=flag("reverse", options.get("reverse", False)),
        data=data,
        digits=None if digits is None else int(digits),
    )

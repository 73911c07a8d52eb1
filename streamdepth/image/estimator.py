"""Depth of images: one call in, one result out, on the same parts as the pipeline."""

from __future__ import annotations

import base64
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, overload

import numpy as np

from streamdepth.core import limits
from streamdepth.core.errors import DataFormatError, InferenceError, UsageError
from streamdepth.core.host import cores
from streamdepth.core.look import Look, Nearness, parse_alpha
from streamdepth.image.inputs import MAX_PIXELS, InputImage, read
from streamdepth.image.tensors import rows_of
from streamdepth.inference.model import DepthModel
from streamdepth.media.images import encode_png

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.core.frame import Sense
    from streamdepth.core.look import Style
    from streamdepth.geometry import Intrinsics
    from streamdepth.image.inputs import ImageLike
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.heads import RawDepth
    from streamdepth.inference.model import ModelOptions, Runner
    from streamdepth.models.spec import ModelSpec

T = TypeVar("T")
R = TypeVar("R")
_WAIT_SECONDS = 0.5  # short: on Windows, Ctrl-C does not end a wait


def in_order(pool: Executor, work: Callable[[T], R], values: Iterable[T], *, ahead: int) -> Iterator[R]:
    """``map(work, values)`` on a pool, at most ``ahead`` results before the one that is consumed.

    ``values`` is advanced on the thread that consumes results. An error of ``values`` or of ``work`` is raised after
    the results of all values before.
    """
    waiting: deque[Future[R]] = deque()
    for future in _submitted(pool, work, values):
        waiting.append(future)
        if len(waiting) > ahead:
            yield _result(waiting.popleft())
    while waiting:
        yield _result(waiting.popleft())


def _submitted(pool: Executor, work: Callable[[T], R], values: Iterable[T]) -> Iterator[Future[R]]:
    """The work on each value; an error of ``values`` takes the place of the missing value."""
    try:
        for value in values:
            yield pool.submit(work, value)
    except Exception as error:  # raised again where the result is consumed
        failed: Future[R] = Future()
        failed.set_exception(error)
        yield failed


def _result(future: Future[R]) -> R:
    while not future.done():
        wait([future], _WAIT_SECONDS)
    return future.result()


_IMAGES_AT_ONCE = 4
"""Threads that read and paint beside the model. Each may hold 0.2 GB for an image of 12 megapixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Depth of one image.

    Attributes:
        data: float32 [H, W] at the image's size, in the model's own sense.
        image: PNG, None without a style or with ``png=False``.
        width, height: size of the image in pixels.
        sense: meaning of ``data``.
        notes: one line for each thing left out, converted or assumed.
        valid: bool [H, W], False where the model says that its depth is not valid; None where it does not say.
        camera: intrinsics of the image by the model's estimate, or as given for the model; None if unknown.
        pixels: the image as uint8 [H, W, 4] RGBA, for the ``grayscale`` styles [H, W], or [H, W, 2] with alpha; None
            without a style.
    """

    data: NDArray[np.float32]
    image: bytes | None
    width: int
    height: int
    sense: Sense
    notes: tuple[str, ...] = ()
    valid: NDArray[np.bool_] | None = None
    camera: Intrinsics | None = None
    pixels: NDArray[np.uint8] | None = None

    def __repr__(self) -> str:
        image = f", image of {len(self.image)} bytes" if self.image is not None else ""
        notes = f", notes: {'; '.join(self.notes)}" if self.notes else ""
        return f"<Estimate {self.width}x{self.height} {self.sense.value}{image}{notes}>"

    @property
    def unit(self) -> str:
        """``"m"`` if ``data`` is metres, else empty."""
        return self.sense.unit

    def to_node(self) -> dict[str, Any]:
        """``{data, image, width, height}`` as values of JSON.

        ``data`` is the list of all values in row-major order, None for values that are not finite; ``image`` is a
        ``data:image/png;base64,`` URL or None.
        """
        finite = np.isfinite(self.data)
        values: list[Any] = self.data.reshape(-1).tolist()
        if not finite.all():
            values = [value if good else None for value, good in zip(values, finite.reshape(-1).tolist(), strict=True)]
        image = None if self.image is None else "data:image/png;base64," + base64.b64encode(self.image).decode("ascii")
        return {"data": values, "image": image, "width": self.width, "height": self.height}


class _ImageOptions(TypedDict, total=False):
    """Options of the image of a call."""

    style: Style | None
    alpha: float | str | Sequence[float] | None
    reverse: bool


@dataclass(frozen=True, slots=True)
class _Item:
    """One image, or one row of a prepared tensor."""

    image: InputImage | None
    row: NDArray[Any] | None
    net_size: tuple[int, int]
    notes: tuple[str, ...] = ()


class DepthEstimator:
    """Depth of images: call it with one image or a list of them.

    A :class:`~streamdepth.inference.model.DepthModel` with one engine, which is loaded and checked on a built-in image
    on first use. A pipeline takes the estimator too, and makes engines of the same model. Thread-safe: calls run the
    model one after the other.

    Args:
        model: ``"built-in"``, a path, a Hub name, or a DepthModel.
        max_pixels: larger images are refused.
        options: as for DepthModel; none with a DepthModel.
    Raises:
        UsageError, ModelError, ModelNotFoundError, DeadlineError: as DepthModel.
    """

    def __init__(
        self,
        model: str | Path | DepthModel = "built-in",
        *,
        max_pixels: int = MAX_PIXELS,
        **options: Unpack[ModelOptions],
    ) -> None:
        limits.IMAGE_PIXELS.check("max_pixels", max_pixels)
        if isinstance(model, DepthModel) and options:
            raise UsageError(f"{', '.join(options)}: options of a DepthModel; give them where it is made")
        self.model = model if isinstance(model, DepthModel) else DepthModel(model, **options)
        self._max_pixels = max_pixels
        self._images_at_once = min(_IMAGES_AT_ONCE, self.model.threads or cores())
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._closed = False

    @property
    def spec(self) -> ModelSpec:
        """The model's specification; on CUDA, from the first use on, of the dtype that passed there."""
        return self.model.spec

    @property
    def provider(self) -> str:
        """The provider that runs the model; before the first use, the one that most likely will."""
        return self.model.provider if self._engine is None else self._engine.provider

    @property
    def notes(self) -> tuple[str, ...]:
        """Assumptions about the model, and why it does not run as expected."""
        engine = self._engine
        return (*self.spec.notes, *((engine.note,) if engine is not None and engine.note else ()))

    @property
    def exact_images(self) -> bool:
        """Whether images are preprocessed exactly as ``transformers`` does."""
        return self.model.exact is not False

    def engine(self, batch: int = 1, *, exact: bool | None = None, workers: int = 1) -> Engine:
        """A new engine of the model, see :meth:`DepthModel.engine`."""
        return self.model.engine(batch, exact=exact, workers=workers)

    def live_engine(self, batch: int = 1) -> Runner:
        """See :meth:`DepthModel.live_engine`."""
        return self.model.live_engine(batch)

    @overload
    def __call__(self, inputs: list[Any] | tuple[Any, ...], **image: Unpack[_ImageOptions]) -> list[Estimate]: ...

    @overload
    def __call__(self, inputs: Mapping[str, Any], **image: Unpack[_ImageOptions]) -> Estimate | list[Estimate]: ...

    @overload
    def __call__(self, inputs: ImageLike, **image: Unpack[_ImageOptions]) -> Estimate: ...

    def __call__(
        self,
        inputs: Any,
        *,
        style: Style | None = None,
        alpha: float | str | Sequence[float] | None = 1.0,
        reverse: bool = False,
    ) -> Estimate | list[Estimate]:
        """Depth of one image or of a list of them.

        Args:
            inputs: see :func:`streamdepth.image.inputs.read`; a list or tuple of such, of any sizes, is processed
                as by :meth:`each`.
            style: palette for ``image``; None = no image. Near has the palette's high end.
            alpha: opacity of ``image``, one number or (nearest, farthest), 0..1.
            reverse: far has the high end instead.
        Returns:
            An Estimate; for a list, a list in its order. A tensor of several images gives one for each.
        Raises:
            UsageError, DataFormatError, SourceError: an input that cannot be used; no result is returned.
            ModelError, ProviderError, InferenceError: the model cannot run.
        """
        look = self._look(style, alpha, reverse)
        if isinstance(inputs, list | tuple):
            return list(self._each(inputs, look))
        engine = self._image_engine()
        runs = self._runs(self._items(inputs, engine), engine)
        estimates = [self._estimate(item, raw, engine, look, png=True) for item, raw in runs]
        return estimates if len(estimates) != 1 else estimates[0]

    def each(
        self,
        inputs: Iterable[Any],
        *,
        style: Style | None = None,
        alpha: float | str | Sequence[float] | None = 1.0,
        reverse: bool = False,
        png: bool = True,
    ) -> Generator[Estimate]:
        """Depth of images in order, with a few of them in memory at a time.

        While the model runs, other threads read the next images and paint the last ones. With the built-in model on
        two idle cores, 1280x720 JPEG to PNG takes 39 ms per image, and 72 ms with a call for each; depth alone 13 and
        18 ms. The model takes 7 ms of these, so batches would gain little.

        Args:
            inputs: see :func:`streamdepth.image.inputs.read`; consumed as results are. A tensor of several images
                gives one result for each.
            style, alpha, reverse: as for a call.
            png: encode ``image``; ``pixels`` are there anyway.
        Raises:
            UsageError: at once, an invalid style or alpha.
            StreamDepthError: as for a call, in place of the image that cannot be used, after those before it.
        """
        return self._each(inputs, self._look(style, alpha, reverse), png=png)

    def close(self) -> None:
        """Close the estimator's engine. Idempotent; engines of other callers stay open."""
        with self._lock:
            self._closed = True
            if self._engine is not None:
                self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _look(style: Style | None, alpha: float | str | Sequence[float] | None, reverse: bool) -> Look | None:
        try:
            ends = parse_alpha(alpha)
        except ValueError as exc:
            raise UsageError(str(exc)) from exc
        from streamdepth.colorize.palettes import checked_style

        if style is None:
            return None
        # linear as in the flow editor's node and transformers' pipeline
        return Look(style=checked_style(style), alpha=ends, reverse=reverse, nearness=Nearness.LINEAR)

    def _image_engine(self) -> Engine:
        with self._lock:
            if self._closed:
                raise InferenceError(f"{self.spec.name}: the estimator is closed; make a new one")
            self.spec.check_takes_images()
            if self._engine is None:
                self._engine = self.model.engine(exact=self.exact_images)
            return self._engine

    def _each(self, inputs: Iterable[Any], look: Look | None, *, png: bool = True) -> Generator[Estimate]:
        engine, ahead = self._image_engine(), self._images_at_once
        pool = ThreadPoolExecutor(ahead, thread_name_prefix="streamdepth-stills")
        try:
            read = in_order(pool, lambda value: self._items(value, engine), inputs, ahead=ahead)
            runs = self._runs(chain.from_iterable(read), engine)
            yield from in_order(pool, lambda run: self._estimate(*run, engine, look, png=png), runs, ahead=ahead)
        finally:
            pool.shutdown(cancel_futures=True)

    def _runs(self, items: Iterable[_Item], engine: Engine) -> Iterator[tuple[_Item, RawDepth]]:
        """The network's output for each; neighbours of one network size share a run if the graph has a batch."""
        for size, alike in groupby(items, key=lambda item: item.net_size):
            while batch := list(islice(alike, engine.batch)):
                with self._lock:
                    slot = engine.acquire(size)
                    for row, item in enumerate(batch):
                        if item.row is not None:
                            slot.write_tensor(row, item.row)
                        elif item.image is not None:
                            self._write(slot, row, item.image)
                    try:
                        answers = engine.run_raw(slot, len(batch))
                    except InferenceError as exc:
                        least = self.spec.preprocessing.multiple_of
                        if min(size) >= least:
                            raise
                        small = f"a tensor of {size[0]}x{size[1]} pixels is too small for {self.spec.name}"
                        raise DataFormatError(f"{small}; its smallest size is {least}x{least}") from exc
                yield from zip(batch, answers, strict=True)

    def _items(self, value: Any, engine: Engine) -> list[_Item]:
        got = read(value, max_pixels=self._max_pixels)
        if isinstance(got, InputImage):
            height, width = got.rgb.shape[:2]
            return [_Item(got, None, engine.network_size(width, height), got.notes)]
        return [_Item(None, row, (row.shape[2], row.shape[1])) for row in rows_of(got, self.spec)]

    @staticmethod
    def _write(slot: Any, row: int, image: InputImage) -> None:
        if slot.exact:
            slot.write_rgb(row, image.rgb)
            return
        from streamdepth.inference.preprocess import image_of

        slot.write(row, image_of(image.rgb))

    def _estimate(self, item: _Item, raw: RawDepth, engine: Engine, look: Look | None, *, png: bool) -> Estimate:
        from streamdepth.inference import geometry

        rules, view = self.spec.preprocessing, raw.extra.field_of_view_degrees
        if raw.geometry is None:
            width, height = item.net_size
            values = raw.values if view is None else geometry.depth_pro_metres(raw.values, view)
            data = geometry.resize(values, width, height)
        else:
            width, height = raw.geometry.width_px, raw.geometry.height_px
            data = geometry.to_image(
                raw.values,
                rules.family,
                raw.geometry,
                exact=engine.exact,
                field_of_view_degrees=view,
                letterbox=rules.letterbox,
                bilinear=rules.match == "transformersjs",
            )
        valid = None if raw.extra.valid is None else geometry.valid_at_image(raw.extra.valid, raw.geometry)
        pixels = image = None
        if look is not None:
            from streamdepth.colorize.images import paint_over_range

            pixels = paint_over_range(data, self.spec.sense, look, valid)
            image = encode_png(pixels) if png else None
        notes = [*item.notes, *self.notes]
        if not np.isfinite(data).any():
            notes.append("the image has no finite depth value")
        return Estimate(data, image, width, height, self.spec.sense, tuple(notes), valid, raw.camera, pixels)

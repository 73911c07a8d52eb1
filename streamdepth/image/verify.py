"""Verification: does a model give valid depth, and how much does it differ from another (q8 from fp32, say)?"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from streamdepth.core.errors import UsageError
from streamdepth.inference import agreement
from streamdepth.inference.agreement import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.image.estimator import DepthEstimator, Estimate

_LOOPED_FRAMES = 6
_BUILT_IN = tuple((640, 480, variant) for variant in range(4))


@dataclass(frozen=True, slots=True)
class ImageReport:
    """Result of a model for one image.

    Attributes:
        name: file or built-in image.
        finite: share of pixels with a finite value, 0..1.
        flat: no contrast in the finite values.
        lo, hi: smallest and largest finite value; 0, 0 if there are none.
        max_error, mean_error: difference from the reference as a share of the reference's range on this image; None
            if the reference is flat.
        correlation: Pearson's, with the reference; None as above or if the model is flat.
    """

    name: str
    finite: float
    flat: bool
    lo: float
    hi: float
    max_error: float | None = None
    mean_error: float | None = None
    correlation: float | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Result of :func:`verify`.

    Attributes:
        model, reference: name, dtype and preprocessing path of each.
        aligned: errors are computed after the best scale and shift, because model and reference have different units.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "image",
        "finite",
        "flat",
        "range",
        "max error",
        "mean error",
        "correlation",
    )

    model: str
    reference: str
    aligned: bool
    images: tuple[ImageReport, ...]

    @property
    def title(self) -> str:
        """Heading of the table."""
        how = " after the best scale and shift" if self.aligned else ""
        return f"{self.model} against {self.reference}, errors as a share of the range{how}"

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of text for ``COLUMNS``: one for each image, and one for all."""
        rows = [
            (
                image.name,
                f"{image.finite:.2%}",
                "FLAT" if image.flat else "no",
                f"{image.lo:.4g}..{image.hi:.4g}",
                *_figures(image.max_error, image.mean_error, image.correlation),
            )
            for image in self.images
        ]
        finite = min(image.finite for image in self.images)
        figures = _figures(self.max_error, self.mean_error, self.correlation)
        return [*rows, ("all", f"{finite:.2%}", "FLAT" if self.flat else "no", "", *figures)]

    @property
    def finite(self) -> bool:
        return all(image.finite == 1.0 for image in self.images)

    @property
    def flat(self) -> bool:
        """Whether the model has no contrast on any image."""
        return all(image.flat for image in self.images)

    @property
    def ok(self) -> bool:
        """Finite everywhere and not flat."""
        return self.finite and not self.flat

    @property
    def max_error(self) -> float | None:
        """Largest error on any image, as a share of the range."""
        return max((p.max_error for p in self.images if p.max_error is not None), default=None)

    @property
    def mean_error(self) -> float | None:
        """Mean of the images' mean errors, as a share of the range."""
        known = [p.mean_error for p in self.images if p.mean_error is not None]
        return float(np.mean(known)) if known else None

    @property
    def correlation(self) -> float | None:
        """Smallest correlation on any image."""
        return min((p.correlation for p in self.images if p.correlation is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as values of JSON."""
        summary = {
            key: getattr(self, key) for key in ("ok", "finite", "flat", "max_error", "mean_error", "correlation")
        }
        return {**asdict(self), **summary}


def verify(
    model: str | Path | DepthEstimator,
    reference: str | Path | DepthEstimator | None = None,
    images: Iterable[Any] | None = None,
    *,
    dtype: str = "auto",
    reference_dtype: str | None = None,
    revision: str | None = None,
    size: str | int | None = None,
    sense: str | None = None,
    provider: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Run a model and a reference on images and compare.

    Without ``reference`` and ``reference_dtype`` the model's fast path is compared with its exact path; with either,
    both use the exact path. Values are compared directly if both are metres or files of the same model; otherwise the
    model's are first aligned to the reference's by the least-squares scale and shift, and inverted before if exactly
    one of the two has near = large.

    A model with a state, or one of windows, runs on built-in frames as in a pipeline and is compared with calls of ONNX
    Runtime's CPU provider with NumPy arrays, the state passed on by hand; the state restarts once.

    Args:
        model, reference: a name or path, or an estimator, which stays open and has its own options; a model given as
            an estimator needs a reference.
        images: anything a :class:`DepthEstimator` takes; None = four built-in ones.
        dtype, revision, size, sense, provider: of the model, see :class:`DepthEstimator`. A reference of the same
            name shares revision, size and sense; any shares the provider.
        reference_dtype: of the reference; None = ``auto``.
        progress: called with the name of each image before it is run.
    Raises:
        UsageError: no images, a tensor of several, or an estimator without a reference.
        StreamDepthError: as :class:`DepthEstimator`; a model that fails its start-up check raises ModelError here.
    """
    named = list(_named(images))
    if not named:
        raise UsageError("verify needs at least one image; leave images out for the built-in ones")
    from streamdepth.image.estimator import DepthEstimator

    if isinstance(model, DepthEstimator) and reference is None:
        raise UsageError("verify compares an estimator with another one; give a reference, or the name of the model")

    paths = reference is None and reference_dtype is None
    with ExitStack() as stack:

        def opened(given: str | Path | DepthEstimator, kind: str, *, own: bool, exact: bool) -> DepthEstimator:
            if isinstance(given, DepthEstimator):
                return given
            return stack.enter_context(
                DepthEstimator(
                    given,
                    dtype=kind,
                    revision=revision if own else None,
                    size=size if own else None,
                    sense=sense if own else None,
                    provider=provider,
                    exact=exact,
                )
            )

        one = opened(model, dtype, own=True, exact=not paths)
        if one.spec.video_only:
            if images is not None or not paths:
                raise UsageError(f"{one.spec.video_only}: verify runs it on built-in frames only")
            return _looped(one, progress)
        twin = reference is None or reference == model
        kind = reference_dtype or (dtype if paths else "auto")
        truth = opened(model if reference is None else reference, kind, own=twin, exact=True)
        aligned = not _same_unit(one, truth)
        reports: list[ImageReport] = []
        for name, image in named:
            if progress is not None:
                progress(name)
            reports.append(_compare(name, _one(one(image)), _one(truth(image)), aligned=aligned))
        return VerifyReport(_label(one, paths=paths), _label(truth, paths=paths), aligned, tuple(reports))


def _looped(estimator: DepthEstimator, progress: Callable[[str], None] | None) -> VerifyReport:
    """A model of videos, run by an engine, against a loop of plain runs."""
    from streamdepth.inference.heads import HeadReader
    from streamdepth.inference.preprocess import image_of
    from streamdepth.inference.sessions import open_session
    from streamdepth.media.scene import pattern
    from streamdepth.models.selection import CPU

    spec, reader = estimator.spec, HeadReader(estimator.spec)
    reports: list[ImageReport] = []
    session = open_session(spec, CPU.name).session
    engine = estimator.engine()
    try:
        names = [*reader.outputs, *(state.output for state in spec.states)]
        fed: dict[str, NDArray[Any]] = {}
        for number in range(1 if spec.window else _LOOPED_FRAMES):
            slot = engine.acquire(engine.network_size(*_BUILT_IN[0][:2]))
            slot.source, slot.restart = 0, number in (0, _LOOPED_FRAMES - 2)
            for row in range(engine.batch):
                slot.write(row, image_of(pattern(*_BUILT_IN[(number + row) % len(_BUILT_IN)])))
            if slot.restart:
                fed = agreement.inputs(spec)
            fed |= {spec.image_input.name: slot.host_input(0).copy(), **slot.fed}
            outputs = session.run(names, fed)
            count = len(reader.outputs)
            fed |= {state.input.name: value for state, value in zip(spec.states, outputs[count:], strict=True)}
            for row, got in enumerate(engine.run_raw(slot, engine.batch)):
                name = f"frame {number + row + 1}" + (", restarted" if slot.restart and number else "")
                if progress is not None:
                    progress(name)
                part = np.empty((engine.batch, *got.values.shape), np.float32)
                reader.read([np.asarray(one) for one in outputs[:count]], part, slot.geometries)
                reports.append(_report(name, got.values, part[row] * np.float32(spec.metres_per_unit), aligned=False))
    finally:
        engine.close()
    loop = "a loop of single runs with NumPy arrays" if spec.states else "one run with NumPy arrays"
    return VerifyReport(f"{spec.name} ({spec.dtype}, {engine.provider})", loop, False, tuple(reports))


def _label(estimator: DepthEstimator, *, paths: bool) -> str:
    path = f", {'exact' if estimator.exact_images else 'fast'} path" if paths else ""
    return f"{estimator.spec.name} ({estimator.spec.dtype}{path})"


def _figures(max_error: float | None, mean_error: float | None, correlation: float | None) -> tuple[str, str, str]:
    def text(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}g}"

    return text(max_error, 3), text(mean_error, 3), text(correlation, 6)


def _named(images: Iterable[Any] | None) -> Iterable[tuple[str, Any]]:
    if images is None:
        from streamdepth.media.scene import pattern

        for width, height, variant in _BUILT_IN:
            yield f"built-in {variant + 1}", pattern(width, height, variant)
        return
    for number, image in enumerate(images):
        short = isinstance(image, str) and len(image) < 200
        yield (str(image) if short or hasattr(image, "__fspath__") else f"image {number + 1}"), image


def _one(result: Estimate | list[Estimate]) -> Estimate:
    if isinstance(result, list):
        raise UsageError("verify compares single images; give tensors with a batch of 1")
    return result


def _same_unit(model: DepthEstimator, reference: DepthEstimator) -> bool:
    one, other = model.spec, reference.spec
    if one.sense is not other.sense:
        return False
    if str(one.sense) == "metric_m" or one.name == other.name:
        return True
    return one.path.parent == other.path.parent


def _compare(name: str, got: Estimate, reference: Estimate, *, aligned: bool) -> ImageReport:
    depth = got.data.astype(np.float64)
    if aligned and got.sense.near_is_large != reference.sense.near_is_large:
        depth = 1 / np.maximum(depth, 1e-6)
    return _report(name, got.data, reference.data, aligned=aligned, compared=depth)


def _report(
    name: str,
    data: NDArray[np.float32],
    reference: NDArray[np.float32],
    *,
    aligned: bool,
    compared: NDArray[np.float64] | None = None,
) -> ImageReport:
    finite = data[np.isfinite(data)]
    lo, hi = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    found = difference(data if compared is None else compared, reference, aligned=aligned)
    return ImageReport(name, found.finite, found.flat, lo, hi, found.max_error, found.mean_error, found.correlation)

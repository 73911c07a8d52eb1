"""Does a model give depth that makes sense, and how far is it from another one (q8 from fp32, say)?"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from streamdepth.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.image.estimator import DepthEstimator, Estimate

_BUILT_IN = tuple((640, 480, variant) for variant in range(4))
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class ImageReport:
    """What a model gave for one image.

    Attributes:
        name: file or built-in image.
        finite: share of pixels with a finite value, 0..1.
        flat: no contrast among the finite ones.
        lo, hi: smallest and largest finite value; 0, 0 where there is none.
        max_error, mean_error: distance from the reference as a share of the reference's range on this image; None
            where the reference is flat.
        correlation: Pearson's, with the reference; None as above or where the model is flat.
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
    """The outcome of :func:`verify`.

    Attributes:
        model, reference: name, dtype and preprocessing path of each.
        aligned: errors were taken after the best scale and shift, since model and reference do not share a unit.
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
        """One line for people."""
        how = " after the best scale and shift" if self.aligned else ""
        return f"{self.model} against {self.reference}, errors as a share of the range{how}"

    def rows(self) -> list[tuple[str, ...]]:
        """Text under ``COLUMNS``: one row an image, and one for all."""
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
        """True where the model showed no contrast on any image."""
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
        """Everything as values that JSON can hold."""
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

    Without ``reference`` and ``reference_dtype`` the model's fast path is held against its own exact one; with
    either, both take the exact path. Values are compared as they are where both mean metres or are files of the same
    model; otherwise the model's are first brought to the reference's by the least-squares scale and shift, and
    inverted before where exactly one of the two has near = large.

    Args:
        model, reference: a name or path, or an estimator, which stays open and whose own options count; such a model
            needs such a reference.
        images: anything a :class:`DepthEstimator` takes; None = four built-in ones.
        dtype, revision, size, sense, provider: of the model, see :class:`DepthEstimator`. A reference of the same
            name shares revision, size and sense; any shares the provider.
        reference_dtype: of the reference; None = ``auto``.
        progress: told the name of each image before it is run.
    Raises:
        UsageError: no images, a tensor of several, or an estimator without a reference.
        StreamDepthError: as :class:`DepthEstimator`; a model that fails its start-up check raises ModelError here.
    """
    named = list(_named(images))
    if not named:
        raise UsageError("verify needs at least one image; leave images out for the built-in ones")
    from streamdepth.image.estimator import DepthEstimator

    if isinstance(model, DepthEstimator) and reference is None:
        raise UsageError("verify compares an estimator with another one; give a reference, or the model's name")

    paths = reference is None and reference_dtype is None
    with ExitStack() as stack:

        def opened(which: str | Path | DepthEstimator, kind: str, *, own: bool, exact: bool) -> DepthEstimator:
            if isinstance(which, DepthEstimator):
                return which
            return stack.enter_context(
                DepthEstimator(
                    which,
                    dtype=kind,
                    revision=revision if own else None,
                    size=size if own else None,
                    sense=sense if own else None,
                    provider=provider,
                    exact=exact,
                )
            )

        one = opened(model, dtype, own=True, exact=not paths)
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


def _label(estimator: DepthEstimator, *, paths: bool) -> str:
    path = f", {'exact' if estimator.exact_images else 'fast'} path" if paths else ""
    return f"{estimator.spec.name} ({estimator.spec.dtype}{path})"


def _figures(max_error: float | None, mean_error: float | None, correlation: float | None) -> tuple[str, str, str]:
    def text(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}g}"

    return text(max_error, 3), text(mean_error, 3), text(correlation, 6)


def _named(images: Iterable[Any] | None) -> Iterable[tuple[str, Any]]:
    if images is None:
        from streamdepth.inference.pattern import pattern

        for width, height, variant in _BUILT_IN:
            yield f"built-in {variant + 1}", pattern(width, height, variant)
        return
    for number, image in enumerate(images):
        short = isinstance(image, str) and len(image) < 200
        yield (str(image) if short or hasattr(image, "__fspath__") else f"image {number + 1}"), image


def _one(result: Estimate | list[Estimate]) -> Estimate:
    if isinstance(result, list):
        raise UsageError("verify compares image by image; give tensors with a batch of 1")
    return result


def _same_unit(model: DepthEstimator, reference: DepthEstimator) -> bool:
    one, other = model.spec, reference.spec
    if one.sense is not other.sense:
        return False
    if str(one.sense) == "metric_m" or one.name == other.name:
        return True
    return one.path.parent == other.path.parent


def _compare(name: str, got: Estimate, wanted: Estimate, *, aligned: bool) -> ImageReport:
    good = np.isfinite(got.data)
    values = got.data[good]
    lo, hi = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    flat = hi - lo <= _FLAT * max(abs(lo), abs(hi), 1e-20)
    report = ImageReport(name, float(good.mean()), flat, lo, hi)
    both = good & np.isfinite(wanted.data)
    truth = wanted.data[both].astype(np.float64)
    mine = got.data[both].astype(np.float64)
    span = float(np.ptp(truth)) if truth.size else 0.0
    if span <= _FLAT * max(float(np.abs(truth).max(initial=0.0)), 1e-20):
        return report
    if aligned:
        if got.sense.near_is_large != wanted.sense.near_is_large:
            mine = 1 / np.maximum(mine, 1e-6)
        mine = _fitted(mine, truth)
    error = np.abs(mine - truth) / span
    correlation = None if flat else float(np.corrcoef(mine, truth)[0, 1])
    return ImageReport(name, report.finite, flat, lo, hi, float(error.max()), float(error.mean()), correlation)


def _fitted(values: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """``a * values + b`` nearest to ``truth`` in the least-squares sense."""
    centred = values - values.mean()
    power = float((centred**2).sum())
    scale = float((centred * (truth - truth.mean())).sum()) / power if power > 0 else 0.0
    return np.asarray(scale * centred + truth.mean())

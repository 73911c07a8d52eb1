"""Does a model give depth that makes sense, and how far is it from another one (q8 from fp32, say)?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from streamdepth.estimator import DepthEstimator, Estimate

_BUILT_IN = tuple((640, 480, variant) for variant in range(4))
_FLAT = 1e-6


@dataclass(frozen=True, slots=True)
class PictureReport:
    """What a model gave for one picture.

    Attributes:
        name: file or built-in picture.
        finite: share of pixels with a finite value, 0..1.
        flat: no contrast among the finite ones.
        lo, hi: smallest and largest finite value; 0, 0 where there is none.
        max_error, mean_error: distance from the reference as a share of the reference's range on this picture; None
            without a reference, or where the reference is flat.
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
    """The outcome of :func:`verify`. ``reference`` is empty without one.

    Attributes:
        aligned: errors were taken after the best scale and shift, since model and reference do not share a unit.
    """

    model: str
    reference: str
    aligned: bool
    pictures: tuple[PictureReport, ...]

    @property
    def finite(self) -> bool:
        return all(picture.finite == 1.0 for picture in self.pictures)

    @property
    def flat(self) -> bool:
        """True where the model showed no contrast on any picture."""
        return all(picture.flat for picture in self.pictures)

    @property
    def ok(self) -> bool:
        """Finite everywhere and not flat."""
        return self.finite and not self.flat

    @property
    def max_error(self) -> float | None:
        """Largest error on any picture, as a share of the range."""
        return max((p.max_error for p in self.pictures if p.max_error is not None), default=None)

    @property
    def mean_error(self) -> float | None:
        """Mean of the pictures' mean errors, as a share of the range."""
        known = [p.mean_error for p in self.pictures if p.mean_error is not None]
        return float(np.mean(known)) if known else None

    @property
    def correlation(self) -> float | None:
        """Smallest correlation on any picture."""
        return min((p.correlation for p in self.pictures if p.correlation is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Everything as values that JSON can hold."""
        summary = {
            key: getattr(self, key) for key in ("ok", "finite", "flat", "max_error", "mean_error", "correlation")
        }
        return {**asdict(self), **summary}


def verify(
    model: DepthEstimator,
    reference: DepthEstimator | None = None,
    pictures: Iterable[Any] | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> VerifyReport:
    """Run a model, and a reference if given, on pictures and compare.

    Where both models share a sense that fixes the unit (metres), values are compared as they are; so are two files of
    the same model (same name, other dtype). Otherwise the model's values are first brought to the reference's by the
    least-squares scale and shift, on inverse depth where exactly one of the two has near = large.

    Args:
        model, reference: both estimate at the picture's size.
        pictures: anything a :class:`DepthEstimator` takes; None = four built-in ones.
        progress: told the name of each picture before it is run.
    Raises:
        UsageError: no pictures. StreamDepthError: as calling an estimator; a model that fails its start-up check
        raises ModelError here.
    """
    named = list(_named(pictures))
    if not named:
        raise UsageError("verify needs at least one picture; leave pictures out for the built-in ones")
    aligned = reference is not None and not _same_unit(model, reference)
    reports: list[PictureReport] = []
    for name, picture in named:
        if progress is not None:
            progress(name)
        got = _one(model(picture))
        wanted = None if reference is None else _one(reference(picture))
        reports.append(_compare(name, got, wanted, aligned=aligned))
    return VerifyReport(
        f"{model.spec.name} ({model.spec.dtype})",
        "" if reference is None else f"{reference.spec.name} ({reference.spec.dtype})",
        aligned,
        tuple(reports),
    )


def _named(pictures: Iterable[Any] | None) -> Iterable[tuple[str, Any]]:
    if pictures is None:
        from streamdepth.inference.pattern import pattern

        for width, height, variant in _BUILT_IN:
            yield f"built-in {variant + 1}", pattern(width, height, variant)
        return
    for number, picture in enumerate(pictures):
        short = isinstance(picture, str) and len(picture) < 200
        yield (str(picture) if short or hasattr(picture, "__fspath__") else f"picture {number + 1}"), picture


def _one(result: Estimate | list[Estimate]) -> Estimate:
    if isinstance(result, list):
        raise UsageError("verify compares picture by picture; give tensors with a batch of 1")
    return result


def _same_unit(model: DepthEstimator, reference: DepthEstimator) -> bool:
    one, other = model.spec, reference.spec
    if one.sense is not other.sense:
        return False
    if str(one.sense) == "metric_m" or one.name == other.name:
        return True
    return one.path.parent == other.path.parent


def _compare(name: str, got: Estimate, wanted: Estimate | None, *, aligned: bool) -> PictureReport:
    good = np.isfinite(got.data)
    values = got.data[good]
    lo, hi = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    flat = hi - lo <= _FLAT * max(abs(lo), abs(hi), 1e-20)
    report = PictureReport(name, float(good.mean()), flat, lo, hi)
    if wanted is None:
        return report
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
    return PictureReport(name, report.finite, flat, lo, hi, float(error.max()), float(error.mean()), correlation)


def _fitted(values: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """``a * values + b`` nearest to ``truth`` in the least-squares sense."""
    centred = values - values.mean()
    power = float((centred**2).sum())
    scale = float((centred * (truth - truth.mean())).sum()) / power if power > 0 else 0.0
    return np.asarray(scale * centred + truth.mean())

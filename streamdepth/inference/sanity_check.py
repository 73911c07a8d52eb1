"""Whether depth of the built-in image is depth at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamdepth.core.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.models.spec import ModelSpec


def judge(values: NDArray[np.float32], spec: ModelSpec, provider: str) -> None:
    """
    Raises:
        ModelError: depth is not finite or has no contrast; says what to try.
    """
    finite = np.isfinite(values)
    if not finite.all():
        share = 100 * (1 - float(finite.mean()))
        raise ModelError(
            f"{spec.name}: {share:.3g} % of its depth is not finite on the built-in image (dtype {spec.dtype}, "
            f"{provider}); {_other_dtype(spec)}"
        )
    spread = float(values.max()) - float(values.min())
    if spread <= 1e-6 * max(abs(float(values.max())), abs(float(values.min())), 1e-20):
        raise ModelError(
            f"{spec.name}: its depth of the built-in image is flat, {float(values.flat[0]):.6g} everywhere (dtype "
            f"{spec.dtype}, {provider}); {_other_dtype(spec)}, and check that it is a depth model"
        )


def _other_dtype(spec: ModelSpec) -> str:
    if spec.dtype == "fp32":
        return "try another export of the model"
    return "try --dtype fp32"

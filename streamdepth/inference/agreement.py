"""Does a fast provider say what the CPU says? Asked once, before ``auto`` settles for it.

Providers may compute in a narrower type than the model's (bf16 on CPUs that have it): usually worth it, sometimes not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.inference import feeds
from streamdepth.inference.geometry import plan
from streamdepth.inference.pattern import HEIGHT_PX, WIDTH_PX, pattern

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamdepth.models.spec import ModelSpec

LEAST_CORRELATION = 0.999
MOST_ERROR = 0.02
"""Mean error, as a share of the reference's range: two grey levels of a hundred are seen where images flicker."""
FAILS = "fails where the CPU does not"
"""How the answer begins where a session does not run at all."""


def disagreement(spec: ModelSpec, session: Any, reference: Any) -> str:
    """What is wrong with ``session``'s depth of a built-in image, compared with ``reference``'s; empty if nothing.

    A session that fails to run is wrong, too; an error of the reference is raised.
    """
    fed = inputs(spec)
    wanted = reference.run([spec.depth_output.name], fed)[0]
    try:
        got = session.run([spec.depth_output.name], fed)[0]
    except Exception as exc:  # whatever it is, the reference has just run the same
        return f"{FAILS} ({(str(exc).strip().splitlines() or ['no reason'])[0][:120]})"
    return compare(np.asarray(got), np.asarray(wanted))


def compare(got: NDArray[Any], wanted: NDArray[Any]) -> str:
    """As :func:`disagreement`, of two arrays of one shape and any float dtype."""
    if got.shape != wanted.shape:
        return f"gives depth of shape {list(got.shape)} where the CPU gives {list(wanted.shape)}"
    mine, truth = got.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    if not np.isfinite(mine).all():
        return "gives depth that is not finite"
    span = float(np.ptp(truth))
    if not np.isfinite(span) or span <= 1e-6 * float(np.abs(truth).max(initial=1e-20)):
        return ""  # nothing to compare with: the start-up check judges the model itself
    error = float(np.abs(mine - truth).mean()) / span
    correlation = float(np.corrcoef(mine, truth)[0, 1]) if np.ptp(mine) > 0 else 0.0
    if correlation < LEAST_CORRELATION or error > MOST_ERROR:
        return f"differs from the CPU (correlation {correlation:.4f}, mean error {error:.2%} of the range)"
    return ""


def inputs(spec: ModelSpec) -> dict[str, NDArray[Any]]:
    """The built-in image as the graph takes it, and its further inputs."""
    from streamdepth.inference.preprocess import FastWriter, image_of

    geometry = plan(spec, WIDTH_PX, HEIGHT_PX)
    width, height = geometry.net_size
    chw = np.zeros((3, height, width), np.dtype(spec.image_input.dtype))
    FastWriter(spec).write(chw, image_of(pattern(WIDTH_PX, HEIGHT_PX)), geometry)
    image = np.ascontiguousarray(chw.transpose(1, 2, 0)) if spec.image_layout == "hwc" else chw
    rows = spec.fixed_batch or 1
    shape = (1,) * (len(spec.image_input.shape) - image.ndim) + image.shape
    batch = np.repeat(image.reshape(shape), rows, axis=0) if len(shape) > image.ndim else image
    fed: dict[str, NDArray[Any]] = {spec.image_input.name: batch}
    return fed | {other.name: feeds.feed(other, spec, rows, geometry.net_size) for other in spec.other_inputs}

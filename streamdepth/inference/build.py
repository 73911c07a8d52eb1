"""Making ahead what a first run would make: TensorRT's engines, graphs with their preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import UsageError
from streamdepth.inference import fused, nvidia, precision
from streamdepth.inference.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamdepth.core.clock import Clock
    from streamdepth.models.spec import ModelSpec

BUILDABLE = ("tensorrt", "cuda")


@dataclass(frozen=True, slots=True)
class Built:
    """One thing that is there now.

    Attributes:
        name: what it is, for people.
        path: a file, or the folder it lies in.
        seconds: how long it took; about 0 where it was there already.
    """

    name: str
    path: Path
    seconds: float


def build(
    spec: ModelSpec,
    provider: str = "tensorrt",
    *,
    images: Sequence[tuple[int, int]] = ((1920, 1080),),
    batch: int = 1,
    exact: bool = False,
    progress: Callable[[str], None] | None = None,
    clock: Clock | None = None,
) -> tuple[Built, ...]:
    """Prepare a model for a provider.

    Args:
        provider: one of ``BUILDABLE``.
        images: (width, height) of the images to come: a network's size may follow theirs.
        batch: the most images a run will take.
        exact: for images that are preprocessed as ``transformers`` does, and not in the graph.
        progress: told what is made next.
    Raises:
        UsageError: the provider makes nothing ahead, or a size or batch is below 1.
        ProviderError, ModelError, InferenceError: it cannot run here, or not this model.
    """
    clock, say = clock or SystemClock(), progress or (lambda _: None)
    if provider not in BUILDABLE:
        raise UsageError(f"provider {provider} makes nothing ahead; build is for {', '.join(BUILDABLE)}")
    if not images or any(width < 1 or height < 1 for width, height in images):
        raise UsageError(f"images have 1x1 pixels or more, not {list(images)}")
    made: list[Built] = []
    if not (exact or fused.obstacle(spec)):
        say(f"graph of {spec.name} that takes images as bytes")
        started_ns = clock.monotonic_ns()
        spec = fused.fused(spec)
        made.append(Built("graph", spec.path, (clock.monotonic_ns() - started_ns) / 1e9))
    say(f"engine of {spec.name}, batch {batch}: minutes where it is not there yet")
    started_ns = clock.monotonic_ns()
    engine = Engine(spec, provider=provider, batch=batch, exact=exact)
    try:
        for width, height in images:
            engine.check(width, height)
    finally:
        engine.close()
    if provider == "tensorrt":
        seconds = (clock.monotonic_ns() - started_ns) / 1e9
        made.append(Built("engine", engine_folder(spec, batch), seconds))
    return tuple(made)


def is_built(spec: ModelSpec, batch: int, *, exact: bool = False) -> bool:
    """Whether a session of TensorRT's starts in seconds, with whatever images: an engine is there, for one size."""
    if nvidia.follows_image(spec) or precision.tensorrt_halves(_as_run(spec, exact=exact)) is None:
        return False
    return nvidia.is_built(engine_folder(_as_run(spec, exact=exact), batch))


def _as_run(spec: ModelSpec, *, exact: bool) -> ModelSpec:
    return spec if exact or fused.obstacle(spec) else fused.fused(spec)


def engine_folder(spec: ModelSpec, batch: int) -> Path:
    """Where TensorRT's engine of a model is, or will be if half precision is no good."""
    half = bool(precision.tensorrt_halves(spec))
    return nvidia.engine_folder(nvidia.engine_key(spec, batch=batch, fp16=half, gpu=nvidia.gpu_name()))

"""A depth model: its specification, and the engines that run it."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, runtime_checkable

from streamdepth.core import limits
from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import InferenceError, UsageError
from streamdepth.core.host import cache_note
from streamdepth.geometry.readers import camera_of
from streamdepth.inference import agreement, providers, sessions
from streamdepth.inference.build import BuildProcess, BuildRequest, build_first, is_built
from streamdepth.inference.nvidia import follows_image
from streamdepth.models.selection import AUTO, CPU, CUDA

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from streamdepth.core.frame import DepthMap, Sense
    from streamdepth.geometry import Intrinsics
    from streamdepth.inference.engine import Engine
    from streamdepth.inference.slots import Slot
    from streamdepth.models.hub import Progress
    from streamdepth.models.spec import Match, ModelSpec, Preprocessing


class Runner(Protocol):
    """What a pipeline runs: an :class:`~streamdepth.inference.engine.Engine`, or an engine swap."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def provider(self) -> str:
        """The provider in use."""
        ...

    @property
    def batch(self) -> int:
        """Rows of a slot."""
        ...

    @property
    def workers(self) -> int:
        """Threads that may call ``run`` at once."""
        ...

    @property
    def note(self) -> str:
        """What was assumed, left out or fallen back from so far; may be empty."""
        ...

    def network_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """(width, height) of the network's input for an image. Thread-safe."""
        ...

    def acquire(self, size: tuple[int, int]) -> Slot:
        """A free slot for network size (width, height). Thread-safe."""
        ...

    def run(self, slot: Slot, count: int) -> list[DepthMap]:
        """Depth of the first ``count`` rows of a slot."""
        ...

    def interrupt(self) -> None:
        """End the run in progress and refuse all later ones. Thread-safe, idempotent."""
        ...

    def close(self) -> None:
        """Release everything. Idempotent."""
        ...


_CUDA, _TENSORRT = CUDA.name, "tensorrt"


@runtime_checkable
class EngineSource(Protocol):
    """What a pipeline runs: a :class:`DepthModel`, or a ``DepthEstimator``, which has one."""

    @property
    def spec(self) -> ModelSpec: ...

    def engine(self, batch: int = 1, *, exact: bool | None = None, workers: int = 1) -> Engine: ...

    def live_engine(self, batch: int = 1) -> Runner: ...


class ModelOptions(TypedDict, total=False):
    """Keywords of :class:`DepthModel`, for callables that pass them on."""

    dtype: str
    revision: str | None
    provider: str
    size: str | int | Sequence[int] | None
    sense: str | Sense | None
    preprocessing: Preprocessing | Mapping[str, Any] | None
    match: Match
    input_name: str | None
    output_name: str | None
    metres_per_unit: float | None
    intrinsics: Intrinsics | Callable[[int, int], Intrinsics] | str | None
    fov_degrees: float | None
    exact: bool | None
    threads: int | None
    cache_dir: Path | None
    progress: Progress | None
    on_status: Callable[[str], None] | None


class DepthModel:
    """A depth model and the factory of its engines. Thread-safe.

    The constructor finds the model, downloads it if necessary, and reads its graph. Engines load it; the model itself
    holds nothing that has to be closed.

    Args:
        model: ``"built-in"``, a path of an ``.onnx`` file or of a folder in the transformers.js layout, or a Hub name
            (see :func:`~streamdepth.models.selection.target_of` for the distinction).
        dtype: ``"auto"`` takes the preference of the repository's author, else of the provider (see
            :mod:`streamdepth.models.selection`); one of the nine of the Hub's layout is never replaced.
        revision: branch, tag or commit of a Hub repository.
        provider: execution provider, or ``"auto"``.
        size: network size, ``N`` or ``"WxH"``; None = the model's own.
        sense: meaning of the output, if the model does not say it. If it does, only the direction of relative depth
            can be changed, not whether it is metres.
        preprocessing: all rules, or a mapping of the fields to change (``{"do_normalize": False}``).
        match: library whose resizing the exact path reproduces, before and after the network: ``"transformers"``, or
            ``"transformersjs"`` as it runs in Node.js; then as ``exact=True``.
        input_name, output_name: of the image and the depth, where the graph has several.
        metres_per_unit: factor from a metric output to metres.
        intrinsics: of the images, for models that need them for metres: a value, a function of (width, height), text
            ``"fx,fy,cx,cy"``, or the path of a calibration file.
        fov_degrees: horizontal field of view instead of intrinsics.
        exact: preprocess exactly as ``transformers`` does. None = images yes, video the fast way. With True,
            ``auto`` takes no provider that may compute in bf16.
        threads: threads of one operator on the CPU, None = from the cores.
        cache_dir: the Hub cache to use.
        progress: called during downloads.
        on_status: called with one line when something takes long or changes in a run: a TensorRT engine is built, or
            takes over. May be called on another thread.
    Raises:
        UsageError, ModelError, ModelNotFoundError, DeadlineError: as :func:`streamdepth.models.resolve.resolve`.
    """

    def __init__(
        self,
        model: str | Path = "built-in",
        *,
        dtype: str = "auto",
        revision: str | None = None,
        provider: str = AUTO,
        size: str | int | Sequence[int] | None = None,
        sense: str | Sense | None = None,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None,
        match: Match = "transformers",
        input_name: str | None = None,
        output_name: str | None = None,
        metres_per_unit: float | None = None,
        intrinsics: Intrinsics | Callable[[int, int], Intrinsics] | str | None = None,
        fov_degrees: float | None = None,
        exact: bool | None = None,
        threads: int | None = None,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
        on_status: Callable[[str], None] | None = None,
    ) -> None:
        if threads is not None:
            limits.SESSION_THREADS.check("threads", threads)
        if match != "transformers" and exact is False:
            raise UsageError(f"match {match}: needs the exact path; leave exact=False (--fast) out")
        if exact not in (None, True, False):
            raise UsageError(f"exact is True, False or None (images yes, video no), not {exact!r}")
        if provider != AUTO:
            providers.provider_named(provider)  # refuses an unknown one before a download
        from streamdepth.models.resolve import resolve

        self.exact, self.threads = exact, threads
        if provider == AUTO and (exact or match != "transformers") and providers.may_narrow(providers.likely()):
            provider = CPU.name  # bf16 differs by 1 % of the range
        self._requested_provider = provider
        camera, strict = camera_of(intrinsics, fov_degrees, any_shape=True), camera_of(intrinsics, fov_degrees)
        found = partial(
            resolve,
            model,
            revision=revision,
            size=size,
            sense=sense,
            preprocessing=preprocessing,
            match=match,
            input_name=input_name,
            output_name=output_name,
            metres_per_unit=metres_per_unit,
            camera=camera is not None,
            provider=providers.likely(provider),
            cache_dir=cache_dir,
            progress=progress,
        )
        if on_status is not None and (note := cache_note()):
            on_status(note)
        self._factory = EngineFactory(
            found(dtype=dtype),
            provider,
            threads=threads,
            camera=camera,
            check_image=None if strict is None else partial(_check_camera, strict),
            fp32=partial(found, dtype="fp32"),
            on_status=on_status or (lambda _: None),
        )

    @property
    def spec(self) -> ModelSpec:
        """The model's specification; on CUDA, from the first engine on, of the dtype that passed there."""
        return self._factory.spec

    @property
    def provider(self) -> str:
        """The provider that an engine will most likely use; an engine has the one that it uses."""
        return providers.likely(self._requested_provider)

    def engine(self, batch: int = 1, *, exact: bool | None = None, workers: int = 1) -> Engine:
        """A new engine, checked on a built-in image. The caller closes it.

        Args:
            exact: None = as the model's ``exact``, where that is None the fast way.
            workers: threads that would call ``run`` at the same time; the engine says how many may.
        Raises:
            ProviderError, ModelError, InferenceError: see :class:`streamdepth.inference.engine.Engine`.
        """
        return self._factory.engine(batch, exact=exact if exact is not None else bool(self.exact), workers=workers)

    def live_engine(self, batch: int = 1) -> Runner:
        """As ``engine``, but available at once.

        While TensorRT's engine is being built, the model runs on CUDA; ``on_status`` reports when TensorRT takes over.
        """
        return self._factory.live(batch, exact=bool(self.exact))

    def trial_engine(self, batch: int = 1) -> Engine:
        """As ``engine``, to measure a batch with: on CUDA where TensorRT would build an engine for each batch."""
        return self._factory.trial(batch)


def _check_camera(camera: Callable[[int, int], Intrinsics], width_px: int, height_px: int) -> None:
    """Raises ``UsageError``: the intrinsics are not of an image of this shape, turned by 90 degrees or not."""
    try:
        camera(width_px, height_px)
    except ValueError as exc:
        try:
            camera(height_px, width_px)
        except ValueError:
            raise UsageError(str(exc)) from exc


class EngineFactory:
    """Makes engines of one model. Thread-safe.

    Args:
        provider: a name of :func:`streamdepth.inference.providers.provider_names`.
        threads: threads of one operator on the CPU, None = from the cores.
        camera: intrinsics of an image of (width, height), None = unknown.
        check_image: as for the engine.
        fp32: finds the model's float32 file, if its half-precision one disagrees on a GPU.
        on_status: called with one line when something takes long or changes; may be called on another thread.
    """

    def __init__(
        self,
        spec: ModelSpec,
        provider: str,
        *,
        threads: int | None,
        camera: Callable[[int, int], Intrinsics] | None = None,
        check_image: Callable[[int, int], object] | None = None,
        fp32: Callable[[], ModelSpec],
        on_status: Callable[[str], None],
    ) -> None:
        self._spec, self._provider, self._threads = spec, provider, threads
        self._camera, self._check_image = camera, check_image
        self._fp32, self._on_status = fp32, on_status
        self._deciding = threading.Lock()
        self._on_cuda: tuple[ModelSpec, str] | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model; on CUDA, from the first engine on, in the precision that is used there."""
        known = self._on_cuda
        return self._spec if known is None or providers.likely(self._provider) != _CUDA else known[0]

    def engine(self, batch: int, *, exact: bool, workers: int = 1) -> Engine:
        """A new engine, after everything that it needs is built. The caller closes it.

        Raises:
            ProviderError, ModelError, InferenceError: see :class:`streamdepth.inference.engine.Engine`.
        """
        if self._provider == _TENSORRT:
            providers.check_runs(providers.provider_named(_TENSORRT))
            missing = self._missing(batch, exact=exact)
            if missing is not None and follows_image(self._spec):
                self._on_status(
                    f"{self._spec.name}: its network size depends on the image, and TensorRT takes minutes for the "
                    "first image of each size; give --size WxH to build it once"
                )
            elif missing is not None:
                build_first(missing, SystemClock(), self._on_status)
        return self._opened(self._provider, batch, exact=exact, workers=workers)

    def trial(self, batch: int) -> Engine:
        """As ``engine``, to measure with: nothing is built, and CUDA replaces TensorRT."""
        return self._opened(_CUDA if self._provider == _TENSORRT else self._provider, batch, exact=False)

    def live(self, batch: int, *, exact: bool) -> Runner:
        """As ``engine``, available at once: on CUDA until TensorRT's engine is built."""
        missing = None
        if self._spec.states:
            return self.engine(batch, exact=exact)  # a state does not move to another engine
        if self._provider == _TENSORRT:
            providers.check_runs(providers.provider_named(_TENSORRT))
            missing = self._missing(batch, exact=exact)
        if missing is None:
            return self.engine(batch, exact=exact)
        from streamdepth.inference.engine_swap import EngineSwap

        return EngineSwap(
            self._opened(_CUDA, batch, exact=exact),
            build=lambda image: BuildProcess(replace(missing, images=(image,))),
            second=lambda: self._opened(_TENSORRT, batch, exact=exact),
            on_status=self._on_status,
        )

    def _missing(self, batch: int, *, exact: bool) -> BuildRequest | None:
        """The build that TensorRT needs, None where it is done."""
        if is_built(self._spec, batch, exact=exact):
            return None
        return BuildRequest(self._spec, batch=batch, exact=exact)

    def _opened(self, provider: str, batch: int, *, exact: bool, workers: int = 1) -> Engine:
        spec, note = self._in_precision(provider)
        engine = self._checked(spec, provider, batch, exact=exact, workers=workers)
        engine.note = "; ".join(text for text in (note, engine.note) if text)
        return engine

    def _in_precision(self, provider: str) -> tuple[ModelSpec, str]:
        """The model in the precision for a provider, and a line if that has to be float32."""
        if providers.likely(provider) != _CUDA or providers.why_not(providers.provider_named(_CUDA)):
            return self._spec, ""  # the engine reports why, or falls back
        with self._deciding:
            if self._on_cuda is None:
                self._on_cuda = agreement.for_cuda(
                    self._spec,
                    open_half=lambda half: sessions.open_session(half, _CUDA, graph=False).session,
                    open_reference=lambda spec: sessions.open_session(spec, CPU.name).session,
                    fp32=self._fp32,
                )
            return self._on_cuda

    def _checked(self, spec: ModelSpec, provider: str, batch: int, *, exact: bool, workers: int) -> Engine:
        def made(*, cuda_graph: bool) -> Engine:
            from streamdepth.inference.engine import Engine
            from streamdepth.inference.engine_swap import FallbackEngine

            make: Callable[..., Engine] = partial(Engine, provider=provider)
            if provider == AUTO:
                make = partial(FallbackEngine, on_status=self._on_status)
            engine = make(
                spec, batch=batch, exact=exact, threads=self._threads, workers=workers,
                camera=self._camera, check_image=self._check_image, cuda_graph=cuda_graph,
            )  # fmt: skip
            try:
                engine.check()
            except BaseException:
                engine.close()
                raise
            return engine

        try:
            return made(cuda_graph=True)
        except InferenceError as error:
            if providers.likely(provider) not in providers.ON_DEVICE:
                raise
            engine = made(cuda_graph=False)  # fails again if the recording was not the cause
            engine.note = "; ".join(text for text in (engine.note, f"no CUDA graph: {error.message}") if text)
            return engine

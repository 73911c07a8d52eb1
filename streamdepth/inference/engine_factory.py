"""From a model and the name of a provider to a checked engine: which precision, and what has to be built before."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import InferenceError
from streamdepth.inference import providers, sessions
from streamdepth.inference.build_process import BuildProcess, BuildRequest, build_first
from streamdepth.inference.nvidia import follows_image

if TYPE_CHECKING:
    from collections.abc import Callable

    from streamdepth.inference.engine import Engine
    from streamdepth.inference.runner import Runner
    from streamdepth.models.spec import ModelSpec

_CUDA, _TENSORRT = "cuda", "tensorrt"


class EngineFactory:
    """Opens engines of one model. Thread-safe.

    Args:
        provider: a name of :func:`streamdepth.inference.providers.provider_names`.
        threads: of one operator on the CPU, None = from the cores.
        fp32: finds the model's float32 file, should its half-precision one not pass on a GPU.
        tell: told what takes long or changes; may be called on a thread of its own.
    """

    def __init__(
        self,
        spec: ModelSpec,
        provider: str,
        *,
        threads: int | None,
        fp32: Callable[[], ModelSpec],
        tell: Callable[[str], None],
    ) -> None:
        self._spec, self._provider, self._threads = spec, provider, threads
        self._fp32, self._tell = fp32, tell
        self._deciding = threading.Lock()
        self._on_cuda: tuple[ModelSpec, str] | None = None

    @property
    def spec(self) -> ModelSpec:
        """The model; on CUDA, from the first engine on, in the precision that passed there."""
        known = self._on_cuda
        return self._spec if known is None or providers.likely(self._provider) != _CUDA else known[0]

    def engine(self, batch: int, *, exact: bool, workers: int = 1) -> Engine:
        """An engine, once all that it needs is built; the caller closes it.

        Raises:
            ProviderError, ModelError, InferenceError: see :class:`streamdepth.inference.engine.Engine`.
        """
        if self._provider == _TENSORRT:
            providers.check_runs(providers.provider_named(_TENSORRT))
            missing = self._missing(batch, exact=exact)
            if missing is not None and follows_image(self._spec):
                self._tell(
                    f"{self._spec.name}: its network size follows the image's, and TensorRT takes minutes for the "
                    "first image of each; give --size WxH to have it built once"
                )
            elif missing is not None:
                build_first(missing, SystemClock(), self._tell)
        return self._opened(self._provider, batch, exact=exact, workers=workers)

    def trial(self, batch: int) -> Engine:
        """As ``engine``, to measure with: nothing is built for it, and CUDA stands for TensorRT."""
        return self._opened(_CUDA if self._provider == _TENSORRT else self._provider, batch, exact=False)

    def live(self, batch: int, *, exact: bool) -> Runner:
        """As ``engine``, at once: on CUDA for as long as TensorRT's engine is not there."""
        missing = None
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
            tell=self._tell,
        )

    def _missing(self, batch: int, *, exact: bool) -> BuildRequest | None:
        """What TensorRT would spend minutes on, None where it is there."""
        from streamdepth.inference.build import is_built

        if is_built(self._spec, batch, exact=exact):
            return None
        return BuildRequest(self._spec, batch=batch, exact=exact)

    def _opened(self, provider: str, batch: int, *, exact: bool, workers: int = 1) -> Engine:
        spec, note = self._in_precision(provider)
        engine = self._checked(spec, provider, batch, exact=exact, workers=workers)
        engine.note = "; ".join(text for text in (note, engine.note) if text)
        return engine

    def _in_precision(self, provider: str) -> tuple[ModelSpec, str]:
        """The model in the precision that a provider is good for, and a line where that had to be float32."""
        if providers.likely(provider) != _CUDA or providers.why_not(providers.provider_named(_CUDA)):
            return self._spec, ""  # the engine says why not, or falls back
        with self._deciding:
            if self._on_cuda is None:
                from streamdepth.inference import precision

                self._on_cuda = precision.for_cuda(
                    self._spec,
                    open_half=lambda half: sessions.open_session(half, _CUDA, graph=False).session,
                    fp32=self._fp32,
                )
            return self._on_cuda

    def _checked(self, spec: ModelSpec, provider: str, batch: int, *, exact: bool, workers: int) -> Engine:
        def made(*, cuda_graph: bool) -> Engine:
            from streamdepth.inference.engine import Engine

            engine = Engine(
                spec, provider=provider, batch=batch, exact=exact, threads=self._threads, workers=workers,
                cuda_graph=cuda_graph,
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
            engine = made(cuda_graph=False)  # which fails again where it was not the recording
            engine.note = "; ".join(text for text in (engine.note, f"no CUDA graph: {error.message}") if text)
            return engine

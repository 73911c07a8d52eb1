"""Build ahead what a first run would build: TensorRT's engines, and graphs with their preprocessing."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from streamdepth.core.clock import SystemClock
from streamdepth.core.errors import ProviderError, StreamDepthError, UsageError
from streamdepth.core.host import own_process_group
from streamdepth.inference import fused, nvidia
from streamdepth.inference.agreement import tensorrt_halves
from streamdepth.media.scene import HEIGHT_PX, WIDTH_PX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from streamdepth.core.clock import Clock
    from streamdepth.models.spec import ModelSpec

BUILDABLE = ("tensorrt", "cuda")


@dataclass(frozen=True, slots=True)
class Built:
    """A result of :func:`build`.

    Attributes:
        name: ``graph`` or ``engine``.
        path: a file, or its folder.
        seconds: build time; about 0 if it existed.
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
        images: (width, height) of the expected images: the network's size may depend on it.
        batch: maximum images of a run.
        exact: for images preprocessed as ``transformers`` does instead of in the graph.
        progress: called with the name of the next step.
    Raises:
        UsageError: the provider builds nothing, or a size or batch is below 1.
        ProviderError, ModelError, InferenceError: the provider cannot run here, or cannot run this model.
    """
    clock, say = clock or SystemClock(), progress or (lambda _: None)
    if provider not in BUILDABLE:
        raise UsageError(f"provider {provider} builds nothing; choose one of {', '.join(BUILDABLE)}")
    if not images or any(width < 1 or height < 1 for width, height in images):
        raise UsageError(f"an image has at least 1x1 pixels, not {list(images)}")
    from streamdepth.inference.engine import Engine

    made: list[Built] = []
    if not (exact or fused.fusing_obstacle(spec)):
        say(f"graph of {spec.name} that takes images as bytes")
        started_ns = clock.monotonic_ns()
        spec = fused.fused(spec)
        made.append(Built("graph", spec.path, (clock.monotonic_ns() - started_ns) / 1e9))
    say(f"engine of {spec.name}, batch {batch}: takes minutes if it does not exist yet")
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
    """Whether a TensorRT session starts in seconds for any image: the engine exists and the network has one size."""
    if nvidia.follows_image(spec) or tensorrt_halves(_as_run(spec, exact=exact)) is None:
        return False
    return nvidia.is_built(engine_folder(_as_run(spec, exact=exact), batch))


def _as_run(spec: ModelSpec, *, exact: bool) -> ModelSpec:
    return spec if exact or fused.fusing_obstacle(spec) else fused.fused(spec)


def engine_folder(spec: ModelSpec, batch: int) -> Path:
    """Folder of TensorRT's engine of a model."""
    half = bool(tensorrt_halves(spec))
    return nvidia.engine_folder(nvidia.engine_key(spec, batch=batch, fp16=half, gpu=nvidia.gpu_name()))


_TICK_SECONDS = 0.1
_REPORT_SECONDS = 30.0
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Arguments of :func:`build` in a child process."""

    spec: ModelSpec
    provider: str = "tensorrt"
    images: tuple[tuple[int, int], ...] = ((WIDTH_PX, HEIGHT_PX),)
    batch: int = 1
    exact: bool = False


class Build(Protocol):
    """A build in progress in another process."""

    def done(self) -> bool:
        """Whether it has ended, with or without success."""
        ...

    def reason(self) -> str:
        """After its end: why it failed, empty on success."""
        ...

    def close(self) -> None:
        """End it if it is still running. Idempotent."""
        ...


class BuildProcess:
    """A :class:`Build` that starts at once, in a process that can be ended: TensorRT takes minutes and cannot be
    interrupted. It ends when its parent ends, however that happens.

    Args:
        command: command to start instead of Python with this module.
    """

    def __init__(self, request: BuildRequest, *, command: Sequence[str] = ()) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._reason: str | None = None
        self._child = subprocess.Popen(
            list(command) or [sys.executable, "-m", __name__],
            # the child imports from the same folders as the parent
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            **own_process_group(),
        )
        assert self._child.stdin is not None  # noqa: S101 - requested above
        with contextlib.suppress(OSError):  # the child has ended: reason() says why
            self._child.stdin.write(pickle.dumps(request))
            self._child.stdin.flush()

    def done(self) -> bool:
        return self._child.poll() is not None

    def reason(self) -> str:
        if self._reason is None:
            self._reason = "" if self._child.returncode == 0 else self._last_line()
        return self._reason

    def close(self) -> None:
        if self._stderr.closed:
            return
        if not self.done():
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver
            self._child.wait(_END_SECONDS)
        if self.done():
            self.reason()
        if self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
        self._stderr.close()

    def _last_line(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the build process ended with code {self._child.returncode}"


def follow(build: Build, ending: threading.Event, clock: Clock, on_status: Callable[[str], None], what: str) -> str:
    """Wait for the end of a build and close it; returns why it failed, or an empty text.

    Args:
        ending: set from another thread to end the build early.
        on_status: called every half minute while ``what`` is still being built.
    """
    started_ns, reports = clock.monotonic_ns(), 1
    try:
        while not build.done() and not ending.wait(_TICK_SECONDS):
            seconds = (clock.monotonic_ns() - started_ns) / 1e9
            if seconds >= reports * _REPORT_SECONDS:
                reports += 1
                on_status(f"{what}: still building, {seconds:.0f} s")
        return build.reason() if build.done() else "interrupted before it was built"
    finally:
        build.close()


def build_first(request: BuildRequest, clock: Clock, on_status: Callable[[str], None]) -> None:
    """Build in another process and wait for it; Ctrl-C ends the build.

    Raises:
        ProviderError: the build failed; says why.
    """
    from streamdepth.inference.providers import check_runs, provider_named

    check_runs(provider_named(request.provider))
    what = f"{request.spec.name}: TensorRT's engine, batch {request.batch}"
    on_status(f"{what}: building; this takes minutes once")
    reason = follow(BuildProcess(request), threading.Event(), clock, on_status, what)
    if reason:
        raise ProviderError(reason if reason.startswith("provider ") else f"provider {request.provider}: {reason}")


def main() -> int:
    """The child process: reads a request from standard input, which stays open as long as the parent lives."""
    request: BuildRequest = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        build(
            request.spec, request.provider, images=request.images, batch=request.batch, exact=request.exact
        )  # fmt: skip
    except StreamDepthError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    # unbuffered: the lock of a buffer would be held when the interpreter ends
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

"""``build`` in a process of its own: TensorRT takes minutes and cannot be interrupted, a process can be ended."""

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

from streamdepth.core.errors import ProviderError, StreamDepthError
from streamdepth.inference.pattern import HEIGHT_PX, WIDTH_PX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.models.spec import ModelSpec

_TICK_SECONDS = 0.1
_TELL_SECONDS = 30.0
_END_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Arguments of :func:`streamdepth.inference.build.build`, as the child gets them."""

    spec: ModelSpec
    provider: str = "tensorrt"
    images: tuple[tuple[int, int], ...] = ((WIDTH_PX, HEIGHT_PX),)
    batch: int = 1
    exact: bool = False


class Build(Protocol):
    """Something being built elsewhere."""

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        ...

    def reason(self) -> str:
        """After its end: why it failed, empty where it did not."""
        ...

    def close(self) -> None:
        """End it if it still runs. Idempotent."""
        ...


class BuildProcess:
    """A :class:`Build` that starts at once. It ends with its parent, however that ends.

    Args:
        command: what to start instead of Python with this module.
    """

    def __init__(self, request: BuildRequest, *, command: Sequence[str] = ()) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._reason: str | None = None
        self._child = subprocess.Popen(
            list(command) or [sys.executable, "-m", __name__],
            # the child finds what the parent found, wherever that was started
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C in the terminal must not reach it
        )
        assert self._child.stdin is not None  # noqa: S101 - asked for above
        with contextlib.suppress(OSError):  # it went first: reason() says why
            self._child.stdin.write(pickle.dumps(request))
            self._child.stdin.flush()

    def done(self) -> bool:
        return self._child.poll() is not None

    def reason(self) -> str:
        if self._reason is None:
            self._reason = "" if self._child.returncode == 0 else self._last_line()
        return self._reason

    def close(self) -> None:
        if self._said.closed:
            return
        if not self.done():
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the driver: it is left to the system
            self._child.wait(_END_SECONDS)
        if self.done():
            self.reason()
        if self._child.stdin is not None:
            with contextlib.suppress(OSError):
                self._child.stdin.close()
        self._said.close()

    def _last_line(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"the process that builds it ended with {self._child.returncode}"


def follow(build: Build, ending: threading.Event, clock: Clock, on_status: Callable[[str], None], what: str) -> str:
    """Wait for a build's end and close it; the reason of its failure, or an empty text.

    Args:
        ending: set from another thread to end it early.
        on_status: called every half minute while ``what`` is still being built.
    """
    started_ns, told = clock.monotonic_ns(), 1
    try:
        while not build.done() and not ending.wait(_TICK_SECONDS):
            seconds = (clock.monotonic_ns() - started_ns) / 1e9
            if seconds >= told * _TELL_SECONDS:
                told += 1
                on_status(f"{what}: still building, {seconds:.0f} s")
        return build.reason() if build.done() else "ended before it was built"
    finally:
        build.close()


def build_first(request: BuildRequest, clock: Clock, on_status: Callable[[str], None]) -> None:
    """Build and wait for it; Ctrl-C ends it.

    Raises:
        ProviderError: it cannot be built; says why.
    """
    from streamdepth.inference.providers import check_runs, provider_named

    check_runs(provider_named(request.provider))
    what = f"{request.spec.name}: TensorRT's engine, batch {request.batch}"
    on_status(f"{what}: building, which takes minutes and is kept")
    reason = follow(BuildProcess(request), threading.Event(), clock, on_status, what)
    if reason:
        raise ProviderError(reason if reason.startswith("provider ") else f"provider {request.provider}: {reason}")


def main() -> int:
    """The child: what to build comes in, and the way in stays open for as long as the parent lives."""
    request: BuildRequest = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    from streamdepth.inference.build import build

    try:
        build(
            request.spec, request.provider, images=request.images, batch=request.batch, exact=request.exact
        )  # fmt: skip
    except StreamDepthError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


def _end_with_parent() -> None:
    # not through Python's buffer: its lock would be held when the interpreter ends
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

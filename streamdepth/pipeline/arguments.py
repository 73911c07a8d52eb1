"""Arguments of Python callers: converted, or refused with what is expected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamdepth.core import limits
from streamdepth.core.contracts import Sink, Source
from streamdepth.core.errors import UsageError
from streamdepth.core.queues import Policy
from streamdepth.depth.alignment import Anchor
from streamdepth.depth.range import RangeSpec, RangeSwitch
from streamdepth.inference.model import EngineSource
from streamdepth.pipeline.stabilization import StabilizeSwitch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamdepth.core.clock import Clock
    from streamdepth.depth.odometry import KnownMotion

    SinkMaker = Callable[[Source], Sequence[Sink]]
    SourceMaker = Callable[[], Source]


def to_sources(sources: Sequence[Source | str]) -> list[Source]:
    """Raises ``UsageError``: none, or not a list of sources."""
    if isinstance(sources, str | bytes) or not isinstance(sources, Iterable):
        raise UsageError(f"sources is a list of sources, not {_named(sources)}; pass [SOURCE]")
    found = [to_source(source) for source in sources]
    if not found:
        raise UsageError("a pipeline needs at least one source")
    return found


def to_source(source: Source | str | SourceMaker) -> Source:
    """``source``, or the source that a command-line string names.

    Raises:
        UsageError: neither.
        StreamDepthError: the string names no source.
    """
    if isinstance(source, str):
        from streamdepth.sources.select import source_for

        return source_for(source)
    if isinstance(source, type) or not isinstance(source, Source):
        raise UsageError(f"{_named(source)} is not a source; pass a Source, or a string as on the command line")
    return source


def to_sinks(sinks: Sequence[Sink] | SinkMaker, source: Source) -> list[Sink]:
    """The sinks of ``source``.

    Raises:
        UsageError: not a list of sinks, nor a function that returns one.
    """
    if callable(sinks):
        try:
            sinks = sinks(source)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
                raise  # of the function itself
            raise UsageError(
                f"sinks={_named(sinks)} does not take one source and return its sinks ({error}); "
                "pass a function of frame and depth as callback="
            ) from error
    listed: Any = sinks
    if isinstance(listed, str | bytes) or not isinstance(listed, Iterable):
        raise UsageError(f"sinks is a list of sinks, not {_named(sinks)}; pass [SINK], or [] for none")
    found: list[Any] = list(listed)
    for sink in found:
        if isinstance(sink, type) or not isinstance(sink, Sink):
            hint = "pass a function as callback=" if callable(sink) else "derive it from streamdepth.BaseSink"
            raise UsageError(f"{_named(sink)} is not a sink (a class with open, process, close ...); {hint}")
    return found


def to_policy(policy: Policy | str | None, default: Policy) -> Policy:
    """Raises ``UsageError``: another value."""
    try:
        return default if policy is None else Policy(policy)
    except ValueError:
        raise UsageError(f"policy is one of {', '.join(Policy)}, not {policy!r}") from None


def to_range(given: RangeSpec | RangeSwitch | str | None) -> RangeSpec | RangeSwitch | None:
    """Raises ``UsageError``: not a range."""
    if given is None or isinstance(given, RangeSpec | RangeSwitch):
        return given
    return RangeSpec.parse(given if isinstance(given, str) else repr(given))


def check_run(
    *,
    model: EngineSource | None,
    batch: int,
    deadline_seconds: float,
    on_status: Callable[[str], None] | None,
    clock: Clock | None,
) -> None:
    """Check what a pipeline and a group of cameras have in common.

    Raises:
        UsageError: a wrong value.
    """
    if model is not None and (isinstance(model, type) or not isinstance(model, EngineSource)):
        raise UsageError(f"model is a DepthModel or DepthEstimator, not {_named(model)}; pass DepthEstimator(MODEL)")
    limits.BATCH.check("batch", batch)
    limits.DEADLINE_SECONDS.check("deadline_seconds", deadline_seconds)
    check_function("on_status", on_status)
    if clock is not None:
        check_function("clock.monotonic_ns", getattr(clock, "monotonic_ns", clock))


@dataclass(frozen=True, slots=True)
class StageOptions:
    """Options of the stages of one source, see :class:`~streamdepth.pipeline.Pipeline`.

    Raises:
        UsageError: a wrong value.
    """

    model_every: int = 1
    anchors: Sequence[Anchor] | KnownMotion = ()
    stabilize: bool | StabilizeSwitch = False
    color_threads: int = 1

    def __post_init__(self) -> None:
        from streamdepth.depth.odometry import KnownMotion

        limits.MODEL_EVERY.check("model_every", self.model_every)
        limits.FFMPEG_THREADS.check("color_threads", self.color_threads)
        if not isinstance(self.stabilize, bool | StabilizeSwitch):
            raise UsageError(f"stabilize is True, False or a StabilizeSwitch, not {self.stabilize!r}")
        anchors = self.anchors
        listed = isinstance(anchors, list | tuple) and all(isinstance(anchor, Anchor) for anchor in anchors)
        if not (listed or isinstance(anchors, KnownMotion)):
            raise UsageError(f"anchors is a list of Anchor, or a KnownMotion, not {anchors!r}")


def check_function(name: str, function: object) -> None:
    """Raises ``UsageError``: neither a function nor None."""
    if function is not None and not callable(function):
        raise UsageError(f"{name} is a function, not {function!r}")


def _named(value: Any) -> str:
    """A function or class by its name, anything else as Python shows it."""
    return getattr(value, "__qualname__", None) or repr(value)

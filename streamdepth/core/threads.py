"""Number of threads of each stage, planned from the number of cores."""

from __future__ import annotations

from dataclasses import dataclass

from streamdepth.core.errors import UsageError

_MOST_DECODING = 4
"""One core decodes 200 to 400 frames of 1080p H.264 per second; more threads only add decoder delay."""
_MOST_SESSION = 16
_LEAST_SHARE = 3
"""The defaults of FFmpeg and x264 on two cores. Fewer threads per stage are not faster: relative to this, two decoders
with one thread each ran at 0.98 to 1.01, two encoders at 0.73 with one thread each and at 0.82 with two, with equal CPU
time per frame (medians of paired runs, 720p, loaded machine). More cores were not measured."""


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads per stage. Stages overlap, so the sum may exceed the number of cores. No thread spins.

    Attributes:
        session: intra-op threads of the inference session.
        decoder: threads of each decoder.
        kernels: threads that share the rows of one image in the colour stage.
    """

    session: int
    decoder: int
    kernels: int


def plan_threads(cores: int, *, decoders: int = 1, encoders: int = 1) -> ThreadPlan:
    """Divide ``cores`` among the stages.

    The session gets all cores: it is the slowest stage, and its threads sleep between runs. Decoders share the cores
    among themselves; a single one gets one extra thread, because frame threads mostly wait for rows of the previous
    frame. The colour stage gets a second thread only if a core is likely to be idle. Encoders are not planned here:
    their threads follow from the frame size (:func:`streamdepth.sinks.encoder_settings.encoder_threads`).

    Args:
        decoders, encoders: number running at the same time; ``--range shot`` decodes twice.
    Raises:
        UsageError: ``cores`` or ``decoders`` below 1, or ``encoders`` below 0.
    """
    for name, count in (("cores", cores), ("decoders", decoders)):
        if count < 1:
            raise UsageError(f"{name} is at least 1, not {count}")
    if encoders < 0:
        raise UsageError(f"encoders is at least 0, not {encoders}")
    return ThreadPlan(
        session=min(cores, _MOST_SESSION),
        decoder=_share(cores, decoders, _MOST_DECODING),
        kernels=max(1, min(4, cores // (4 * max(1, encoders)))),
    )


def _share(cores: int, users: int, most: int) -> int:
    if cores == 1:
        return 1
    return min(most, cores + 1 if users == 1 else max(_LEAST_SHARE, cores // users))

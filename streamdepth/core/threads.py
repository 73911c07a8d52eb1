"""How many threads each stage gets, planned together from the cores there are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from streamdepth.core.errors import UsageError

_MOST_DECODING = 4
"""H.264 at 1080p decodes at 200 to 400 frames a second on one core; more threads only hold more images back."""
_MOST_ENCODING = 12
"""x264's own default is 1.5 a core; beyond a dozen its rows run out at 1080p and each thread still costs an image."""
_MOST_SESSION = 16
_LEAST_SHARE = 3
"""What FFmpeg and x264 take by themselves on two cores. Sharing two cores out to the last thread won nothing: two
decoders with one thread each ran at 0.98 to 1.01 of that, two encoders with one each at 0.73, with two at 0.82, at the
same CPU a frame (medians of pairs of runs, 720p, a busy machine). More cores were not measured."""


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads of each kind. Stages overlap, so that the sum may pass the cores; nothing spins.

    Attributes:
        session: of one operator of the model.
        decoder: of each decoder.
        encoder: of each encoder.
        kernels: that share the rows of one image when it is coloured.
    """

    session: int
    decoder: int
    encoder: int
    kernels: int


def cores() -> int:
    """Cores this process may use: its affinity where the system tells, which a container's limit often sets."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


def plan_threads(cores: int, *, decoders: int = 1, encoders: int = 1) -> ThreadPlan:
    """Share out ``cores``.

    The model gets all of them: it is what frames wait for, and threads that sleep between runs take nothing from the
    others. Decoders and encoders share the cores among their own kind, one alone with a thread to spare, since a frame
    thread mostly waits for its neighbour's rows. Colour takes a second thread only where a core is likely to be free.

    Args:
        decoders, encoders: how many run at the same time; ``--range shot`` decodes twice.
    Raises:
        UsageError: any count below 1 (0 encoders is fine).
    """
    for name, count in (("cores", cores), ("decoders", decoders)):
        if count < 1:
            raise UsageError(f"{name} is at least 1, not {count}")
    if encoders < 0:
        raise UsageError(f"encoders is at least 0, not {encoders}")
    return ThreadPlan(
        session=min(cores, _MOST_SESSION),
        decoder=_share(cores, decoders, _MOST_DECODING),
        encoder=_share(cores, max(1, encoders), _MOST_ENCODING),
        kernels=max(1, min(4, cores // (4 * max(1, encoders)))),
    )


def _share(cores: int, users: int, most: int) -> int:
    if cores == 1:
        return 1
    return min(most, cores + 1 if users == 1 else max(_LEAST_SHARE, cores // users))

"""Divides a clip into segments, by demuxing only."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from streamdepth.core.errors import SourceError
from streamdepth.jobs.values import ClipPlan, Segment
from streamdepth.sources.file import FileSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from streamdepth.jobs.values import ClipSettings
    from streamdepth.sources.timestamps import PacketStamp


def clip_source(settings: ClipSettings, *, threads: int = 0) -> FileSource:
    """The unopened source of a clip."""
    return FileSource(
        settings.source,
        start_seconds=settings.start_seconds,
        duration_seconds=settings.duration_seconds,
        max_frames=settings.max_frames,
        threads=threads,
        source_id=settings.source_id,
    )


def plan_clip(settings: ClipSettings) -> ClipPlan:
    """The segments of a clip. Reads all its packets and decodes its first frame.

    A segment begins at a key frame, so that its frames are the same whether the decoder starts there or earlier. A clip
    whose packets lack the time stamps for that is one segment.

    Raises:
        SourceError: the clip cannot be read, or there is no frame in the requested part.
    """
    source = clip_source(settings)
    try:
        info = source.open()
        rereadable = source.rereadable
        stamps = list(source.packets())
    finally:
        source.close()
    if _jumps(stamps):
        raise SourceError(
            f"{settings.source_id}: its time stamps jump back, and it cannot be processed in segments; omit "
            "--resume, --workers and --engine ray",
            source=settings.source_id,
        )
    note = _why_one(stamps) if rereadable else "its frames are interlaced"
    if note:
        whole = Segment(number=0, begin_pts=0, end_pts=None, first_frame=0, frames=len(stamps))
        return ClipPlan(segments=(whole,), note=_note(settings, note))
    begin = math.ceil(info.origin_seconds / info.time_base) if settings.start_seconds else None
    end = None if info.end_seconds is None else math.ceil(info.end_seconds / info.time_base)
    every = sorted(stamp.pts for stamp in stamps if stamp.pts is not None)
    wanted = [pts for pts in every if (begin is None or pts >= begin) and (end is None or pts < end)]
    if settings.max_frames is not None and len(wanted) > settings.max_frames:
        end = wanted[settings.max_frames]
        wanted = wanted[: settings.max_frames]
    if not wanted:
        raise SourceError(
            f"{settings.source_id}: no frame in the requested part; choose another start", source=settings.source_id
        )
    keys = {stamp.pts for stamp in stamps if stamp.key}
    segments = tuple(_segments(wanted, keys, end, settings.segment_seconds / info.time_base))
    if len(segments) == 1 and (wanted[-1] - wanted[0]) * info.time_base >= 2 * settings.segment_seconds:
        note = "it has no key frame where another could begin"
    return ClipPlan(segments=segments, note=_note(settings, note))


def _note(settings: ClipSettings, why: str) -> str:
    return f"{settings.source_id}: processed as one segment: {why}" if why else ""


def _segments(wanted: Sequence[int], keys: set[int | None], end: int | None, length: Fraction | float) -> list[Segment]:
    firsts = [0]
    for index, pts in enumerate(wanted):
        if pts in keys and pts - wanted[firsts[-1]] >= length:
            firsts.append(index)
    stops = [*firsts[1:], len(wanted)]
    return [
        Segment(
            number=number,
            begin_pts=wanted[first],
            end_pts=wanted[stop] if stop < len(wanted) else end,
            first_frame=first,
            frames=stop - first,
        )
        for number, (first, stop) in enumerate(zip(firsts, stops, strict=True))
    ]


def _why_one(stamps: Sequence[PacketStamp]) -> str:
    """Why the packets of a file cannot be divided; empty if they can."""
    pts = [stamp.pts for stamp in stamps]
    known = [stamp for stamp in pts if stamp is not None]
    if len(known) < len(pts):
        return "its packets have no time stamps"
    if len(set(known)) < len(known):
        return "several of its frames have the same time stamp"
    return ""


def _jumps(stamps: Sequence[PacketStamp]) -> bool:
    keys = [stamp.pts for stamp in stamps if stamp.key and stamp.pts is not None]
    decoding = [stamp.dts for stamp in stamps if stamp.dts is not None]
    return any(later <= earlier for earlier, later in pairwise(keys)) or any(
        later < earlier for earlier, later in pairwise(decoding)
    )

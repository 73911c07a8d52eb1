"""Video files that FFmpeg can demux and decode, local or over http."""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from streamdepth.core.contracts import BaseSource
from streamdepth.core.errors import SourceError, UsageError, redact
from streamdepth.core.frame import ColorTags, Frame, StreamInfo
from streamdepth.media.filters import DEINTERLACED
from streamdepth.media.hwaccel import HwAccel
from streamdepth.net.calls import AbandonableCalls, InterruptedCall
from streamdepth.net.url import find_tls_config
from streamdepth.sources.decoding import REPAIR_NOTES, Decoding
from streamdepth.sources.medium import Medium, check_readable, explain_ffmpeg, shown
from streamdepth.sources.times import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction

    import av

    from streamdepth.core.clock import Clock
    from streamdepth.sources.times import PacketStamp

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_READ_AHEAD = 2


def is_url(text: str) -> bool:
    """True for ``scheme://...``. A scheme of one letter is a Windows drive."""
    return _URL.match(text) is not None


class FileSource(BaseSource):
    """Frames of the best video stream of a file (FFmpeg's choice), in the decoder's own pixel format.

    Rotation and mirroring of the display matrix are applied once. Frames whose size, format or colour differs are
    converted to those of the first frame. Frames without pts get one (see :class:`Timeline`). Frames that cannot be
    decoded are counted in ``dropped["corrupt"]``; decoding goes on after them.

    Args:
        path_or_url: a local file of any name, or a URL of a finite file.
        start_seconds: time from the beginning of the file; the first frame is the first one at or after it.
        duration_seconds: from the start; None = to the end.
        max_frames: largest number of frames.
        clock: stamps ``captured_ns``.
        timeout_seconds: limit for one network operation (opening including the first frame; one read). Local files
            have none.
        threads: decoder threads, 0 = FFmpeg chooses. Frame threading is used.
        hwaccel: ``auto | cuda | vaapi | none``: hardware decoder.
        tls_ca: CA certificates for ``https``, see :func:`~streamdepth.net.url.find_tls_config`. For HLS and DASH only
            the server of the playlist is verified: FFmpeg does not pass the setting on to what the playlist names.
        source_id: short name; None = the file's name.
        max_pixels: largest frame that is decoded; None = FFmpeg's own limit of about 16,000x16,000.
        deinterlace: deinterlace frames that are flagged as interlaced.

    Thread-safety: ``interrupt`` from any thread. URLs and pipes are read on a separate thread, so that ``interrupt``
    works while a server or a pipe sends nothing; that thread ends with its read.
    """

    def __init__(
        self,
        path_or_url: str | os.PathLike[str],
        *,
        start_seconds: float | Fraction = 0,
        duration_seconds: float | Fraction | None = None,
        max_frames: int | None = None,
        clock: Clock | None = None,
        timeout_seconds: float = 10.0,
        threads: int = 0,
        hwaccel: HwAccel | str = HwAccel.NONE,
        tls_ca: str | Path | None = None,
        source_id: str | None = None,
        max_pixels: int | None = None,
        deinterlace: bool = True,
    ) -> None:
        text = os.fspath(path_or_url)
        if timeout_seconds <= 0:
            raise UsageError(f"timeout must be more than 0 seconds, not {timeout_seconds}")
        if threads < 0:
            raise UsageError(f"decoder threads must be 0 (automatic) or more, not {threads}")
        self._text = text
        self._path = None if is_url(text) else Path(text)
        super().__init__(
            source_id or (redact(text) if self._path is None else shown(self._path.name or text)), clock=clock
        )
        self._limits = Limits.of(start_seconds, duration_seconds, max_frames)
        self._timeout_seconds = timeout_seconds
        self._threads = threads
        self._hwaccel = HwAccel.parse(hwaccel)
        self._tls_ca = tls_ca
        self._max_pixels = max_pixels
        self._deinterlace = deinterlace
        self._trust = find_tls_config(tls_ca)
        self._resume_pts: int | None = None
        self._detached: AbandonableCalls | None = None
        self._once_only = False
        self._reading = False
        self._opened = False
        self._decoding: Decoding | None = None
        self._info: StreamInfo | None = None

    @property
    def dropped(self) -> Mapping[str, int]:
        return {} if self._decoding is None else dict(self._decoding.dropped)

    @property
    def repaired(self) -> Mapping[str, int]:
        """Frames given with a changed time, size or format, by cause.

        Causes: ``missing_pts``, ``backward_pts``, ``time_jump``, ``size``, ``pix_fmt``, ``color``.
        """
        decoding = self._decoding
        return {} if decoding is None else dict(decoding.timeline.repaired + decoding.normalizer.converted)

    @property
    def location(self) -> str:
        """The absolute path, or the URL, of the file."""
        return self._text if self._path is None else str(self._path.absolute())

    @property
    def rereadable(self) -> bool:
        """True, once open, if any part can be read again on its own: not a pipe, and not interlaced, where a frame
        depends on the one before it."""
        return not self._once_only and self._decoding is not None and not self._decoding.deinterlacer.used

    @property
    def endless(self) -> bool:
        """True, once open, if the medium has neither length nor end: a live stream."""
        return self._decoding is not None and self._decoding.endless

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each kind of fault so far."""
        decoding = self._decoding
        lines = [REPAIR_NOTES[cause].format(count) for cause, count in self.repaired.items() if count]
        if self.dropped.get("corrupt"):
            lines.append(f"frames that could not be decoded: {self.dropped['corrupt']}")
        if decoding is not None and decoding.shortfall:
            lines.append(decoding.shortfall)
        if decoding is not None and decoding.deinterlacer.used and DEINTERLACED not in decoding.note:
            lines.append(DEINTERLACED)
        return tuple(lines)

    def open(self) -> StreamInfo:
        """Open the file and decode its first frame.

        Raises:
            SourceError: missing, unreadable, without video, or nothing in it can be decoded.
        """
        if self._info is not None:
            return self._info
        blocking = True
        if self._path is not None:
            mode = check_readable(self._path).st_mode
            blocking = not stat.S_ISREG(mode)
            self._once_only = blocking
        if blocking:
            self._detached = AbandonableCalls(f"streamdepth-read-{self._id}")
            if self._stop.is_set():
                self._detached.interrupt()
            try:
                self._decoding = self._detached.call(
                    self._start_decoding,
                    dispose=Decoding.close,
                    # libav's own deadline does not cover name resolution.
                    timeout_seconds=self._timeout_seconds if self._path is None else None,
                )
            except InterruptedCall as interrupted:
                raise SourceError(f"{self._id}: interrupted while opening", source=self._id) from interrupted
            except TimeoutError as late:
                raise explain_ffmpeg(self._id, late) from late
        else:
            self._decoding = self._start_decoding()
        self._opened = True
        self._info = self._describe(self._decoding)
        return self._info

    def frames(self) -> Iterator[Frame]:
        if self._info is None or self._decoding is None:
            raise SourceError(f"{self._id}: call open() before frames()", source=self._id)
        if self._reading:
            raise SourceError(f"{self._id}: frames can be read once; use again() for a second pass", source=self._id)
        self._reading = True
        images: Iterator[tuple[int, int, av.VideoFrame]] = self._decoding.images(
            self._begin_pts(), self._end_pts(), self._limits.max_frames
        )
        if self._detached is not None:
            images = self._detached.iterate(images, depth=_READ_AHEAD, finished=self._decoding.close)
        time_base = self._info.time_base
        for index, pts, image in images:
            if self._stop.is_set():
                break
            yield Frame(self._id, index, pts, time_base, self._clock.monotonic_ns(), image, bool(image.key_frame))

    def again(self) -> FileSource | None:
        """None for a pipe, which can be read only once."""
        if self._once_only:
            return None
        return FileSource(
            self._text,
            start_seconds=self._limits.start_seconds,
            duration_seconds=self._limits.duration_seconds,
            max_frames=self._limits.max_frames,
            clock=self._clock,
            timeout_seconds=self._timeout_seconds,
            threads=self._threads,
            hwaccel=self._hwaccel,
            tls_ca=self._tls_ca,
            source_id=self._id,
            max_pixels=self._max_pixels,
            deinterlace=self._deinterlace,
        )

    def resume(self, pts: int) -> FileSource | None:
        """Also None if times were repaired: those depend on all frames before ``pts``."""
        fresh = self.again()
        if fresh is None or (self._decoding is not None and self._decoding.timeline.repaired):
            return None
        fresh._resume_pts = pts
        return fresh

    def packets(self) -> Iterator[PacketStamp]:
        """Time stamps of the packets of the video, in file order, without decoding. Reads the whole file.

        Raises:
            SourceError: it cannot be read.
        """
        return Decoding(self._medium()).stamps()

    def whole(self, *, timeout_seconds: float | None = None) -> FileSource:
        """An unopened source of the same file without limits, with another timeout if one is given."""
        return FileSource(
            self._text,
            clock=self._clock,
            timeout_seconds=self._timeout_seconds if timeout_seconds is None else timeout_seconds,
            threads=self._threads,
            hwaccel=self._hwaccel,
            tls_ca=self._tls_ca,
            source_id=self._id,
            max_pixels=self._max_pixels,
            deinterlace=self._deinterlace,
        )

    def interrupt(self) -> None:
        super().interrupt()
        if self._decoding is not None:
            self._decoding.stop()
        if self._detached is not None:
            self._detached.interrupt()

    def close(self) -> None:
        self.interrupt()
        # The thread that opens or reads the container also closes it.
        if self._decoding is not None and self._opened and (self._detached is None or not self._reading):
            self._decoding.close()

    def _medium(self) -> Medium:
        return Medium(
            name=self._id,
            target=self.location,
            path=self._path,
            seekable=not self._once_only,
            timeout_seconds=self._timeout_seconds if self._path is None else None,
            threads=self._threads,
            tls=self._trust,
            hwaccel=self._hwaccel,
            max_pixels=self._max_pixels,
            deinterlace=self._deinterlace,
        )

    def _start_decoding(self) -> Decoding:
        decoding = Decoding(self._medium())
        self._decoding = decoding
        if self._stop.is_set():
            decoding.stop()
        try:
            decoding.start()
        except BaseException:
            decoding.close()
            raise
        return decoding

    def _begin_pts(self) -> int | None:
        if self._resume_pts is not None:
            return self._resume_pts
        if self._info is None or not self._limits.start_seconds:
            return None
        return math.ceil(self._info.origin_seconds / self._info.time_base)

    def _end_pts(self) -> int | None:
        if self._info is None or self._info.end_seconds is None:
            return None
        return math.ceil(self._info.end_seconds / self._info.time_base)

    def _describe(self, decoding: Decoding) -> StreamInfo:
        stream, first = decoding.stream, decoding.first
        aspect = decoding.aspect
        orientation = decoding.normalizer.orientation
        if orientation.transposed:
            aspect = 1 / aspect
        whole = decoding.duration_seconds
        info = StreamInfo(
            source_id=self._id,
            width_px=first.width,
            height_px=first.height,
            pix_fmt=first.format.name,
            time_base=decoding.time_base,
            rate=decoding.rate,
            frame_count=stream.frames or (None if whole is None or not decoding.rate else round(whole * decoding.rate)),
            duration_seconds=None if whole is None else float(whole),
            color=ColorTags.of(first),
            sample_aspect_ratio=aspect,
            turned=(orientation.transposed, orientation.flip_x, orientation.flip_y),
            origin_seconds=decoding.beginning_seconds,
            media_path=self._text if self._path is None else (None if self._once_only else str(self._path.absolute())),
            hdr=decoding.hdr,
            omitted=decoding.omitted,
            media_clock=decoding.clock,
            media_options={} if self._path is not None else self._trust.libav_options(),
            note=decoding.note,
        )
        limited = self._limits.describe(info)
        # A start counts from the beginning of the container, of which audio priming may be the first part.
        return limited if self._limits.start_seconds else replace(limited, origin_seconds=decoding.origin_seconds)

"""One pass over an opened file: demux, decode, skip damage, seek."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

from streamdepth.core.errors import SourceError, UsageError
from streamdepth.media.hwaccel import HwAccel, decoder
from streamdepth.media.orientation import FrameNormalizer
from streamdepth.net.tls import TlsError
from streamdepth.net.url import LIVE_SCHEMES, parse_live_url
from streamdepth.sources.explain import explain_ffmpeg, explain_no_video
from streamdepth.sources.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.net.tls import TlsConfig

_MAX_ERRORS_BEFORE_FIRST_FRAME = 2000
_MAX_DEMUX_ERRORS = 200
# Demuxers that make "video" of any bytes or text, which is never what was meant.
_TEXT_ART = frozenset({"tty", "bin", "xbin", "adf", "idf", "ea_cdata", "rawvideo", "vobsub"})
# Demuxers of files that only name where the media are.
_PLAYLISTS = frozenset({"hls", "dash"})
# How far before the start to seek, in turn, if the frame found lies after it: indexes that hold decoding times or few
# entries land late. None = from the beginning.
_SEEK_BACK_SECONDS: tuple[int | None, ...] = (0, 2, 15, None)

REPAIR_NOTES = {
    "missing_pts": "{} frames had no time stamp and follow their predecessors at the frame rate",
    "backward_pts": "{} frames had a time stamp at or before their predecessor's; each was moved one tick after it",
    "time_jump": "the clock jumped back {} times; later frames continue from the time before the jump",
    "size": "{} frames had another size and were scaled to that of the first frame",
    "pix_fmt": "{} frames had another pixel format and were converted to that of the first frame",
    "color": "{} frames had another colour matrix or range and were converted to that of the first frame",
}


@dataclass(frozen=True, slots=True)
class Medium:
    """What to decode, and how.

    Attributes:
        name: short name for messages.
        target: what FFmpeg opens: a URL, or an absolute path (so that no file name looks like a protocol).
        path: the local file, None for a URL.
        seekable: False for pipes.
        timeout_seconds: limit for one network operation, None = no limit.
        threads: decoder threads, 0 = automatic.
        tls: the accepted certificates.
        hwaccel: hardware decoder.
        max_pixels: largest frame that is decoded, None = FFmpeg's own limit.
    """

    name: str
    target: str
    path: Path | None
    seekable: bool
    timeout_seconds: float | None
    threads: int
    tls: TlsConfig
    hwaccel: HwAccel = HwAccel.NONE
    max_pixels: int | None = None


class Decoding:
    """One pass over an open container. Used by one thread at a time, except ``stop``.

    Attributes:
        dropped: frames that could not be given, by cause.
        first: the first frame, upright. Set by ``start``, like ``time_base``, ``rate``, ``beginning_seconds``,
            ``duration_seconds`` and ``note``.
        shortfall: a note if the file ended early, else empty.
    """

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._name = medium.name
        self.dropped: Counter[str] = Counter()
        self.normalizer = FrameNormalizer()
        self.note = ""
        self.hardware_note = ""
        self.shortfall = ""
        self._stop = threading.Event()
        self.timeline = Timeline(Fraction(1, 90_000), None)
        self._container: InputContainer | None = None
        self._waiting: list[av.VideoFrame] = []
        self._given = 0
        self._seen = 0

    def stop(self) -> None:
        """End ``start`` and ``images`` at the next packet. Thread-safe."""
        self._stop.set()

    def start(self) -> None:
        """Open, choose the stream, decode the first frame."""
        import av.error

        self._open()
        raw = self._raw()
        for image in raw:
            self._waiting.append(image)
            break
        if not self._waiting:
            if self._stop.is_set():
                raise SourceError(f"{self._name}: interrupted while opening", source=self._name)
            damaged = self.dropped["corrupt"]
            raise SourceError(
                f"{self._name}: none of its frames can be decoded"
                + (f" ({damaged} are damaged)" if damaged else "")
                + "; it is empty, damaged or cut off: download or record it again",
                source=self._name,
            )
        self._raw_images = raw
        stream = self.stream
        raw_first = self._waiting[0]
        self.time_base = stream.time_base or raw_first.time_base or Fraction(1, 90_000)
        rate = stream.guessed_rate or stream.average_rate
        self.rate = rate if rate is not None and 0 < rate <= 1000 else None
        self.first_pts = raw_first.dts if raw_first.pts is None else raw_first.pts
        container_start = self.container.start_time
        self.beginning_seconds = Fraction(0) if container_start is None else Fraction(container_start, 1_000_000)
        self.duration_seconds = self._duration(stream)
        self.timeline = Timeline(self.time_base, self.rate, round(self.beginning_seconds / self.time_base))
        coded_format = raw_first.format.name
        try:
            self.first = self.normalizer.normalize(raw_first)
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{self._name}: its frames ({coded_format}) cannot be rotated; convert it with ffmpeg first",
                source=self._name,
            ) from error
        if not self.normalizer.orientation.exact:
            self.note = "rotation is not a multiple of 90 degrees; the nearest one is used"
        elif self.first.format.name != coded_format:
            self.note = f"rotation converts {coded_format} to {self.first.format.name}"
        self.note = "; ".join(note for note in (self.note, self.hardware_note) if note)

    def images(
        self, begin_pts: int | None, end_pts: int | None, max_frames: int | None
    ) -> Iterator[tuple[int, int, av.VideoFrame]]:
        """(index, pts, image) from ``begin_pts`` to before ``end_pts``; closes the container at the end."""
        import av.error

        try:
            if begin_pts is not None and self.first_pts is not None and begin_pts > self.first_pts:
                self._seek_to(begin_pts)
                self.dropped.clear()
            for image in self._from_first():
                pts = self.timeline.place(image.pts, image.dts, image.duration)
                if begin_pts is not None and pts < begin_pts:
                    self.dropped.clear()
                    continue
                if end_pts is not None and pts >= end_pts:
                    # Reordered frames come out in presentation order, so nothing before the end can follow.
                    break
                try:
                    image = self.normalizer.normalize(image)
                except (av.error.FFmpegError, ValueError):
                    # A damaged header can give a size or format that cannot be converted.
                    self.dropped["corrupt"] += 1
                    continue
                image.pts, image.time_base = pts, self.time_base
                index = self._given + sum(self.dropped.values())
                self._given += 1
                yield index, pts, image
                if max_frames is not None and self._given >= max_frames:
                    return
            else:
                self._note_shortfall(begin_pts is not None)
            if not self._given and not self._stop.is_set() and begin_pts is not None:
                raise SourceError(
                    f"{self._name}: no frame at or after the start; choose an earlier start", source=self._name
                )
        finally:
            self.close()

    @property
    def endless(self) -> bool:
        """No duration and no size: a live stream."""
        return self._medium.path is None and self.duration_seconds is None and not self._sized

    @property
    def _on_web(self) -> bool:
        return self._medium.path is None and self._medium.target.lower().startswith(("http://", "https://"))

    @property
    def container(self) -> InputContainer:
        if self._container is None:
            raise SourceError(f"{self._name}: is closed", source=self._name)
        return self._container

    def close(self) -> None:
        container, self._container = self._container, None
        self._waiting.clear()
        # The suspended generator refers back to this object: without this the decoder and its buffers would stay until
        # the next garbage collection, and many short clips would fill the memory.
        for name in ("_raw_images", "stream", "first"):
            vars(self).pop(name, None)
        if container is not None:
            container.close()

    def _open(self) -> None:
        import av

        medium = self._medium
        url = medium.path is None
        # Also for http, which may redirect to https.
        options = medium.tls.libav_options() if url else {}
        if self._on_web:
            # A file on a server: a broken connection is resumed where it broke.
            options |= {
                "reconnect": "1",
                "reconnect_delay_max": str(max(1, math.ceil((medium.timeout_seconds or 10) / 2))),
            }
        hardware = decoder(medium.hwaccel)
        self.hardware_note = hardware.note
        try:
            self._container = av.open(
                medium.target,
                "r",
                options=options,
                metadata_errors="replace",
                timeout=medium.timeout_seconds,
                hwaccel=hardware.value,
            )
        except (av.error.FFmpegError, OSError, ValueError, UnicodeError) as error:
            raise self._explain(error) from self._cause(error)
        # Generated time stamps are wrong if frames are reordered (AVI); Timeline replaces them.
        self._container.flags &= ~cast("int", av.container.Flags.gen_pts.value)
        if self._container.format.name in _TEXT_ART:
            raise SourceError(
                f"{self._name}: not a video (text or raw bytes); use a video or image file", source=self._name
            )
        self.stream = self._choose(self._container)
        self.stream.thread_type = "AUTO"
        self.stream.thread_count = medium.threads
        if medium.max_pixels is not None:
            self.stream.codec_context.options = {"max_pixels": str(medium.max_pixels)}
        for other in self._container.streams:
            if other.index != self.stream.index:
                other.discard = av.stream.Discard.all
        playlist = self._container.format.name in _PLAYLISTS
        # The size of a playlist is not that of its stream. With a duration the stream is seekable.
        self._sized = not playlist and self._container.size > 0
        self._seekable = medium.seekable and (not url or self._sized or (playlist and bool(self._container.duration)))

    def _choose(self, container: InputContainer) -> VideoStream:
        import av.stream

        cover = int(av.stream.Disposition.attached_pic)
        moving = [stream for stream in container.streams.video if not int(stream.disposition) & cover]
        if not moving:
            raise explain_no_video(self._name, container)
        decodable = [stream for stream in moving if stream.codec_context is not None]
        if not decodable:
            raise SourceError(
                f"{self._name}: no decoder for its video codec; convert it (ffmpeg -i IN -c:v libx264 OUT.mp4)",
                source=self._name,
            )
        best = container.streams.best("video")
        return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])

    def _duration(self, stream: VideoStream) -> Fraction | None:
        if self.container.duration is not None and self.container.duration > 0:
            return Fraction(self.container.duration, 1_000_000)
        if stream.duration is not None and stream.duration > 0:
            return stream.duration * self.time_base
        return None

    def _from_first(self) -> Iterator[av.VideoFrame]:
        yield from self._waiting
        self._waiting.clear()
        yield from self._raw_images

    def _raw(self) -> Generator[av.VideoFrame, None, None]:
        """Decoded frames, as coded, until the end. Damage is counted and skipped."""
        import av.error

        demux_errors = 0
        while not self._stop.is_set():
            try:
                for packet in self.container.demux(self.stream):
                    if self._stop.is_set():
                        return
                    try:
                        decoded: list[Any] = packet.decode()
                    except av.error.EOFError:
                        return
                    except (av.error.InvalidDataError, av.error.UndefinedError, av.error.PatchWelcomeError) as error:
                        self._count_damage(error)
                        continue
                    for image in decoded:
                        if self._stop.is_set():
                            return
                        self._seen += 1
                        yield image
                return
            except av.error.InvalidDataError as error:
                # The demuxer can continue after damage, but its Python generator ends once it has raised.
                demux_errors += 1
                self._count_damage(error)
                if demux_errors > _MAX_DEMUX_ERRORS:
                    return
            except av.error.EOFError:
                return
            except (av.error.FFmpegError, OSError) as error:
                if self._medium.path is None or not self._given:
                    raise self._broken(error) from self._cause(error)
                # A local file with a read error is damaged: the frames read so far are kept.
                self.shortfall = self._broken(error).message.removeprefix(f"{self._name}: ")
                return

    def _count_damage(self, error: BaseException) -> None:
        self.dropped["corrupt"] += 1
        if not self._seen and self.dropped["corrupt"] >= _MAX_ERRORS_BEFORE_FIRST_FRAME:
            raise SourceError(
                f"{self._name}: none of its first {self.dropped['corrupt']} frames can be decoded; "
                "the file is damaged, or its codec needs another decoder",
                source=self._name,
            ) from self._cause(error)

    def _cause(self, error: BaseException) -> BaseException | None:
        """libav's own messages contain the URL with its password: a traceback must not show them."""
        return error if self._medium.path is not None else None

    def _explain(self, error: Exception) -> SourceError:
        medium = self._medium
        if medium.path is None:
            with contextlib.suppress(UsageError):  # not an encrypted protocol
                url = parse_live_url(medium.target, LIVE_SCHEMES)
                cause = medium.tls.explain(url, error, (medium.timeout_seconds or 10) / 2)
                if isinstance(cause, TlsError):
                    return SourceError(f"{self._name}: {cause}; {cause.hint}", source=self._name)
        opening_web = self._on_web and not self._seen
        return explain_ffmpeg(self._name, error, medium.path, opening_web=opening_web)

    def _broken(self, error: Exception) -> SourceError:
        explained = self._explain(error)
        if not self._given:
            return explained
        reason = explained.message.removeprefix(f"{self._name}: ")
        return type(explained)(f"{self._name}: reading failed after {self._given} frames: {reason}", source=self._name)

    def _seek_to(self, begin_pts: int) -> None:
        """Seek to a frame at or before ``begin_pts``; to the beginning if that fails."""
        import av.error

        if not self._seekable:
            return
        for back in _SEEK_BACK_SECONDS:
            self._raw_images.close()
            self._waiting.clear()
            if back is None:
                break
            try:
                self.container.seek(begin_pts - round(back / self.time_base), stream=self.stream)
            except (av.error.FFmpegError, OSError):
                break
            self._raw_images = self._raw()
            first = next(self._raw_images, None)
            found = None if first is None else (first.dts if first.pts is None else first.pts)
            if first is not None and found is not None and found <= begin_pts:
                self._waiting.append(first)
                return
        self.container.close()
        self._open()
        self._raw_images = self._raw()

    def _note_shortfall(self, trimmed: bool) -> None:
        promised = self.stream.frames if "stream" in vars(self) else 0
        given = self._given + sum(self.dropped.values())
        if not self.shortfall and promised > given and not trimmed and not self._stop.is_set():
            self.shortfall = (
                f"ended after {given} of the {promised} frames its header promises: it is cut off or damaged"
            )

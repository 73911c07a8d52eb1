"""One pass over an opened file: demux, decode, skip damage, seek."""

from __future__ import annotations

import re
import threading
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamdepth.core.clock import MediaClock
from streamdepth.core.errors import SourceError
from streamdepth.media.filters import DEINTERLACED, INTERLACED, Deinterlacer, has_alpha
from streamdepth.media.side_data import DOLBY_VISION, FrameNormalizer, metadata_of
from streamdepth.sources.times import PacketStamp, Timeline, packet_stamps

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.sources.medium import Medium

_MAX_ERRORS_BEFORE_FIRST_FRAME = 2000
_MAX_DEMUX_ERRORS = 200
# How far before the start to seek, in turn, if the frame found lies after it: indexes that hold decoding times or few
# entries land late. None = from the beginning.
_SEEK_BACK_SECONDS: tuple[int | None, ...] = (0, 2, 15, None)
_OWN_COLOR_PROFILE = 5
_OWN_COLOR = (
    "the colours of Dolby Vision profile 5 are not converted and look wrong; use another version of the video, or "
    "convert it first (ffmpeg with libplacebo)"
)

REPAIR_NOTES = {
    "missing_pts": "frames without a time stamp: {}; each follows its predecessor at the frame rate",
    "backward_pts": "frames not later than their predecessor: {}; each was moved one tick after it",
    "time_jump": "jumps of the clock to an earlier time: {}; later frames continue from the time before the jump",
    "size": "frames of another size or pixel aspect: {}; letterboxed to the size of the first frame",
    "pix_fmt": "frames of another pixel format: {}; converted to that of the first frame",
    "color": "frames of another colour matrix or range: {}; converted to that of the first frame",
}


class Decoding:
    """One pass over an open container. Used by one thread at a time, except ``stop``.

    Attributes:
        dropped: frames that could not be given, by cause.
        first: the first frame, upright. Set by ``start``, like ``time_base``, ``rate``, ``beginning_seconds``,
            ``duration_seconds``, ``omitted`` and ``note``.
        shortfall: a note if the file ended early, else empty.
    """

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self._name = medium.name
        self.dropped: Counter[str] = Counter()
        self.normalizer = FrameNormalizer()
        self.deinterlacer = Deinterlacer()
        self.note = ""
        self.hardware_note = ""
        self.shortfall = ""
        self._stop = threading.Event()
        self.timeline = Timeline(Fraction(1, 90_000), None)
        self._container: InputContainer | None = None
        self._waiting: list[av.VideoFrame] = []
        self._given = 0
        self._seen = 0
        self._skipped = 0
        self._form: tuple[tuple[int, int], Fraction] | None = None
        self._end = Fraction(0)
        self.clock = MediaClock()

    def stop(self) -> None:
        """End ``start`` and ``images`` at the next packet. Thread-safe."""
        self._stop.set()

    def start(self) -> None:
        """Open, choose the stream, decode the first frame."""
        import av.error

        self._open()
        raw = self._frames()
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
        metadata = metadata_of(raw_first)
        self.hdr = metadata.hdr
        self.first_pts = raw_first.dts if raw_first.pts is None else raw_first.pts
        container_start = self.container.start_time
        self.beginning_seconds = Fraction(0) if container_start is None else Fraction(container_start, 1_000_000)
        first = self.beginning_seconds if self.first_pts is None else self.first_pts * self.time_base
        # A negative start is that of audio priming if the video starts at 0.
        self.origin_seconds = self.beginning_seconds if self.beginning_seconds > 0 or first < 0 else Fraction(0)
        self.duration_seconds = self._duration(stream)
        self.timeline = Timeline(self.time_base, self.rate, round(self.beginning_seconds / self.time_base), self.clock)
        coded_format = raw_first.format.name
        try:
            header = self._medium.track_header(self.container, stream, raw_first.width, raw_first.height)
            self.normalizer = FrameNormalizer(header.crop)
            self.aspect = Fraction(stream.sample_aspect_ratio or 1)
            self.first = self.normalizer.normalize(raw_first, self.aspect)
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{self._name}: its frames ({coded_format}) cannot be rotated; convert it with ffmpeg first",
                source=self._name,
            ) from error
        if not self.normalizer.orientation.exact:
            self.note = "rotation is not a multiple of 90 degrees; the nearest one is used"
        elif self.first.format.name != coded_format:
            self.note = f"rotation converts {coded_format} to {self.first.format.name}"
        elif stream.metadata.get("alpha_mode") == "1" and not has_alpha(coded_format):
            self.note = f"alpha is not decoded ({stream.codec_context.name}); convert the file to .mov first"
        is_dolby_vision = header.dolby_vision is not None and DOLBY_VISION not in metadata.omitted
        self.omitted = (*metadata.omitted, *([DOLBY_VISION] if is_dolby_vision else []))
        views = "spatial video: only its base view is read" if metadata.spatial else ""
        color = _OWN_COLOR if header.dolby_vision == _OWN_COLOR_PROFILE else ""
        fields = DEINTERLACED if self.deinterlacer.used else INTERLACED if raw_first.interlaced_frame else ""
        self.note = "; ".join(note for note in (self.note, views, color, fields, self.hardware_note) if note)

    def stamps(self) -> Iterator[PacketStamp]:
        """Time stamps of the packets of the video; opens and closes the container."""
        import av.error

        try:
            self._open()
            yield from packet_stamps(self.container, self.stream)
        except (av.error.FFmpegError, OSError) as error:
            raise self._medium.explain(error, opening=True) from self._medium.cause(error)
        finally:
            self.close()

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
                duration = image.duration
                pts = self.timeline.place(image.pts, image.dts, duration)
                self._end = (pts + (duration or self.timeline.step)) * self.time_base
                if begin_pts is not None and pts < begin_pts:
                    self.dropped.clear()
                    continue
                if end_pts is not None and pts >= end_pts:
                    self.clock.limit()
                    # Reordered frames come out in presentation order, so nothing before the end can follow.
                    break
                try:
                    image = self.normalizer.normalize(image, self._aspect_of(image))
                except (av.error.FFmpegError, ValueError):
                    # A damaged header can give a size or format that cannot be converted.
                    self.dropped["corrupt"] += 1
                    continue
                image.pts, image.time_base, image.duration = pts, self.time_base, duration or 0
                index = self._given + sum(self.dropped.values())
                self._given += 1
                yield index, pts, image
                if max_frames is not None and self._given >= max_frames:
                    self.clock.limit()
                    return
            else:
                self._check_end(begin_pts is not None)
                if not self._stop.is_set():
                    self.clock.end()
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
        opened = self._medium.open()
        self._container, self.stream, self.hardware_note = opened.container, opened.stream, opened.note
        self._sized, self._seekable = opened.sized, opened.seekable

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

    def _frames(self) -> Generator[av.VideoFrame, None, None]:
        return self.deinterlacer(self._raw()) if self._medium.deinterlace else self._raw()

    def _raw(self) -> Generator[av.VideoFrame, None, None]:
        """Decoded frames, as coded, until the end. Damage is counted and skipped."""
        import av.error

        demux_errors = 0
        while not self._stop.is_set():
            try:
                for packet in self.container.demux(self.stream):
                    if self._stop.is_set():
                        return
                    if not packet.size and packet.dts is not None:
                        # A repeated or dropped frame (Theora, AVI). libavcodec would take it for the end.
                        self._skipped += 1
                        continue
                    try:
                        decoded: list[Any] = packet.decode()
                    except av.error.EOFError:
                        return
                    except av.error.FFmpegError as error:
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
                    raise self._broken(error) from self._medium.cause(error)
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
            ) from self._medium.cause(error)

    def _broken(self, error: Exception) -> SourceError:
        explained = self._medium.explain(error, opening=not self._seen)
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
            self._raw_images = self._frames()
            first = next(self._raw_images, None)
            found = None if first is None else (first.dts if first.pts is None else first.pts)
            if first is not None and found is not None and found <= begin_pts:
                self._waiting.append(first)
                return
        self.container.close()
        self._open()
        self._raw_images = self._frames()

    def _check_end(self, trimmed: bool) -> None:
        """Note a file that ends early, and refuse one of which most is lost.

        Fewer frames than the header counts are no evidence: edit lists hide frames, and AVI counts dropped ones. Nor is
        an early end alone: audio may be longer.

        Raises:
            SourceError: less than half of the frames could be decoded.
        """
        if trimmed or self._stop.is_set():
            return
        missing = self._missing_seconds()
        promised = self.stream.frames - self._skipped if "stream" in vars(self) else 0
        fewer = max(0, promised - self._given - sum(self.dropped.values()))
        cut_off = self._container is not None and self._medium.cut_off(self._container)
        if cut_off and not missing:  # FFmpeg takes the duration of a cut AVI from its size
            missing = fewer / (self.rate or Fraction(25))
        early = ""
        if missing and (cut_off or fewer or self._written_seconds() is not None):
            early = f"ends {float(missing):.1f} s earlier than its header says: it is cut off or damaged"
        elif cut_off and not self.stream.frames:
            early = "its last part is incomplete: it is cut off or damaged"
        self.shortfall = self.shortfall or early
        lost = self.dropped["corrupt"]
        if self.shortfall:
            lost = max(lost, promised - self._given, round(missing * (self.rate or 25)))
        if lost > self._given > 0:
            raise SourceError(
                f"{self._name}: only {self._given} of about {self._given + lost} frames could be decoded; "
                "the file is damaged: download or record it again",
                source=self._name,
            )

    def _missing_seconds(self) -> Fraction:
        """From the end of the last frame to the end of the stream; 0 if unknown or less than two frames."""
        if self.duration_seconds is None or self._container is None:
            return Fraction(0)
        duration = self.duration_seconds
        if self.stream.duration:
            duration = min(duration, self.stream.duration * self.time_base)
        if (written := self._written_seconds()) is not None:
            duration = min(duration, written - self.beginning_seconds)
        missing = self.beginning_seconds + duration - self._end
        return missing if missing > 2 * self.timeline.step * self.time_base else Fraction(0)

    def _written_seconds(self) -> Fraction | None:
        """End of the last video packet that the writer of a Matroska file recorded, None if it did not."""
        found = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", ""))
        return None if found is None else (int(found[1]) * 60 + int(found[2])) * 60 + Fraction(found[3])

    def _aspect_of(self, image: av.VideoFrame) -> Fraction:
        """The pixel aspect of a decoded frame; that of the container holds until the frames change."""
        form = (image.width, image.height)
        coded = self.stream.codec_context.sample_aspect_ratio or Fraction(1)
        if self._form is None:
            self._form = (form, coded)
        return self.aspect if self._form == (form, coded) else coded

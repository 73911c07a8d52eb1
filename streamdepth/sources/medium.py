"""A file or URL for FFmpeg: how to open it, which stream to decode, and what its errors mean."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from streamdepth.core.errors import SourceError, UsageError, install_command
from streamdepth.media.boxes import Crop, crop_of
from streamdepth.media.hwaccel import HwAccel, decoder
from streamdepth.net.tls import TlsError
from streamdepth.net.url import LIVE_SCHEMES, parse_live_url
from streamdepth.sources.explain import explain_ffmpeg, explain_no_video

if TYPE_CHECKING:
    from pathlib import Path

    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.net.tls import TlsConfig

# Demuxers that make "video" of any bytes or text, which is never what was meant.
_TEXT_ART = frozenset({"tty", "bin", "xbin", "adf", "idf", "ea_cdata", "rawvideo", "vobsub"})
# Demuxers of files that only name where the media are.
_PLAYLISTS = frozenset({"hls", "dash"})
_DEPENDENT = 1 << 19
"""AV_DISPOSITION_DEPENDENT: a tile of a larger image."""


class OpenedMedium(NamedTuple):
    """A container with its chosen stream.

    Attributes:
        note: about the hardware decoder, empty if there is nothing to say.
        sized: the number of bytes is known.
    """

    container: InputContainer
    stream: VideoStream
    note: str
    sized: bool
    seekable: bool


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
        deinterlace: deinterlace frames that are flagged as interlaced.
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
    deinterlace: bool = True

    def open(self) -> OpenedMedium:
        """
        Raises:
            SourceError: it cannot be opened, or has no video that can be decoded.
        """
        import av

        url = self.path is None
        # Also for http, which may redirect to https.
        options = self.tls.libav_options() if url else {}
        if self._on_web:
            # A file on a server: a broken connection is resumed where it broke.
            options |= {
                "reconnect": "1",
                "reconnect_delay_max": str(max(1, math.ceil((self.timeout_seconds or 10) / 2))),
            }
        hardware = decoder(self.hwaccel)
        try:
            container = av.open(
                self.target,
                "r",
                options=options,
                metadata_errors="replace",
                timeout=self.timeout_seconds,
                hwaccel=hardware.value,
            )
        except (av.error.FFmpegError, OSError, ValueError, UnicodeError) as error:
            raise self.explain(error, opening=True) from self.cause(error)
        try:
            # Generated time stamps are wrong if frames are reordered (AVI); Timeline replaces them.
            container.flags &= ~cast("int", av.container.Flags.gen_pts.value)
            if container.format.name in _TEXT_ART:
                raise SourceError(
                    f"{self.name}: not a video (text or raw bytes); use a video or image file", source=self.name
                )
            stream = self._choose(container)
        except BaseException:
            container.close()
            raise
        stream.thread_type = "AUTO"
        stream.thread_count = self.threads
        if self.max_pixels is not None:
            stream.codec_context.options = {"max_pixels": str(self.max_pixels)}
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
        playlist = container.format.name in _PLAYLISTS
        # The size of a playlist is not that of its stream. With a duration the stream is seekable.
        sized = not playlist and container.size > 0
        seekable = self.seekable and (not url or sized or (playlist and bool(container.duration)))
        return OpenedMedium(container, stream, hardware.note, sized, seekable)

    def crop(self, container: InputContainer, stream: VideoStream, width_px: int, height_px: int) -> Crop | None:
        """The crop in the header of a local file, for frames of this size."""
        if self.path is None or not self.seekable:
            return None
        return crop_of(self.path, container.format.name, stream.id, stream.index, (width_px, height_px))

    def cause(self, error: BaseException) -> BaseException | None:
        """The cause to chain: none for a URL, since libav's messages contain it with its password."""
        return error if self.path is not None else None

    def explain(self, error: Exception, *, opening: bool) -> SourceError:
        """A :class:`SourceError` for what FFmpeg raised; ``opening``: before the first frame was decoded."""
        if self.path is None:
            with contextlib.suppress(UsageError):  # not an encrypted protocol
                url = parse_live_url(self.target, LIVE_SCHEMES)
                cause = self.tls.explain(url, error, (self.timeout_seconds or 10) / 2)
                if isinstance(cause, TlsError):
                    return SourceError(f"{self.name}: {cause}; {cause.hint}", source=self.name)
        return explain_ffmpeg(self.name, error, self.path, opening_web=self._on_web and opening)

    @property
    def _on_web(self) -> bool:
        return self.path is None and self.target.lower().startswith(("http://", "https://"))

    def _choose(self, container: InputContainer) -> VideoStream:
        import av.stream

        cover = int(av.stream.Disposition.attached_pic)
        moving = [stream for stream in container.streams.video if not int(stream.disposition) & cover]
        if not moving:
            raise explain_no_video(self.name, container)
        tiles = [stream for stream in moving if int(stream.disposition) & _DEPENDENT]
        if len(tiles) > 1:
            raise SourceError(
                f"{self.name}: is an image of {len(tiles)} tiles, which FFmpeg decodes one by one; "
                f"install pi-heif ({install_command('heif')}), or convert it to JPEG",
                source=self.name,
            )
        decodable = [stream for stream in moving if stream.codec_context is not None]
        if not decodable:
            raise SourceError(
                f"{self.name}: no decoder for its video codec; convert it (ffmpeg -i IN -c:v libx264 OUT.mp4)",
                source=self.name,
            )
        best = container.streams.best("video")
        return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])

"""A file or URL for FFmpeg: how to open it, which stream to decode, and what errors of sources mean."""

from __future__ import annotations

import contextlib
import difflib
import errno
import math
import os
import stat
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import urlsplit

from streamdepth.core.errors import (
    SourceError,
    SourceNotFoundError,
    UsageError,
    install_command,
    plain_reason,
    redact,
)
from streamdepth.media.boxes import TrackHeader, is_cut_off, track_header
from streamdepth.media.hwaccel import HwAccel, decoder
from streamdepth.net.url import LIVE_SCHEMES, TlsError, parse_live_url

if TYPE_CHECKING:
    from pathlib import Path

    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from streamdepth.net.url import TlsConfig

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
        """Raises ``SourceError``: it cannot be opened, or has no video that can be decoded."""
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

    def track_header(
        self, container: InputContainer, stream: VideoStream, width_px: int, height_px: int
    ) -> TrackHeader:
        """Fields of the header of a local file, for frames of this size."""
        if self.path is None or not self.seekable:
            return TrackHeader()
        return track_header(self.path, container.format.name, stream.id, stream.index, (width_px, height_px))

    def cut_off(self, container: InputContainer) -> bool:
        """See :func:`~streamdepth.media.boxes.is_cut_off`."""
        return self.path is not None and self.seekable and is_cut_off(self.path, container.format.name)

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


_MAX_NAMES = 10_000


def shown(path: str | os.PathLike[str]) -> str:
    """A path as printable text: undecodable bytes become question marks, control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return redact("".join(char if char.isprintable() else repr(char)[1:-1] for char in text))


def nearest_name(path: Path) -> str:
    """``"did you mean 'x'?"`` for the nearest name in the same folder, else ``""``."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MAX_NAMES), strict=False)]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"did you mean {shown(path.with_name(near[0]))!r}?" if near else ""


def check_readable(path: Path) -> os.stat_result:
    """``stat`` of a file that can be opened for reading.

    Raises:
        SourceError: the file is missing (``SourceNotFoundError``), empty, a folder, or not readable.
    """
    name = shown(path)
    try:
        found = path.stat()
    except PermissionError as error:
        raise SourceError(
            f"{name}: permission denied for a folder of its path; check the permissions", source=name
        ) from error
    except (OSError, ValueError) as error:
        hint = nearest_name(path) or "check the spelling and the folder it is in"
        raise SourceNotFoundError(f"{name}: no such file; {hint}", source=name) from error
    if stat.S_ISDIR(found.st_mode):
        raise SourceError(f"{name}: is a folder; name a file in it", source=name)
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise SourceError(f"{name}: is empty (0 bytes); record or download it again", source=name)
    if not os.access(path, os.R_OK):
        raise SourceError(f"{name}: permission denied; check its permissions", source=name)
    return found


def explain_ffmpeg(
    name: str, error: BaseException, path: Path | None = None, *, opening_web: bool = False
) -> SourceError:
    """A :class:`SourceError` for what FFmpeg or PyAV raised while opening or reading ``name``.

    Args:
        path: its local file, if any.
        opening_web: the error came while opening a file on an HTTP server (header, index, first frame).
    """
    import av.error

    text = redact(getattr(error, "strerror", None) or str(error) or type(error).__name__)
    kind: type[SourceError] = SourceError
    if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
        why = "the server refuses access; put user and password into the URL (http://USER:PASSWORD@HOST/...)"
    elif isinstance(error, av.error.HTTPNotFoundError):
        kind, why = SourceNotFoundError, "the server has no such file (404); check the URL"
    elif isinstance(error, av.error.HTTPError | av.error.HTTPClientError):
        why = f"the server answered: {text}; try again, or open the URL in a browser to see why"
    elif isinstance(error, av.error.ExitError | TimeoutError) or plain_reason(error) == "connection timed out":
        why = "no answer in time; check the network, or raise --timeout"
    elif isinstance(error, ConnectionRefusedError) or plain_reason(error) == "connection refused":
        why = "the connection was refused; check the host and port, and that the server runs"
    elif isinstance(error, av.error.ProtocolNotFoundError):
        why = "this build of FFmpeg lacks the protocol; use a file, http(s)://, rtsp://, rtmp://, srt:// or udp://"
    elif isinstance(error, FileNotFoundError):
        kind, why = SourceNotFoundError, "no such file; check the spelling and the folder it is in"
    elif isinstance(error, PermissionError) and (path is None or not os.access(path, os.R_OK)):
        why = "permission denied; check its permissions"
    elif isinstance(error, av.error.InvalidDataError) and path is not None and _has_no_index(path):
        why = (
            "the index (moov) is missing, as in an interrupted recording; repair the file with a tool such as "
            "untrunc, or record to MKV or fragmented MP4"
        )
    elif isinstance(error, av.error.InvalidDataError) and _is_unknown_dash(name):
        why = (
            "this build of FFmpeg cannot read DASH; use the HLS address of the stream (.m3u8), or build PyAV with an "
            "FFmpeg that has libxml2 (pip install --no-binary av av)"
        )
    elif isinstance(error, av.error.InvalidDataError | EOFError):
        why = "is damaged or not a video that FFmpeg can read; play it to check, or download it again"
    elif opening_web and getattr(error, "errno", None) == errno.EIO:
        # FFmpeg has one error for an unknown host and for a server that refuses to seek.
        why = (
            f"{text}; check host, port and network; if they are right, the server does not support range requests, "
            "which a file with its index at the end (MP4, MOV) needs: download it first, or move the index to the "
            "start (ffmpeg -i IN -c copy -movflags +faststart OUT.mp4)"
        )
    elif path is None:
        why = f"{text}; check host, port and network"
    else:
        # Demuxers also report damage as "Operation not permitted" or "Input/output error".
        why = f"is damaged or of a kind that FFmpeg cannot read ({text}); play it to check, or download it again"
    return kind(f"{name}: {why}", source=name)


def explain_no_video(name: str, container: av.container.InputContainer) -> SourceError:
    """The error for an opened container without video: names what it has instead."""
    kinds = [str(stream.type) for stream in container.streams]
    if "video" in kinds:
        why = "not a video (only a cover image); use another file, or extract the cover as an image file"
    elif kinds:
        counted = ", ".join(
            f"{count} {kind} stream{'s' if count > 1 else ''}" for kind, count in Counter(kinds).items()
        )
        why = f"not a video (only {counted}); use a file with a video stream"
    else:
        why = "has no streams; record or download it again"
    return SourceError(f"{name}: {why}", source=name)


def _is_unknown_dash(name: str) -> bool:
    """True for a DASH manifest if FFmpeg lacks the demuxer, as in the wheels of PyAV."""
    import av

    named = urlsplit(name).path.lower().endswith(".mpd")
    return named and not ("dash" in av.formats_available and av.ContainerFormat("dash").is_input)


def _has_no_index(path: Path) -> bool:
    """True for an MP4/MOV without a ``moov`` box (reads the top-level boxes, ISO/IEC 14496-12, 4.2)."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            at = 0
            for _ in range(1000):
                file.seek(at)
                head = file.read(16)
                if len(head) < 8:
                    break
                length, kind = int.from_bytes(head[:4], "big"), head[4:8]
                if at == 0 and kind not in (b"ftyp", b"wide", b"mdat"):
                    return False
                if kind == b"moov":
                    return at + length > size
                if length == 1:
                    length = int.from_bytes(head[8:16], "big")
                if length < 8:
                    break
                at += length
            return at > 0 or kind == b"mdat"
    except (OSError, UnboundLocalError):
        return False

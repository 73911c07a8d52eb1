"""Why a source cannot be read, and what to do about it, in one line."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from streamdepth.core.errors import SourceError, SourceNotFoundError
from streamdepth.core.redact import redact

if TYPE_CHECKING:
    from pathlib import Path

    import av

_NAMES_LOOKED_AT = 10_000


def shown(path: str | os.PathLike[str]) -> str:
    """A path as people can read it: bytes that are no text become question marks, control characters are escaped."""
    text = os.fsencode(path).decode("utf-8", "replace")
    return redact("".join(char if char.isprintable() else repr(char)[1:-1] for char in text))


def nearest_name(path: Path) -> str:
    """``"; did you mean 'x'?"`` for the name in the same folder that is nearest, else ``""``."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_NAMES_LOOKED_AT), strict=False)]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"did you mean {shown(path.with_name(near[0]))!r}?" if near else ""


def check_readable(path: Path) -> os.stat_result:
    """Stat of a file that can be opened for reading; a folder is not a file.

    Raises:
        SourceError: it is missing (``SourceNotFoundError``), empty, a folder, or may not be read.
    """
    name = shown(path)
    try:
        found = path.stat()
    except PermissionError as error:
        raise SourceError(
            f"{name}: a folder on the way to it may not be entered; check the permissions", source=name
        ) from error
    except (OSError, ValueError) as error:
        hint = nearest_name(path) or "check the spelling and the folder it is in"
        raise SourceNotFoundError(f"{name}: no such file; {hint}", source=name) from error
    if stat.S_ISDIR(found.st_mode):
        raise SourceError(f"{name} is a folder, not a file; name a file in it", source=name)
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise SourceError(f"{name} is empty (0 bytes); record or download it again", source=name)
    if not os.access(path, os.R_OK):
        raise SourceError(f"{name} may not be read; check its permissions", source=name)
    return found


def explain_ffmpeg(
    name: str, error: BaseException, path: Path | None = None, *, opening_web: bool = False
) -> SourceError:
    """What FFmpeg or PyAV raised while opening or reading ``name``, as ours.

    Args:
        path: its local file, if any.
        opening_web: a file on an HTTP server was being opened: header, index and first frame.
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
    elif isinstance(error, av.error.ExitError | TimeoutError):
        why = "no answer in time; check the network, or give it longer (--timeout)"
    elif isinstance(error, ConnectionRefusedError):
        why = "the connection was refused; check host and port, and that the server runs"
    elif isinstance(error, av.error.ProtocolNotFoundError):
        why = "no such protocol here; use a file, http(s)://, rtsp://, rtmp://, srt:// or udp://"
    elif isinstance(error, FileNotFoundError):
        kind, why = SourceNotFoundError, "no such file; check the spelling and the folder it is in"
    elif isinstance(error, PermissionError) and (path is None or not os.access(path, os.R_OK)):
        why = "may not be read; check its permissions"
    elif isinstance(error, av.error.InvalidDataError) and path is not None and _has_no_index(path):
        why = (
            "its index (moov) is missing, as when a recording is cut off; repair it with a tool such as untrunc, "
            "or record to MKV or fragmented MP4"
        )
    elif isinstance(error, av.error.InvalidDataError) and _is_unknown_dash(name):
        why = (
            "this build of FFmpeg reads no DASH; give the stream's HLS address (.m3u8), or build PyAV on an FFmpeg "
            "that has libxml2 (pip install --no-binary av av)"
        )
    elif isinstance(error, av.error.InvalidDataError | EOFError):
        why = "is not a video FFmpeg can read, or it is damaged; try playing it, or fetch it again"
    elif opening_web and getattr(error, "errno", None) == errno.EIO:
        # FFmpeg's one error for a name that no server has and for a seek that a server refuses.
        why = (
            f"{text}; check host, port and network; if they are right the server answers no range requests, which a "
            "file with its index at the end (MP4, MOV) needs: download it first, or put the index in front "
            "(ffmpeg -i IN -c copy -movflags +faststart OUT.mp4)"
        )
    elif path is None:
        why = f"{text}; check host, port and network"
    else:
        # Demuxers also report damage as "Operation not permitted" or "Input/output error".
        why = f"is damaged, or of a kind FFmpeg cannot read ({text}); try playing it, or fetch it again"
    return kind(f"{name}: {why}", source=name)


def explain_no_video(name: str, container: av.container.InputContainer) -> SourceError:
    """No stream of an opened container has frames to give: say what it has instead."""
    kinds = [str(stream.type) for stream in container.streams]
    if "video" in kinds:
        why = "holds only a cover image, no video; give the cover as an image file, or another file"
    elif kinds:
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        why = f"has no video, only {counted}; give a file with images in it"
    else:
        why = "has no streams at all; record or download it again"
    return SourceError(f"{name} {why}", source=name)


def _is_unknown_dash(name: str) -> bool:
    """True for a DASH manifest where FFmpeg lacks its demuxer, as that of PyAV's wheels does."""
    import av

    named = urlsplit(name).path.lower().endswith(".mpd")
    return named and not ("dash" in av.formats_available and av.ContainerFormat("dash").is_input)


def _has_no_index(path: Path) -> bool:
    """True for an MP4/MOV whose ``moov`` box is not there (walks the top-level boxes, ISO/IEC 14496-12, 4.2)."""
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

"""Which uploaded files are accepted as videos, and how browsers can play their results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdepth.core.errors import SourceError
from streamdepth.core.frame import ImageInfo

if TYPE_CHECKING:
    from pathlib import Path

_DEMUXERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "asf", "gif", "ivf", "h264", "hevc"),
    *("mjpeg", "m4v", "nut", "mxf", "apng", "yuv4mpegpipe", "dv"),
)
"""Accepted containers. Playlists and scripts (hls, concat, dash) are not: they name other files."""


def check_container(path: Path, name: str, max_pixels: int) -> ImageInfo | None:
    """Accept plain video files only: playlists and scripts would make FFmpeg open other files.

    Returns:
        Size and format of its frames, None where only decoding tells the format.
    Raises:
        SourceError: not such a file, or its frames have more than ``max_pixels``.
    """
    import av

    try:
        # FFmpeg checks the list after probing and before it opens anything else.
        options = {"format_whitelist": ",".join(_DEMUXERS), "protocol_whitelist": "file", "max_pixels": str(max_pixels)}
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            if not container.streams.video:
                raise SourceError(f"{name}: has no video stream; send MP4, MOV, MKV, WebM, AVI or MPEG-TS")
            video = container.streams.video[0]
            if not 0 < video.width * video.height <= max_pixels:  # 0: larger than the option max_pixels, or unknown
                raise SourceError(f"{name}: its frames have no size, or more than {max_pixels:,} pixels; scale it down")
            if not video.pix_fmt:
                return None
            return ImageInfo(video.width, video.height, video.pix_fmt)
    except (av.FFmpegError, OSError) as exc:
        if isinstance(exc, SourceError):
            raise
        raise SourceError(f"{name}: not a video file; send MP4, MOV, MKV, WebM, AVI or MPEG-TS") from None


def codec_for_browsers(image: ImageInfo | None) -> str | None:
    """The encoder of a result that browsers play; None = the default of the container, x264.

    Browsers decode H.264 only with 4:2:0 and 8 bits, which x264 does not use for odd sides, finer chroma or more bits.
    They decode VP9 in all of these.
    """
    from streamdepth.sinks.encoding import encoding_for

    if image is None or encoding_for(image, codec="libx264", transparent=False).pix_fmt == "yuv420p":
        return None
    return "libvpx-vp9"

"""Real clips of any shape, synthesised with PyAV, and independent readers of what is in a file."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
from numpy.typing import NDArray

from streamdepth.core.frame import ColorTags

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.subtitles.codeccontext import SubtitleCodecContext
    from av.video.stream import VideoStream

Draw = Callable[[int, int, int], NDArray[np.uint8]]
"""(index, width, height) -> RGB [H, W, 3]."""

COUNTER_CELLS = 12

# Without these a suite of short clips spends its time in the encoders' motion search.
_FAST: dict[str, dict[str, str]] = {
    "libx264": {"preset": "ultrafast", "crf": "18"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}


def draw_marks(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """Gradient (red rises to the right, green downwards), white block in the top left corner, and moving blue bars.

    Every one of the eight orientations of the image is different, and so are neighbouring frames.
    """
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(40, 215, width).astype(np.uint8)
    rgb[..., 1] = np.linspace(40, 215, height).astype(np.uint8)[:, None]
    rgb[..., 2] = ((np.arange(width) + 4 * index) // 16 % 2 * 160).astype(np.uint8)
    rgb[: max(1, height // 4), : max(1, width // 4)] = 255
    return rgb


def draw_index(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """``draw_marks`` with the index along the bottom as ``COUNTER_CELLS`` black and white cells, low bit left."""
    rgb = draw_marks(index, width, height)
    cell, top = width // COUNTER_CELLS, height - max(8, height // 8)
    for bit in range(COUNTER_CELLS):
        rgb[top:, bit * cell : (bit + 1) * cell] = 255 * (index >> bit & 1)
    return rgb


def read_index(rgb: NDArray[np.uint8]) -> int:
    """The index ``draw_index`` wrote, from an image of any size with the same aspect ratio."""
    height, width = rgb.shape[:2]
    cell, top = width // COUNTER_CELLS, height - max(8, height // 8)
    row = (top + height) // 2
    return sum(int(rgb[row, bit * cell + cell // 2].mean() > 127) << bit for bit in range(COUNTER_CELLS))


def with_unknown_codec(path: Path) -> Path:
    """The H.264 file (MP4), changed so that no decoder is found."""
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    return path


def write_clip(
    path: str | Path,
    *,
    frames: int = 30,
    width: int = 160,
    height: int = 120,
    rate: Fraction | int = Fraction(25),
    pix_fmt: str = "yuv420p",
    codec: str = "libx264",
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    audio: bool | str = False,
    subtitles: bool = False,
    rotation: int = 0,
    mirror: bool = False,
    color: ColorTags | None = None,
    sample_aspect_ratio: Fraction | None = None,
    draw: Draw = draw_marks,
    gop: int = 10,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    format: str | None = None,  # noqa: A002 - the muxer's own word
) -> Path:
    """Encode a clip and return its path.

    Args:
        path: its suffix chooses the container, unless ``format`` names a muxer.
        pts: presentation times in ``time_base`` units, rising; None = one per 1/rate.
        time_base: unit of ``pts``; None = 1/rate. Containers with their own unit round it (MP4: pass 1/90000).
        audio: a 440 Hz tone as long as the video (AAC; Opus in WebM; or the encoder of this name).
        subtitles: one line of text per second (mov_text in MP4/MOV, WebVTT in WebM, SubRip elsewhere).
        rotation: degrees clockwise (0, 90, 180, 270) a player must turn the coded image by; ``mirror``: then flip
            it left to right. MP4/MOV only: the track's matrix is written into the file's bytes.
        color: tags written into stream and frames; the image is converted with that matrix and range.
        draw: what is in frame ``index``.
    """
    path = Path(path)
    rate = Fraction(rate)
    tags = color or ColorTags()
    base = time_base or 1 / rate
    stamps = list(range(frames)) if pts is None else list(pts)
    frames = len(stamps)
    if pts is None and time_base is not None:
        stamps = [round(index / rate / base) for index in range(frames)]
    seconds = float((stamps[-1] + 1) * base) if pts is not None else float(frames / rate)
    with av.open(str(path), "w", format=format, container_options=dict(container_options or {})) as out:
        out.metadata.update(metadata or {})
        video = cast(
            "VideoStream", out.add_stream(codec, rate=rate, options={**_FAST.get(codec, {}), **(options or {})})
        )
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = base
        video.time_base = base
        if codec not in ("ffv1", "png", "rawvideo", "mjpeg", "prores_ks", "gif"):
            video.gop_size = gop
        if sample_aspect_ratio is not None:
            video.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if color is not None:
            video.colorspace, video.color_range = tags.matrix, tags.range
            video.color_primaries, video.color_trc = tags.primaries, tags.transfer
        tone = _add_tone(out, path, audio if isinstance(audio, str) else "") if audio else None
        lines = _add_lines(out, path) if subtitles else None
        out.start_encoding()
        for stamp, index in zip(stamps, range(frames), strict=True):
            image = _encode_image(draw(index, width, height), pix_fmt, tags)
            image.pts, image.time_base = stamp, base
            out.mux(video.encode(image))
        out.mux(video.encode(None))
        if tone is not None:
            _write_tone(out, tone, seconds)
        if lines is not None:
            _write_lines(out, lines, seconds)
    if rotation % 360 or mirror:
        write_track_matrix(path, rotation=rotation, mirror=mirror)
    return path


def write_audio(path: str | Path, *, seconds: float = 1.0) -> Path:
    """A file with a tone and no video."""
    path = Path(path)
    with av.open(str(path), "w") as out:
        tone = _add_tone(out, path)
        out.start_encoding()
        _write_tone(out, tone, seconds)
    return path


def write_track_matrix(path: str | Path, *, rotation: int = 0, mirror: bool = False) -> None:
    """Write the display matrix of every video track of an MP4/MOV into its ``tkhd`` box (ISO/IEC 14496-12, 8.3.2).

    Independent of any library's idea of signs: a point p of the coded image is shown at p * [[a, b], [c, d]],
    x to the right and y down.
    """
    turn = math.radians(rotation)
    flip = -1 if mirror else 1
    a, b, c, d = (
        round(math.cos(turn)) * flip,
        round(math.sin(turn)),
        -round(math.sin(turn)) * flip,
        round(math.cos(turn)),
    )
    data = bytearray(Path(path).read_bytes())
    at = data.find(b"tkhd")
    if at < 0:
        raise ValueError(f"{path} has no tkhd box: only MP4 and MOV carry a track matrix")
    while at >= 0:
        matrix = at + 4 + (36 if data[at + 4] == 0 else 48) + 4
        width, height = struct.unpack_from(">II", data, matrix + 36)
        if width and height:
            fixed = [a * 65536, b * 65536, 0, c * 65536, d * 65536, 0, 0, 0, 1 << 30]
            struct.pack_into(">9i", data, matrix, *fixed)
        at = data.find(b"tkhd", at + 4)
    Path(path).write_bytes(data)


def read_pts(path: str | Path, *, video: int | None = None) -> list[int]:
    """Presentation times of every decoded frame of the best (or the numbered) video stream, in its time base."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video") if video is None else container.streams.video[video]
        return [int(frame.pts or 0) for frame in container.decode(cast("VideoStream", stream))]


def decode_rgb(path: str | Path) -> list[NDArray[np.uint8]]:
    """Every frame of the best video stream as RGB, as coded (no rotation)."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return [
            np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            for frame in container.decode(cast("VideoStream", stream))
        ]


def decode_images(path: str | Path) -> list[av.VideoFrame]:
    """Every frame of the best video stream as decoded."""
    with av.open(str(path)) as container:
        return list(container.decode(cast("VideoStream", container.streams.best("video"))))


def stream_kinds(path: str | Path) -> list[tuple[str, str]]:
    """(type, codec name) of every stream."""
    with av.open(str(path)) as container:
        return [
            (stream.type, stream.codec_context.name if stream.codec_context else "") for stream in container.streams
        ]


def audio_samples(path: str | Path) -> NDArray[np.float32]:
    """All decoded samples of the first audio stream, its first channel, float32."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp")
        parts: list[NDArray[Any]] = []
        for frame in container.decode(container.streams.audio[0]):
            parts += [part.to_ndarray()[0] for part in resampler.resample(frame)]
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)


def _encode_image(rgb: NDArray[np.uint8], pix_fmt: str, tags: ColorTags) -> av.VideoFrame:
    source = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    if pix_fmt in ("rgb24", "gbrp", "bgr0", "rgba", "pal8"):
        image = source.reformat(format=pix_fmt)
    else:
        matrix = {1: 1, 9: 9}.get(tags.matrix, 5)
        full = tags.range == 2 or pix_fmt.startswith(("yuvj", "gray"))
        image = source.reformat(
            format=pix_fmt, src_color_range=2, dst_colorspace=matrix, dst_color_range=2 if full else 1
        )
    tags.apply(image)
    return image


def _add_tone(out: av.container.OutputContainer, path: Path, codec: str = "") -> AudioStream:
    default = "libopus" if path.suffix == ".webm" else "aac"
    stream = cast("AudioStream", out.add_stream(codec or default, rate=48000))
    if codec.startswith("wma"):
        stream.codec_context.bit_rate = 64_000
    stream.codec_context.layout = "mono"
    return stream


def _write_tone(out: av.container.OutputContainer, stream: AudioStream, seconds: float) -> None:
    size = stream.codec_context.frame_size or 1024
    kind = stream.codec_context.format.name
    for start in range(0, int(seconds * 48000), size):
        wave = 0.3 * np.sin(2 * np.pi * 440 / 48000 * np.arange(start, start + size))
        samples = (wave * 32767).astype(np.int16) if kind.startswith("s16") else wave.astype(np.float32)
        frame = av.AudioFrame.from_ndarray(samples[None], format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode(None))


_ASS_HEADER = (
    b"[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n\n"
    b"[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)


def _add_lines(out: av.container.OutputContainer, path: Path) -> Any:
    name = {".mp4": "mov_text", ".mov": "mov_text", ".webm": "webvtt"}.get(path.suffix, "subrip")
    stream: Any = out.add_stream(name)
    context = cast("SubtitleCodecContext", stream.codec_context)
    context.subtitle_header = _ASS_HEADER
    context.time_base = Fraction(1, 1000)
    return stream


def _write_lines(out: av.container.OutputContainer, stream: Any, seconds: float) -> None:
    from av.subtitles.subtitle import SubtitleSet

    for second in range(max(1, int(seconds))):
        line = f"{second},0,Default,,0,0,0,,line {second}".encode()
        packet = stream.codec_context.encode_subtitle(
            SubtitleSet.create(text=line, start=0, end=800, pts=second * 1_000_000)
        )
        packet.stream = stream
        packet.time_base = Fraction(1, 1000)
        packet.pts = packet.dts = second * 1000
        packet.duration = 800
        out.mux(packet)

"""Results to feed sinks with, and readers of what they wrote that share no code with them."""

from __future__ import annotations

import contextlib
import json
import subprocess
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest

from streamdepth.core.frame import ColorTags, DepthMap, DepthRange, Frame, ImageInfo, Result, Sense, StreamInfo
from streamdepth.core.look import Look, LookControl
from streamdepth.sinks.video import VideoSink
from streamdepth.sources.select import source_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from streamdepth.core.contracts import Sink


def control(**changes: Any) -> LookControl:
    return LookControl(Look(**changes))


def stream_info(
    *,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    time_base: Fraction = Fraction(1, 25),
    rate: Fraction | None = Fraction(25),
    **more: Any,
) -> StreamInfo:
    return StreamInfo(
        source_id="clip", width_px=width, height_px=height, pix_fmt=pix_fmt, time_base=time_base, rate=rate, **more
    )


def image_info(info: StreamInfo) -> ImageInfo:
    return ImageInfo(info.width_px, info.height_px, info.pix_fmt, info.color)


def info_of(path: Path, **more: Any) -> StreamInfo:
    """A file as a source would describe it."""
    with av.open(str(path)) as container:
        stream = cast("av.video.stream.VideoStream", container.streams.best("video"))
        image = next(container.decode(stream))
        return StreamInfo(
            source_id=path.name,
            width_px=image.width,
            height_px=image.height,
            pix_fmt=image.format.name,
            time_base=cast("Fraction", stream.time_base),
            rate=stream.average_rate,
            duration_seconds=None if container.duration is None else container.duration / 1e6,
            color=ColorTags.of(image),
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
            media_path=str(path),
            **more,
        )


def paint(width: int, height: int, index: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """An image that differs from its neighbours."""
    y, x = np.mgrid[:height, :width]
    channels = [(x * 4 + index * 8) % 256, (y * 4 + index * 3) % 256, np.full_like(x, (index * 16) % 256)]
    rgb = np.stack(channels, axis=-1).astype(np.uint8)
    image = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    return image if pix_fmt == "rgb24" else image.reformat(format=pix_fmt)


def depth_map(values: NDArray[Any] | None = None, *, sense: Sense = Sense.METRIC_M, index: int = 0) -> DepthMap:
    if values is None:
        y, x = np.mgrid[:12, :16]
        values = 1.0 + 0.1 * x + 0.05 * y + 0.01 * index
    return DepthMap(np.ascontiguousarray(values, np.float32), sense)


def result(
    image: av.VideoFrame,
    pts: int,
    *,
    index: int = 0,
    time_base: Fraction = Fraction(1, 25),
    depth: DepthMap | None = None,
    captured_ns: int = 0,
    path: Path | None = None,
) -> Result:
    frame = Frame("clip", index, pts, time_base, captured_ns, image, path=path)
    return Result(frame, depth or depth_map(index=index), DepthRange(0.0, 10.0), image)


def results_of(path: Path) -> Iterator[Result]:
    """Every frame of a file with itself as the coloured image."""
    with av.open(str(path)) as container:
        stream = cast("av.video.stream.VideoStream", container.streams.best("video"))
        for index, image in enumerate(container.decode(stream)):
            yield result(image, cast("int", image.pts), index=index, time_base=cast("Fraction", image.time_base))


def painted(
    stamps: Sequence[int],
    *,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    time_base: Fraction = Fraction(1, 25),
) -> Iterator[Result]:
    for index, pts in enumerate(stamps):
        yield result(paint(width, height, index, pix_fmt), pts, index=index, time_base=time_base)


def run_sink(sink: Sink, info: StreamInfo, results: Iterable[Result], image: ImageInfo | None = None) -> None:
    """What the pipeline does with one sink, on this thread."""
    sink.open(info, image or image_info(info))
    try:
        for item in results:
            sink.process(item)
        sink.flush()
    finally:
        sink.close()


def probe(path: Path, *, stream: str = "v:0") -> dict[str, Any]:
    """What ffprobe says of a stream: its fields, plus ``pts`` and ``seconds`` of every frame and ``all`` streams."""
    command = ["ffprobe", "-v", "error", "-select_streams", stream, "-show_streams", "-show_frames", "-of", "json"]
    ran = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(ran.stdout)
    described = dict(found["streams"][0])
    described["pts"] = [frame["pts"] for frame in found["frames"] if "pts" in frame]
    described["seconds"] = [float(frame["pts_time"]) for frame in found["frames"] if "pts_time" in frame]
    described["errors"] = ran.stderr
    return described


def packets(path: Path, kind: str, index: int = 0) -> list[tuple[Fraction, bytes]]:
    """Time in seconds and content of every packet of one audio or subtitle stream."""
    with av.open(str(path)) as container:
        stream = [found for found in container.streams if found.type == kind][index]
        return [
            (cast("int", packet.pts) * packet.time_base, bytes(packet))
            for packet in container.demux(stream)
            if packet.size
        ]


@contextlib.contextmanager
def small_disk(folder: Path, *, kilobytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full. Skips the test where it cannot be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        ran = subprocess.run(mount, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"no small disk: {exc}")
    if ran.returncode:
        pytest.skip(f"no small disk: {ran.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=10)


def transcode(path: Path, sink: Sink, **options: Any) -> Sink:
    """Every frame of a file with itself as the coloured frame, through its source."""
    source = source_for(path, **options)
    info = source.open()
    sink.open(info, ImageInfo(info.width_px, info.height_px, info.pix_fmt, info.color))
    try:
        for frame in source.frames():
            depth = depth_map(np.full((6, 8), 1.0 + 0.1 * frame.index, np.float32))
            sink.process(Result(frame, depth, DepthRange(0.0, 10.0), frame.image))
        sink.flush()
    finally:
        sink.close()
        source.close()
    return sink


def video(path: Path, **options: Any) -> VideoSink:
    return VideoSink(path, control=control(), options=FAST if path.suffix != ".webm" else {}, **options)


def times(path: Path, kind: str) -> list[tuple[float, float]]:
    """Start and duration in seconds of every packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (float(cast("int", packet.pts) * packet.time_base), float((packet.duration or 0) * packet.time_base))
            for packet in container.demux(stream)
            if packet.size
        ]


def duration(path: Path) -> float:
    with av.open(str(path)) as container:
        return (container.duration or 0) / 1e6


def shown_lines(path: Path) -> list[tuple[float, float, str]]:
    """Lines of mov_text with their start and duration; empty samples are gaps."""
    with av.open(str(path)) as container:
        stream = container.streams.subtitles[0]
        found = []
        for packet in container.demux(stream):
            text = bytes(packet)[2 : 2 + int.from_bytes(bytes(packet)[:2], "big")].decode()
            if text:
                start = float(cast("int", packet.pts) * packet.time_base)
                found.append((round(start, 2), round(float((packet.duration or 0) * packet.time_base), 2), text))
        return found


def with_sound(path: Path, codec: str) -> Path:
    """A clip of 2 s with a tone at 48 kHz, mono."""
    rate = 48_000
    with av.open(str(path), "w") as out:
        picture: Any = out.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound: Any = out.add_stream(codec, rate=rate)
        sound.layout, sound.bit_rate = "mono", 128_000
        for index in range(50):
            image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * index, np.uint8), format="rgb24")
            image.pts = index
            out.mux(picture.encode(image))
            tone = np.sin(np.arange(rate // 25) * 0.05).astype(np.float32)[None] * 0.5
            frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, index * rate // 25
            for resampled in av.AudioResampler(format=sound.format, layout="mono", rate=rate).resample(frame):
                out.mux(sound.encode(resampled))
        out.mux(picture.encode(None))
        out.mux(sound.encode(None))
    return path


FAST = {"preset": "ultrafast"}

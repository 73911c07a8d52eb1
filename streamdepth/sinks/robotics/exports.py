"""Depth for programs that take one range per clip: iw3 (stereo video) and video diffusion control."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.host import temporary_folder
from streamdepth.depth.range import measure
from streamdepth.depth.shots import ShotSamples, spool_file
from streamdepth.sinks.depth.sink import known_values, resized
from streamdepth.sinks.encoding import CONTAINERS, container_options
from streamdepth.sinks.files import MuxedFile, OutputFile, claim_folder, make_folder, write_failed, write_whole
from streamdepth.sinks.tracks import track_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.stream import Stream
    from numpy.typing import NDArray

    from streamdepth.core.frame import DepthMap, ImageInfo, Result, Sense, StreamInfo

IW3_FILE = "iw3_export.yml"
VACE_RATE = 16
_VACE_LONG_PX, _VACE_SHORT_PX, _VACE_MULTIPLE = 832, 480, 16
_VACE_LENGTH_STEP = 4
_VACE_CRF = "10"
_WHITE = 65535


class _ClipSink(BaseSink):
    """Keeps the depth of a clip in a temporary file until its range is known."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._spool: IO[bytes] | None = None
        self._shapes: list[tuple[int, int]] = []
        self._samples = ShotSamples()
        self._sense: Sense | None = None
        self._stream: StreamInfo | None = None
        self._interrupted = self._flushed = False

    @property
    def _info(self) -> StreamInfo:
        if self._stream is None:
            raise SinkError(f"{self.name}: not open")
        return self._stream

    @property
    def _complete(self) -> bool:
        clock = self._info.media_clock
        return not self._interrupted and (clock is None or clock.finished)

    def _keep(self, depth: DepthMap) -> None:
        self._sense = depth.sense
        self._samples.add(measure(depth))
        values = np.ascontiguousarray(known_values(depth))
        self._shapes.append((depth.height_px, depth.width_px))
        if self._spool is None:
            self._spool = spool_file()
        try:
            self._spool.write(values.data)
        except OSError as error:
            raise write_failed(Path(temporary_folder()), error) from error

    def _nearness(self) -> Iterator[NDArray[np.float32]]:
        """Of every frame, in the range of the clip: 0 to 1 = nearest, 0 without depth."""
        if self._sense is None or self._spool is None:
            return
        scale, offset, floor = self._samples.range().nearness_terms(self._sense, inverse=True)
        self._spool.seek(0)
        for height, width in self._shapes:
            if self._interrupted:
                return
            values = np.frombuffer(self._spool.read(4 * height * width), np.float32).reshape(height, width)
            if floor:
                values = np.asarray(1 / np.maximum(values, np.float32(floor)), np.float32)
            yield np.clip(np.nan_to_num(values * np.float32(scale) + np.float32(offset), nan=0.0), 0, 1)

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()


class Iw3Sink(_ClipSink):
    """Writes the export folder that iw3 (nunif) imports: frames, depth, audio, and ``iw3_export.yml``.

    ``rgb/000000.png`` is a frame, ``depth/000000.png`` its nearness in 16 bits at the size of the frame: 65535 is the
    nearest and 0 the farthest of the clip. ``audio.m4a`` holds the first audio stream, copied or encoded as AAC.
    ``mapper: none`` says that the values are linear in disparity. The YAML file is written last, so a folder that has
    one is complete. ``user_data`` says that the values have no unit, and names the model.

    Args:
        path: the YAML file, ``FOLDER/iw3_export.yml``.
        overwrite: write into a folder that is not empty.
        model: recorded in the YAML file.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, model: str = "") -> None:
        super().__init__(str(path))
        self._path, self._overwrite, self._model = Path(path), overwrite, model
        self._span = (Fraction(0), Fraction(0))
        if self._path.name != IW3_FILE:
            raise UsageError(f"{path}: the only .yml output is that of iw3; name it {self._path.parent / IW3_FILE}")

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        claim_folder(self._path.parent, overwrite=self._overwrite)
        self._path.unlink(missing_ok=True)
        self._stream = stream

    def process(self, result: Result) -> None:
        seconds = result.frame.pts * result.frame.time_base
        self._span = (self._span[0] if self._shapes else seconds, seconds)
        self._keep(result.depth)
        self._write("rgb", len(self._shapes) - 1, result.frame.to_rgb()[..., ::-1])

    def flush(self) -> None:
        if self._flushed or not self._shapes:
            return
        self._flushed = True
        size = self._info.width_px, self._info.height_px
        for index, near in enumerate(self._nearness()):
            codes = np.rint(np.clip(resized(near, size), 0, 1) * _WHITE).astype(np.uint16)
            self._write("depth", index, codes)
        if not self._complete:
            return
        audio = self._copy_audio()
        import yaml

        content: dict[str, Any] = {
            "type": "video",
            "basename": Path(self._info.source_id).stem,
            "fps": float(self._rate),
            "rgb_dir": "rgb",
            "depth_dir": "depth",
            **({"audio_file": "audio.m4a"} if audio else {}),
            "mapper": "none",
            "skip_mapper": False,
            "skip_edge_dilation": False,
            "user_data": {"model": self._model, "metres": "absent: nearness from 0 to 65535 = nearest of the clip"},
        }
        write_whole(self._path, yaml.safe_dump(content, sort_keys=False).encode())

    @property
    def _rate(self) -> Fraction:
        """Frames per second; of frames that are not evenly timed, their average, so that the audio fits."""
        rate, seconds, steps = self._info.rate or Fraction(25), self._span[1] - self._span[0], len(self._shapes) - 1
        uneven = steps > 0 and abs(seconds * rate - steps) > 1
        return steps / seconds if uneven and seconds > 0 else rate

    def _write(self, folder: str, index: int, pixels: NDArray[Any]) -> None:
        import cv2

        done, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise SinkError(f"{self.name}: OpenCV cannot write a PNG of {pixels.shape[1]}x{pixels.shape[0]}")
        make_folder(self._path.parent / folder)
        write_whole(self._path.parent / folder / f"{index:06d}.png", bytes(content.data))

    def _copy_audio(self) -> bool:
        """Write the audio between the first and the last frame; False if there is none."""
        import av

        info = self._info
        if info.media_path is None:
            return False
        with contextlib.ExitStack() as stack:
            try:
                source = stack.enter_context(av.open(info.media_path, options=dict(info.media_options)))
            except (av.FFmpegError, OSError):
                return False
            if not source.streams.audio:
                return False
            stream: Stream = source.streams.audio[0]
            path = self._path.parent / "audio.m4a"
            file = OutputFile(path, overwrite=self._overwrite)
            muxed = MuxedFile(file, "mp4", {})
            track = track_for(stream, muxed.container, "mp4", "auto")
            written = 0
            try:
                if isinstance(track, str):
                    return False
                base = Fraction(stream.time_base or 1)
                origin = round(info.origin_seconds / base)
                end = info.origin_seconds + len(self._shapes) / self._rate
                for packet in source.demux(stream):
                    if self._interrupted or packet.pts is None or packet.pts * base >= end:
                        break
                    # One packet more: decoders need the one before the start, and MP4 plays from 0.
                    if packet.pts + 2 * (packet.duration or 0) <= origin:
                        continue
                    packet.pts, packet.dts = packet.pts - origin, (packet.dts or packet.pts) - origin
                    for out in track.write(packet):
                        muxed.mux(out)
                        written += 1
                for out in track.flush():
                    muxed.mux(out)
                    written += 1
            finally:
                muxed.close(empty=not written, complete=not self._interrupted)
        return written > 0


class VaceSink(_ClipSink):
    """Writes a control video for video diffusion (Wan VACE and others that take the same).

    H.264, near white on black, 16 frames per second (the nearest frame in time), 4 k + 1 frames (up to three at the end
    are left out), sides that are multiples of 16 and fit 832x480 (or 480x832), one range for the whole clip, no audio.

    Args:
        path: file to write, ``.mp4`` or ``.mkv``.
        overwrite: replace an existing file.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        super().__init__(str(path))
        self._path, self._overwrite = Path(path), overwrite
        if self._path.suffix.lower() not in (".mp4", ".mkv"):
            raise UsageError(f"{path}: control video is written as .mp4 or .mkv; use e.g. control.mp4")
        self._file: OutputFile | None = None
        self._times: list[Fraction] = []

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            UsageError: the output is the input, or the source is live.
            OutputExistsError: the file exists and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        if stream.live:
            raise UsageError(f"{self.name}: needs the end of the clip for its range; record the source first")
        self._file = OutputFile(self._path, overwrite=self._overwrite, media_path=stream.media_path)
        self._stream = stream

    def process(self, result: Result) -> None:
        self._times.append(result.frame.pts * result.frame.time_base)
        self._keep(result.depth)

    def flush(self) -> None:
        if self._flushed or not self._shapes or self._file is None:
            return
        self._flushed = True
        import av

        chosen = control_frames(self._times)
        suffix = self._path.suffix.lower()
        container = CONTAINERS[suffix]
        muxed = MuxedFile(self._file, container.muxer, container_options(container, VACE_RATE))
        width, height = control_size(self._info.width_px, self._info.height_px)
        video = muxed.container.add_stream("libx264", rate=VACE_RATE, options={"crf": _VACE_CRF})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        try:
            pts = 0
            for index, near in enumerate(self._nearness()):
                while pts < len(chosen) and chosen[pts] == index:
                    gray = np.rint(np.clip(resized(near, (width, height)), 0, 1) * 255).astype(np.uint8)
                    frame = av.VideoFrame.from_ndarray(gray, format="gray").reformat(format="yuv420p")
                    frame.pts, frame.time_base = pts, Fraction(1, VACE_RATE)
                    muxed.mux(video.encode(frame))
                    pts += 1
            muxed.mux(video.encode(None))
        finally:
            muxed.close(empty=False, complete=self._complete)

    def close(self) -> None:
        if self._file is not None and not self._flushed:
            self._file.discard()
        super().close()


def control_size(width_px: int, height_px: int) -> tuple[int, int]:
    """The largest size of about this shape within 832x480 or 480x832 whose sides are multiples of 16."""
    long, short = max(width_px, height_px), min(width_px, height_px)
    scale = min(_VACE_LONG_PX / long, _VACE_SHORT_PX / short)
    step = _VACE_MULTIPLE
    width, height = (max(step, round(side * scale / step) * step) for side in (width_px, height_px))
    return width, height


def control_frames(times: list[Fraction]) -> list[int]:
    """Index of the nearest frame for each of 4 k + 1 times, 1/16 s apart from the first frame's.

    Args:
        times: media time of each frame in seconds, ascending; at least one.
    """
    count = int((times[-1] - times[0]) * VACE_RATE) + 1
    count -= (count - 1) % _VACE_LENGTH_STEP
    chosen, index = [], 0
    for number in range(count):
        at = times[0] + Fraction(number, VACE_RATE)
        while index + 1 < len(times) and abs(times[index + 1] - at) < abs(times[index] - at):
            index += 1
        chosen.append(index)
    return chosen

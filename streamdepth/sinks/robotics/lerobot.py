"""A LeRobot data set (format v3.0) with frames and metric depth.

Written with pyarrow and PyAV: the package ``lerobot`` needs torch, and older versions of huggingface_hub and PyAV than
this one. The format is that of its releases from 0.6.
"""

from __future__ import annotations

import io
import json
import math
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from streamdepth.core.contracts import BaseSink
from streamdepth.core.errors import SinkError, UsageError
from streamdepth.core.frame import converted
from streamdepth.sinks.depth.sink import resized
from streamdepth.sinks.files import MuxedFile, OutputFile, claim_folder, last_packets, make_folder, write_whole
from streamdepth.sinks.robotics import metres_of, origin, package

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from streamdepth.core.frame import ImageInfo, Result, StreamInfo

INFO_FILE = "info.json"
CODES = 4095
DEPTH_MIN_M, SHIFT_M = 0.01, 3.5
_CAMERA, _DEPTH = "observation.images.camera", "observation.images.camera_depth"
_FILE = "chunk-000/file-000"
_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_SAMPLE_STEP = 8


def quantized(metres: NDArray[np.float32], depth_max_m: float) -> NDArray[np.uint16]:
    """12-bit codes of depth: linear in ``log(metres + 3.5)`` from 0.01 m to ``depth_max_m``; 0 without depth."""
    lo, hi = math.log(DEPTH_MIN_M + SHIFT_M), math.log(depth_max_m + SHIFT_M)
    known = np.nan_to_num(metres, nan=DEPTH_MIN_M, posinf=depth_max_m, neginf=DEPTH_MIN_M)
    near = np.clip(known, DEPTH_MIN_M, depth_max_m)
    return np.asarray(np.rint(CODES * (np.log(near + np.float32(SHIFT_M)) - lo) / (hi - lo)), np.uint16)


class LeRobotSink(BaseSink):
    """Writes one episode: two videos, a table of time stamps, and the metadata of the data set.

    ``observation.images.camera`` is H.264 of the frames, ``observation.images.camera_depth`` lossless HEVC ``gray12le``
    of depth at the size of the frames, quantized by :func:`quantized`, whose parameters are in ``meta/info.json``.
    Depth beyond ``depth_max_m`` is stored as that and counted (``beyond_range``, frames). The format has no code for
    missing depth: it becomes the nearest, 0.01 m, as LeRobot stores the 0 of depth cameras. Frames are numbered and
    timed at a whole rate, as the format requires. :attr:`note` reports each where it occurs. ``meta/info.json`` is
    written last, so a folder that has one is complete; its depth feature says where the metres come from
    (``streamdepth.metres``), with the largest error of all frames if they are anchored.

    Args:
        path: ``FOLDER/meta/info.json``.
        overwrite: write into a folder that is not empty.
        depth_max_m: depth of the highest code, in metres.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, depth_max_m: float = 10.0) -> None:
        super().__init__(str(path))
        self._path, self._overwrite, self._depth_max_m = Path(path), overwrite, depth_max_m
        if self._path.name != INFO_FILE or self._path.parent.name != "meta":
            raise UsageError(f"{path}: the only .json output is a LeRobot data set; name it FOLDER/meta/{INFO_FILE}")
        self._root = self._path.parent.parent
        self._stream: StreamInfo | None = None
        self._videos: dict[str, tuple[MuxedFile, Any]] = {}
        self._values: dict[str, list[NDArray[np.float64]]] = {_CAMERA: [], _DEPTH: []}
        self._error: float | None = None
        self._frames = self._beyond = self._incomplete = 0
        self._first_seconds = self._off_seconds = 0.0
        self._rate = 25
        self._size = (0, 0)
        self._closed = self._interrupted = False

    @property
    def counts(self) -> Mapping[str, int]:
        return MappingProxyType({"beyond_range": self._beyond} if self._beyond else {})

    @property
    def note(self) -> str:
        parts = []
        if self._incomplete:
            parts.append(
                f"{self._incomplete} of {self._frames} frames have pixels without depth; they are stored as "
                f"{DEPTH_MIN_M} m, because the format has no value for missing depth"
            )
        if self._beyond:
            parts.append(
                f"{self._beyond} of {self._frames} frames have depth beyond {self._depth_max_m:g} m, stored as "
                f"{self._depth_max_m:g} m; set the largest depth with --lerobot-max"
            )
        if self._off_seconds > 0.5 / self._rate:
            parts.append(
                f"times are those of {self._rate} fps, because the format requires a fixed rate; "
                f"the frames differ from them by up to {self._off_seconds:.3g} s"
            )
        return "; ".join(parts)

    def open(self, stream: StreamInfo, image: ImageInfo | None) -> None:  # noqa: ARG002 - takes no images
        """
        Raises:
            MissingDependencyError: the package pyarrow is not installed.
            OutputExistsError: the folder is not empty and ``overwrite`` is False.
            SinkError: it cannot be written.
        """
        package("pyarrow.parquet", self.name, "lerobot")
        claim_folder(self._root, overwrite=self._overwrite)
        self._path.unlink(missing_ok=True)
        self._stream = stream
        self._rate = max(1, round(stream.rate or 25))
        # H.264 of yuv420p has even sides.
        self._size = stream.width_px - stream.width_px % 2, stream.height_px - stream.height_px % 2
        if min(self._size) < 16:
            raise UsageError(f"{self.name}: frames of {stream.width_px}x{stream.height_px} are too small for HEVC")

    def process(self, result: Result) -> None:
        """
        Raises:
            DataFormatError: the depth is not in metres.
            SinkError: the files cannot be written.
        """
        import av

        if self._stream is None:
            raise SinkError(f"{self.name}: not open")
        metres = metres_of(self.name, result.depth)
        if not self._videos:
            depth = {"x265-params": "lossless=1:log-level=error"}
            self._videos = {
                _CAMERA: self._video(_CAMERA, "libx264", "yuv420p", {"crf": "18"}),
                _DEPTH: self._video(_DEPTH, "libx265", "gray12le", depth),
            }
        if result.depth.anchor_error is not None:
            self._error = float(np.fmax(result.depth.anchor_error, math.nan if self._error is None else self._error))
        width, height = self._size
        image = converted(result.frame.image, width=width, height=height, format="yuv420p")
        self._mux(_CAMERA, image)
        self._beyond += bool((metres > self._depth_max_m).any())
        known = np.clip(metres[np.isfinite(metres)], DEPTH_MIN_M, self._depth_max_m)
        metres = resized(metres, self._size)
        self._incomplete += bool(np.isnan(metres).any())
        seconds = result.frame.seconds
        self._first_seconds = self._first_seconds if self._frames else seconds
        self._off_seconds = max(self._off_seconds, abs(seconds - self._first_seconds - self._frames / self._rate))
        self._mux(_DEPTH, av.VideoFrame.from_ndarray(quantized(metres, self._depth_max_m), format="gray12le"))
        rgb = result.frame.to_rgb()[::_SAMPLE_STEP, ::_SAMPLE_STEP].reshape(-1, 3) / 255
        for key, values in ((_CAMERA, rgb), (_DEPTH, known.reshape(-1, 1).astype(np.float64))):
            if len(values):
                self._values[key].append(np.stack([values.min(0), values.max(0), values.mean(0), (values**2).mean(0)]))
        self._frames += 1

    def interrupt(self) -> None:
        self._interrupted = True

    def close(self) -> None:
        """Raises ``SinkError``: a file could not be written."""
        if self._closed or self._stream is None:
            return
        self._closed = True
        clock = self._stream.media_clock
        complete = not self._interrupted and (clock is None or clock.finished)
        for muxed, video in self._videos.values():
            try:
                muxed.mux(last_packets(video.encode(None), self._frames))
            finally:
                muxed.close(empty=False, complete=complete)
        if self._frames and complete:
            self._write_tables()
            make_folder(self._path.parent)
            write_whole(self._root / "meta" / "stats.json", json.dumps(self._stats(), indent=2).encode())
            write_whole(self._path, json.dumps(self._info(), indent=2).encode())

    def _video(self, key: str, codec: str, pix_fmt: str, options: dict[str, str]) -> tuple[MuxedFile, Any]:
        path = self._root / "videos" / key / f"{_FILE}.mp4"
        make_folder(path.parent)
        muxed = MuxedFile(OutputFile(path, overwrite=self._overwrite), "mp4", {})
        video: Any = muxed.container.add_stream(codec, rate=self._rate, options=options)
        video.width, video.height = self._size
        video.pix_fmt = pix_fmt
        video.codec_context.gop_size = 2  # as LeRobot: quick random access
        return muxed, video

    def _mux(self, key: str, image: Any) -> None:
        muxed, video = self._videos[key]
        image.pts, image.time_base = self._frames, Fraction(1, self._rate)
        image.pict_type = 0
        muxed.mux(video.encode(image))

    def _stats(self) -> dict[str, Any]:
        stats = {}
        for key, frames in self._values.items():
            if not frames:
                continue
            lows, highs, means, squares = np.stack(frames, axis=1)
            mean = means.mean(0)
            spread = np.sqrt(np.maximum(squares.mean(0) - mean**2, 0))
            named = {"min": lows.min(0), "max": highs.max(0), "mean": mean, "std": spread}
            stats[key] = {name: values[:, None, None].tolist() for name, values in named.items()}
            stats[key]["count"] = [self._frames]
        columns = self._columns()
        for name in _COLUMNS:
            values = np.asarray(columns[name], np.float64)
            named = {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
            stats[name] = {key: [float(value)] for key, value in named.items()}
            stats[name]["count"] = [self._frames]
        return stats

    def _columns(self) -> dict[str, NDArray[Any]]:
        index = np.arange(self._frames, dtype=np.int64)
        zeros = np.zeros_like(index)
        times = (index / self._rate).astype(np.float32)
        return dict(zip(_COLUMNS, (times, index, zeros, index, zeros), strict=True))

    def _write_tables(self) -> None:
        import pyarrow as pa

        self._write_table(f"data/{_FILE}.parquet", pa.table(self._columns()))
        # The index of the table of tasks is its text, as pandas stores it.
        names: dict[str, list[Any]] = {"index_columns": ["task"], "columns": [], "column_indexes": []}
        for name, kind, numpy_type in (("task_index", "int64", "int64"), ("task", "unicode", "object")):
            one = {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}
            names["columns"].append(one)
        tasks = pa.table({"task_index": np.zeros(1, np.int64), "task": ["depth"]})
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(names)})
        self._write_table("meta/tasks.parquet", tasks)
        episode: dict[str, Any] = {
            "episode_index": 0,
            "tasks": ["depth"],
            "length": self._frames,
            "data/chunk_index": 0,
            "data/file_index": 0,
            "dataset_from_index": 0,
            "dataset_to_index": self._frames,
            "meta/episodes/chunk_index": 0,
            "meta/episodes/file_index": 0,
        }
        for key in (_CAMERA, _DEPTH):
            place = {"chunk_index": 0, "file_index": 0, "from_timestamp": 0.0}
            place["to_timestamp"] = self._frames / self._rate
            episode |= {f"videos/{key}/{name}": value for name, value in place.items()}
        self._write_table(f"meta/episodes/{_FILE}.parquet", pa.Table.from_pylist([episode]))

    def _write_table(self, name: str, table: Any) -> None:
        import pyarrow.parquet

        content = io.BytesIO()
        pyarrow.parquet.write_table(table, content)
        make_folder((self._root / name).parent)
        write_whole(self._root / name, content.getbuffer())

    def _info(self) -> dict[str, Any]:
        width, height = self._size
        videos: dict[str, tuple[int, str, str, dict[str, Any]]] = {
            _CAMERA: (3, "h264", "yuv420p", {"is_depth_map": False}),
            _DEPTH: (
                1,
                "hevc",
                "gray12le",
                {
                    "is_depth_map": True,
                    "depth_unit": "m",
                    "video.depth_min": DEPTH_MIN_M,
                    "video.depth_max": self._depth_max_m,
                    "video.shift": SHIFT_M,
                    "video.use_log": True,
                    "video.extra_options": {"x265-params": "lossless=1"},
                    "streamdepth.metres": origin(self._error),
                },
            ),
        }
        features: dict[str, Any] = {
            key: {
                "dtype": "video",
                "shape": [height, width, channels],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": codec,
                    "video.pix_fmt": pix_fmt,
                    "video.fps": self._rate,
                    "video.channels": channels,
                    "video.g": 2,
                    "has_audio": False,
                    **more,
                },
            }
            for key, (channels, codec, pix_fmt, more) in videos.items()
        }
        for name in _COLUMNS:
            dtype = "float32" if name == "timestamp" else "int64"
            features[name] = {"dtype": dtype, "shape": [1], "names": None}
        return {
            "codebase_version": "v3.0",
            "robot_type": None,
            "total_episodes": 1,
            "total_frames": self._frames,
            "total_tasks": 1,
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self._rate,
            "splits": {"train": "0:1"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": features,
        }

"""The table of ``benchmarks/steadiness.py --stabilize``."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

import streamdepth as sd
from streamdepth.colorize.images import paint
from streamdepth.depth.motion import CutDetector, OpticalFlow
from streamdepth.depth.stabilize import CausalStabilizer, Stabilizer, TwoSidedStabilizer
from streamdepth.sources.select import source_for
from support.steady import FLOW_WIDTH_PX, Pair, accuracy, edge_f1, pairs, steadiness, temporal_error
from support.timing import machine
from support.walk import Walk, walk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from numpy.typing import NDArray

FILTERS: dict[str, Any] = {"live": CausalStabilizer, "files": TwoSidedStabilizer}
_RATE = 30
_STRIP_FRAMES, _CELL_WIDTH_PX = 3, 240


@dataclass
class Clip:
    """Frames of a video and the model's depth of each.

    Attributes:
        grays: uint8 [h, w], 480 wide.
        smalls: the filter's own images.
        cuts: first frames of shots.
    """

    name: str
    depths: list[sd.DepthMap] = field(default_factory=list)
    grays: list[NDArray[np.uint8]] = field(default_factory=list)
    smalls: list[NDArray[np.uint8]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cuts: set[int] = field(default_factory=set)
    rate: Fraction | None = None


def read(path: Path, name: str, model: str, frames: int) -> Clip:
    clip, detector, flow = Clip(name), CutDetector(), OpticalFlow()
    source = source_for(str(path), max_frames=frames)
    estimator = sd.DepthEstimator(model, provider="cpu")
    with estimator:
        for index, (frame, depth) in enumerate(sd.stream(source, estimator)):
            if detector.is_cut(frame.image):
                clip.cuts.add(index)
            height = round(FLOW_WIDTH_PX * frame.height_px / frame.width_px)
            gray = cv2.cvtColor(frame.to_rgb(), cv2.COLOR_RGB2GRAY)
            clip.grays.append(cv2.resize(gray, (FLOW_WIDTH_PX, height), interpolation=cv2.INTER_AREA))
            clip.smalls.append(flow.small(frame.image))
            clip.depths.append(depth)
            clip.seconds.append(frame.seconds)
    with av.open(str(path)) as container:
        clip.rate = container.streams.best("video").average_rate
    return clip


def filtered(clip: Clip, kind: Any) -> tuple[list[NDArray[np.float32]], float]:
    """Filtered depth of each frame, and milliseconds of CPU time per frame."""
    stabilizer: Stabilizer[int] = kind(clip.rate)
    done: list[tuple[int, sd.DepthMap]] = []
    began = time.process_time()
    for index, depth in enumerate(clip.depths):
        done += stabilizer.append(index, clip.smalls[index], depth, clip.seconds[index], cut=index in clip.cuts)
    done += stabilizer.flush()
    return [depth.values for _, depth in done], (time.process_time() - began) / len(clip.depths) * 1e3


def table(clips: Sequence[Path], walks: Sequence[str], models: Sequence[str], frames: int, picture: str | None) -> None:
    """Print the table, row by row."""
    print(f"{machine()}; up to {frames} frames each\n")
    print("| clip | model | filter | SF | F2 | still | edge F1 | AbsRel | delta1 | TAE | ms |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    ratios: dict[str, list[list[float]]] = {name: [] for name in FILTERS}
    with tempfile.TemporaryDirectory() as folder:
        videos: list[tuple[Path, str, Walk | None]] = [(path, path.stem, None) for path in clips]
        for name in walks:
            truth = walk(name, frames)
            videos.append((_written(truth, Path(folder) / f"{name}.mkv"), name, truth))
        for path, name, truth in videos:
            flow: list[Pair] = []
            for model in models:
                clip = read(path, name, model, frames)
                flow = flow or pairs(clip.grays)
                for kind, row in _rows(clip, Path(model).stem, truth, flow):
                    ratios[kind].append(row)
                if picture:
                    _draw(clip, picture)
                    picture = None
    for kind, rows in ratios.items():
        means = np.exp(np.nanmean(np.log(np.array(rows)), axis=0))
        cells = [f"{mean:.2f}x" for mean in means]
        print(f"| geometric mean | | {kind} | {' | '.join(cells[:3])} | | | | {cells[3]} | |")


def _rows(clip: Clip, model: str, truth: Walk | None, flow: Sequence[Pair]) -> list[tuple[str, list[float]]]:
    plain = [depth.values for depth in clip.depths]
    base = steadiness(plain, clip.grays, flow, clip.cuts)
    exact = (*accuracy(plain, truth), temporal_error(plain, truth)) if truth else None
    cells = [f"{value:.4f}" for value in base] + ["1"] + ([f"{value:.3f}" for value in exact] if exact else [""] * 3)
    print(f"| {clip.name} | {model} | off | {' | '.join(cells)} | |", flush=True)
    result = []
    for kind, stabilizer in FILTERS.items():
        filtered(clip, stabilizer)  # compiles kernels
        values, milliseconds = filtered(clip, stabilizer)
        now = steadiness(values, clip.grays, flow, clip.cuts)
        ratios = [a / b for a, b in zip(now, base, strict=True)]
        cells = [f"{ratio:.2f}x" for ratio in ratios] + [f"{edge_f1(values, plain):.3f}"]
        if truth and exact:
            error, share, over_time = *accuracy(values, truth), temporal_error(values, truth)
            cells += [f"{error / exact[0] - 1:+.1%}", f"{share - exact[1]:+.4f}", f"{over_time / exact[2]:.2f}x"]
        else:
            cells += [""] * 3
        print(f"| | | {kind} | {' | '.join(cells)} | {milliseconds:.1f} |", flush=True)
        result.append((kind, [*ratios, over_time / exact[2] if truth and exact else float("nan")]))
    return result


def _written(truth: Walk, path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=_RATE, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = truth.rgb.shape[2], truth.rgb.shape[1], "yuv420p"
        for rgb in truth.rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
        container.mux(stream.encode(None))
    return path


def _draw(clip: Clip, path: str) -> None:
    """Some frames and, on the right, one row over time: unfiltered above, then live, then files."""
    sequences = [[depth.values for depth in clip.depths]]
    sequences += [filtered(clip, stabilizer)[0] for stabilizer in FILTERS.values()]
    lo, hi = np.percentile(np.stack(sequences[0]), (2, 98))
    height = round(_CELL_WIDTH_PX * sequences[0][0].shape[0] / sequences[0][0].shape[1])
    first = len(clip.depths) // 3

    def painted(values: NDArray[np.float32]) -> NDArray[np.uint8]:
        size = (_CELL_WIDTH_PX, height)
        look = sd.Look(alpha=(1.0, 1.0))
        return paint(values, clip.depths[0].sense, sd.DepthRange(float(lo), float(hi)), look, size_px=size)[..., :3]

    rows = []
    for values in sequences:
        middle = values[0].shape[0] // 2
        slices = np.ascontiguousarray(np.stack([depth[middle] for depth in values]), np.float32)
        rows.append(np.hstack([*(painted(depth) for depth in values[first : first + _STRIP_FRAMES]), painted(slices)]))
    cv2.imwrite(path, np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])

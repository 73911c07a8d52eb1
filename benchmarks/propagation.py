"""Difference between depth propagated from key frames (``--model-every N``) and the model's own depth of each frame.

    python benchmarks/propagation.py CLIP [--every 2,4,8] [--model MODEL.onnx --size WxH] [--frames N]
        [--image OUT.jpg --frame N]

Mean absolute difference as a share of the clip's depth range (2nd to 98th percentile), over all propagated frames and
of the worst one. For comparison, two simpler methods with the same number of model runs: hold the last depth, and
crossfade between two. `frame to frame` is the change of the model's own depth between frames, `ms` the CPU time per
propagated frame. --image writes one frame, the model's depth of it, and propagated depth.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
from support.timing import machine

import streamdepth as sd
from streamdepth.colorize.images import paint
from streamdepth.core.look import Look
from streamdepth.depth.motion import CutDetector
from streamdepth.depth.propagation import DepthPropagator, KnownDepth
from streamdepth.sources.select import source_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Propagate = Callable[["Clip", int, int], list[NDArray[np.float32]]]


_CELL_WIDTH_PX = 320


@dataclass
class Clip:
    """Frames of a clip and the model's depth of each.

    Attributes:
        images: uint8 [h, w, 3], RGB, 320 wide.
        small: the propagator's reduced frames.
        depths: the model's depth of each frame.
        shots: for each frame, the index of the first frame of its shot.
    """

    images: list[NDArray[np.uint8]] = field(default_factory=list)
    small: list[NDArray[np.uint8]] = field(default_factory=list)
    depths: list[sd.DepthMap] = field(default_factory=list)
    shots: list[int] = field(default_factory=list)
    propagator: DepthPropagator = field(default_factory=DepthPropagator)

    def known(self, index: int) -> KnownDepth:
        return KnownDepth.of(self.small[index], self.depths[index])

    @property
    def ends(self) -> sd.DepthRange:
        lo, hi = np.percentile(np.concatenate([depth.values.ravel()[::16] for depth in self.depths]), (2, 98))
        return sd.DepthRange(float(lo), float(hi))

    @property
    def range(self) -> float:
        return self.ends.hi - self.ends.lo


def read(name: str, estimator: sd.DepthEstimator, frames: int) -> Clip:
    clip, cuts, shot = Clip(), CutDetector(), 0
    for index, (frame, depth) in enumerate(sd.stream(source_for(name, max_frames=frames), estimator)):
        shot = index if cuts.is_cut(frame.image) else shot
        height = round(_CELL_WIDTH_PX * frame.height_px / frame.width_px)
        clip.images.append(cv2.resize(frame.to_rgb(), (_CELL_WIDTH_PX, height), interpolation=cv2.INTER_AREA))
        clip.small.append(clip.propagator.flow.small(frame.image))
        clip.depths.append(depth)
        clip.shots.append(shot)
    return clip


def keys_of(clip: Clip, every: int) -> list[int]:
    """Key frames of a run: every Nth frame, counted from the first frame of each shot."""
    return [index for index, shot in enumerate(clip.shots) if (index - shot) % every == 0]


def error(clip: Clip, every: int, propagate: Propagate) -> tuple[float, float]:
    """Mean and worst frame, as a share of the clip's range, between key frames of one shot."""
    errors = [
        float(np.abs(values - clip.depths[index].values).mean())
        for before, after in pairwise(keys_of(clip, every))
        if clip.shots[before] == clip.shots[after]
        for index, values in enumerate(propagate(clip, before, after), start=before + 1)
    ]
    return float(np.mean(errors)) / clip.range, max(errors) / clip.range


def both_sides(clip: Clip, before: int, after: int) -> list[NDArray[np.float32]]:
    smalls = clip.small[before + 1 : after]
    return [depth.values for depth in clip.propagator.between(smalls, clip.known(before), clip.known(after))]


def behind(clip: Clip, before: int, after: int) -> list[NDArray[np.float32]]:
    known = clip.known(before)
    return [clip.propagator.forward(small, known).values for small in clip.small[before + 1 : after]]


def held(clip: Clip, before: int, after: int) -> list[NDArray[np.float32]]:
    return [clip.depths[before].values] * (after - before - 1)


def crossfade(clip: Clip, before: int, after: int) -> list[NDArray[np.float32]]:
    first, last = clip.depths[before].values, clip.depths[after].values
    return [first + (last - first) * np.float32(step / (after - before)) for step in range(1, after - before)]


def draw(clip: Clip, index: int, numbers: list[int], path: str) -> None:
    """Write the frame, the model's depth and the depth propagated for each of ``numbers``, side by side."""

    def painted(values: NDArray[np.float32]) -> NDArray[np.uint8]:
        size = (_CELL_WIDTH_PX, clip.images[index].shape[0])
        return paint(values, clip.depths[index].sense, clip.ends, Look(alpha=(1.0, 1.0)), size_px=size)[..., :3]

    cells = [clip.images[index], painted(clip.depths[index].values)]
    for every in numbers:
        before = max(key for key in keys_of(clip, every) if key <= index)
        cells.append(painted(both_sides(clip, before, before + every)[index - before - 1]))
    cv2.imwrite(path, np.hstack(cells)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip")
    parser.add_argument("--every", default="2,4,8")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--size", help="network input, WxH")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--image", help="write an image to this file")
    parser.add_argument("--frame", type=int, default=43, help="frame of the image; not a key frame for any N")
    options = parser.parse_args()
    clip = read(options.clip, sd.DepthEstimator(options.model, size=options.size), options.frames)
    moves = [np.abs(a.values - b.values).mean() for a, b in pairwise(clip.depths)]
    print(f"{machine()}; {len(clip.depths)} frames; `{' '.join(['python', *sys.argv])}`")
    print(f"frame to frame {np.mean(moves) / clip.range:.1%}\n")
    print("| every | from both sides (files), worst frame | ms | from behind (live), worst | ms | held | crossfade |")
    print("|---|---|---|---|---|---|---|")
    numbers = [int(text) for text in options.every.split(",")]
    for every in numbers:
        row = [str(every)]
        for propagate in (both_sides, behind):
            began = time.process_time()
            mean, worst = error(clip, every, propagate)
            propagated = len(clip.depths) - len(keys_of(clip, every))
            row += [f"{mean:.1%}, {worst:.1%}", f"{(time.process_time() - began) / propagated * 1e3:.1f}"]
        row += [f"{error(clip, every, propagate)[0]:.1%}" for propagate in (held, crossfade)]
        print(f"| {' | '.join(row)} |")
    if options.image:
        draw(clip, options.frame, numbers, options.image)


if __name__ == "__main__":
    main()

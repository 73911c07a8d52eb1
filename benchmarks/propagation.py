"""How far depth propagated between key frames (``--model-every N``) is from what the model says of each frame itself.

    python benchmarks/propagation.py FILM [--every 2,4,8] [--model MODEL.onnx --size WxH] [--frames N]
        [--image OUT.jpg --frame N]

Mean absolute difference as a share of the film's range (2nd to 98th percentile of all depth), over the frames that are
no key frames, and of the worst one. Beside it what people do instead, at the same number of model runs: hold the last
depth, or fade from one to the next. `frame to frame` is how much the model's own depth changes from one frame to the
next; `ms` the CPU time of a propagated frame. The image shows one frame, the model's depth of it, and propagated depth.
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
from streamdepth.colorize.still import paint
from streamdepth.core.look import Look
from streamdepth.depth.cuts import CutDetector
from streamdepth.depth.propagation import DepthPropagator, KnownDepth
from streamdepth.sources.select import source_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Propagate = Callable[["Film", int, int], list[NDArray[np.float32]]]


_CELL_WIDTH_PX = 320


@dataclass
class Film:
    """What is known of each frame.

    Attributes:
        images: uint8 [h, w, 3], RGB, 320 wide.
        shots: index of the first frame of its shot.
    """

    images: list[NDArray[np.uint8]] = field(default_factory=list)
    small: list[NDArray[np.uint8]] = field(default_factory=list)
    depths: list[sd.DepthMap] = field(default_factory=list)
    shots: list[int] = field(default_factory=list)
    carrier: DepthPropagator = field(default_factory=DepthPropagator)

    def known(self, index: int) -> KnownDepth:
        return KnownDepth.of(self.small[index], self.depths[index])

    @property
    def ends(self) -> sd.DepthRange:
        lo, hi = np.percentile(np.concatenate([depth.values.ravel()[::16] for depth in self.depths]), (2, 98))
        return sd.DepthRange(float(lo), float(hi))

    @property
    def range(self) -> float:
        return self.ends.hi - self.ends.lo


def read(name: str, estimator: sd.DepthEstimator, frames: int) -> Film:
    film, cuts, shot = Film(), CutDetector(), 0
    for index, (frame, depth) in enumerate(sd.stream(source_for(name, max_frames=frames), estimator)):
        shot = index if cuts.is_cut(frame.image) else shot
        height = round(_CELL_WIDTH_PX * frame.height_px / frame.width_px)
        film.images.append(cv2.resize(frame.to_rgb(), (_CELL_WIDTH_PX, height), interpolation=cv2.INTER_AREA))
        film.small.append(film.carrier.small(frame.image))
        film.depths.append(depth)
        film.shots.append(shot)
    return film


def keys_of(film: Film, every: int) -> list[int]:
    """As a run chooses them: every Nth frame, and counted anew from the first of each shot."""
    return [index for index, shot in enumerate(film.shots) if (index - shot) % every == 0]


def error(film: Film, every: int, propagate: Propagate) -> tuple[float, float]:
    """Mean and worst frame, as a share of the film's range, between key frames of one shot."""
    errors = [
        float(np.abs(values - film.depths[index].values).mean())
        for before, after in pairwise(keys_of(film, every))
        if film.shots[before] == film.shots[after]
        for index, values in enumerate(propagate(film, before, after), start=before + 1)
    ]
    return float(np.mean(errors)) / film.range, max(errors) / film.range


def both_sides(film: Film, before: int, after: int) -> list[NDArray[np.float32]]:
    smalls = film.small[before + 1 : after]
    return [depth.values for depth in film.carrier.between(smalls, film.known(before), film.known(after))]


def behind(film: Film, before: int, after: int) -> list[NDArray[np.float32]]:
    known = film.known(before)
    return [film.carrier.onward(small, known).values for small in film.small[before + 1 : after]]


def held(film: Film, before: int, after: int) -> list[NDArray[np.float32]]:
    return [film.depths[before].values] * (after - before - 1)


def faded(film: Film, before: int, after: int) -> list[NDArray[np.float32]]:
    first, last = film.depths[before].values, film.depths[after].values
    return [first + (last - first) * np.float32(step / (after - before)) for step in range(1, after - before)]


def draw(film: Film, index: int, numbers: list[int], path: str) -> None:
    """The frame, and under it its depth by the model, and as it is propagated for each of ``numbers``."""

    def painted(values: NDArray[np.float32]) -> NDArray[np.uint8]:
        size = (_CELL_WIDTH_PX, film.images[index].shape[0])
        return paint(values, film.depths[index].sense, film.ends, Look(alpha=(1.0, 1.0)), size_px=size)[..., :3]

    cells = [film.images[index], painted(film.depths[index].values)]
    for every in numbers:
        before = max(key for key in keys_of(film, every) if key <= index)
        cells.append(painted(both_sides(film, before, before + every)[index - before - 1]))
    cv2.imwrite(path, np.hstack(cells)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film")
    parser.add_argument("--every", default="2,4,8")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--size", help="network input, WxH")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--image", help="write one here")
    parser.add_argument("--frame", type=int, default=43, help="that it shows; no key frame for any number")
    options = parser.parse_args()
    film = read(options.film, sd.DepthEstimator(options.model, size=options.size), options.frames)
    moves = [np.abs(a.values - b.values).mean() for a, b in pairwise(film.depths)]
    print(f"{machine()}; {len(film.depths)} frames; `{' '.join(['python', *sys.argv])}`")
    print(f"frame to frame {np.mean(moves) / film.range:.1%}\n")
    print("| every | from both sides (files), worst frame | ms | from behind (live), worst | ms | held | faded |")
    print("|---|---|---|---|---|---|---|")
    numbers = [int(text) for text in options.every.split(",")]
    for every in numbers:
        row = [str(every)]
        for propagate in (both_sides, behind):
            began = time.process_time()
            mean, worst = error(film, every, propagate)
            propagated = len(film.depths) - len(keys_of(film, every))
            row += [f"{mean:.1%}, {worst:.1%}", f"{(time.process_time() - began) / propagated * 1e3:.1f}"]
        row += [f"{error(film, every, propagate)[0]:.1%}" for propagate in (held, faded)]
        print(f"| {' | '.join(row)} |")
    if options.image:
        draw(film, options.frame, numbers, options.image)


if __name__ == "__main__":
    main()

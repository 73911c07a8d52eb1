"""How far depth carried between key frames (``--model-every N``) is from what the model says of each frame itself.

    python benchmarks/carried.py FILM [--every 2,4,8] [--model MODEL.onnx --size WxH] [--frames N]

Mean absolute difference as a share of the film's range (2nd to 98th percentile of all depth), over the frames that are
no key frames, and of the worst one. Beside it what people do instead, at the same number of model runs: hold the last
depth, or fade from one to the next. `frame to frame` is how much the model's own depth changes from one frame to the
next; `ms` the CPU time of a carried frame.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from support.timing import machine

import streamdepth as sd
from streamdepth.depth.carry import DepthCarrier, KnownDepth
from streamdepth.depth.cuts import CutDetector
from streamdepth.sources.select import source_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Carry = Callable[["Film", int, int, int], NDArray[np.float32]]


@dataclass
class Film:
    """What is known of each frame.

    Attributes:
        shots: index of the first frame of its shot.
    """

    small: list[NDArray[np.uint8]] = field(default_factory=list)
    depths: list[sd.DepthMap] = field(default_factory=list)
    shots: list[int] = field(default_factory=list)
    carrier: DepthCarrier = field(default_factory=DepthCarrier)

    def known(self, index: int) -> KnownDepth:
        return KnownDepth.of(self.small[index], self.depths[index])

    @property
    def range(self) -> float:
        lo, hi = np.percentile(np.concatenate([depth.values.ravel()[::16] for depth in self.depths]), (2, 98))
        return float(hi - lo)


def read(name: str, estimator: sd.DepthEstimator, frames: int) -> Film:
    film, cuts, shot = Film(), CutDetector(), 0
    for index, (frame, depth) in enumerate(sd.stream(source_for(name, max_frames=frames), estimator)):
        shot = index if cuts.is_cut(frame.picture) else shot
        film.small.append(film.carrier.small(frame.picture))
        film.depths.append(depth)
        film.shots.append(shot)
    return film


def keys_of(film: Film, every: int) -> list[int]:
    """As a run chooses them: every Nth frame, and counted anew from the first of each shot."""
    return [index for index, shot in enumerate(film.shots) if (index - shot) % every == 0]


def error(film: Film, every: int, carry: Carry) -> tuple[float, float]:
    """Mean and worst frame, as a share of the film's range, between key frames of one shot."""
    errors = [
        float(np.abs(carry(film, before, index, after) - film.depths[index].values).mean())
        for before, after in pairwise(keys_of(film, every))
        for index in range(before + 1, after)
        if film.shots[before] == film.shots[after]
    ]
    return float(np.mean(errors)) / film.range, max(errors) / film.range


def both_sides(film: Film, before: int, index: int, after: int) -> NDArray[np.float32]:
    share = (index - before) / (after - before)
    return film.carrier.carried(film.small[index], film.known(before), film.known(after), share=share).values


def behind(film: Film, before: int, index: int, _after: int) -> NDArray[np.float32]:
    return film.carrier.carried(film.small[index], film.known(before)).values


def held(film: Film, before: int, _index: int, _after: int) -> NDArray[np.float32]:
    return film.depths[before].values


def faded(film: Film, before: int, index: int, after: int) -> NDArray[np.float32]:
    share = np.float32((index - before) / (after - before))
    return film.depths[before].values * (1 - share) + film.depths[after].values * share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film")
    parser.add_argument("--every", default="2,4,8")
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--size", help="network input, WxH")
    parser.add_argument("--frames", type=int, default=400)
    options = parser.parse_args()
    film = read(options.film, sd.DepthEstimator(options.model, size=options.size), options.frames)
    moves = [np.abs(a.values - b.values).mean() for a, b in pairwise(film.depths)]
    print(f"{machine()}; {len(film.depths)} frames; `{' '.join(['python', *sys.argv])}`")
    print(f"frame to frame {np.mean(moves) / film.range:.1%}\n")
    print("| every | from both sides (files), worst frame | ms | from behind (live), worst | ms | held | faded |")
    print("|---|---|---|---|---|---|---|")
    for every in (int(text) for text in options.every.split(",")):
        row = [str(every)]
        for carry in (both_sides, behind):
            began = time.process_time()
            mean, worst = error(film, every, carry)
            carried = len(film.depths) - len(keys_of(film, every))
            row += [f"{mean:.1%}, {worst:.1%}", f"{(time.process_time() - began) / carried * 1e3:.1f}"]
        row += [f"{error(film, every, carry)[0]:.1%}" for carry in (held, faded)]
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

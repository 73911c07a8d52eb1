"""Are the stated errors of anchored metres true? Share of pixels within one standard deviation (68 % is right).

    python benchmarks/anchors.py FOLDER...

An error is a share of the stated depth, as the stated error is. Each FOLDER holds rgb/, 16-bit depth/ of the same
names, and meta.json with "scale" (value / scale = metres). The prior of `streamdepth.depth.alignment` is tried on a
grid: as it is; chosen anew without the photograph that is tested (leave one out); and chosen on the other folders only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from support.timing import machine

import streamdepth as sd
from streamdepth.core.errors import DataFormatError
from streamdepth.depth import alignment

_POINTS, _TRIALS, _STEP, _FARTHEST_M = (2, 3, 5, 10, 25, 50), 6, 4, 80.0
_ERRORS, _COUNTS = (0.1, 0.12, 0.14, 0.15, 0.16, 0.18, 0.2), (2, 3, 4, 8)
_ONE_SIGMA = 0.683


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    print(machine(), "|", "python", *sys.argv)
    cases = _cases(parser.parse_args().folders)
    own = alignment._PRIOR_ERROR, alignment._PRIOR_COUNT
    # Rows of (folder, photograph, points, share within, median error), for each prior.
    tables = {prior: _measured(cases, prior) for prior in {own, *itertools.product(_ERRORS, _COUNTS)}}
    print("as it is:", _described(tables[own]))
    groups = sorted(set(tables[own][:, 0]))
    for group in groups:
        print(f"  folder {group:g}:", _described(tables[own][tables[own][:, 0] == group]))
    held = []
    for photo in sorted(set(tables[own][:, 1])):
        best = min(tables, key=lambda prior: _miss(tables[prior][tables[prior][:, 1] != photo]))
        held.append(tables[best][tables[best][:, 1] == photo])
    print("leave one photograph out:", _described(np.concatenate(held)))
    for group in groups if len(groups) > 1 else []:
        best = min(tables, key=lambda prior: _miss(tables[prior][tables[prior][:, 0] != group]))
        print(f"leave folder {group:g} out, prior {best}:", _described(tables[best][tables[best][:, 0] == group]))


def _cases(folders: list[Path]) -> list[tuple[int, sd.DepthMap, np.ndarray]]:
    cases = []
    with sd.DepthEstimator(provider="cpu") as estimator:
        for number, folder in enumerate(folders):
            scale = json.loads((folder / "meta.json").read_text())["scale"]
            for path in sorted((folder / "rgb").iterdir()):
                measured = cv2.imread(str(folder / "depth" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED) / scale
                estimate = estimator(str(path))
                cases.append((number, sd.DepthMap(estimate.data, estimate.sense), measured))
    return cases


def _measured(cases: list[tuple[int, sd.DepthMap, np.ndarray]], prior: tuple[float, int]) -> np.ndarray:
    alignment._PRIOR_ERROR, alignment._PRIOR_COUNT = prior
    rows = []
    for photo, (group, depth, measured) in enumerate(cases):
        known = (measured > 0) & (measured <= _FARTHEST_M)
        y, x = np.nonzero(known)
        rng = np.random.default_rng(photo)
        for points, _ in itertools.product(_POINTS, range(_TRIALS)):
            chosen = rng.choice(len(y), points, replace=False)
            try:
                found = sd.align(depth, [(x[i], y[i], measured[y[i], x[i]]) for i in chosen])
            except DataFormatError:
                continue
            grid = (slice(None, None, _STEP), slice(None, None, _STEP))
            part = sd.DepthMap(np.ascontiguousarray(depth.values[grid]), depth.sense)
            real, made = measured[grid][known[grid]], found.apply(part).values[known[grid]]
            within = np.abs(real / made - 1) < found.relative_error(part)[known[grid]]
            rows.append((group, photo, points, within.mean(), np.median(np.abs(made / real - 1))))
    return np.array(rows)


def _described(rows: np.ndarray) -> str:
    parts = [
        f"{n}: {rows[rows[:, 2] == n, 3].mean():.0%} (error {np.median(rows[rows[:, 2] == n, 4]):.0%})" for n in _POINTS
    ]
    return f"{rows[:, 3].mean():.1%}; by points " + ", ".join(parts)


def _miss(rows: np.ndarray) -> float:
    return sum(abs(rows[rows[:, 2] == points, 3].mean() - _ONE_SIGMA) for points in _POINTS)


if __name__ == "__main__":
    main()

"""Age of depth when a control loop gets it: from a camera's frame to a numpy array, by `sd.stream`.

    python benchmarks/age.py [--rate FPS] [--seconds S] [--size WxH] [--model M] [--loop HZ] [--json F]

The camera releases frame n at a known time of the monotonic clock and draws n into its pixels; the age is the monotonic
time at which the loop holds the array, less that time. Three loops: waiting for each result; polling `latest()`; and
waiting, with 50 ms of work a result, as a loop that is slower than the camera.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from support.camera import CounterCamera, number_in
from support.timing import machine

import streamdepth as sd
from streamdepth.core.look import View

_WORK_SECONDS = 0.05
_WARM_UP_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=Fraction, default=Fraction(30))
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--model", default=None)
    parser.add_argument("--loop", type=float, default=100.0, help="rate of the polling loop")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(machine(), "|", "python", *sys.argv)
    print("| loop | results of frames | median | p95 | p99 |\n|---|---|---|---|---|")
    rows = []
    with sd.DepthEstimator(options.model) if options.model else sd.DepthEstimator() as estimator:
        for name in ("waiting", f"latest() at {options.loop:g} Hz", "waiting, 50 ms of work"):
            ages, count = _ages(options, estimator, name)
            median, p95, p99 = (round(float(np.percentile(ages, q)), 1) for q in (50, 95, 99))
            rows.append({"loop": name, "results": len(ages), "frames": count, "median": median, "p95": p95, "p99": p99})
            print("| {loop} | {results} of {frames} | {median} ms | {p95} ms | {p99} ms |".format(**rows[-1]))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def _ages(options: argparse.Namespace, estimator: sd.DepthEstimator, name: str) -> tuple[list[float], int]:
    """Milliseconds, and the number of frames that the camera released."""
    width, height = map(int, options.size.split("x"))
    camera = CounterCamera(width, height, options.rate, options.seconds + _WARM_UP_SECONDS)
    ages: list[float] = []

    def add(frame: Any, depth: Any) -> None:
        array = np.array(depth.values)  # the loop's own copy
        now_ns = time.monotonic_ns()
        released_ns = camera.started_ns + round(number_in(frame.image, View.OVERLAY) * 1_000_000_000 / options.rate)
        if array.size and now_ns - camera.started_ns > _WARM_UP_SECONDS * 1e9:
            ages.append((now_ns - released_ns) / 1e6)

    with sd.stream(camera, estimator, policy="latest") as results:
        if name.startswith("latest"):
            while not results.ended:
                if (newest := results.latest()) is not None:
                    add(*newest)
                time.sleep(1 / options.loop)
        else:
            for frame, depth in results:
                add(frame, depth)
                time.sleep(_WORK_SECONDS if "work" in name else 0)
    return ages, camera.taken


if __name__ == "__main__":
    main()

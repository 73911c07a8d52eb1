"""A folder of images: ``DepthEstimator.each``, which reads and encodes in parallel, against one call per image.

    python benchmarks/stills_folder.py [--size 1280x720] [--count 12] [--model built-in]

From JPEG to a coloured PNG in memory, on the CPU. Both methods run in turn under the same load.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from support.timing import machine

import streamdepth as sd

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--model", default="built-in")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with (
        tempfile.TemporaryDirectory() as folder,
        sd.DepthEstimator(options.model, provider="cpu") as estimator,
    ):
        paths = _images(Path(folder), width, height, options.count)
        ways: dict[str, Callable[[], object]] = {
            "one call per image": lambda: [estimator(path, style="inferno") for path in paths],
            "each()": lambda: list(estimator.each(paths, style="inferno")),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        estimator(paths[0], style="inferno")
        for _ in range(options.rounds):
            for name, work in ways.items():
                started = time.perf_counter()
                work()
                times[name].append((time.perf_counter() - started) * 1e3 / options.count)
    print(f"{machine()}; {options.model}, {options.size}; `{' '.join(['python', *sys.argv])}`\n")
    print("| JPEG to depth as PNG, per image | median ms | best ms | faster by (median, best) |")
    print("|---|---|---|---|")
    first = times["one call per image"]
    for name, found in times.items():
        median, best = statistics.median(found), min(found)
        print(
            f"| {name} | {median:.0f} | {best:.0f} | {statistics.median(first) / median:.2f}, {min(first) / best:.2f} |"
        )


def _images(folder: Path, width: int, height: int, count: int) -> list[Path]:
    from PIL import Image

    from streamdepth.media.scene import pattern

    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(pattern(width, height, number)).save(path, quality=90)
    return paths


if __name__ == "__main__":
    main()

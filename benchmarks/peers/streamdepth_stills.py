"""Depth of images with streamdepth: FOLDER RUNS WIDTHxHEIGHT IMAGE...; prints one JSON line.

STREAMDEPTH_STILLS selects the method: ``png`` (one call per image, depth and a PNG of it), ``depth`` (one call per
image, depth alone) or ``each`` (all images in one call, depth and PNG).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from PIL import Image

import streamdepth as sd


def main() -> None:
    folder, runs, size, *sources = sys.argv[1:]
    way = os.environ["STREAMDEPTH_STILLS"]
    style = None if way == "depth" else "grayscale"
    images = [Image.open(name).convert("RGB") for name in sources] * int(runs)
    with sd.DepthEstimator(Path(folder) / "onnx" / "model.onnx", size=size) as estimator:
        estimator(images[0], style=style)
        times = []
        if way == "each":
            started = time.perf_counter()
            for _ in estimator.each(images, style=style):
                pass
            times = [(time.perf_counter() - started) * 1e3 / len(images)]
        else:
            for image in images:
                started = time.perf_counter()
                estimator(image, style=style)
                times.append((time.perf_counter() - started) * 1e3)
    print(json.dumps({"times": times, "cpu_ms": time.process_time() * 1e3}))


if __name__ == "__main__":
    main()

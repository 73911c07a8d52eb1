"""Depth of pictures with streamdepth, as the peers beside it: FOLDER RUNS WIDTHxHEIGHT PICTURE...; one JSON line."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from PIL import Image

import streamdepth as sd


def main() -> None:
    folder, runs, size, *pictures = sys.argv[1:]
    images = [Image.open(name).convert("RGB") for name in pictures]
    times = []
    with sd.DepthEstimator(Path(folder) / "onnx" / "model.onnx", size=size) as estimator:
        estimator(images[0], style="grayscale")
        for _ in range(int(runs)):
            for image in images:
                started = time.perf_counter()
                estimator(image, style="grayscale")
                times.append((time.perf_counter() - started) * 1e3)
    print(json.dumps({"times": times, "cpu_ms": time.process_time() * 1e3}))


if __name__ == "__main__":
    main()

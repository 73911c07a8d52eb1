"""Depth of images with the ``transformers`` pipeline: FOLDER RUNS WIDTHxHEIGHT IMAGE...; prints one JSON line."""

from __future__ import annotations

import json
import sys
import time

from PIL import Image
from transformers import AutoImageProcessor, DepthAnythingForDepthEstimation, pipeline


def main() -> None:
    folder, runs, size, *sources = sys.argv[1:]
    width, height = (int(side) for side in size.split("x"))
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    processor.size = {"height": height, "width": width}
    model = DepthAnythingForDepthEstimation.from_pretrained(folder)
    depth = pipeline("depth-estimation", model=model, image_processor=processor, device="cpu")
    images = [Image.open(name).convert("RGB") for name in sources]
    depth(images[0])
    times = []
    for _ in range(int(runs)):
        for image in images:
            started = time.perf_counter()
            depth(image)
            times.append((time.perf_counter() - started) * 1e3)
    print(json.dumps({"times": times, "cpu_ms": time.process_time() * 1e3}))


if __name__ == "__main__":
    main()

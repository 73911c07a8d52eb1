"""Depth of images against ``transformers`` and transformers.js: differences as a share of the range.

    python benchmarks/parity.py

The peers' depth is read from ``tests/goldens``, where it was made with the real libraries on the same random-weight
models; the scripts there make it anew. Such models and images of one-pixel stripes are the worst case: the column
"libraries" is how far the two are from each other.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

import streamdepth as sd
from tests.support.goldens import FOLDER, JS_ARCHITECTURES, load, load_js

_ARCHITECTURES = ("depth_anything", "dpt", "glpn", "zoedepth", "depth_pro")


def main() -> None:
    print("| model | image | `transformers` | `--match transformersjs` | libraries |")
    print("|---|---|---|---|---|")
    for name in _ARCHITECTURES:
        golden, path = load(name), FOLDER / name / "model.onnx"
        js = load_js(name) if name in JS_ARCHITECTURES else {}
        for key, image in golden.images.items():
            python = golden.arrays[f"depth_{key}"]
            ours = sd.DepthEstimator(path, provider="cpu")(image).data
            cells = [_difference(ours, python), "-", "-"]
            if key in js:
                match = sd.DepthEstimator(path, provider="cpu", match="transformersjs")(image).data
                cells[1:] = [_difference(match, js[key]), _difference(python, js[key])]
            print(f"| {name} | {image.shape[1]}x{image.shape[0]} | {' | '.join(cells)} |")


def _difference(found: np.ndarray, wanted: np.ndarray) -> str:
    error = np.abs(found - wanted) / np.ptp(wanted)
    return f"{error.max():.1e}, mean {error.mean():.1e}"


if __name__ == "__main__":
    main()

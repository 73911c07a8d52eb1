"""Depth accuracy of the built-in model, baselines and other models on photographs with measured depth.

    python benchmarks/accuracy.py [FOLDER] [--stereo] [--model NAME ...] [--fastdepth FILE] [--every N]

FOLDER holds sets: `SET/rgb/NNNN.jpg`, `SET/depth/NNNN.png` (16 bit, value / scale = metres, 0 = invalid) and
`SET/meta.json` with `scale`. --stereo adds scikit-image's motorcycle (`pip install scikit-image`), one
photograph of the Middlebury 2014 stereo benchmark; no model here was trained on it.
Protocol: for each image, scale and shift between predicted inverse depth and 1 / depth by least squares; then, on
depth up to the cap (10 m for sets named indoor*, 80 m for others), AbsRel = mean |d - g| / g and delta1 = share with
max(d / g, g / d) < 1.25; means over the images of a set.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from support.models import Predict, fastdepth, product

if TYPE_CHECKING:
    from collections.abc import Iterator

INDOOR_CAP_M, OUTDOOR_CAP_M = 10.0, 80.0


def score(inverse: np.ndarray, depth_m: np.ndarray, cap_m: float) -> tuple[float, float]:
    """(AbsRel, delta1) of a prediction float [h, w], near = large, against depth float [H, W] in m, 0 = invalid."""
    if inverse.shape != depth_m.shape:
        size = (depth_m.shape[1], depth_m.shape[0])
        inverse = cv2.resize(inverse.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    valid = (depth_m > 1e-3) & (depth_m <= cap_m)
    p, g = inverse[valid].astype(np.float64), depth_m[valid].astype(np.float64)
    a = np.stack([p, np.ones_like(p)], 1)
    fit = np.array([0.0, (1 / g).mean()]) if p.std() < 1e-9 else np.linalg.lstsq(a, 1 / g, rcond=None)[0]
    d = 1 / np.maximum(a @ fit, 1 / cap_m)
    return float((np.abs(d - g) / g).mean()), float((np.maximum(d / g, g / d) < 1.25).mean())


def images(folder: Path, every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every Nth (RGB uint8 [H, W, 3], depth float32 [H, W] in metres) of a set."""
    scale = float(json.loads((folder / "meta.json").read_text())["scale"])
    for path in sorted((folder / "rgb").iterdir())[::every]:
        depth = cv2.imread(str(folder / "depth" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        yield cv2.imread(str(path))[:, :, ::-1].copy(), depth.astype(np.float32) / scale


def stereo() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The left image of scikit-image's stereo pair, and its depth from the disparity: z = f b / (d + doffs)."""
    from skimage.data import stereo_motorcycle  # its documentation gives the three constants

    rgb, _, disparity_px = stereo_motorcycle()
    depth = 994.978 * 0.193001 / (disparity_px + 31.086)
    yield rgb, np.nan_to_num(depth, nan=0.0, posinf=0.0).astype(np.float32)


def constant(rgb: np.ndarray) -> np.ndarray:
    return np.ones(rgb.shape[:2], np.float32)


def lower_is_nearer(rgb: np.ndarray) -> np.ndarray:
    return np.repeat(np.linspace(0, 1, rgb.shape[0], dtype=np.float32)[:, None], rgb.shape[1], 1)


def photographs(folder: Path | None, every: int, with_stereo: bool) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Set name to a list of (RGB, depth in metres)."""
    sets = {}
    for path in sorted(p for p in folder.iterdir() if (p / "meta.json").is_file()) if folder else []:
        sets[path.name] = list(images(path, every if len(list((path / "rgb").iterdir())) > 50 else 1))
    if with_stereo:
        sets["indoor_motorcycle"] = list(stereo())
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--stereo", action="store_true", help="add scikit-image's stereo pair")
    parser.add_argument("--model", action="append", default=None, help="name or file, repeatable; default: built-in")
    parser.add_argument("--size", help="network size for --model")
    parser.add_argument("--fastdepth", type=Path)
    parser.add_argument("--every", type=int, default=1, help="use every Nth image of sets with more than 50")
    args = parser.parse_args()
    if args.folder is None and not args.stereo:
        parser.error("give a folder of sets, --stereo, or both")
    models: dict[str, Predict] = {"constant": constant, "lower is nearer": lower_is_nearer}
    if args.fastdepth:
        models["FastDepth"] = fastdepth(args.fastdepth)
    for name in args.model or ["built-in"]:
        models[name if name == "built-in" else Path(name).stem] = product(name, args.size)
    sets = photographs(args.folder, args.every, args.stereo)
    print(f"| AbsRel / delta1 | {' | '.join(sets)} | mean | ms |")
    print("|---|" + "---|" * (len(sets) + 2))
    for label, predict in models.items():
        means, spent = [], 0.0
        for name, examples in sets.items():
            cap = INDOOR_CAP_M if name.startswith("indoor") else OUTDOOR_CAP_M
            scores = []
            for rgb, depth in examples:
                start = time.perf_counter()
                inverse = predict(rgb)
                spent += time.perf_counter() - start
                scores.append(score(inverse, depth, cap))
            means.append(np.mean(scores, 0))
        cells = [f"{a:.3f} / {b:.3f}" for a, b in [*means, np.mean(means, 0)]]
        each_ms = 1000 * spent / sum(map(len, sets.values()))
        print(f"| {label} | {' | '.join(cells)} | {each_ms:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""One image of photographs with the depth of each model below them.

    python benchmarks/contact_sheet.py PHOTO ... --out sheet.jpg [--model NAME ...] [--fastdepth FILE]

Colours span the 1st (far, dark) to the 99th percentile (near, bright) of each image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from support.models import Predict, fastdepth, product

CELL_PX = (240, 180)


def middle(rgb: np.ndarray) -> np.ndarray:
    """The centre of an image at the cell's size and aspect."""
    height, width = rgb.shape[:2]
    scale = max(CELL_PX[0] / width, CELL_PX[1] / height)
    fitted = cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    x, y = (fitted.shape[1] - CELL_PX[0]) // 2, (fitted.shape[0] - CELL_PX[1]) // 2
    return fitted[y : y + CELL_PX[1], x : x + CELL_PX[0]]


def painted(inverse: np.ndarray) -> np.ndarray:
    low, high = np.percentile(inverse, [1, 99])
    grey = np.clip((inverse - low) / max(high - low, 1e-9), 0, 1) * 255
    return cv2.applyColorMap(grey.astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", default=None, help="name or file, repeatable; default: built-in")
    parser.add_argument("--size", help="network size for --model")
    parser.add_argument("--fastdepth", type=Path)
    args = parser.parse_args()
    models: list[Predict] = [fastdepth(args.fastdepth)] if args.fastdepth else []
    models += [product(name, args.size) for name in args.model or ["built-in"]]
    columns = []
    for path in args.photo:
        rgb = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if rgb is None:
            parser.error(f"{path}: OpenCV cannot read this image")
        rgb = rgb[:, :, ::-1].copy()
        size = (rgb.shape[1], rgb.shape[0])
        depths = [cv2.resize(predict(rgb).astype(np.float32), size) for predict in models]
        columns.append(np.vstack([middle(rgb), *(middle(painted(depth)) for depth in depths)]))
    if not cv2.imwrite(str(args.out), np.hstack(columns)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88]):
        parser.error(f"{args.out}: cannot be written")


if __name__ == "__main__":
    main()

"""Depth of a folder of images as PNG files: python still_images.py FOLDER OUT_FOLDER"""

import sys
from pathlib import Path

import streamdepth as sd


def main(folder: str, out: str) -> None:
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".png", ".webp"))
    Path(out).mkdir(parents=True, exist_ok=True)
    with sd.DepthEstimator() as estimator:
        # each() reads and encodes other images while the model runs; it holds a few images in memory at a time
        for path, result in zip(paths, estimator.each(paths, style="viridis"), strict=True):
            (Path(out) / f"{path.stem}.png").write_bytes(result.image)
            print(
                f"{path.name}: {result.width}x{result.height}, depth {result.data.min():.3g} to {result.data.max():.3g}"
            )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__.splitlines()[0], file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])

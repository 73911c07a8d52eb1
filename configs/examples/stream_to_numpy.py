"""Depth of every frame of a clip as numpy arrays: python stream_to_numpy.py CLIP [OUT.npz]"""

import sys

import numpy as np

import streamdepth as sd


def main(clip: str, out: str | None = None) -> None:
    seconds, nearest = [], []
    estimator = sd.DepthEstimator()  # the built-in model: relative inverse depth, near = large
    for frame, depth in sd.stream(clip, estimator):
        rgb = frame.to_rgb()  # uint8 [H, W, 3]
        near = depth.values  # float32 [h, w] at the model's resolution
        y, x = np.unravel_index(int(near.argmax()), near.shape)
        seconds.append(frame.seconds)
        nearest.append((x / near.shape[1] * rgb.shape[1], y / near.shape[0] * rgb.shape[0]))
    print(f"{len(seconds)} frames; nearest point of the last one at x, y = {nearest[-1][0]:.0f}, {nearest[-1][1]:.0f}")
    if out is not None:
        np.savez(out, seconds=seconds, nearest_xy_px=nearest)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        print(__doc__.splitlines()[0], file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])
